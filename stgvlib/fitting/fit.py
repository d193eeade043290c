"""Fit a video: per GoP a coarse stage that builds the canonical Gaussians, then the deformation stage (paper, Sec. II).

GoPs are independent, so they are fitted in batches with a leading GoP axis: all that fit in memory on a GPU, one at a
time on a CPU. A step is captured in a CUDA graph and replayed; step number, frame index, learning rates and the loss
log live on the device, so nothing in the loop waits for the host. Each GoP has its own random generator, so results do
not depend on how GoPs were batched. A finished GoP is written at once; `resume` takes it from there.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from stgvlib.config import FitConfig
from stgvlib.device import compiled, fast_products, kernels_for
from stgvlib.errors import StgvError
from stgvlib.fitting.motion import begin_flow, follow, targets_of
from stgvlib.fitting.optimizer import FlatOptimizer, Segment, captured, field_segments, schedule
from stgvlib.fitting.placement import add_gaussians, generator_for, initial_model, sort_gaussians
from stgvlib.fitting.processes import Share
from stgvlib.fitting.resume import finished_gops, identity, open_parts, part
from stgvlib.model.video_model import VideoModel, gaussian_count, save_model
from stgvlib.ops.splat import splat_mse
from stgvlib.video.holes import along_flow
from stgvlib.video.scenes import cut_gops, frame_stride, load_gops, with_scenes
from stgvlib.video.video import Video

CHUNK = 200  # steps between two looks at the loss
ADDED_UNTIL = 0.6  # part of the coarse stage after which no Gaussians are added


@dataclass
class Progress:
    """What a progress callback gets."""

    gops: tuple[int, int]  # first, one past the last GoP of this batch
    total_gops: int
    stage: str  # "coarse" or "deformation"
    done: int  # steps of this call so far, over all batches and stages
    total: int  # steps of this call in all
    psnr: float  # of the last frames seen, dB (with `huber`: as the loss sees them)
    note: str = ""  # something to tell once, such as a smaller batch


@dataclass
class FitResult:
    model: VideoModel | None  # None on all ranks but the first
    coarse: VideoModel | None  # the first fitted GoP as the coarse stage left it; None when all came from `parts`
    losses: dict[str, Tensor]  # stage -> [steps, G] training loss of each step; only the GoPs fitted in this call
    seconds: dict[str, float]  # stage -> wall time, summed over batches; "trials" too where the GoP length was chosen
    trials: dict[int, float] = field(default_factory=dict)  # frames of a GoP -> dB, where it was chosen


Callback = Callable[[Progress], None]


@dataclass
class Diverged:
    """A GoP whose loss was not finite."""

    place: int  # in the batch
    stage: str
    step: int
    good_step: int  # of `good`
    good: VideoModel  # the last state after which losses were finite


def fit(
    video: Video,
    config: FitConfig,
    device: torch.device | str = "cpu",
    seed: int = 0,
    parts: Path | None = None,  # folder for finished GoPs; None keeps nothing on disk
    resume: bool = False,
    progress: Callback | None = None,
    share: Share | None = None,  # of several processes; each fits its share of the GoPs, needs `parts`
) -> FitResult:
    """Fit every GoP of a video. Same seed, same device, same result on a CPU, interrupted or not.

    A GoP whose loss is not finite is given up, the others go on. A batch that does not fit in GPU memory is halved.
    With `motion_steps` missing pixels are filled along the flow first (inpainting.py), else left out of the loss.
    Raises StgvError when `parts` holds another fit's GoPs, or holds this one's and `resume` is false; when a GoP was
    given up (after the others); when one GoP alone does not fit.
    """
    device = torch.device(device)
    done: dict[int, VideoModel] = {}
    first = share is None or share.rank == 0
    video, began = with_scenes(video), time.perf_counter()
    holes = {}
    if video.missing is not None and config.motion_steps and video.filling is None:
        if progress and first:
            note = f"filling {video.missing.sum():,} missing pixels along optical flow"
            progress(Progress((0, 1), 1, "holes", 0, 1, 0.0, note))
        video = along_flow(video)
        holes["holes"] = time.perf_counter() - began
    trials, began = {}, time.perf_counter()
    if config.gop_size == "auto":
        from stgvlib.fitting.gop_length import settled

        if first:
            config, trials = settled(video, config, device, seed, parts, progress)
        if share:
            config = share.agree(config)
    spent = time.perf_counter() - began
    gops = cut_gops(video, config)
    count = gaussian_count(config, video.size, video.num_frames, len(gops))
    if parts is not None:
        if first:
            done = open_parts(parts, identity(video, config, seed), len(gops), resume)
        if share:
            share.wait()
            done = done if first else finished_gops(parts, len(gops))
    mine = [g for g in range(len(gops)) if share is None or g % share.world == share.rank]
    todo = [g for g in mine if g not in done]
    size = _gops_per_batch(video, gops, count, device)
    done_steps = 0
    losses: dict[str, list[Tensor]] = {"coarse": [], "deformation": []}
    seconds = {"coarse": 0.0, "deformation": 0.0} | holes | ({"trials": spent} if trials else {})
    coarse, given_up = None, []
    while todo:
        batch = todo[:size]
        total = done_steps + -(-len(todo) // size) * (config.coarse_steps + config.motion_steps + config.steps)
        state = Progress((batch[0], batch[-1] + 1), len(gops), "coarse", done_steps, total, 0.0)
        try:
            result = _fit_batch(video, [gops[g] for g in batch], batch, config, count, device, seed, progress, state)
        except torch.OutOfMemoryError:
            result = None  # and the tensors of the failed call go with its traceback
        if result is None:
            if len(batch) == 1:
                raise StgvError("the GPU ran out of memory on one GoP: lower --size or --gaussians")
            size = len(batch) // 2
            torch.cuda.empty_cache()
            if progress:
                progress(replace(state, note=f"{len(batch)} GoPs do not fit in the GPU's memory: going on with {size}"))
            continue
        todo = todo[size:]
        for stage in losses:
            losses[stage].append(result.losses[stage])
        for stage, spent in result.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
        done_steps += result.steps
        coarse = coarse or result.coarse
        failed = {d.place: d for d in result.diverged}
        for i, g in enumerate(batch):
            if i in failed:
                given_up.append(_give_up(failed[i], g, seed, parts))
                continue
            done[g] = result.model.gop(i).cpu()
            if parts is not None:
                save_model(done[g], part(parts, g))
    if share:
        if given_up:
            share.tell("; ".join(given_up))
        share.wait()
        if not first:
            return FitResult(None, coarse, {}, seconds)
        done = finished_gops(parts, len(gops))
        if missing := [g for g in range(len(gops)) if g not in done]:
            given_up = given_up or [f"GoPs {missing} were not finished"]
    if given_up:
        kept = f"; the other {len(done)} GoPs are kept in {parts}" if parts is not None else ""
        raise StgvError("; ".join(given_up) + kept + ". Try another seed or lower rates")
    joined = {stage: torch.cat(parts_, 1) if parts_ else torch.empty(0, 0) for stage, parts_ in losses.items()}
    model = VideoModel.join([done[g] for g in range(len(gops))]).to(device)
    return FitResult(model, coarse, joined, seconds, trials)


@dataclass
class _Batch:
    model: VideoModel
    coarse: VideoModel
    losses: dict[str, Tensor]
    seconds: dict[str, float]
    diverged: list[Diverged]
    steps: int = 0


def _fit_batch(video, gops, numbers, config, count, device, seed, progress, state) -> _Batch:
    """All stages for GoPs [start, stop) with the given numbers."""
    frames, lengths = load_gops(video, gops, device)
    generators = [generator_for(seed, g) for g in numbers]
    model = VideoModel.join(
        [initial_model(config, frames[i], n, count, generators[i]) for i, n in enumerate(lengths)]
    ).to(device)
    follows = config.motion_steps and config.steps and max(lengths) > 1
    flows = begin_flow(frames, lengths, config) if follows else []  # its threads would slow down what is above
    result = _Batch(model, None, {}, {}, [])
    for stage in ("coarse", "deformation"):
        began = time.perf_counter()
        report = _reporter(progress, replace(state, stage=stage, done=state.done + result.steps))
        with fast_products(device):  # where a field runs in torch
            result.losses[stage], diverged = run_stage(model, frames, stage, report, generators)
        known = {d.place for d in result.diverged}
        result.diverged += [d for d in diverged if d.place not in known]
        result.seconds[stage] = time.perf_counter() - began
        result.steps += len(result.losses[stage])
        if stage == "coarse":
            result.coarse = model.gop(0)
            sort_gaussians(model)
            if flows:
                began = time.perf_counter()
                report = _reporter(progress, replace(state, stage="motion", done=state.done + result.steps))
                targets = targets_of(model, [flow.result() for flow in flows])
                with fast_products(device):
                    follow(model, targets, report)
                result.seconds["motion"] = time.perf_counter() - began
            result.steps += config.motion_steps
    return result


def _give_up(failure: Diverged, gop: int, seed: int, parts: Path | None) -> str:
    """Keep the last good model of a GoP that diverged; returns what to tell."""
    told = f"GoP {gop}, seed {seed}: the loss is not finite at step {failure.step} of the {failure.stage} stage"
    if parts is None:
        return told
    path = parts / f"diverged_{gop:04d}.safetensors"
    save_model(failure.good, path)
    return f"{told}; its state at step {failure.good_step} is {path}"


def run_stage(
    model: VideoModel,
    frames: Tensor,  # uint8 [G, T, H, W, 4]
    stage: str,
    report: Callable[[int, Tensor], None],
    generators: list[torch.Generator] | None = None,  # of each GoP, for Gaussians that are added
    make_optimizer: Callable[..., FlatOptimizer] = FlatOptimizer,
    chunk: int | None = None,  # steps between two calls of `report`; None: CHUNK
) -> tuple[Tensor, list[Diverged]]:
    """Run one stage over a batch of GoPs. Returns the losses [steps, G] on the CPU, and the GoPs that diverged."""
    config, device = model.config, frames.device
    coarse = stage == "coarse"
    steps = config.coarse_steps if coarse else config.steps
    losses = torch.zeros(max(steps, 1), len(frames), device=device)
    if steps == 0:
        return losses[:0].cpu(), []
    optimizer = make_optimizer(_segments(model, stage, steps), config.optimizer, config.betas)
    counts = torch.tensor(model.num_frames, device=device)
    strides = torch.tensor([frame_stride(n, config.order) for n in model.num_frames], device=device)
    keyframe = {"first": counts * 0, "middle": counts // 2}.get(config.keyframe)
    step = fused = _fused_step(model, frames, optimizer, losses, counts, strides, keyframe, coarse)
    if fused is None:
        if not coarse:
            compiled(model.field, device)

        def step() -> None:
            number = optimizer.step_number
            optimizer.grad.zero_()
            if coarse:
                index = number * strides % counts if keyframe is None else keyframe
                mu, cholesky = model.gaussians.pixels()
                rgb = model.gaussians.rgb
            else:
                index = number * strides % counts
                mu, cholesky, rgb = model.deform((index + 1) / counts)
            loss = splat_mse(mu, cholesky, rgb, frames, index.int(), config.huber)
            loss.sum().backward()
            losses.index_copy_(0, number[None], loss.detach()[None])
            optimizer.step()

    advance = captured(step, optimizer, losses) if device.type == "cuda" else step
    additions = config.additions if coarse else 0
    rounds = sorted({round(steps * ADDED_UNTIL * (k + 1) / additions) for k in range(additions)} - {0})
    diverged: dict[int, Diverged] = {}
    # The state at a look is known to be good when the steps after it are finite too.
    good, newest, good_step, newest_step, done = optimizer.flat.clone(), optimizer.flat.clone(), 0, 0, 0
    while done < steps:
        todo = min([chunk or CHUNK, steps - done, *(r - done for r in rounds if r > done)])
        for _ in range(todo):
            advance()
        recent = losses[done : done + todo]
        finite = torch.isfinite(recent).all(0)
        if not finite.all():
            for place in (~finite).nonzero()[:, 0].tolist():
                if place not in diverged:
                    bad = done + (~torch.isfinite(recent[:, place])).nonzero()[0].item()
                    diverged[place] = Diverged(place, stage, bad, good_step, _as_of(model, optimizer, good, place))
            if len(diverged) == len(frames):
                break
        done += todo
        report(done, recent.mean(0)[finite])
        if done in rounds:
            add_gaussians(model, frames, keyframe, len(rounds) - rounds.index(done), generators)
        if fused is not None and fused.grow_lists():
            advance = captured(step, optimizer, losses)
        if not diverged:
            good, newest = newest, good
            newest.copy_(optimizer.flat)
            good_step, newest_step = newest_step, done
    return losses.cpu(), list(diverged.values())


def _fused_step(model, frames, optimizer, losses, counts, strides, keyframe, coarse):
    """The CUDA training step, or None where autograd has to do it."""
    if kernels_for(model.gaussians.mu) != "cuda":
        return None
    from stgvlib.fitting.stage_cuda import TrainingStep

    if not TrainingStep.supports(model, coarse):
        return None
    return TrainingStep(model, frames, optimizer, losses, counts, strides, keyframe, coarse)


def _as_of(model: VideoModel, optimizer: FlatOptimizer, flat: Tensor, place: int) -> VideoModel:
    """One GoP of the batch with the parameters of an earlier look."""
    now = optimizer.flat.clone()
    optimizer.flat.copy_(flat)
    alone = model.gop(place).cpu()
    optimizer.flat.copy_(now)
    return alone


def _segments(model: VideoModel, stage: str, steps: int) -> list[Segment]:
    config, gaussians = model.config, model.gaussians

    def rates(rate: float) -> Tensor:
        return schedule(config.gaussian_schedule, rate, rate * config.last_rate, steps, (config.steps or steps) // 3)

    segments = [
        Segment("mu", [gaussians.mu], rates(config.position_rate)),
        Segment("cholesky", [gaussians.cholesky], rates(config.cholesky_rate), gaussians.cholesky_floor),
        Segment("rgb", [gaussians.rgb], rates(config.color_rate)),
    ]
    if stage == "deformation":
        if gaussians.motion is not None:
            segments.append(Segment("motion", [gaussians.motion], rates(config.position_rate)))
        segments += field_segments(model, "exponential", steps)
    return segments


def _gops_per_batch(video: Video, gops: list, count: int, device: torch.device) -> int:
    """One on a CPU; on a GPU as many as fit in 60 % of its free memory."""
    if device.type == "cpu":
        return 1
    height, width = video.size
    longest = max(stop - start for start, stop in gops)
    tiles = -(-height // 16) * -(-width // 16)
    # Frames and residual; parameters, moments, features, targets of motion; tile lists; weight gradients of the blocks.
    each = height * width * (4 * longest + 8) + count * (1000 + 16 * longest) + tiles * 4 * 512 + 4e6
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, int(0.6 * free / each))


def _reporter(progress: Callback | None, first: Progress) -> Callable[[int, Tensor], None]:
    """What a stage calls with the steps done in it and the mean losses of the last ones, of each GoP, if it has any."""

    def report(steps: int, recent: Tensor | None = None) -> None:
        if progress is not None and recent is None:
            progress(replace(first, done=first.done + steps))
        elif progress is not None and len(recent):
            psnr = (-10 * torch.log10(recent.clamp(min=1e-12))).mean().item()
            progress(replace(first, done=first.done + steps, psnr=psnr))

    return report


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
