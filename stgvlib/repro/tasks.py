"""Run what the paper does with fitted videos, and keep the records: inpainting, denoising, super-resolution, and
interpolation in time (Tables III and VI, Fig. 6, 7 and 10).

`run("inpaint_random/bunny/stgv", "smoke")` loads results/smoke/runs/tasks/... where it is valid; else it spoils the
frames as the task says (tasks.py), fits the system to them, and judges what comes out against the clean frames.
Classical methods need no GPU and run at every profile.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from stgvlib.baselines import SYSTEMS
from stgvlib.baselines.inr import InrConfig, InrModel, fit_inr
from stgvlib.config import STGV, FitConfig, Profile, changes, profile, scaled_steps
from stgvlib.device import resolve_device
from stgvlib.errors import StgvError
from stgvlib.fitting.fit import fit
from stgvlib.metrics import evaluate
from stgvlib.model.video_model import VideoModel
from stgvlib.repro import classical as tasks
from stgvlib.repro.fits import (
    PICTURED,
    RECORD_VERSION,
    ProgressBar,
    Record,
    config_of,
    decoder_of,
    frames_of,
    load_record,
    record_hash,
    results_folder,
    save_pictures,
    save_record,
    some,
    stamp,
)
from stgvlib.repro.registry import Run
from stgvlib.video import datasets
from stgvlib.video import holes as inpainting
from stgvlib.video.video import Video, open_video, video_of

ROBUST = replace(STGV, preset="stgv_robust", huber=tasks.OUTLIER)
SMOOTH = replace(STGV, preset="stgv_smooth", field_decay=1e-6)
# The field sees time as one cell and as t itself, so that between frames it hardly swings.
STEADY = replace(
    STGV, preset="stgv_steady", field=replace(STGV.field, time_cells=(1,) * STGV.field.levels, time_frequencies=0)
)
CENTRE, WINDOW = (0.52, 0.26), (180, 320)  # of the pictures that figures need: part of height and width; px
INPAINTED = ("bunny", "davis/blackswan", "davis/cows", "uvg/HoneyBee", "uvg/Bosphorus", "uvg/Beauty")
DENOISED = ("bunny", "davis/blackswan", "davis/boat", "uvg/HoneyBee")
SCALED = ("bunny", "davis/blackswan", "davis/boat", "uvg/Beauty", "uvg/HoneyBee")
BETWEEN = ("bunny", "davis/blackswan", "davis/boat")
FITTED = {key: config for key, (_, config) in SYSTEMS.items()}
FITTED |= {"stgv_robust": ROBUST, "stgv_smooth": SMOOTH, "stgv_steady": STEADY}
LABELS = {key: label for key, (label, _) in SYSTEMS.items()} | {
    "stgv_robust": "STGV, our preset, Huber loss",
    "stgv_smooth": "STGV, our preset, smooth field",
    "stgv_steady": "STGV, our preset, steady field",
    "telea": "OpenCV inpainting",
    "gaussian": "Gaussian",
    "uniform": "Uniform",
    "median": "Median",
    "minimum": "Minimum",
    "maximum": "Maximum",
    "nlm": "Non-local means",
    "wavelet": "Wavelet",
    "bicubic": "Bicubic",
    "lanczos": "Lanczos",
    "average": "Average of neighbours",
    "flow": "Optical flow",
}


@dataclass(frozen=True)
class Task:
    """One way of spoiling a video, on some datasets, undone by some systems."""

    kind: str  # inpaint, noise, scale or between
    level: str  # the mask, the noise, or the factor
    datasets: tuple[str, ...]
    systems: tuple[str, ...]


INPAINTERS = ("stgv", "flow", "telea", "paper", "d2gv", "nerv")
DENOISERS = ("stgv", "stgv_robust", *tasks.FILTERS, *tasks.STRONGER, "paper", "stgv_smooth", "d2gv")
TASKS = {
    **{f"inpaint_{m}": Task("inpaint", m, INPAINTED if m == "random" else ("bunny",), INPAINTERS) for m in tasks.MASKS},
    **{f"noise_{n}": Task("noise", n, DENOISED, DENOISERS) for n in tasks.NOISES},
    **{f"scale_{s}": Task("scale", s, SCALED, ("stgv", *tasks.RESIZERS, "paper")) for s in ("2", "3")},
    "between": Task("between", "2", BETWEEN, ("stgv", "stgv_steady", "average", "flow", "paper", "d2gv")),
}


@dataclass
class Spoiled:
    """What a system gets, and what its result is judged against."""

    given: Video
    clean: np.ndarray  # uint8 [T, H, W, 3]
    baseline: float | None  # PSNR of what was given against it, where both are as large and long
    missing: np.ndarray | None = None  # bool [T, H, W]


def records(name: str, profile_name: str, device: str = "auto", refresh: bool = False) -> dict[str, dict[str, Record]]:
    """All runs of a task: dataset -> system -> record. Reduced profiles take the first datasets and fitted systems."""
    task = TASKS[name]
    fitted = some((s for s in task.systems if s in FITTED), profile_name)
    systems = [s for s in task.systems if s not in FITTED or s in fitted]
    return {
        dataset: {s: run(f"{name}/{dataset}/{s}", profile_name, device, refresh) for s in systems}
        for dataset in some(task.datasets, profile_name)
    }


def spoil(task: Task, video: Video, seed: int) -> Spoiled:
    """A task's version of clean frames. Raises StgvError when they are too few or too small."""
    clean = video.read()
    if task.kind == "inpaint":
        missing = tasks.check_mask(tasks.MASKS[task.level](len(clean), video.size, seed), len(clean), video.size)
        given = clean.copy()
        given[missing] = 0
        return Spoiled(video_of(given).with_(missing=missing), clean, tasks.psnr_of(given, clean), missing)
    if task.kind == "noise":
        given = tasks.add_noise(clean, task.level, seed)
        return Spoiled(video_of(given), clean, tasks.psnr_of(given, clean))
    if task.kind == "scale":
        factor = int(task.level)
        size = tuple(side // factor for side in video.size)
        if min(size) < 1:
            raise StgvError(f"frames of {video.size[0]}x{video.size[1]} are too small to be shrunk {factor} times")
        clean = clean[:, : size[0] * factor, : size[1] * factor]
        small = [cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA) for frame in clean]
        return Spoiled(video_of(np.stack(small)), clean, None)
    if len(clean) < 3:
        raise StgvError(f"interpolation in time needs three frames or more, got {len(clean)}")
    odd = len(clean) - (len(clean) + 1) % 2  # the last frame is one that is given
    return Spoiled(video_of(clean[:odd:2]), clean[1:odd:2], None)


