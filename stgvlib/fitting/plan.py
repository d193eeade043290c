"""What will be fitted, decided once: scenes, GoPs, Gaussians a GoP and steps.

The command prints a plan, resuming compares it, trials return one, and `batches.fit_gops` runs it. The paper's GoPs
have 10 frames (Sec. II); preset `stgv` plans several lengths, of which `gop_length.choose` takes the best.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from stgvlib import __version__
from stgvlib.config import FieldConfig, FitConfig
from stgvlib.errors import size_text
from stgvlib.model.budget import gaussian_count, published_gaussians, split_gops
from stgvlib.video.scenes import changes_of, with_scenes
from stgvlib.video.video import AT_ONCE, Video

TRIED = (5, 8, 11, 16, 33)  # frames of a GoP that gop_size="auto" chooses from
STEPS_FOR = 16  # frames of the GoP whose `steps` a configuration with gop_size="auto" names


@dataclass(frozen=True)
class FitPlan:
    """One fit, settled: `plan_fits` makes it."""

    video: Video  # with its scene cuts, and in memory where it is short
    config: FitConfig  # its gop_size is a number
    gops: tuple[tuple[int, int], ...]  # first, one past the last frame of each
    count: int  # Gaussians a GoP
    seed: int = 0
    trials: dict[int, float] = field(default_factory=dict)  # GoP length -> dB, where trials chose it
    trial_seconds: float = 0.0

    @property
    def steps(self) -> int:
        """Steps of all stages for one batch of GoPs."""
        return self.config.coarse_steps + self.config.motion_steps + self.config.steps


def plan_fits(video: Video, config: FitConfig, seed: int = 0) -> list[FitPlan]:
    """A plan for each GoP length that `config` allows: several only for gop_size="auto" of a video long enough."""
    video = with_scenes(video)
    if config.gop_size != "auto":
        return [plan(video, config, seed)]
    if video.num_frames == 1:
        return [plan(video, of_a_picture(config), seed)]
    lengths = lengths_to_try(video.num_frames, config)
    lengths = lengths if config.steps else [min(STEPS_FOR, lengths[-1])]  # with nothing deformed all are alike
    return [plan(video, with_gop_size(config, length), seed) for length in lengths]


def plan(video: Video, config: FitConfig, seed: int = 0) -> FitPlan:
    """The plan of a video with known scenes and a configuration with a known GoP length."""
    config = with_lattice(config if config.steps else replace(config, grey=0.0), video.size)
    gops = tuple(cut_gops(video, config))
    return FitPlan(video, config, gops, gaussian_count(config, video.size, video.num_frames, len(gops)), seed)


def describe(plans: Sequence[FitPlan]) -> str:
    """Plans of one fit in words: what the command prints before it starts."""
    longest = plans[-1]
    video, config = longest.video, longest.config
    scenes = f" in {len(video.cuts) + 1} scenes" if video.cuts else ""
    before = " + ".join(f"{n:,}" for n in (config.coarse_steps, config.motion_steps) if n)
    if len(plans) > 1:
        lengths = [str(p.config.gop_size) for p in plans]
        choice = f"{', '.join(lengths[:-1])} or {lengths[-1]}"
        what = f"GoPs of {choice} frames, {before} + at most {config.steps:,} steps each"
    else:
        gops = f"{len(longest.gops)} GoP{'s' if len(longest.gops) > 1 else ''}"
        what = f"{gops} of {longest.count:,} Gaussians, {before} + {config.steps:,} steps each"
    return f"{video.num_frames} frames of {size_text(video.size)}{scenes} as {what}"


def identity(video: Video, config, seed: int, **more) -> dict:
    """What decides a fit's result, for an interrupted one to go on: code, settings (a dataclass), seed, every frame as
    the fit sees it, cuts and missing pixels."""
    pixels = hashlib.sha256()
    for start in range(0, video.num_frames, AT_ONCE):
        pixels.update(np.ascontiguousarray(video.read(start, start + AT_ONCE)))
        if video.missing is not None:
            pixels.update(np.packbits(video.weights(start, start + AT_ONCE)))
    about = {"stgvlib": __version__, "code": code_hash(), "config": asdict(config), "seed": seed}
    about |= {
        "size": video.size,
        "frames": video.num_frames,
        "pixels": pixels.hexdigest()[:32],
        "cuts": video.cuts,
    } | more
    return json.loads(json.dumps(about))


def plans_identity(plans: Sequence[FitPlan], device: torch.device) -> dict:
    """The identity of one fit, whichever of its plans is chosen."""
    first = plans[0]
    steps = {plan.config.gop_size: plan.config.steps for plan in plans}  # all that plans of one fit differ in
    return identity(first.video, first.config, first.seed, device=device.type, steps=steps)


@cache
def code_hash() -> str:
    """Of the source files that decide what a fit gives."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    paths = [root / "config.py", root / "device.py", root / "metrics.py"]
    paths += [path for room in ("video", "ops", "model", "fitting") for path in sorted((root / room).rglob("*.*"))]
    for path in paths:
        if path.suffix in (".py", ".cu", ".cuh"):
            digest.update(b"%d" % path.stat().st_size + path.read_bytes())
    return digest.hexdigest()[:32]


