"""How long a fit will take, from ten steps of each stage that are measured before it starts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from stgvlib.config import FitConfig
from stgvlib.fitting.batches import fit_gops, gops_per_batch
from stgvlib.fitting.gop_length import trials_of
from stgvlib.fitting.plan import FitPlan

WARM_UP, MEASURED = 2, 10  # steps; the first of all compile kernels


@dataclass(frozen=True)
class Estimate:
    """Seconds that a step of each stage takes on this machine, for one batch of GoPs."""

    step: dict[str, float]  # coarse, motion, deformation
    batch: int  # GoPs of one batch

    def seconds(self, plans: Sequence[FitPlan], done: int = 0, tried: int = 0) -> float:
        """Of the fit with the longest GoPs of these plans, and of the trials that choose between them, without so many
        GoPs that are `done` and lengths that were `tried`."""
        left = [(plan.config, len(plan.gops)) for plan in trials_of(plans)[tried:]]
        return sum(self.of(*each) for each in [(plans[-1].config, len(plans[-1].gops) - done), *left])

    def of(self, config: FitConfig, gops: int) -> float:
        """Of so many GoPs, without trials."""
        counts = {"coarse": config.coarse_steps, "motion": config.motion_steps, "deformation": config.steps}
        return math.ceil(gops / self.batch) * sum(self.step[stage] * count for stage, count in counts.items())


def measure(plans: Sequence[FitPlan], device: torch.device) -> Estimate:
    """Run a few steps of the plan with the longest GoPs on its first batch; nothing is kept."""
    plan = plans[-1]
    batch = min(len(plan.gops), gops_per_batch(plan, device))

    def spent(steps: int) -> dict[str, float]:
        config = plan.config
        counts = {name: min(getattr(config, name), steps) for name in ("coarse_steps", "motion_steps", "steps")}
        if device.type == "cuda":  # optical flow of all GoPs would take longer than the steps
            counts["motion_steps"] = 0
        short = replace(config, **counts, additions=0, initial_part=1.0)
        return fit_gops(replace(plan, gops=plan.gops[:batch], config=short), device).seconds

    few, more, step = spent(WARM_UP), spent(WARM_UP + MEASURED), {}
    for stage in ("coarse", "motion", "deformation"):  # the difference leaves out what comes before the first step
        whole = more.get(stage, 0.0)
        step[stage] = max(whole - few.get(stage, 0.0), whole / 3) / MEASURED  # few took longer on a busy machine
    step["motion"] = step["motion"] or step["deformation"]  # at most
    return Estimate(step, batch)


def duration(seconds: float) -> str:
    """For people: 8 s, 12 minutes, 1.6 hours."""
    if seconds < 90:
        return f"{max(1, math.ceil(seconds))} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
