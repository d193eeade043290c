"""How many frames one set of Gaussians can serve: short trials on the video itself (`gop_size="auto"`, ours).

Longer GoPs have more Gaussians at the same budget, shorter ones less to deform; which is worth more depends on the
video (docs/REPRODUCTION.md). The paper takes 10 frames for all (Sec. II).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from stgvlib.errors import StgvError
from stgvlib.fitting.batches import fit_gops
from stgvlib.fitting.plan import TRIED, FitPlan, plan
from stgvlib.fitting.progress import Callback, Progress
from stgvlib.fitting.resume import Parts
from stgvlib.metrics import decibels
from stgvlib.video.video import Video, video_of

TRIAL = {"coarse_steps": 8, "motion_steps": 3, "steps": 40}  # a trial takes one step for so many of the schedule
LONG_VIDEO = 200  # frames from which on two clips are tried


def choose(
    plans: Sequence[FitPlan],
    device: torch.device,
    progress: Callback | None = None,
    parts: Parts | None = None,  # keeps finished trials
    ahead: int = 0,  # steps of the fit that follows, which `progress` counts too
) -> FitPlan:
    """The plan whose trial has the highest PSNR; `trials` of the result has all that were run.

    A trial takes part of the schedule on some frames. Each length gets the Gaussians that the budget leaves it on the
    whole video, and sees each frame as often. From the middle of the lengths it goes on to longer ones, or else to
    shorter ones, for as long as they are better.
    """
    if len(plans) == 1:
        return plans[0]
    lengths = [full.config.gop_size for full in plans]
    trials, finished, done = dict(zip(lengths, trials_of(plans))), parts.trials if parts else {}, 0
    tried = trial_steps(plans)
    total = tried + ahead
    scores: dict[int, float] = {}

    def score(length: int) -> float:
        nonlocal done
        if length not in scores:
            trial = trials[length]
            first = Progress((0, 1), 1, f"trying GoPs of {length}", done, total, 0.0)
            done += trial.steps
            if length not in finished:
                finished[length] = _try(trial, device, _trial_reporter(progress, first, trial.steps))
                if parts:
                    parts.write_about()
            scores[length] = finished[length][0]
        return scores[length]

    best = plans[climb(lengths, score)]
    if progress:
        length = best.config.gop_size
        others = ", ".join(f"{dB:.2f} dB with {size}" for size, dB in sorted(scores.items()) if size != length)
        note = f"GoPs of {length} frames: {scores[length]:.2f} dB in a short trial, {others}"
        progress(Progress((0, 1), 1, "trials", tried, total, scores[length], note))
    return replace(best, trials=dict(sorted(scores.items())), trial_seconds=sum(finished[k][1] for k in scores))


def climb(lengths: Sequence[int], score: Callable[[int], float]) -> int:
    """The place of the best of some lengths, if scores rise to it and fall behind it: from the middle on up while that
    is better, or else down."""
    start = at = (len(lengths) - 1) // 2
    for step in (1, -1):
        while 0 <= at + step < len(lengths) and score(lengths[at]) < score(lengths[at + step]):
            at += step
        if at != start:
            break
    return at


def _try(trial: FitPlan, device: torch.device, progress: Callback | None) -> tuple[float, float]:
    """(dB, seconds) of a trial."""
    began = time.perf_counter()
    try:
        result = fit_gops(trial, device, progress=progress)
        lengths = torch.tensor(result.model.num_frames, dtype=torch.float32)
        last = result.losses["deformation"][-4 * max(result.model.num_frames) :].mean(0)
        score = round((decibels(last) * lengths).sum().item() / trial.video.num_frames, 2)
    except StgvError:  # diverged, or too large: no length to choose
        score = -math.inf
    return score, time.perf_counter() - began


def trial_clips(video: Video) -> Video:
    """Clips of as many frames as the longest GoP has: around the middle, or, of a long video, around both quarters; in
    one scene each, where one is that long. They come as one video with a cut between them, to be fitted at once."""
    length, cuts = min(TRIED[-1], video.num_frames), video.cuts or ()
    every = range(video.num_frames - length + 1)
    in_scene = [s for s in every if not any(s < cut < s + length for cut in cuts)] or every
    middles = [1 / 2] if video.num_frames < LONG_VIDEO else [1 / 4, 3 / 4]
    starts = [min(in_scene, key=lambda s: abs(s - (part * video.num_frames - length / 2))) for part in middles]
    numbers = [number for start in starts for number in range(start, start + length)]
    begun = tuple(i for i in range(1, len(numbers)) if i % length == 0 or numbers[i] in cuts)
    frames = np.concatenate([video.read(start, start + length) for start in starts])
    missing = None if video.missing is None else video.missing[numbers]
    filling = None if video.filling is None else tuple(video.filling[number] for number in numbers)
    return video_of(frames).with_(missing=missing, filling=filling, cuts=begun)


def trials_of(plans: Sequence[FitPlan]) -> list[FitPlan]:
    """The short fits that choose between plans; none where there is one plan."""
    clips = trial_clips(plans[0].video) if len(plans) > 1 else None
    trials = []
    for full in plans if clips else ():
        steps = {name: -(-getattr(full.config, name) // part) for name, part in TRIAL.items()}
        trials.append(plan(clips, replace(full.config, **steps, gaussians=full.count), full.seed))
    return trials


def trial_steps(plans: Sequence[FitPlan]) -> int:
    """Of all trials, as `progress` counts them."""
    each = [-(-getattr(full.config, name) // part) for full in plans for name, part in TRIAL.items()]
    return sum(each) if len(plans) > 1 else 0


def _trial_reporter(progress: Callback | None, first: Progress, steps: int) -> Callback | None:
    """Shows a trial's progress, on a CPU one GoP after the other, as `steps` of all trials'."""
    if progress is None:
        return None
    return lambda p: progress(replace(first, done=first.done + round(steps * p.done / p.total), psnr=p.psnr))
