"""Run what runs.py names, and keep the records that every table and figure is made from.

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
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm.auto import tqdm

from stgvlib.baselines import SYSTEMS
from stgvlib.baselines.inr import InrConfig, InrDecoder, InrModel, fit_inr
from stgvlib.config import FitConfig, Profile, changes, profile, scaled_steps
from stgvlib.device import device_name, library_versions, resolve_device
from stgvlib.errors import StgvError
from stgvlib.fitting.fit import Progress, fit, psnr_over_steps
from stgvlib.metrics import decode_fps, evaluate, to_uint8
from stgvlib.model.decoder import Decoder
from stgvlib.model.video_model import VideoModel, load_model, save_model, write_atomically
from stgvlib.ops.splat import splat
from stgvlib.repro.registry import RUNS, Run
from stgvlib.video import datasets
from stgvlib.video.video import Video

RECORD_VERSION = 2
SHARED = ("truth", "given", "key")  # pictures that do not depend on the system: one for all records in a folder
PICTURED = 9  # the frame that figures show: the last of the paper's first GoP, of every system the same
FPS_PROTOCOL = (
    "one frame a call, float render without 8-bit rounding, warm, synchronised, first ten frames of the first GoP"
)


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
        """Where one of the record's pictures lies, if it has it; those of the frames themselves serve the folder."""
        return self.path.with_name(f"{key}.png" if key in SHARED else f"{self.path.stem}.{key}.png")

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
    target = resolve_device(device)
    stem = name if seed == 0 else f"{name}.seed{seed}"
    path = results_folder(profile_name) / "runs" / f"{stem}.json"
    found, implicit = load_record(path), isinstance(spec.config, InrConfig)
    video, data, reason = frames_of(spec, to, None if refresh else found)
    if data is None:
        return Record(name, path, None, reason)
    config, key, digest = identified(spec, to, data, seed)
    if not refresh and found is not None and found.get("hash") == digest:
        return Record(name, path, found)
    if video is None:
        return Record(name, path, None, reason)
    if target.type == "cpu" and to.name == "paper":
        return Record(name, path, None, "not run: the paper profile needs a CUDA GPU")
    bar = ProgressBar(name) if show_progress else None
    began = time.perf_counter()
    if implicit:
        result = fit_inr(video, config, target, seed, path.with_suffix(".checkpoint"), bar)
    else:
        result = fit(video, config, target, seed, progress=bar)
    seconds = {k: round(v, 2) for k, v in result.seconds.items()}
    # What was fitted before an interruption counts too.
    seconds["total"] = round(max(time.perf_counter() - began, sum(result.seconds.values())), 2)
    if bar:
        bar.close()
    record = {"name": name, "about": spec.about, "profile": to.name, "hash": digest, **key}
    record |= stamp(target) | {
        "seconds": seconds,
        "gops": len(result.model.num_frames),
        "gaussians": None if implicit else result.model.count,
        "gop_size": None if implicit else result.model.config.gop_size,
        "trials": {} if implicit else result.trials,
        "history": {
            stage: psnr_over_steps(losses, result.model.num_frames[0]) for stage, losses in result.losses.items()
        },
        **judge(result.model, video),
    }
    pictures, ranges = {}, {}
    if spec.crop and seed == 0:
        coarse = result.coarse if spec.dataset == "bunny" else None  # what the field does is shown of Bunny
        pictures, ranges = _pictures(result.model, coarse, video, spec.crop)
    record["pictures"] = ranges
    save_pictures(Record(name, path, record), pictures)
    _keep_model(result.model, path, digest)
    return save_record(name, path, record)


def identified(spec: Run, to: Profile, data: dict, seed: int = 0) -> tuple[FitConfig | InrConfig, dict, str]:
    """A run's configuration on the frames that `data` describes, what identifies its record, and the hash of that."""
    config = config_of(spec, to, data["size"] if to.scale == 1 else datasets.load(spec.dataset).size)
    key = {"config": asdict(config), "dataset": data, "seed": seed, "record_version": RECORD_VERSION}
    return config, key, record_hash(key | {"config": changes(config)})