def with_gop_size(config: FitConfig, gop_size: int) -> FitConfig:
    """A configuration settled on one of the lengths that "auto" chooses from. `steps` are those of STEPS_FOR frames;
    shorter GoPs take fewer in proportion, so every frame is seen as often; longer ones as many."""
    steps = max(min(config.steps, 1), round(config.steps * min(gop_size / STEPS_FOR, 1)))
    return replace(config, gop_size=gop_size, steps=steps)


def of_a_picture(config: FitConfig) -> FitConfig:
    """For a video of one frame, in which nothing moves: all steps in the coarse stage, all parameters to Gaussians."""
    steps = {"coarse_steps": config.coarse_steps + config.steps, "motion_steps": 0, "steps": 0}
    still = FieldConfig(encoding="none")
    return replace(config, gop_size=1, gaussians="budget", gaussians_per_point=None, field=still, **steps)


def with_lattice(config: FitConfig, size: tuple[int, int]) -> FitConfig:
    """A configuration whose field has the lattice that `gaussians_per_point` asks for: as many points in time as a GoP
    has frames, and cells as near to squares as can be."""
    if config.gaussians_per_point is None:
        return config
    points = published_gaussians(config, size) / config.gaussians_per_point
    rows, columns = (max(2, round(math.sqrt(points * a / b))) for a, b in (size, size[::-1]))
    return replace(config, field=replace(config.field, lattice=(config.gop_size, rows, columns)))


def lengths_to_try(frames: int, config: FitConfig) -> list[int]:
    """Those of TRIED that a video is long enough for. With a lattice not the shortest, which trials favour and whole
    fits do not (docs/LOG.md, 2026-11-28)."""
    tried = TRIED if config.gaussians_per_point is None else TRIED[1:]
    return [size for size in tried if size <= frames] or [frames]


def cut_gops(video: Video, config: FitConfig) -> list[tuple[int, int]]:
    """[start, stop) of each GoP: `split_gops` or `equal_gops` of every scene, or as many GoPs of the video as that
    would give without scenes, cut where as much has changed in each (cuts="motion").

    Change is that of `changes_of`, plus its mean over the video: half of the measure is length. A scene of less than a
    third of a GoP joins the one before.
    """
    if config.cuts != "motion":
        starts = [0]
        for cut in video.cuts or ():
            if 3 * min(cut - starts[-1], video.num_frames - cut) >= config.gop_size:
                starts.append(cut)
        scenes = zip(starts, [*starts[1:], video.num_frames])
        cut = equal_gops if config.cuts == "equal" else split_gops
        return [(start + a, start + b) for start, stop in scenes for a, b in cut(stop - start, config.gop_size)]
    even = split_gops(video.num_frames, config.gop_size)
    if len(even) == 1:
        return even
    change = changes_of(video)
    total = np.cumsum(change + change.mean() + 1e-6)
    starts = [0, *np.searchsorted(total, total[-1] * np.arange(1, len(even)) / len(even)).tolist()]
    starts = [max(s, i) for i, s in enumerate(starts)]
    return list(zip(starts, [*starts[1:], video.num_frames]))


def equal_gops(frames: int, gop_size: int) -> list[tuple[int, int]]:
    """As many GoPs as `split_gops` has, of lengths that differ by a frame at most."""
    gops = len(split_gops(frames, gop_size))
    return [(frames * g // gops, frames * (g + 1) // gops) for g in range(gops)]


def keyframe_of(config: FitConfig, length: int) -> int:
    """The key frame of a GoP of `length` frames; the first where all of them are one."""
    return length // 2 if config.keyframe == "middle" else 0


def frame_stride(frames: int, order: str) -> int:
    """How far apart in a GoP two frames lie that are visited one after the other.

    Neighbouring frames in turn let the optimiser's momentum follow the time; about 0.618 of the GoP, with no common
    divisor, spreads any few steps evenly over it.
    """
    if order == "cyclic":
        return 1
    return min((s for s in range(1, frames + 1) if math.gcd(s, frames) == 1), key=lambda s: abs(s - 0.618 * frames))
