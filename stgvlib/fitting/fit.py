"""Fit a video: plan it, choose the length of its GoPs where that is open, fit the GoPs."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from stgvlib.config import FitConfig
from stgvlib.errors import StgvError
from stgvlib.fitting.batches import FitResult, fit_gops, gops_per_batch
from stgvlib.fitting.gop_length import choose, trial_steps
from stgvlib.fitting.plan import FitPlan, plan_fits, plans_identity
from stgvlib.fitting.processes import Share
from stgvlib.fitting.progress import Callback, Progress, ProgressBar, someone_watches
from stgvlib.fitting.resume import Parts
from stgvlib.video.holes import along_flow
from stgvlib.video.video import Video


def fit(
    video: Video,
    config: FitConfig,
    device: torch.device | str = "cpu",
    seed: int = 0,
    parts: Path | None = None,  # folder for finished GoPs; None keeps nothing on disk
    resume: bool = False,
    progress: Callback | Literal["auto"] | None = "auto",
) -> FitResult:
    """Fit every GoP of a video. Same seed, same device, same result on a CPU, interrupted or not.

    `progress` "auto" shows a bar in a notebook or terminal; a function gets a `Progress` every 200 steps. With
    `motion_steps`, missing pixels are filled along optical flow first (video/holes.py); otherwise they have no weight
    in the loss. Raises StgvError when another process writes to `parts`, when it holds another fit's GoPs, or this
    one's and `resume` is false; when a GoP diverged (after the others are done); when one GoP alone does not fit in the
    GPU's memory.

    Examples:
        >>> import numpy as np
        >>> from stgvlib import STGV, fit, video_of
        >>> from dataclasses import replace
        >>> frames = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)
        >>> short = replace(STGV, coarse_steps=4, motion_steps=0, steps=4, gaussians=20)
        >>> fit(video_of(frames), short).model.num_frames
        [2]
    """
    with ProgressBar("fit", progress == "auto" and someone_watches()) as bar:
        plans = plan_fits(video, config, seed)
        return fit_plans(plans, device, parts, resume, bar if progress == "auto" else progress)


def fit_plans(
    plans: Sequence[FitPlan],
    device: torch.device | str,
    parts: Parts | Path | None = None,  # held by the caller, who goes on to write the model, or a folder
    resume: bool = False,
    progress: Callback | None = None,
    share: Share | None = None,  # of several processes; each fits its share of the GoPs, needs `parts`
) -> FitResult:
    """Fit the best of some plans of one fit; arguments and errors as for `fit`."""
    first = share is None or share.rank == 0
    with nullcontext(parts) if parts is None or isinstance(parts, Parts) else Parts(parts, resume, first) as held:
        return _fit(plans, torch.device(device), held, progress, share)


def _fit(
    plans: Sequence[FitPlan], device: torch.device, parts: Parts | None, progress: Callback | None, share: Share | None
) -> FitResult:
    first, seconds = share is None or share.rank == 0, {}
    if parts and not parts.identity:
        parts.begin(plans_identity(plans, device))
    if share and share.agree("fit", parts.identity) != parts.identity:
        raise StgvError(f"rank {share.rank} has other frames, settings or code than rank 0: give all of them the same")
    video, began = plans[0].video, time.perf_counter()
    if video.missing is not None and plans[0].config.motion_steps and video.filling is None:
        if progress and first:
            note = f"filling {video.missing.sum():,} missing pixels along optical flow"
            progress(Progress((0, 1), 1, "holes", 0, 1, 0.0, note))
        filled = along_flow(video)
        plans = [replace(plan, video=filled) for plan in plans]
        seconds["holes"] = time.perf_counter() - began
    if first and parts and parts.done and not parts.trials:  # those were lost, but not the length that they chose
        length = next(iter(parts.done.values())).config.gop_size
        plans = [plan for plan in plans if plan.config.gop_size == length]
    longest = plans[-1]
    ahead = -(-len(longest.gops) // gops_per_batch(longest, device)) * longest.steps
    plan = choose(plans, device, progress, parts, ahead) if first else plans[0]
    if share:
        length = share.agree("length", plan.config.gop_size)
        plan = plan if first else next(p for p in plans if p.config.gop_size == length)
    if plan.trials:
        seconds["trials"] = plan.trial_seconds
    tried, show = trial_steps(plans), progress
    if progress and tried:  # one count over trials and fit

        def show(p: Progress) -> None:
            progress(replace(p, done=tried + p.done, total=tried + p.total))

    result = fit_gops(plan, device, parts, show, share)
    return replace(result, seconds=result.seconds | seconds)