def run(
    name: str,
    profile_name: str = "smoke",
    device: str = "auto",
    refresh: bool = False,
    seed: int = 0,
    show_progress: bool = True,
) -> Record:
    """The record of a task's run, such as "noise_white/bunny/stgv": loaded where valid, else made. A record without
    data says why. Raises StgvError for an unknown name."""
    task_name, _, rest = name.partition("/")
    dataset, _, system = rest.rpartition("/")
    if task_name not in TASKS or dataset not in TASKS[task_name].datasets or system not in TASKS[task_name].systems:
        raise StgvError(f"{name!r} is no run of a task; tasks are {', '.join(TASKS)}")
    task, to, target = TASKS[task_name], profile(profile_name), resolve_device(device)
    path = results_folder(profile_name) / "runs" / "tasks" / f"{name}.json"
    found = None if refresh else load_record(path)
    spec = Run(dataset, FITTED.get(system), name, published_gaussians=dataset != "bunny")
    video, data, reason = _frames(task, spec, to, found)
    if data is None:
        return Record(name, path, None, reason)
    config = _config(task, spec, to, data)
    key = {"task": asdict(task) | {"datasets": None, "systems": None}, "system": system, "dataset": data, "seed": seed}
    if task.kind == "scale":
        key["measures"] = 2  # raised when what a record's figures mean has changed
    if task.kind == "inpaint" and system == "stgv":
        key["holes"] = "filled along optical flow"  # before they were left out of the loss
    settings = {} if config is None else changes(config)
    digest = record_hash(key | {"config": settings, "record_version": RECORD_VERSION})
    if found is not None and found.get("hash") == digest:
        return Record(name, path, found)
    if video is None:
        return Record(name, path, None, reason)
    if config is not None and target.type == "cpu" and to.name == "paper":
        return Record(name, path, None, "not run: the paper profile needs a CUDA GPU")
    spoiled, seconds = spoil(task, video, seed), {}
    began = time.perf_counter()
    if config is None:
        restored, about = _classical(system, task, spoiled)
        target = torch.device("cpu")
    else:
        bar = ProgressBar(name) if show_progress else None
        fitter = fit_inr if isinstance(config, InrConfig) else fit
        result = fitter(spoiled.given, config, target, seed, progress=bar)
        if bar:
            bar.close()
        restored, about = _restored(task, result.model, spoiled), {"parameters": result.model.num_parameters()}
        if task.kind == "between":
            half_way = (tasks.render_half_way(result.model, i) for i in range(len(spoiled.clean)))
            about["psnr_half_way"] = evaluate(half_way, spoiled.clean, similarity=False)["psnr"]
        if task.kind == "scale":
            small = spoiled.given.read()
            about["psnr_small"] = evaluate(decoder_of(result.model, torch.float32), small, similarity=False)["psnr"]
            sharp = evaluate(_restored(task, result.model, spoiled, sharpen=True), spoiled.clean, similarity=False)
            about["psnr_sharpened"] = sharp["psnr"]
        seconds = {k: round(v, 2) for k, v in result.seconds.items()}
    seconds["total"] = round(time.perf_counter() - began, 2)
    shown: list[Tensor] = []
    quality = evaluate(_kept(restored, shown), spoiled.clean, similarity=False)
    record = {
        "name": name,
        "profile": to.name,
        "hash": digest,
        **key,
        "config": None if config is None else asdict(config),
    }
    record |= stamp(target) | {"psnr_given": spoiled.baseline, "seconds": seconds} | about | quality
    frames = np.stack([frame.numpy() for frame in shown])
    if spoiled.missing is not None:
        record |= _holes(frames, spoiled)
    if task.kind == "noise" and task.level != "white":  # what is no outlier is kept
        kept = tasks.composited(frames, spoiled.given.read())
        record["psnr_composited"] = tasks.psnr_of(kept, spoiled.clean)
    if task.kind == "scale":
        agreeing = tasks.back_project(frames, spoiled.given.read())
        record["psnr_back_projected"] = tasks.psnr_of(agreeing, spoiled.clean)
    pictures = _pictures(task, shown, spoiled, min(PICTURED, len(spoiled.clean) - 1))
    save_pictures(Record(name, path, record), pictures)
    return save_record(name, path, record)


