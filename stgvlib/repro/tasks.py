"""Run what the paper does with fitted videos, and keep the records: inpainting, denoising, super-resolution, and
interpolation in time (Tables III and VI, Fig. 6, 7 and 10).

`run("inpaint_random/bunny/stgv", "smoke")` loads results/smoke/runs/tasks/... where it is valid; else it spoils the
frames as the task says (classical.py), fits the system to them, and judges what comes out against the clean frames.
Classical methods need no GPU and run at every profile.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from stgvlib.baselines import SYSTEMS, GaussianSystem, System
from stgvlib.config import STGV, Profile, changes
from stgvlib.errors import StgvError
from stgvlib.fitting.progress import ProgressBar
from stgvlib.metrics import evaluate
from stgvlib.model import resample
from stgvlib.repro import classical
from stgvlib.repro.classical import Spoiled, spoil
from stgvlib.repro.fits import NEEDS_GPU, configured, frames_of, some, sources_of
from stgvlib.repro.pictures import PICTURED
from stgvlib.repro.records import HOLDS_DATA, How, Job, Record, recorded, save_pictures
from stgvlib.repro.registry import Run
from stgvlib.video import datasets, holes
from stgvlib.video.holes import OUTLIER, composited
from stgvlib.video.video import Video, open_video

VERSION = 2  # raised when a change of the code changes what a task gives
HOLDS = {"psnr": float, "psnr_frames": list, "seconds": dict, **HOLDS_DATA, "device": str, "frames": int}
CLASSICAL = ("stgvlib.repro.classical", "stgvlib.video.holes")  # modules that decide how frames are spoiled and judged
ROBUST = replace(STGV, preset="stgv_robust", huber=OUTLIER)
SMOOTH = replace(STGV, preset="stgv_smooth", field_decay=1e-6)
# The field sees time as one cell and as t itself, so that between frames it hardly swings.
STEADY = replace(
    STGV, preset="stgv_steady", field=replace(STGV.field, time_cells=(1,) * STGV.field.levels, time_frequencies=0)
)
CENTRE, WINDOW = (0.52, 0.26), (180, 320)  # of the pictures that figures need: part of height and width; px
INPAINTED = ("bunny", "davis/blackswan", "davis/cows", "uvg/HoneyBee", "uvg/Bosphorus", "uvg/Beauty")
DENOISED = ("bunny", "davis/blackswan", "davis/boat", "uvg/HoneyBee")
SCALED_BY_PAPER = ("uvg/Beauty", "uvg/HoneyBee")  # by factors from 1.5 to 3
SCALED = ("bunny", "davis/blackswan", "davis/boat", *SCALED_BY_PAPER)
BETWEEN = ("bunny", "davis/blackswan", "davis/boat")
VARIANTS = (
    GaussianSystem("stgv_robust", f"{SYSTEMS['stgv'].label}, Huber loss", "for outliers", ROBUST),
    GaussianSystem("stgv_smooth", f"{SYSTEMS['stgv'].label}, smooth field", "with weight decay of the field", SMOOTH),
    GaussianSystem("stgv_steady", f"{SYSTEMS['stgv'].label}, steady field", "for frames between", STEADY),
)
FILLED = tuple(  # systems without a start from optical flow, on frames whose holes were filled along it
    replace(SYSTEMS[key], key=f"{key}_flow", label=f"{SYSTEMS[key].label}, flow-filled frames")
    for key in ("paper", "d2gv")
)
FROM_FLOW = ("stgv", *(system.key for system in FILLED))  # are fitted to the same frames, which flow filled
FITTED = SYSTEMS | {system.key: system for system in (*VARIANTS, *FILLED)}
LABELS = {key: system.label for key, system in FITTED.items()} | {
    "telea": "OpenCV inpainting",
    "gaussian": "Gaussian",
    "uniform": "Uniform",
    "median": "Median",
    "minimum": "Minimum",
    "maximum": "Maximum",
    "nlm": "Non-local means",
    "nlm_5": "Non-local means, 5 frames",
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


INPAINTERS = ("stgv", "flow", "telea", "paper", "d2gv", "nerv", "paper_flow", "d2gv_flow")
DENOISERS = ("stgv", "stgv_robust", *classical.FILTERS, "paper", "stgv_smooth", "d2gv")
SCALERS = ("stgv", *classical.RESIZERS, "paper")
TASKS = {
    **{
        f"inpaint_{m}": Task("inpaint", m, INPAINTED if m == "random" else ("bunny",), INPAINTERS)
        for m in classical.MASKS
    },
    **{f"noise_{n}": Task("noise", n, DENOISED, DENOISERS) for n in classical.NOISES},
    **{f"scale_{s}": Task("scale", s, SCALED, SCALERS) for s in ("2", "3")},
    **{f"scale_{s}": Task("scale", s, SCALED_BY_PAPER, SCALERS) for s in ("1.5", "2.5")},
    "between": Task("between", "2", BETWEEN, ("stgv", "stgv_steady", "average", "flow", "paper", "d2gv")),
}


def records(name: str, profile_name: str, device: str = "auto", refresh: bool = False) -> dict[str, dict[str, Record]]:
    """All runs of a task: dataset -> system -> record. Reduced profiles take the first datasets and fitted systems."""
    task = TASKS[name]
    fitted = some((s for s in task.systems if s in FITTED), profile_name)
    systems = [s for s in task.systems if s not in FITTED or s in fitted]
    return {
        dataset: {s: run(f"{name}/{dataset}/{s}", profile_name, device, refresh) for s in systems}
        for dataset in some(task.datasets, profile_name)
    }


def run(
    name: str,
    profile_name: str = "smoke",
    device: str = "auto",
    refresh: bool = False,
    seed: int = 0,
    show_progress: bool = True,
    make: bool = True,
) -> Record:
    """The record of a task's run, such as "noise_white/bunny/stgv": loaded where valid, else made. A record without
    data says why. Raises StgvError for an unknown name."""
    task_name, _, rest = name.partition("/")
    dataset, _, method = rest.rpartition("/")
    if task_name not in TASKS or dataset not in TASKS[task_name].datasets or method not in TASKS[task_name].systems:
        raise StgvError(f"{name!r} is no run of a task; tasks are {', '.join(TASKS)}")
    how = How(profile_name, device, refresh, show_progress, make)
    task, system = TASKS[task_name], FITTED.get(method)
    spec, to = Run(dataset, system, name, published_gaussians=dataset != "bunny"), how.profile

    def key(data: dict) -> tuple[dict, dict]:
        says = {"task": asdict(task) | {"datasets": None, "systems": None}, "system": method}
        says |= {"dataset": data, "seed": seed}
        if task.kind == "scale":
            says["measures"] = 2  # raised when what a record's figures mean has changed
        if task.kind == "inpaint" and method in FROM_FLOW:
            says["holes"] = "filled along optical flow"  # the others' are left out of the loss
        return says, {} if system is None else changes(_configured(task, spec, to, data))

    def make_record(job: Job) -> dict:
        spoiled, seconds, config = spoil(task.kind, task.level, job.video, seed), {}, None
        began = time.perf_counter()
        if system is None:
            restored, about = _classical(method, task, spoiled)
        else:
            config, given = _configured(task, spec, to, job.key["dataset"]), spoiled.given
            if "holes" in job.key:
                given = holes.along_flow(given)
                seconds["holes"] = time.perf_counter() - began
            with ProgressBar(name, show_progress) as bar:
                result = system.fit(given, config, job.device, seed, bar)
            restored, about = _fitted(task, system, result.model, spoiled)
            seconds = {k: round(v, 2) for k, v in (seconds | result.seconds).items()}
            if task.kind == "inpaint":
                about["holes"] = job.key.get("holes", "left out of the loss")
        seconds["total"] = round(time.perf_counter() - began, 2)
        shown: list[Tensor] = []
        quality = evaluate(_kept(restored, shown), spoiled.clean, similarity=False)
        record = {"config": None if config is None else asdict(config), "psnr_given": spoiled.baseline}
        record |= {"seconds": seconds} | about | quality
        frames = np.stack([frame.numpy() for frame in shown])
        if spoiled.missing is not None:
            record |= _holes(frames, spoiled)
        if task.kind == "noise" and task.level != "white":  # what is no outlier is kept
            kept = composited(frames, spoiled.given.read())
            record["psnr_composited"] = classical.psnr_of(kept, spoiled.clean)
        if task.kind == "scale":
            agreeing = classical.back_project(frames, spoiled.given.read())
            record["psnr_back_projected"] = classical.psnr_of(agreeing, spoiled.clean)
        pictures = _pictures(task, shown, spoiled, min(PICTURED, len(spoiled.clean) - 1))
        save_pictures(Record(name, job.path, record), pictures)
        return record

    return recorded(
        f"tasks/{name}",
        key,
        make_record,
        VERSION,
        frames=lambda found: _frames(task, spec, to, found),
        holds=HOLDS,
        sources=((*sources_of(spec), "stgvlib.model.resample") if system else ("stgvlib.metrics",)) + CLASSICAL,
        how=how if system else replace(how, device="cpu"),
        needs_gpu=NEEDS_GPU if system else "",
    )


def _fitted(task: Task, system: System, model: nn.Module, spoiled: Spoiled) -> tuple[Iterator[Tensor], dict]:
    """The frames that are judged, and what else is measured of the model."""
    about = {"parameters": model.num_parameters()}
    if task.kind == "between":
        half_way = (resample.render_half_way(model, i) for i in range(len(spoiled.clean)))
        about["psnr_half_way"] = evaluate(half_way, spoiled.clean, similarity=False)["psnr"]
    if task.kind == "scale":
        small = system.decoder(model, torch.float32)
        about["psnr_small"] = evaluate(small, spoiled.given, similarity=False)["psnr"]
        sharp = evaluate(_restored(task, system, model, spoiled, sharpen=True), spoiled.clean, similarity=False)
        about["psnr_sharpened"] = sharp["psnr"]
    return _restored(task, system, model, spoiled), about


def _frames(task: Task, spec: Run, to: Profile, found: dict | None) -> tuple[Video | None, dict | None, str]:
    """As fits.frames_of; super-resolution takes frames of DAVIS as large as they lie there, beyond the paper's 720p."""
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


