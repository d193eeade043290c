"""How many frames one set of Gaussians can serve: short trials on the video itself (`gop_size="auto"`, ours).

Longer GoPs have more Gaussians at the same budget, shorter ones less to deform; which is worth more depends on the
video (docs/REPRODUCTION.md). The paper takes 10 frames for all (Sec. II).
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from stgvlib.config import FitConfig
from stgvlib.errors import StgvError
from stgvlib.fitting.fit import Callback, Progress, fit
from stgvlib.fitting.resume import identity, started
from stgvlib.model.video_model import gaussian_count
from stgvlib.video.scenes import cut_gops, scene_cuts, with_scenes
from stgvlib.video.video import Video, video_of

TRIAL = {"coarse_steps": 4, "motion_steps": 4, "steps": 10}  # a trial takes one step for so many of the schedule
TRIED = (5, 8, 16)  # frames of a GoP that "auto" chooses from
LONG_VIDEO = 64  # frames from which on two clips are tried


def with_gop_size(config: FitConfig, gop_size: int) -> FitConfig:
    """A configuration settled on one of the lengths that "auto" chooses from. `steps` are those of the longest; shorter
    GoPs take fewer in proportion, so every frame is seen as often."""
    return replace(config, gop_size=gop_size, steps=round(config.steps * min(gop_size / TRIED[-1], 1)))


def lengths_to_try(frames: int) -> list[int]:
    """Those of TRIED that a video is long enough for."""
    return [size for size in TRIED if size <= frames] or [frames]


def trial_clips(video: Video) -> Video:
    """Clips of as many frames as the longest GoP has: around the middle, or, of a long video, around both quarters; in
    one scene each, where one is that long. They come as one video with a cut between them, to be fitted at once."""
    length, cuts = min(TRIED[-1], video.num_frames), scene_cuts(video)
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


def choose_gop_size(
    video: Video, config: FitConfig, device: torch.device | str = "cpu", seed: int = 0, progress: Callback | None = None
) -> tuple[FitConfig, dict[int, float]]:
    """Settle `gop_size="auto"`: part of the schedule on some frames for each length; (configuration, length -> dB).

    Each length gets the Gaussians that the budget leaves it on the whole video, and sees each frame as often.
    """
    sizes = lengths_to_try(video.num_frames)
    if len(sizes) == 1 or config.steps == 0:
        return with_gop_size(config, sizes[-1]), {}
    video = with_scenes(video)
    clips, scores, done = trial_clips(video), {}, 0
    configs, trials = {size: with_gop_size(config, size) for size in sizes}, {}
    for size, full in configs.items():
        gops = len(cut_gops(video, full))
        trials[size] = _trial(full, gaussian_count(full, video.size, video.num_frames, gops))
    total = sum(_steps(trial) for trial in trials.values())
    for size, trial in trials.items():
        first = Progress((0, 1), 1, f"trying GoPs of {size}", done, total, 0.0)
        done += _steps(trial)
        try:
            result = fit(clips, trial, device, seed, progress=_trial_reporter(progress, first, _steps(trial)))
        except StgvError:  # diverged, or too large: no length to choose
            scores[size] = -math.inf
            continue
        lengths = torch.tensor(result.model.num_frames, dtype=torch.float32)
        last = result.losses["deformation"][-4 * max(result.model.num_frames) :].mean(0)
        scores[size] = round((-10 * torch.log10(last.clamp(min=1e-12)) * lengths).sum().item() / clips.num_frames, 2)
    best = max(scores, key=scores.get)
    if progress:
        others = ", ".join(f"{dB:.2f} dB with {size}" for size, dB in scores.items() if size != best)
        note = f"GoPs of {best} frames: {scores[best]:.2f} dB in a short trial, {others}"
        progress(Progress((0, 1), 1, "trials", total, total, scores[best], note))
    return configs[best], scores


def _trial(full: FitConfig, count: int) -> FitConfig:
    steps = {name: -(-getattr(full, name) // part) for name, part in TRIAL.items()}
    return replace(full, **steps, gaussians=count)


def _steps(config: FitConfig) -> int:
    return config.coarse_steps + config.motion_steps + config.steps


def settled(
    video: Video, config: FitConfig, device: torch.device, seed: int, parts: Path | None, progress: Callback | None
) -> tuple[FitConfig, dict[int, float]]:
    """`choose_gop_size`, or what an interrupted run of the same fit has chosen."""
    before = started(parts) if parts is not None else None
    for size in lengths_to_try(video.num_frames):
        if before is not None and identity(video, with_gop_size(config, size), seed) == before:
            return with_gop_size(config, size), {}
    return choose_gop_size(video, config, device, seed, progress)


def _trial_reporter(progress: Callback | None, first: Progress, steps: int) -> Callback | None:
    """Shows a trial's progress, on a CPU one GoP after the other, as `steps` of all trials'."""
    if progress is None:
        return None
    return lambda p: progress(replace(first, done=first.done + round(steps * p.done / p.total), psnr=p.psnr))