def _frames(task: Task, spec: Run, to: Profile, found: dict | None) -> tuple[Video | None, dict | None, str]:
    """As experiments.frames_of; super-resolution takes the frames as large as they lie there."""
    if task.kind != "scale" or not spec.dataset.startswith("davis"):
        return frames_of(spec, to, found)
    path = datasets.find(spec.dataset)
    if path is None:
        return frames_of(spec, to, found)
    video = open_video(path).scaled(to.scale)
    if to.frames is not None:
        video = video.with_(limit=min(to.frames, video.num_frames))
    about = {"name": spec.dataset, "frames": video.num_frames, "size": video.size}
    return video, about | {"sha256": datasets.frames_sha256(video)}, ""


def _config(task: Task, spec: Run, to: Profile, data: dict) -> FitConfig | InrConfig | None:
    if spec.config is None:
        return None
    if task.kind == "scale":  # as dense as the dataset's own number is in its frames
        published = datasets.DATASETS[spec.dataset]
        rows, columns = published.target or (640, 1280)
        return replace(scaled_steps(spec.config, to), pixels_per_gaussian=rows * columns / published.gaussians)
    return config_of(spec, to, tuple(data["size"]) if to.scale == 1 else datasets.load(spec.dataset).size)


def _classical(system: str, task: Task, spoiled: Spoiled) -> tuple[Iterator[Tensor], dict]:
    given, about = spoiled.given.read(), {}
    if task.kind == "inpaint":
        flow = system == "flow"
        frames = inpainting.along_flow(spoiled.given).read() if flow else inpainting.telea(given, spoiled.missing)
    elif task.kind == "noise":
        frames, about["kernel"] = tasks.denoise(given, system, spoiled.clean)
    elif task.kind == "scale":
        frames = tasks.upscale(given, spoiled.clean.shape[1:3], system)
    else:
        frames = {"average": tasks.average, "flow": tasks.flow}[system](given)
    return (torch.from_numpy(frame).float() / 255 for frame in frames), about


