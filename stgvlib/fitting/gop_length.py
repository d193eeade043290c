"""How many frames one set of Gaussians can serve: short trials on the video itself (`gop_size="auto"`, ours).

Longer GoPs have more Gaussians at the same budget, shorter ones less to deform; which is worth more depends on the
video (docs/REPRODUCTION.md). The paper takes 10 frames for all (Sec. II).
"""

import math
import time
from collections.abc import Sequence
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

TRIAL = {"coarse_steps": 4, "motion_steps": 4, "steps": 10}  # a trial takes one step for so many of the schedule
LONG_VIDEO = 64  # frames from which on two clips are tried


def choose(
    plans: Sequence[FitPlan],
    device: torch.device,
    progress: Callback | None = None,
    parts: Parts | None = None,  # keeps finished trials
    ahead: int = 0,  # steps of the fit that follows, which `progress` counts too
) -> FitPlan:
    """The plan whose trial has the highest PSNR; `trials` of the result has all of them.

    A trial takes part of the schedule on some frames. Each length gets the Gaussians that the budget leaves it on the
    whole video, and sees each frame as often.
    """
    if len(plans) == 1:
        return plans[0]
    trials, done = trials_of(plans), 0
    total, finished = trial_steps(plans) + ahead, parts.trials if parts else {}
    for trial in trials:
        length, began = trial.config.gop_size, time.perf_counter()
        first = Progress((0, 1), 1, f"trying GoPs of {length}", done, total, 0.0)
        done += trial.steps
        if length in finished:
            continue
        try:
            result = fit_gops(trial, device, progress=_trial_reporter(progress, first, trial.steps))
            lengths = torch.tensor(result.model.num_frames, dtype=torch.float32)
            last = result.losses["deformation"][-4 * max(result.model.num_frames) :].mean(0)
            score = round((decibels(last) * lengths).sum().item() / trial.video.num_frames, 2)
        except StgvError:  # diverged, or too large: no length to choose
            score = -math.inf
        finished[length] = score, time.perf_counter() - began
        if parts:
            parts.write_about()
    scores = {full.config.gop_size: finished[full.config.gop_size][0] for full in plans}
    best = max(plans, key=lambda full: scores[full.config.gop_size])
    if progress:
        length = best.config.gop_size
        others = ", ".join(f"{dB:.2f} dB with {size}" for size, dB in scores.items() if size != length)
        note = f"GoPs of {length} frames: {scores[length]:.2f} dB in a short trial, {others}"
        progress(Progress((0, 1), 1, "trials", done, total, scores[length], note))
    return replace(best, trials=scores, trial_seconds=sum(seconds for _, seconds in finished.values()))


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
