"""Rate-distortion curves: every system compressed to several rates, into real files, decoded and judged again.

`curve("stgv", "bunny", "smoke")` loads results/smoke/runs/bunny/rate_stgv.json where it is valid, else takes the run's
model (experiments.fitted), compresses it to each level, and keeps the points; `anchor("x264", ...)` does so for a block
codec. A point's rate is its file's size on disk and nothing else.
"""

import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from pathlib import Path

import torch
from tqdm.auto import tqdm

from stgvlib.baselines import block_codecs as anchors
from stgvlib.baselines.block_codecs import ANCHORS
from stgvlib.baselines.inr import InrModel
from stgvlib.baselines.inr_codec import decode_inr, encode_inr
from stgvlib.baselines.paper_codec import compress_paper, decode_paper, encode_paper, round_field
from stgvlib.codec import bitstream
from stgvlib.codec.fine_tune import FINE_TUNING, compress
from stgvlib.config import changes, profile
from stgvlib.device import device_name, resolve_device
from stgvlib.errors import StgvError
from stgvlib.metrics import evaluate
from stgvlib.model.video_model import VideoModel
from stgvlib.repro.fits import (
    RECORD_VERSION,
    Record,
    decoder_of,
    fitted,
    frames_of,
    identified,
    load_record,
    record_hash,
    results_folder,
    save_record,
    some,
    stamp,
)
from stgvlib.repro.registry import RUNS, Run
from stgvlib.video.video import Video

BITS_A_PARAMETER = (9.0, 5.5, 3.15, 2.0, 1.2, 0.6)  # of the fitted model: 0.23 to 0.016 bits a pixel on Bunny
LOW_BITS = (3.15, 2.0, 1.2, 0.6, 0.3)  # down to 0.008 bits a pixel: where longer GoPs may pay
PART_BITS = BITS_A_PARAMETER[1:5]  # of our recipe without a part: enough for a BD-rate
WEIGHT_BITS = (8, 7, 6, 5, 4)


@dataclass(frozen=True)
class Curve:
    """How a system's model becomes files of several rates."""

    system: str = ""  # a key of baselines.SYSTEMS
    recipe: str = ""  # what is done, in words
    levels: tuple[float, ...] = BITS_A_PARAMETER  # bits a parameter; of implicit networks: bits of the largest weight
    fine_tuning: int = FINE_TUNING  # steps of a level; 0: only rounded
    runs: tuple[str, ...] = ()  # a run of its own for each level; of the paper's recipe, levels are their Gaussians
    # parts of our recipe that can be left out
    prune: bool = True  # Gaussians, where there are few bits for each
    learned: bool = True  # steps of the quantisers
    rate: bool = True  # is part of the loss
    adaptive: bool = True  # steps that differ by Gaussian
    codebooks: tuple[int, int] = (2, 8)  # of the paper's recipe: stages, entries
    rows: bool = False  # of the paper's recipe: a step for each input of the MLP's layers


PAPER_RECIPE = Curve(
    "paper",
    "its own recipe",
    levels=(40_000, 20_000, 10_000, 5_000),
    fine_tuning=8_000,
    runs=("n_40000", "paper", "n_10000", "n_5000"),
)
CURVES = {
    "stgv": Curve("stgv", "our recipe"),
    "stgv_long": Curve("stgv", "our recipe, GoPs of 33 frames", LOW_BITS, runs=("gop_33",) * len(LOW_BITS)),
    "paper_recipe": PAPER_RECIPE,
    **{
        f"paper_recipe_{entries}": replace(
            PAPER_RECIPE, recipe=f"its own recipe, codebooks of {entries}", codebooks=(2, entries)
        )
        for entries in (64, 256, 1024)
    },
    "paper_recipe_rows": replace(  # at the method's own size alone
        PAPER_RECIPE,
        recipe="its own recipe, codebooks of 1024, a step a row",
        levels=(20_000,),
        runs=("paper",),
        codebooks=(2, 1024),
        rows=True,
    ),
    "paper": Curve("paper", "our recipe"),
    "d2gv": Curve("d2gv", "our recipe"),
    "2dgs": Curve("2dgs", "our recipe", fine_tuning=5_000),
    "hnerv": Curve("hnerv", "rounded, entropy-coded", WEIGHT_BITS, 0),
    "nerv": Curve("nerv", "rounded, entropy-coded", WEIGHT_BITS, 0),
    "stgv_rounded": Curve("stgv", "rounded, not fine-tuned", levels=(7.2, 6.0, 5.0, 4.3), fine_tuning=0),
    "stgv_kept": Curve("stgv", "our recipe, no Gaussian left out", PART_BITS, prune=False),
    "stgv_fixed": Curve("stgv", "our recipe, steps not learned", PART_BITS, learned=False),
    "stgv_one_step": Curve("stgv", "our recipe, one step for all Gaussians", PART_BITS, adaptive=False),
    "stgv_no_rate": Curve("stgv", "our recipe, rate not in the loss", PART_BITS, rate=False),
}
# Our recipe without one of its parts.
PARTS = ("stgv_rounded", "stgv_kept", "stgv_fixed", "stgv_one_step", "stgv_no_rate")
SYSTEMS_COMPARED = tuple(name for name in CURVES if name not in PARTS)