def _configured(task: Task, spec: Run, to: Profile, data: dict):
    if task.kind == "scale":  # as dense as the dataset's own number is in its frames
        published = datasets.DATASETS[spec.dataset]
        rows, columns = published.target or (640, 1280)
        return spec.system.configure(to, rows * columns / published.gaussians)
    return configured(spec, to, data)


def _classical(system: str, task: Task, spoiled: Spoiled) -> tuple[Iterator[Tensor], dict]:
    given, about = spoiled.given.read(), {}
    if task.kind == "inpaint":
        flow = system == "flow"
        frames = holes.along_flow(spoiled.given).read() if flow else holes.telea(given, spoiled.missing)
    elif task.kind == "noise":
        best, blind = classical.best_size(given, system, spoiled.clean), classical.blind_size(given, system)
        frames = classical.denoise(given, system, best)
        unaided = frames if blind == best else classical.denoise(given, system, blind)
        about = {"kernel": best, "kernel_blind": blind, "psnr_blind": classical.psnr_of(unaided, spoiled.clean)}
    elif task.kind == "scale":
        frames = classical.upscale(given, spoiled.clean.shape[1:3], system)
    else:
        frames = {"average": classical.average, "flow": classical.flow}[system](given)
    return (torch.from_numpy(frame).float() / 255 for frame in frames), about


