"""Named experiments, their runs, and the records that every table and figure is made from.

`run("bunny/key_frame", profile="smoke")` loads results/smoke/runs/bunny/key_frame.json where it is valid and fits and
judges the model where it is not. A record is valid for one configuration, one set of frames, one seed and one
RECORD_VERSION, which is raised when a change of the code changes results.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm.auto import tqdm

from stgvlib import datasets
from stgvlib.backend import device_name, library_versions, resolve_device
from stgvlib.config import PAPER, STGV, FieldConfig, FitConfig, Profile, changes, profile, scaled_steps
from stgvlib.decode import Decoder
from stgvlib.errors import StgvError
from stgvlib.metrics import decode_fps, evaluate, to_uint8
from stgvlib.model import VideoModel, write_atomically
from stgvlib.splat import splat
from stgvlib.train import Progress, fit, psnr_over_steps
from stgvlib.video import Video

RECORD_VERSION = 2
PICTURED = 9  # the frame that figures show: the last of the paper's first GoP, of every system the same
FPS_PROTOCOL = "one frame a call, float render without 8-bit rounding, warm, synchronised, first GoP"


@dataclass(frozen=True)
class Run:
    """One configuration on one dataset."""

    dataset: str
    config: FitConfig
    about: str
    frames: int | None = None  # only the first frames; None: all that the profile takes
    # top, bottom, left, right of the pictures that figures need, which seed 0 keeps; None: none
    crop: tuple[float, ...] | None = (0.34, 0.70, 0.10, 0.42)


def _field(**changes) -> FitConfig:
    return replace(PAPER, field=replace(FieldConfig(), **changes))


# The levers of our preset. The sketch is what it starts from, at a fifth of its steps; "levers/" changes one thing of
# it on all of Bunny. With frames in order every change drowns in what the order costs, so "hard/" starts from golden
# order and a covering start, on Bunny's first 44 frames, which are the hardest.
SKETCH = FitConfig(
    preset="sketch",
    gop_size=22,
    steps=12_000,
    parametrization="pixel",
    placement="gradient",
    initial_scale=2.5,
    optimizer="adam",
    position_rate=0.5,
    cholesky_rate=0.03,
    color_rate=7e-3,
    gaussian_schedule="cosine",
    field_rate=4e-3,
    field_rate_last=2e-4,
    field=FieldConfig(position_scale=40.0),
)
HARD = replace(SKETCH, coarse_steps=4_000, order="golden", initial_scale="cover")
COARSE_TIME = (1, 2, 3, 4, 5, 6, 9, 9)


def _lever(about: str, field: dict | None = None, base: FitConfig = SKETCH, **changes) -> tuple[FitConfig, str]:
    return replace(base, field=replace(base.field, **(field or {})), **changes), about


LEVERS = {
    "sketch": _lever("22-frame GoPs, gradient placement, Adam, cosine, frames in order"),
    "gop_10": _lever("GoPs of 10 frames", gop_size=10),
    "gop_16": _lever("GoPs of 16 frames", gop_size=16),
    "gop_33": _lever("GoPs of 33 frames", gop_size=33),
    "motion_cuts": _lever("GoPs cut where as much has changed", cuts="motion"),
    "additions": _lever("half the Gaussians added in 8 rounds where the error is", additions=8, initial_part=0.5),
    "middle": _lever("key frame in the middle of the GoP", keyframe="middle"),
    "shape": _lever("the Cholesky vector deformed too", {"deform_shape": True}),
    "time_cells": _lever("1 to 9 cells of time a level instead of 15 to 272", {"time_cells": COARSE_TIME}),
    "table_11": _lever("hash tables of 2^11 entries", {"log2_table_size": 11}),
    "table_12": _lever("hash tables of 2^12 entries", {"log2_table_size": 12}),
    "table_12_time_cells": _lever("both", {"log2_table_size": 12, "time_cells": COARSE_TIME}),
    "field_rate_high": _lever("field rate 1e-2", field_rate=1e-2, field_rate_last=5e-4),
}
HARD_LEVERS = {
    "cyclic": _lever("frames in order, round Gaussians of 2.5 px", base=HARD, order="cyclic", initial_scale=2.5),
    "golden": _lever("frames in golden-ratio strides", base=HARD, initial_scale=2.5),
    "base": _lever("and Gaussians that cover the frame once", base=HARD),
    "shape": _lever("base, and the Cholesky vector deformed too", {"deform_shape": True}, HARD),
    "table_12": _lever("base, and hash tables of 2^12 entries", {"log2_table_size": 12}, HARD),
    "time_cells": _lever("base, and 2 to 12 cells of time a level", {"time_cells": STGV.field.time_cells}, HARD),
    "low_end": _lever("base, and Gaussians' rates down to 1 %", base=HARD, last_rate=0.01),
    "position_rate": _lever("base, and a position rate of 0.2 px", base=HARD, position_rate=0.2),
    "betas": _lever("base, and decay rates 0.95, 0.99 of Adam instead of 0.9, 0.999", base=HARD, betas=STGV.betas),
    "additions": _lever("base, and additions in 8 rounds", base=HARD, additions=8, initial_part=0.5),
    "gop_11": _lever("base, and GoPs of 11 frames", base=HARD, gop_size=11),
    "uniform": _lever("base, but uniform placement", base=HARD, placement="uniform"),
    "stgv": (replace(STGV, coarse_steps=4_000, steps=12_000), "all that the preset takes"),
}
CHECK = {"coarse_steps": 4_000, "steps": 12_000}  # DAVIS: that nothing is tuned to Bunny alone
POSITIONAL = _field(encoding="positional")
RUNS = {
    "bunny/multi_frame": Run("bunny", replace(POSITIONAL, keyframe="all"), "V1: all frames, positional encoding"),
    "bunny/key_frame": Run("bunny", POSITIONAL, "V2: key frame, positional encoding"),
    "bunny/static": Run("bunny", _field(temporal=False), "V3: key frame, 2D hash"),
    "bunny/dynamic": Run("bunny", _field(spatial=False), "V4: key frame, 3D hash"),
    "bunny/planes": Run("bunny", _field(encoding="planes"), "key frame, three planes"),
    "bunny/paper": Run("bunny", PAPER, "the paper's full method: key frame, 2D and 3D hash"),
    "bunny/stgv": Run("bunny", STGV, "our preset at the same parameter budget"),
    **{f"levers/{name}": Run("bunny", config, about, crop=None) for name, (config, about) in LEVERS.items()},
    **{f"hard/{name}": Run("bunny", config, about, 44, crop=None) for name, (config, about) in HARD_LEVERS.items()},
    **{
        f"check_{sequence}/{config.preset}": Run(
            f"davis/{sequence}", replace(config, **CHECK), f"{about}, at a fifth of the steps", frames=30, crop=None
        )
        for sequence in ("blackswan", "bmx-trees")
        for config, about in ((PAPER, "the paper's method"), (SKETCH, "our starting point"), (STGV, "our preset"))
    },
    "bunny_gop/paper": Run("bunny", PAPER, "the paper's full method on the first GoP alone", frames=10),
}


@dataclass(frozen=True)
class Record:
    """A finished run (`data`), or the reason why there is none."""

    name: str
    path: Path
    data: dict | None
    reason: str = ""

    def __bool__(self) -> bool:
        return self.data is not None

    def __getitem__(self, key: str):
        if self.data is None:
            raise StgvError(f"{self.name} has no record: {self.reason}")
        return self.data[key]

    def picture(self, key: str) -> Path:
        """Where one of the record's pictures lies, if it has it."""
        return self.path.with_name(f"{self.path.stem}.{key}.png")

    def image(self, key: str) -> np.ndarray:
        """One of the record's pictures: uint8 [H, W, 3] RGB."""
        path = self.picture(key)
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise StgvError(f"{path} is missing: run {self.name} again with refresh=True")
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def results_folder(profile_name: str) -> Path:
    """results/<profile> of the checkout, or below $STGV_RESULTS."""
    root = os.environ.get("STGV_RESULTS")
    return (Path(root) if root else datasets.repository() / "results") / profile_name