def curve(
    name: str,
    dataset: str,
    profile_name: str,
    device: str = "auto",
    refresh: bool = False,
    show_progress: bool = True,
) -> Record:
    """The curve of one of CURVES on a dataset: `points` from high rate to low. One that was interrupted goes on.

    Raises StgvError for an unknown name.
    """
    if name not in CURVES:
        raise StgvError(f"curve must be one of {', '.join(CURVES)}, got {name!r}")
    setting, to = CURVES[name], profile(profile_name)
    run = f"{dataset}/{setting.system}"
    path = results_folder(profile_name) / "runs" / dataset / f"rate_{name}.json"
    found = load_record(path)
    video, data, reason = frames_of(RUNS[run], to, None if refresh else found)
    if data is None:
        return Record(f"{dataset}/rate_{name}", path, None, reason)
    tuning = round(setting.fine_tuning * to.coarse_steps)
    levels = some(setting.levels, profile_name)
    key = {"config": asdict(setting), "fine_tuning": tuning, "levels": levels, "dataset": data}
    digest = record_hash(key | {"config": changes(replace(setting, recipe="")), "record_version": RECORD_VERSION})
    runs = [f"{dataset}/{fit}" for fit in some(setting.runs, profile_name) or [setting.system]]
    fits = [identified(RUNS[fit], to, data)[2] for fit in runs]
    if not refresh and found is not None and (found.get("hash"), found.get("run_hash")) == (digest, fits):
        return Record(f"{dataset}/rate_{name}", path, found)
    if video is None:
        return Record(f"{dataset}/rate_{name}", path, None, reason)
    if tuning and to.name == "paper" and resolve_device(device).type == "cpu":
        return Record(f"{dataset}/rate_{name}", path, None, "not run: fine-tuning at the paper's size needs a CUDA GPU")
    begun, points, model = path.with_suffix(".points"), [], None
    key_begun = {"hash": digest, "run_hash": fits, "device": device_name(resolve_device(device))}
    if not refresh and (known := load_record(begun)) and known.items() >= key_begun.items():  # it was interrupted
        points = known["points"]
    bar = tqdm(total=len(levels), desc=path.stem, unit="rate", file=sys.stderr, disable=not show_progress)
    with tempfile.TemporaryDirectory() as folder, bar:
        bar.update(len(points))
        for level, fit in list(zip(levels, cycle(runs)))[len(points) :]:
            if model is None or setting.runs:
                model, record = fitted(fit, profile_name, device, show_progress)
                if model is None:
                    return Record(f"{dataset}/rate_{name}", path, None, record.reason)
            file = Path(folder) / "video.stgv"
            began = time.perf_counter()
            more, read = _write(video, model, setting, level, tuning, file)
            seconds = time.perf_counter() - began
            points.append({"level": level} | _judged(file, read, video, resolve_device(device)) | more)
            points[-1] |= {"parameters": record["parameters"], "encode_seconds": round(seconds, 2)}
            if setting.rows:
                points[-1] |= _eight_bit_field(video, model)
            save_record(path.stem, begun, key_begun | {"points": points})
            bar.update()
    about = {"name": f"{dataset}/rate_{name}", "run": runs, "run_hash": fits, "parameters": points[0]["parameters"]}
    record = about | {"hash": digest} | key | {"points": points}
    made = _finish(record, path, profile_name, resolve_device(device))
    begun.unlink()
    return made


def _write(video: Video, model, setting: Curve, level: float, tuning: int, file: Path) -> tuple[dict, Callable]:
    """Compress a model to one level: what else a point says, what reads such a file."""
    if isinstance(model, InrModel):
        file.write_bytes(encode_inr(model, round(level)))
        return {}, lambda data, _: decode_inr(data)
    if setting.system == "paper" and setting.runs:
        made = compress_paper(video, model, tuning, setting.codebooks, setting.rows)
        file.write_bytes(encode_paper(made))
        return {"fine_tuning_seconds": round(made.seconds, 2)}, lambda data, _: decode_paper(data)
    bpp = level * model.num_parameters() / (video.num_frames * math.prod(video.size))
    if tuning == 0:
        most = int(bpp * video.num_frames * math.prod(video.size) / 8)
        bitstream.encode(model, file, bitstream.steps_for(model, most))
        return {}, bitstream.parse
    parts = {name: getattr(setting, name) for name in ("prune", "learned", "rate", "adaptive")}
    made = compress(video, model, bpp=bpp, fine_tuning=tuning, **parts)
    bitstream.encode(made.model, file, made.steps)
    point = {"kept": round(made.kept, 4), "slope": made.slope, "fine_tuning_seconds": round(made.seconds, 2)}
    return point, bitstream.parse