def stamp(device: torch.device) -> dict:
    """What made a record, where and when."""
    made = {"commit": commit(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    return made | {"device": device_name(device), "versions": library_versions()}


def save_pictures(record: Record, pictures: dict[str, np.ndarray]) -> None:
    """Write pictures [H, W, 3] RGB or [H, W] beside a record, as its `image` reads them."""
    record.path.parent.mkdir(parents=True, exist_ok=True)
    for key, picture in pictures.items():
        _, encoded = cv2.imencode(".png", picture[..., ::-1] if picture.ndim == 3 else picture)
        write_atomically(record.picture(key), encoded.tobytes())


def save_record(name: str, path: Path, record: dict) -> Record:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
    return Record(name, path, json.loads(json.dumps(record)))


def _keep_model(model: VideoModel | InrModel, path: Path, digest: str) -> None:
    """Beside its record, for what is made from it (rates.py); git ignores it, and it may be deleted."""
    if isinstance(model, InrModel):
        torch.save({"hash": digest, "width": model.width, "state": model.state_dict()}, path.with_suffix(".pt"))
    else:
        save_model(model, path.with_suffix(".safetensors"), hash=digest)


def fitted(
    name: str, profile_name: str, device: str = "auto", show_progress: bool = True
) -> tuple[VideoModel | InrModel | None, Record]:
    """A named run's model, fitted again where its file is gone, and its record; no model where the record says why."""
    record = run(name, profile_name, device, show_progress=show_progress)
    if record and (model := _kept_model(record, resolve_device(device))) is not None:
        return model, record
    if record.data is None or (profile_name == "paper" and resolve_device(device).type == "cpu"):
        gone = replace(record, data=None, reason="not run: its model has to be fitted again, on a GPU")
        return None, gone if record else record
    record = run(name, profile_name, device, refresh=True, show_progress=show_progress)
    return _kept_model(record, resolve_device(device)) if record else None, record


def _kept_model(record: Record, device: torch.device) -> VideoModel | InrModel | None:
    path, config = record.path, RUNS[record.name].config
    try:
        if not isinstance(config, InrConfig):
            model, about = load_model(path.with_suffix(".safetensors"), device)
            return model if about.get("hash") == record["hash"] else None
        kept = torch.load(path.with_suffix(".pt"), map_location=device, weights_only=True)
        if kept["hash"] != record["hash"]:
            return None
        model = InrModel(config, kept["width"], (record["height"], record["width"]), record["dataset"]["frames"])
        model.load_state_dict(kept["state"])
        return model.to(device).eval()
    except (StgvError, OSError, RuntimeError, KeyError, ValueError):
        return None


def systems(dataset: str, profile_name: str, device: str = "auto", refresh: bool = False) -> dict[str, Record]:
    """Records of every system of the paper on one dataset, by their names in the tables."""
    records = {}
    for key, (label, _) in SYSTEMS.items():
        name = f"{dataset}/{key}"
        if name in RUNS:
            records[label] = run(name, profile_name, device, refresh)
        else:
            records[label] = Record(name, Path(name), None, "not part of our comparison: fitted to Bunny only")
    return records


def some(names: Iterable, profile_name: str) -> list:
    """The first of the rows of a long table: as many as the profile runs."""
    return list(names)[: profile(profile_name).rows]


def config_of(spec: Run, to: Profile, native: tuple[int, int]) -> FitConfig | InrConfig:
    """A run's configuration at a profile; `native` is the dataset's height and width."""
    config = spec.config
    if spec.published_gaussians:
        each = native[0] * native[1] / datasets.DATASETS[spec.dataset].gaussians
        config = replace(config, pixels_per_gaussian=each)
    if isinstance(config, InrConfig):
        return replace(config, epochs=max(1, round(config.epochs * to.coarse_steps)))
    return scaled_steps(config, to)


def frames_of(spec: Run, to: Profile, found: dict | None) -> tuple[Video | None, dict | None, str]:
    """(video, what a record says of it, why there is none). Where the frames are not on this machine, a record `found`
    speaks for them at full size: all but the frames is then checked. Reasons go into tables, so they name no folder."""
    try:
        video = video_for(spec, to)
        return video, _dataset(spec.dataset, str(datasets.find(spec.dataset)), video), ""
    except StgvError as error:
        reason = str(error)
    if datasets.find(spec.dataset) is None and (command := datasets.DATASETS[spec.dataset].fetch):
        reason = f"{spec.dataset} is not on the machine that ran this: {command}"
    if found is None or to.scale != 1:
        return None, None, reason
    return None, found["dataset"], f"its record is of other settings; {reason}"


_seen: dict[tuple, str] = {}  # SHA-256 of frames, which every system of a dataset asks for


def _dataset(name: str, path: str, video: Video) -> dict:
    """What a record says of its frames."""
    data = {"name": name, "frames": video.num_frames, "size": video.size}
    place = (path, *data.values())
    if place not in _seen:
        _seen[place] = datasets.frames_sha256(video)
    return data | {"sha256": _seen[place]}


def record_hash(key: dict) -> str:
    """What a record is valid for: settings (those that differ from the defaults), frames, seed and RECORD_VERSION."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def decoder_of(model: VideoModel | InrModel, dtype: torch.dtype = torch.uint8) -> Decoder | InrDecoder:
    """What renders a model's frames by their numbers."""
    return InrDecoder(model, dtype) if isinstance(model, InrModel) else Decoder(model, dtype=dtype)


def judge(model: VideoModel | InrModel, video: Video) -> dict:
    """Everything that a model is judged by against its video: quality, parameters, decoding speed."""
    if model.size != video.size or sum(model.num_frames) != video.num_frames:
        got, expected = (*video.size, video.num_frames), (*model.size, sum(model.num_frames))
        shapes = " against ".join("{}x{} with {} frames".format(*shape) for shape in (got, expected))
        raise StgvError(f"video and model differ: {shapes} in the model; give the video that was fitted")
    targets = (video.read(i, i + 1)[0] for i in range(video.num_frames))
    quality = evaluate(decoder_of(model, torch.float32), targets)
    single, whole = decoder_of(model, torch.float32), decoder_of(model)
    numbers = [range(i, min(i + whole.batch, len(whole))) for i in range(0, len(whole), whole.batch)]
    seconds = 1.0
    if next(model.parameters()).device.type == "cpu":
        numbers, seconds = [[0]], 0.2
    calls = decode_fps(lambda i: whole.frames(numbers[i]), len(numbers), seconds)
    return quality | {
        "parameters": model.num_parameters(),
        "height": model.size[0],
        "width": model.size[1],
        "decode_fps": round(decode_fps(lambda i: single[i], min(model.num_frames[0], 10), seconds), 2),
        "fps_protocol": FPS_PROTOCOL,
        "decode_fps_8bit": round(calls * sum(len(n) for n in numbers) / len(numbers), 2),
        "fps_8bit_protocol": f"{len(numbers[0])} frames a call, 8-bit, warm, synchronised, whole video",
    }


def _pictures(
    model: VideoModel | InrModel, coarse: VideoModel | None, video: Video, crop: tuple
) -> tuple[dict[str, np.ndarray], dict]:
    """What figures need: crops of frame PICTURED and of its ground truth; of Gaussians also the first key frame, the
    canonical frame as the coarse stage left it, and maps of how far the picture is moved, in 8 bits with their maximum
    in px."""
    (height, width), number = model.size, min(PICTURED, video.num_frames - 1)
    top, bottom, left, right = (round(v * s) for v, s in zip(crop, (height, height, width, width)))

    def cut(image: np.ndarray) -> np.ndarray:
        return image[top : max(bottom, top + 1), left : max(right, left + 1)]

    decoder, ranges = decoder_of(model), {}
    frames = {"frame": decoder[number].cpu().numpy(), "truth": video.read(number, number + 1)[0]}
    if coarse is not None:
        first = torch.zeros(1, dtype=torch.int64, device=coarse.gaussians.mu.device)
        frames["canonical"] = to_uint8(coarse.render(first, canonical=True)[0]).cpu().numpy()
        frames["key"] = video.read(0, 1)[0]
    pictures = {name: cut(image) for name, image in frames.items()}
    if coarse is None or model.field.hidden is None:
        return pictures, ranges
    gop, index = decoder.places[number]
    alone = model.gop(gop)
    for name, motion in motion_maps(alone, torch.tensor([index], device=alone.gaussians.mu.device)).items():
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
        quality = f", {p.psnr:.2f} dB" if p.psnr else ""
        self.bar.set_postfix_str(f"{many} of {p.total_gops}, {p.stage}{quality}", refresh=False)
        self.bar.update(p.done - self.bar.n)

    def close(self) -> None:
        self.bar.close()


def load_record(path: Path) -> dict | None:
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