@torch.no_grad()
def _restored(task: Task, model: VideoModel | InrModel, spoiled: Spoiled, sharpen: bool = False) -> Iterator[Tensor]:
    """The frames that are judged, [H, W, 3] in [0, 1], as the model gives them."""
    if task.kind in ("inpaint", "noise"):
        yield from decoder_of(model, torch.float32)
        return
    device = model.gaussians.mu.device
    if task.kind == "scale":
        for g, count in enumerate(model.num_frames):
            alone = model.gop(g)
            for i in range(count):
                frame = torch.tensor([i], device=device)
                yield tasks.render_scaled(alone, frame, tuple(spoiled.clean.shape[1:3]), sharpen)[0]
        return
    for number in range(len(spoiled.clean)):
        g, place = tasks.between(model, number)
        yield model.gop(g).render(torch.tensor([place], device=device))[0]


def _kept(frames: Iterator[Tensor], shown: list[Tensor]) -> Iterator[Tensor]:
    """The same frames, which `shown` gets in 8 bits."""
    for frame in frames:
        shown.append((frame.clamp(0, 1) * 255).round().to(torch.uint8).cpu())
        yield frame


def _holes(restored: np.ndarray, spoiled: Spoiled) -> dict:
    """PSNR inside the holes, of all of them together, and of frames whose known pixels are kept as they are."""
    inside = np.square(restored[spoiled.missing].astype(np.float64) - spoiled.clean[spoiled.missing]).mean()
    kept = tasks.composited(restored, spoiled.clean, spoiled.missing)
    return {
        "psnr_holes": float(10 * np.log10(255**2 / max(inside, 1e-10))),
        "psnr_composited": tasks.psnr_of(kept, spoiled.clean),
    }


def _pictures(task: Task, shown: list[Tensor], spoiled: Spoiled, number: int) -> dict[str, np.ndarray]:
    """Crops of one frame: what was given, what came out, the truth."""
    height, width = spoiled.clean.shape[1:3]
    middle = [round(part * side) for part, side in zip(CENTRE, (height, width))]
    if spoiled.missing is not None:  # a missing pixel in the middle of all
        middle = [places[len(places) // 2] for places in np.nonzero(spoiled.missing[number])]
    rows, columns = (
        slice(start := min(max(m - most // 2, 0), max(side - most, 0)), start + most)
        for m, most, side in zip(middle, WINDOW, (height, width))
    )
    pictures = {"frame": shown[number].numpy(), "truth": spoiled.clean[number]}
    if task.kind in ("inpaint", "noise"):
        pictures["given"] = spoiled.given.read(number, number + 1)[0]
    elif task.kind == "scale":
        given = spoiled.given.read(number, number + 1)[0]
        pictures["given"] = cv2.resize(given, (width, height), interpolation=cv2.INTER_NEAREST)
    return {key: picture[rows, columns] for key, picture in pictures.items()}