def _judged(file: Path, read: Callable, video: Video, device: torch.device) -> dict:
    """A file's rate, the quality of what it decodes to, and how long that takes: entropy decoding on one core and on
    all, all frames to 8 bits on the device, once cold and once again."""
    size, data, parsed = file.stat().st_size, file.read_bytes(), []
    for threads in (1, 1, None):  # the first loads compiled loops
        began = time.perf_counter()
        content = read(data, threads)
        ours = isinstance(content, bitstream.Content)
        model: VideoModel | InrModel = content.model if ours else content
        if threads is None:
            model = model.to(device)
        parsed.append(time.perf_counter() - began)
    seconds = []
    decoder = decoder_of(model)
    if device.type == "cuda":
        for _ in range(2):
            began = time.perf_counter()
            for start in range(0, len(decoder), decoder.batch):
                decoder.frames(range(start, min(start + decoder.batch, len(decoder))))
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    targets = (video.read(i, i + 1)[0] for i in range(video.num_frames))
    quality = evaluate(decoder_of(model, torch.float32), targets)
    point = {"bytes": size, "bpp": 8 * size / (math.prod(video.size) * video.num_frames)}
    point |= {name: quality[name] for name in ("psnr", "ms_ssim")}
    point |= {"entropy_decoding_seconds": round(parsed[-2], 4)}
    if seconds:
        frames = video.num_frames
        point |= {
            "decode_fps": round(frames / seconds[1], 1),
            "file_to_frames_fps": round(frames / (parsed[-1] + seconds[1]), 1),
        }
    return point | ({"sections": content.bytes} if ours else {})


def _eight_bit_field(video: Video, model: VideoModel) -> dict:
    """PSNR of a fitted model, and of it with only its field rounded as the paper's recipe does, in both ways."""
    point = {}
    for key, shown in (
        ("fitted", model),
        ("8bit_field", round_field(model, rows=False)),
        ("8bit_field_rows", round_field(model, rows=True)),
    ):
        targets = (video.read(i, i + 1)[0] for i in range(video.num_frames))
        point[f"psnr_{key}"] = evaluate(decoder_of(shown, torch.float32), targets, similarity=False)["psnr"]
    return point


def _finish(record: dict, path: Path, profile_name: str, device: torch.device) -> Record:
    return save_record(record["name"], path, record | {"profile": profile_name} | stamp(device))


def anchor(codec: str, dataset: str, profile_name: str, refresh: bool = False, show_progress: bool = True) -> Record:
    """The rate-distortion curve of a block codec ("x264", "x265", "av1") on a dataset: `points` from high rate to low.

    Runs on a CPU at every profile. Raises StgvError for an unknown codec.
    """
    if codec not in ANCHORS:
        raise StgvError(f"codec must be one of {', '.join(ANCHORS)}, got {codec!r}")
    setting, to, name = ANCHORS[codec], profile(profile_name), f"{dataset}/anchor_{codec}"
    path = results_folder(profile_name) / "runs" / f"{name}.json"
    found = load_record(path)
    video, data, reason = frames_of(Run(dataset, None, ""), to, None if refresh else found)
    if data is None:
        return Record(name, path, None, reason)
    key = {"config": asdict(setting), "dataset": data, "record_version": RECORD_VERSION}
    digest = record_hash(key)
    if not refresh and found is not None and found.get("hash") == digest:
        return Record(name, path, found)
    if video is None:
        return Record(name, path, None, reason)
    points = []
    for crf in tqdm(setting.levels, desc=name, unit="rate", file=sys.stderr, disable=not show_progress):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "video.mp4"
            seconds, size = anchors.encode(video, setting, crf, file), file.stat().st_size
            began = time.perf_counter()
            frames = [torch.from_numpy(frame).float() / 255 for frame in anchors.decode(file, video.size)]
            decoded = time.perf_counter() - began
        targets = (video.read(i, i + 1)[0] for i in range(video.num_frames))
        quality = evaluate(frames, targets)
        point = {"level": crf, "bytes": size, "bpp": 8 * size / (math.prod(video.size) * video.num_frames)}
        point |= {name: quality[name] for name in ("psnr", "ms_ssim")}
        points.append(point | {"encode_seconds": round(seconds, 2), "decode_fps": round(len(frames) / decoded, 1)})
    record = {"name": name, "hash": digest, **key, "points": points}
    return _finish(record, path, profile_name, torch.device("cpu"))