@torch.no_grad()
def _restored(
    task: Task, system: System, model: nn.Module, spoiled: Spoiled, sharpen: bool = False
) -> Iterator[Tensor]:
    """The frames that are judged, [H, W, 3] in [0, 1], as the model gives them."""
    if task.kind in ("inpaint", "noise"):
        yield from system.decoder(model, torch.float32)
        return
    device = model.gaussians.mu.device
    if task.kind == "scale":
        for g, count in enumerate(model.num_frames):
            alone = model.gop(g)
            for i in range(count):
                frame = torch.tensor([i], device=device)
                yield resample.render_scaled(alone, frame, tuple(spoiled.clean.shape[1:3]), sharpen)[0]
        return
    for number in range(len(spoiled.clean)):
        g, place = resample.between(model, number)
        yield model.gop(g).render(torch.tensor([place], device=device))[0]


def _kept(frames: Iterator[Tensor], shown: list[Tensor]) -> Iterator[Tensor]:
    """The same frames, which `shown` gets in 8 bits."""
    for frame in frames:
        shown.append((frame.clamp(0, 1) * 255).round().to(torch.uint8).cpu())
        yield frame


def _holes(restored: np.ndarray, spoiled: Spoiled) -> dict:
    """PSNR inside the holes, of all of them together, and of frames whose known pixels are kept as they are."""
    inside = np.square(restored[spoiled.missing].astype(np.float64) - spoiled.clean[spoiled.missing]).mean()
    kept = composited(restored, spoiled.clean, spoiled.missing)
    return {
        "psnr_holes": float(10 * np.log10(255**2 / max(inside, 1e-10))),
        "psnr_composited": classical.psnr_of(kept, spoiled.clean),
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