def video_for(run_: Run, to: Profile) -> Video:
    """The dataset's frames as a profile sees them."""
    video = datasets.load(run_.dataset).scaled(to.scale)
    limits = [n for n in (run_.frames, to.frames) if n is not None]
    return video.with_(limit=min(limits)) if limits else video


def run(
    name: str,
    profile_name: str = "smoke",
    device: str = "auto",
    refresh: bool = False,
    seed: int = 0,
    show_progress: bool = True,
) -> Record:
    """The record of a named run: loaded where valid, else fitted. A record without data says why.

    The paper profile is not started on a CPU, where it takes days: the record then says so. Raises StgvError for an
    unknown name.
    """
    if name not in RUNS:
        raise StgvError(f"run must be one of {', '.join(RUNS)}, got {name!r}")
    spec, to = RUNS[name], profile(profile_name)
    stem = name if seed == 0 else f"{name}.seed{seed}"
    path = results_folder(profile_name) / "runs" / f"{stem}.json"
    try:
        video = video_for(spec, to)
    except StgvError as error:
        return Record(name, path, None, str(error))
    config = scaled_steps(spec.config, to)
    data = {"name": spec.dataset, "frames": video.num_frames, "size": video.size}
    data["sha256"] = datasets.frames_sha256(video)
    key = {"config": asdict(config), "dataset": data, "seed": seed, "record_version": RECORD_VERSION}
    digest = record_hash(key | {"config": changes(config)})
    if not refresh and (found := _load(path)) is not None and found.get("hash") == digest:
        return Record(name, path, found)
    target = resolve_device(device)
    if target.type == "cpu" and to.name == "paper":
        return Record(name, path, None, "not run: the paper profile needs a CUDA GPU")
    bar = ProgressBar(name) if show_progress else None
    began = time.perf_counter()
    result = fit(video, config, target, seed, progress=bar)
    seconds = {k: round(v, 2) for k, v in result.seconds.items()}
    seconds["total"] = round(time.perf_counter() - began, 2)
    if bar:
        bar.close()
    record = {"name": name, "about": spec.about, "profile": to.name, "hash": digest, **key}
    record |= {
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device_name(target),
        "versions": library_versions(),
        "seconds": seconds,
        "gops": len(result.model.num_frames),
        "gaussians": result.model.count,
        "history": {
            stage: psnr_over_steps(losses, result.model.num_frames[0]) for stage, losses in result.losses.items()
        },
        **judge(result.model, video),
    }
    pictures, ranges = _pictures(result.model, result.coarse, video, spec.crop) if spec.crop and seed == 0 else ({}, {})
    record["pictures"] = ranges
    path.parent.mkdir(parents=True, exist_ok=True)
    for key_, picture in pictures.items():
        ok, encoded = cv2.imencode(".png", picture[..., ::-1] if picture.ndim == 3 else picture)
        write_atomically(Record(name, path, record).picture(key_), encoded.tobytes())
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
    return Record(name, path, json.loads(json.dumps(record)))


