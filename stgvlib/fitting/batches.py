"""Fit the GoPs of a plan in batches: per GoP a coarse stage that builds the canonical Gaussians, then the deformation
stage (paper, Sec. II).

GoPs are independent, so they are fitted with a leading GoP axis: all that fit in memory on a GPU, one at a time on a
CPU. Each GoP has its own random generator, so results do not depend on how GoPs were batched.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from stgvlib.device import fast_products
from stgvlib.errors import StgvError
from stgvlib.fitting.motion import begin_flow, follow, start_lattice, targets_of
from stgvlib.fitting.placement import generator_for, initial_model, make_grey, sort_gaussians
from stgvlib.fitting.plan import FitPlan
from stgvlib.fitting.processes import Share
from stgvlib.fitting.progress import Callback, Progress
from stgvlib.fitting.resume import Parts
from stgvlib.fitting.stage import Diverged, Look, Stage
from stgvlib.model.video_model import VideoModel
from stgvlib.video.video import Video


@dataclass
class FitResult:
    """Result of a fit: model, losses, wall times.

    Examples:
        >>> import numpy as np
        >>> from stgvlib import STGV, fit, video_of
        >>> from dataclasses import replace
        >>> short = replace(STGV, gop_size=2, coarse_steps=4, motion_steps=0, steps=3, gaussians=20)
        >>> result = fit(video_of(np.zeros((4, 16, 24, 3), np.uint8)), short)
        >>> {stage: losses.shape for stage, losses in result.losses.items()}  # [steps, GoPs]
        {'coarse': torch.Size([4, 2]), 'deformation': torch.Size([3, 2])}
        >>> sorted(result.seconds)
        ['coarse', 'deformation']
    """

    model: VideoModel | None  # None on all ranks but the first
    coarse: VideoModel | None  # the first fitted GoP as the coarse stage left it; None when all came from `parts`
    losses: dict[str, Tensor]  # stage -> [steps, G] training loss of each step; only the GoPs fitted in this call
    seconds: dict[str, float]  # stage -> wall time, summed over batches; "trials" too where the GoP length was chosen
    trials: dict[int, float] = field(default_factory=dict)  # frames of a GoP -> dB, where it was chosen


@dataclass
class _Batch:
    model: VideoModel
    coarse: VideoModel | None
    losses: dict[str, Tensor]
    seconds: dict[str, float]
    diverged: list[Diverged]
    steps: int = 0


def fit_gops(
    plan: FitPlan,
    device: torch.device,
    parts: Parts | None = None,  # has the GoPs that are finished, and keeps others; None keeps nothing on disk
    progress: Callback | None = None,
    share: Share | None = None,  # of several processes; each fits its share of the GoPs, needs `parts`
) -> FitResult:
    """Fit every GoP of a plan, and write each that is finished into `parts` at once.

    A GoP whose loss is not finite is given up, the others go on. A batch that does not fit in GPU memory is halved.
    Raises StgvError as `fit.fit` does.
    """
    gops, done = plan.gops, parts.done if parts else {}
    mine = range(share.rank, len(gops), share.world) if share else range(len(gops))
    there = share.agree("finished", list(done)) if share else done
    todo = [g for g in mine if g not in there]
    size = gops_per_batch(plan, device)
    losses: dict[str, list[Tensor]] = {"coarse": [], "deformation": []}
    seconds = {"coarse": 0.0, "deformation": 0.0}
    coarse, given_up, steps = None, [], 0
    while todo:
        batch = todo[:size]
        total = steps + -(-len(todo) // size) * plan.steps
        state = Progress((batch[0], batch[-1] + 1), len(gops), "coarse", steps, total, 0.0)
        try:
            result = _fit_batch(plan, batch, device, progress, state)
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
        steps += result.steps
        coarse = coarse or result.coarse
        failed = {d.place: d for d in result.diverged}
        for i, g in enumerate(batch):
            if i in failed:
                given_up.append(_give_up(failed[i], g, plan.seed, parts))
                continue
            done[g] = result.model.gop(i).cpu()
            if parts:
                parts.keep(g)
    if share:
        if given_up:
            share.tell("; ".join(given_up))
        share.wait()
        if share.rank:
            return FitResult(None, coarse, {}, seconds)
        if missing := parts.collect(len(gops)):
            given_up = given_up or [f"GoPs {missing} were not finished"]
    if given_up:
        kept = f"; the other {len(done)} GoPs are kept in {parts.folder}" if parts else ""
        raise StgvError("; ".join(given_up) + kept + ". Try another seed or lower rates")
    joined = {stage: torch.cat(each, 1) if each else torch.empty(0, 0) for stage, each in losses.items()}
    model = VideoModel.join([done[g] for g in range(len(gops))]).to(device)
    return FitResult(model, coarse, joined, seconds, plan.trials)


def _fit_batch(
    plan: FitPlan, numbers: list[int], device: torch.device, progress: Callback | None, state: Progress
) -> _Batch:
    """All stages for the GoPs with the given numbers."""
    config = plan.config
    spans = [plan.gops[g] for g in numbers]
    frames, lengths = load_gops(plan.video, spans, device)
    generators = [generator_for(plan.seed, g) for g in numbers]
    starts = zip(frames, lengths, generators)
    model = VideoModel.join([initial_model(config, f, n, plan.count, draw) for f, n, draw in starts]).to(device)
    follows = config.motion_steps or model.field.lattice is not None
    follows = follows and config.steps and max(lengths) > 1
    flows = begin_flow(plan.video, spans, config) if follows else []  # its threads would slow down what is above
    result = _Batch(model, None, {}, {}, [])

    def show(stage: str) -> Callable[[Look | int], None]:
        def report(look: Look | int) -> None:
            if progress and isinstance(look, int):
                progress(replace(state, stage=stage, done=state.done + result.steps + look))
            elif progress and len(look.losses):
                progress(replace(state, stage=stage, done=state.done + result.steps + look.done, psnr=look.psnr))

        return report

    def run(name: str) -> None:
        began, report = time.perf_counter(), show(name)
        stage = Stage(model, frames, name, generators=generators)
        with fast_products(device):  # where a field runs in torch
            for look in stage.run():
                report(look)
        known = {d.place for d in result.diverged}
        result.diverged += [d for d in stage.diverged if d.place not in known]
        result.losses[name] = stage.losses
        result.seconds[name] = time.perf_counter() - began
        result.steps += stage.steps

    run("coarse")
    result.coarse = model.gop(0)
    if config.steps:
        make_grey(model)
    sort_gaussians(model)
    if flows:
        began = time.perf_counter()
        followed = [flow.result() for flow in flows]
        if model.field.lattice is not None:
            start_lattice(model, followed)
        if config.motion_steps:
            targets = targets_of(model, followed)
            with fast_products(device):
                follow(model, targets, show("motion"))
        result.seconds["motion"] = time.perf_counter() - began
    result.steps += config.motion_steps
    run("deformation")
    return result


def _give_up(failure: Diverged, gop: int, seed: int, parts: Parts | None) -> str:
    """Keep the last good model of a GoP that diverged; returns the message for the user."""
    text = f"GoP {gop}, seed {seed}: the loss is not finite at step {failure.step} of the {failure.stage} stage"
    if parts is None:
        return text
    return f"{text}; its state at step {failure.good_step} is {parts.keep_diverged(gop, failure.good)}"


def load_gops(video: Video, gops: list[tuple[int, int]], device: torch.device) -> tuple[Tensor, list[int]]:
    """Frames of some GoPs as uint8 [G, T, H, W, 4], RGB and loss weight 255; shorter GoPs are padded with weight 0."""
    lengths = [stop - start for start, stop in gops]
    frames = torch.zeros(len(gops), max(lengths), *video.size, 4, dtype=torch.uint8, device=device)
    for g, (start, stop) in enumerate(gops):
        frames[g, : stop - start, ..., :3] = torch.from_numpy(video.read(start, stop)).to(device)
        frames[g, : stop - start, ..., 3] = torch.from_numpy(video.weights(start, stop)).to(device)
    return frames, lengths


def gops_per_batch(plan: FitPlan, device: torch.device) -> int:
    """One on a CPU; on a GPU as many as fit in 60 % of its free memory."""
    if device.type == "cpu":
        return 1
    height, width = plan.video.size
    longest = max(stop - start for start, stop in plan.gops)
    tiles = -(-height // 16) * -(-width // 16)
    # Frames; parameters, moments, features, targets of motion; tile lists; weight gradients of the blocks.
    each = height * width * 4 * longest + plan.count * (1000 + 16 * longest) + tiles * 4 * 512 + 4e6
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, int(0.6 * free / each))
