"""Fit a video: per GoP a coarse stage that builds the canonical Gaussians, then the deformation stage (paper, Sec. II).

GoPs are independent, so they are fitted in batches with a leading GoP axis: all that fit in memory on a GPU, one at a
time on a CPU. A step is captured in a CUDA graph and replayed; step number, frame index, learning rates and the loss
log live on the device, so nothing in the loop waits for the host. Each GoP has its own random generator, so results do
not depend on how GoPs were batched. A finished GoP is written at once; `resume` takes it from there.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stgvlib.config import FitConfig
from stgvlib.errors import StgvError
from stgvlib.model import VideoModel, gaussian_count, load_model, save_model, split_gops
from stgvlib.optimizer import FlatOptimizer, Segment, schedule
from stgvlib.splat import splat_mse
from stgvlib.video import Video

CHUNK = 200  # steps between two looks at the loss
LAST_RATE = 0.05  # cosine: part of the rate left at the end


@dataclass
class Progress:
    """What a progress callback gets."""

    gops: tuple[int, int]  # first, one past the last GoP of this batch
    total_gops: int
    stage: str  # "coarse" or "deformation"
    done: int  # steps of this call so far, over all batches and stages
    total: int  # steps of this call in all
    psnr: float  # of the last frames seen, dB


@dataclass
class FitResult:
    model: VideoModel
    coarse: VideoModel | None  # the first fitted GoP as the coarse stage left it; None when all came from `parts`
    losses: dict[str, Tensor]  # stage -> [steps, G] training loss of each step; only the GoPs fitted in this call
    seconds: dict[str, float]  # stage -> wall time, summed over batches


Callback = Callable[[Progress], None]


def fit(
    video: Video,
    config: FitConfig,
    device: torch.device | str = "cpu",
    seed: int = 0,
    parts: Path | None = None,  # folder for finished GoPs; None keeps nothing on disk
    resume: bool = False,
    progress: Callback | None = None,
) -> FitResult:
    """Fit every GoP of a video. Same seed, same device, same result on a CPU, interrupted or not.

    Raises StgvError when `parts` holds another fit's GoPs, or holds this one's and `resume` is false.
    """
    device = torch.device(device)
    gops = split_gops(video.num_frames, config.gop_size)
    count = gaussian_count(config, video.size, video.num_frames)
    done: dict[int, VideoModel] = {}
    if parts is not None:
        done = _open_parts(parts, _identity(video, config, seed), len(gops), resume)
    size = _gops_per_batch(video, gops, count, device)
    todo = [g for g in range(len(gops)) if g not in done]
    total = -(-len(todo) // size) * (config.coarse_steps + config.steps)
    done_steps = 0
    losses: dict[str, list[Tensor]] = {"coarse": [], "deformation": []}
    seconds = {"coarse": 0.0, "deformation": 0.0}
    coarse = None
    for start in range(0, len(todo), size):
        batch = todo[start : start + size]
        frames, lengths = load_gops(video, [gops[g] for g in batch], device)
        model = VideoModel.join(
            [_initial(config, frames[i], n, count, seed, g) for i, (g, n) in enumerate(zip(batch, lengths))]
        ).to(device)
        for stage in ("coarse", "deformation"):
            began = time.perf_counter()
            first = Progress((batch[0], batch[-1] + 1), len(gops), stage, done_steps, total, 0.0)
            report = _reporter(progress, first)
            try:
                losses[stage].append(run_stage(model, frames, stage, report))
            except FloatingPointError as error:
                raise StgvError(f"GoPs {batch[0]}..{batch[-1]}, seed {seed}, {stage} stage: {error}") from error
            seconds[stage] += time.perf_counter() - began
            done_steps += len(losses[stage][-1])
            if coarse is None:
                coarse = model.gop(0)
        for i, g in enumerate(batch):
            done[g] = model.gop(i).cpu()
            if parts is not None:
                save_model(done[g], _part(parts, g))
    joined = {stage: torch.cat(parts_, 1) if parts_ else torch.empty(0, 0) for stage, parts_ in losses.items()}
    return FitResult(VideoModel.join([done[g] for g in range(len(gops))]).to(device), coarse, joined, seconds)


def run_stage(model: VideoModel, frames: Tensor, stage: str, report: Callable[[int, Tensor], None]) -> Tensor:
    """Run one stage over a batch of GoPs; frames uint8 [G, T, H, W, 4]. Returns the losses [steps, G] on the CPU."""
    config, device = model.config, frames.device
    coarse = stage == "coarse"
    steps = config.coarse_steps if coarse else config.steps
    losses = torch.zeros(max(steps, 1), len(frames), device=device)
    if steps == 0:
        return losses[:0].cpu()
    optimizer = FlatOptimizer(_segments(model, stage, steps), config.optimizer)
    counts = torch.tensor(model.num_frames, device=device)
    keyframe = {"first": counts * 0, "middle": counts // 2}.get(config.keyframe)

    def step() -> None:
        number = optimizer.step_number
        optimizer.grad.zero_()
        if coarse:
            index = number % counts if keyframe is None else keyframe
            mu, cholesky = model.gaussians.pixels()
            rgb = model.gaussians.rgb
        else:
            index = number % counts
            mu, cholesky, rgb = model.deform((index + 1) / counts)
        loss = splat_mse(mu, cholesky, rgb, frames, index.int())
        loss.sum().backward()
        losses.index_copy_(0, number[None], loss.detach()[None])
        optimizer.step()

    advance = _captured(step, optimizer, losses) if device.type == "cuda" else step
    for done in range(0, steps, CHUNK):
        todo = min(CHUNK, steps - done)
        for _ in range(todo):
            advance()
        recent = losses[done : done + todo].mean(0)
        if not torch.isfinite(recent).all():
            bad = (~torch.isfinite(losses[done : done + todo])).any(1).nonzero()[0].item()
            raise FloatingPointError(f"the loss is not finite at step {done + bad}")
        report(done + todo, recent)
    return losses.cpu()


def _captured(step: Callable[[], None], optimizer: FlatOptimizer, losses: Tensor) -> Callable[[], None]:
    """The step as a CUDA graph. Warm-up steps run for real on a side stream, then every state is put back."""
    state = [optimizer.flat, optimizer.step_number, *optimizer.moments, losses]
    saved = [t.clone() for t in state]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            step()
            optimizer.step_number.zero_()  # a stage may have one step only
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for tensor, value in zip(state, saved):
        tensor.copy_(value)
    return graph.replay


def _segments(model: VideoModel, stage: str, steps: int) -> list[Segment]:
    config, gaussians = model.config, model.gaussians

    def rates(rate: float) -> Tensor:
        return schedule(config.gaussian_schedule, rate, rate * LAST_RATE, steps, config.steps // 3)

    segments = [
        Segment("mu", [gaussians.mu], rates(config.position_rate)),
        Segment("cholesky", [gaussians.cholesky], rates(config.cholesky_rate), gaussians.cholesky_floor),
        Segment("rgb", [gaussians.rgb], rates(config.color_rate)),
    ]
    if stage == "deformation":
        tables, layers = model.field.groups()
        field = schedule("exponential", config.field_rate, config.field_rate_last, steps)
        segments += [Segment("field", [*tables, *layers], field)]
    return segments


def load_gops(video: Video, gops: list[tuple[int, int]], device: torch.device) -> tuple[Tensor, list[int]]:
    """Frames of some GoPs as uint8 [G, T, H, W, 4], RGB and loss weight 255; shorter GoPs are padded with weight 0."""
    lengths = [stop - start for start, stop in gops]
    frames = torch.zeros(len(gops), max(lengths), *video.size, 4, dtype=torch.uint8, device=device)
    for g, (start, stop) in enumerate(gops):
        frames[g, : stop - start, ..., :3] = torch.from_numpy(video.read(start, stop)).to(device)
        frames[g, : stop - start, ..., 3] = 255
    return frames, lengths


def _initial(config: FitConfig, frames: Tensor, length: int, count: int, seed: int, gop: int) -> VideoModel:
    """One GoP's starting point, from its own generator."""
    generator = torch.Generator().manual_seed(int(hashlib.sha256(f"{seed}/{gop}".encode()).hexdigest()[:15], 16))
    height, width = frames.shape[1:3]
    model = VideoModel(config, [length], (height, width), count, generator)
    keyframe = frames[length // 2 if config.keyframe == "middle" else 0, ..., :3].float().cpu() / 255
    if config.placement == "gradient":
        at = _gradient_pixels(keyframe, count, generator)
        mu = torch.stack([at % width, at // width], 1) + torch.rand(count, 2, generator=generator)
        rgb = keyframe.view(-1, 3)[at]
    else:
        mu = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
        rgb = torch.rand(count, 3, generator=generator)
    if config.initial_scale is None:
        cholesky = torch.rand(count, 3, generator=generator) + torch.tensor([0.5, 0.0, 0.5])
    else:
        cholesky = torch.tensor([config.initial_scale, 0.0, config.initial_scale]).expand(count, 3)
    order = _morton(mu).argsort()
    model.gaussians.set_pixels(0, mu[order], cholesky[order], rgb[order])
    return model


def _gradient_pixels(keyframe: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Pixel numbers drawn 70 % in proportion to the image gradient, 30 % uniformly."""
    luma = keyframe.mean(-1)
    gradient = torch.stack(torch.gradient(luma)).norm(dim=0).flatten() if min(luma.shape) > 1 else luma.new_zeros(0)
    if len(gradient) == 0 or gradient.sum() == 0:
        return torch.randint(luma.numel(), (count,), generator=generator)
    chance = 0.7 * gradient / gradient.sum() + 0.3 / len(gradient)
    cumulative = chance.double().cumsum(0)
    draw = torch.rand(count, generator=generator, dtype=torch.float64) * cumulative[-1]
    return torch.searchsorted(cumulative, draw).clamp(max=len(gradient) - 1)


def _morton(mu: Tensor) -> Tensor:
    """Z-order of 8-px cells: neighbours in space become neighbours in memory."""
    x, y = (mu / 8).long().clamp(min=0).unbind(1)
    code = torch.zeros_like(x)
    for bit in range(12):
        code |= (x >> bit & 1) << 2 * bit | (y >> bit & 1) << 2 * bit + 1
    return code


def _gops_per_batch(video: Video, gops: list, count: int, device: torch.device) -> int:
    """One on a CPU; on a GPU as many as fit in 60 % of its free memory."""
    if device.type == "cpu":
        return 1
    height, width = video.size
    longest = max(stop - start for start, stop in gops)
    each = height * width * (4 * longest + 8 + 12) + count * 4 * 3500  # frames, images; activations and moments
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, int(0.6 * free / each))


def _reporter(progress: Callback | None, first: Progress) -> Callable[[int, Tensor], None]:
    """What `run_stage` calls with the steps done in the stage and the mean losses [G] of the last ones."""

    def report(steps: int, recent: Tensor) -> None:
        if progress is not None:
            psnr = (-10 * torch.log10(recent.clamp(min=1e-12))).mean().item()
            progress(replace(first, done=first.done + steps, psnr=psnr))

    return report


def _identity(video: Video, config: FitConfig, seed: int) -> dict:
    """What must agree for finished GoPs to be taken over."""
    first = hashlib.sha256(np.ascontiguousarray(video.read(0, 1))).hexdigest()[:16]
    about = {"config": asdict(config), "seed": seed, "size": video.size, "frames": video.num_frames, "first": first}
    return json.loads(json.dumps(about))


def _part(parts: Path, gop: int) -> Path:
    return parts / f"gop_{gop:04d}.safetensors"


def _open_parts(parts: Path, identity: dict, gops: int, resume: bool) -> dict[int, VideoModel]:
    """Finished GoPs of an earlier run of the same fit; creates the folder for a new one."""
    about = parts / "fit.json"
    finished = [g for g in range(gops) if _part(parts, g).is_file()]
    try:
        if about.is_file() and finished and not resume:
            raise StgvError(
                f"{parts} holds {len(finished)} of {gops} GoPs of an unfinished fit: "
                "add --resume to go on, or delete the folder to start over"
            )
        if not finished or not about.is_file():
            shutil.rmtree(parts, ignore_errors=True)
            parts.mkdir(parents=True)
            about.write_text(json.dumps(identity))
            return {}
        try:
            before = json.loads(about.read_text())
        except ValueError as error:
            raise StgvError(f"{about} is damaged; delete {parts} to start over") from error
    except OSError as error:
        raise StgvError(f"cannot use {parts}: {error.strerror}") from error
    if before != identity:
        differing = sorted(k for k in identity if before.get(k) != identity[k])
        raise StgvError(
            f"{parts} holds GoPs of another fit ({', '.join(differing)} differ): "
            "repeat its settings, or delete the folder to start over"
        )
    done = {}
    for g in finished:
        try:
            done[g] = load_model(_part(parts, g))[0]
        except StgvError:
            _part(parts, g).unlink()  # cut off while it was written: fit it again
    return done


def psnr_over_steps(losses: Tensor, period: int = 1, points: int = 100) -> list[tuple[int, float]]:
    """[steps, G] losses -> at most `points` pairs (step, dB), each the mean over the steps since the pair before.

    `period` is the number of frames that are visited in turn: a mean always covers whole rounds.
    """
    if len(losses) == 0:
        return []
    width = max(1, math.ceil(len(losses) / points / period)) * period
    pairs = []
    for chunk_start in range(0, len(losses), width):
        chunk = losses[chunk_start : chunk_start + width]
        decibel = (-10 * torch.log10(chunk.clamp(min=1e-12))).mean().item()
        pairs.append((min(chunk_start + width, len(losses)), round(decibel, 3)))
    return pairs