def record_hash(key: dict) -> str:
    """What a record is valid for: settings (those that differ from the defaults), frames, seed and RECORD_VERSION."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def judge(model: VideoModel, video: Video) -> dict:
    """Everything that a model is judged by against its video: quality, parameters, decoding speed."""
    if model.size != video.size or sum(model.num_frames) != video.num_frames:
        got, expected = (*video.size, video.num_frames), (*model.size, sum(model.num_frames))
        shapes = " against ".join("{}x{} with {} frames".format(*shape) for shape in (got, expected))
        raise StgvError(f"video and model differ: {shapes} in the model; give the video that was fitted")
    targets = (video.read(i, i + 1)[0] for i in range(video.num_frames))
    quality = evaluate(Decoder(model, dtype=torch.float32), targets)
    single, whole = Decoder(model, dtype=torch.float32), Decoder(model)
    numbers = [range(i, min(i + whole.batch, len(whole))) for i in range(0, len(whole), whole.batch)]
    if model.gaussians.mu.device.type == "cpu":
        numbers = [[0]]
    calls = decode_fps(lambda i: whole.frames(numbers[i]), len(numbers))
    return quality | {
        "parameters": model.num_parameters(),
        "height": model.size[0],
        "width": model.size[1],
        "decode_fps": round(decode_fps(lambda i: single[i], model.num_frames[0]), 2),
        "fps_protocol": FPS_PROTOCOL,
        "decode_fps_8bit": round(calls * sum(len(n) for n in numbers) / len(numbers), 2),
        "fps_8bit_protocol": f"{len(numbers[0])} frames a call, 8-bit, warm, synchronised, whole video",
    }


def _pictures(model: VideoModel, coarse: VideoModel, video: Video, crop: tuple) -> tuple[dict[str, np.ndarray], dict]:
    """What figures need of the first GoP: crops of the canonical frame as the coarse stage left it, of frame PICTURED,
    the key frame and the ground truth, and maps of how far the picture is moved, in 8 bits with their maximum in px."""
    alone, (height, width) = model.gop(0), model.size
    last = torch.tensor([min(PICTURED, alone.num_frames[0] - 1)], device=alone.gaussians.mu.device)
    top, bottom, left, right = (round(v * s) for v, s in zip(crop, (height, height, width, width)))

    def cut(image: np.ndarray) -> np.ndarray:
        return image[top : max(bottom, top + 1), left : max(right, left + 1)]

    frames = {
        "canonical": to_uint8(coarse.render(last, canonical=True)[0]).cpu().numpy(),
        "frame": to_uint8(alone.render(last)[0]).cpu().numpy(),
        "key": video.read(0, 1)[0],
        "truth": video.read(int(last), int(last) + 1)[0],
    }
    pictures, ranges = {name: cut(image) for name, image in frames.items()}, {}
    for name, motion in motion_maps(alone, last).items():
        ranges[name] = round(float(motion.max()), 3)
        small = cv2.resize(motion, None, fx=min(1, 480 / width), fy=min(1, 480 / width), interpolation=cv2.INTER_AREA)
        pictures[name] = np.round(255 * small / max(small.max(), 1e-9)).astype(np.uint8)
    return pictures, ranges


@torch.no_grad()
def motion_maps(model: VideoModel, frame: torch.Tensor) -> dict[str, np.ndarray]:
    """|delta mu| in px, less its median over the Gaussians (a shift of the whole picture), as [H, W] float32 pictures:
    of the whole field, and with one hash silenced at a time."""
    mu, cholesky = model.gaussians.pixels()
    field, t = model.field, model.times(frame)

    def show(delta: torch.Tensor) -> np.ndarray:
        length = (delta - delta.median(dim=1, keepdim=True).values).norm(dim=-1, keepdim=True)
        paint = torch.cat([length, torch.ones_like(length), torch.zeros_like(length)], -1)
        image = splat(mu, cholesky, paint, model.size)[0]
        return (image[..., 0] / image[..., 1].clamp(min=1e-3)).cpu().numpy()

    maps = {"motion": show(field(mu, t)[0])}
    if field.spatial is not None and field.temporal is not None:
        for name, silenced in (("motion_static", field.temporal), ("motion_dynamic", field.spatial)):
            table = silenced.table.data
            silenced.table.data = torch.zeros_like(table)
            maps[name] = show(field(mu, t)[0])
            silenced.table.data = table
    return maps


class ProgressBar:
    """A progress callback for `fit`: one tqdm bar over all steps of all GoPs."""

    def __init__(self, title: str):
        notebook = "ipykernel" in sys.modules
        self.bar = tqdm(desc=title, unit="step", mininterval=5 if notebook else 0.2, file=sys.stderr)

    def __call__(self, p: Progress) -> None:
        if p.note:
            self.bar.write(p.note, file=sys.stderr)
        self.bar.total = p.total
        many = f"GoPs {p.gops[0] + 1}-{p.gops[1]}" if p.gops[1] - p.gops[0] > 1 else f"GoP {p.gops[1]}"
        self.bar.set_postfix_str(f"{many} of {p.total_gops}, {p.stage}, {p.psnr:.2f} dB", refresh=False)
        self.bar.update(p.done - self.bar.n)

    def close(self) -> None:
        self.bar.close()


def _load(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def commit() -> str:
    """The commit that makes a record: $STGV_COMMIT where it is set (sources outside their checkout), else git's."""
    if given := os.environ.get("STGV_COMMIT"):
        return given
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
