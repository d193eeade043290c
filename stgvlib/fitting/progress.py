"""Progress of a fit: what callbacks get, and the bar that shows it."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from tqdm.auto import tqdm

from stgvlib.metrics import decibels


@dataclass
class Progress:
    """State of a fit, which a progress callback gets.

    Examples:
        >>> from stgvlib import Progress
        >>> def show(p: Progress) -> None:  # for fit(..., progress=show)
        ...     print(f"{p.stage}: step {p.done} of {p.total}, {p.psnr:.1f} dB")
        >>> show(Progress(gops=(0, 4), total_gops=13, stage="coarse", done=200, total=4000, psnr=31.2))
        coarse: step 200 of 4000, 31.2 dB
    """

    gops: tuple[int, int]  # first, one past the last GoP of this batch
    total_gops: int
    stage: str  # "coarse" or "deformation"
    done: int  # steps of this call so far, over all batches and stages
    total: int  # steps of this call in all
    psnr: float  # of the last frames seen, dB (with `huber`: as the loss sees them)
    note: str = ""  # something to tell once, such as a smaller batch


Callback = Callable[[Progress], None]


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
        pairs.append((min(chunk_start + width, len(losses)), round(decibels(chunk).mean().item(), 3)))
    return pairs


class ProgressBar:
    """A progress callback for `fit` and `compress`: one tqdm bar over all steps, on standard error, in a `with` block.

    Examples:
        >>> import numpy as np
        >>> from stgvlib import STGV, ProgressBar, fit, video_of
        >>> from dataclasses import replace
        >>> short = replace(STGV, gop_size=2, coarse_steps=4, motion_steps=0, steps=3, gaussians=20)
        >>> video = video_of(np.zeros((2, 16, 24, 3), np.uint8))
        >>> with ProgressBar("my clip", shown=False) as bar:  # shown=True draws it
        ...     result = fit(video, short, progress=bar)
    """

    def __init__(self, title: str, shown: bool = True, expected: tuple[float, dict[str, float]] | None = None):
        """`expected`: seconds in all, and of a step of each stage; then the bar counts time, not steps."""
        every = 5 if in_notebook() else 0.2
        self.total, self.step = expected or (None, {})
        form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}" if expected else None
        self.bar = tqdm(desc=title, unit="step", mininterval=every, file=sys.stderr, disable=not shown, bar_format=form)
        self.done, self.passed = 0, 0.0

    def __call__(self, p: Progress) -> None:
        if p.note and not self.bar.disable:
            self.bar.write(p.note, file=sys.stderr)
        if self.total:  # steps of trials are as long as the others are in the mean
            self.passed += (p.done - self.done) * self.step.get(p.stage, self.total / p.total)
        self.done = p.done
        passed = self.passed if self.total and p.done < p.total else p.done * (self.total or p.total) / p.total
        self.bar.total = max(self.total or p.total, passed)
        many = f"GoPs {p.gops[0] + 1}-{p.gops[1]}" if p.gops[1] - p.gops[0] > 1 else f"GoP {p.gops[1]}"
        quality = f", {p.psnr:.2f} dB" if p.psnr else ""
        self.bar.set_postfix_str(f"{many} of {p.total_gops}, {p.stage}{quality}", refresh=False)
        self.bar.update(passed - self.bar.n)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self.bar.close()


def in_notebook() -> bool:
    return "ipykernel" in sys.modules


def someone_watches() -> bool:
    """Whether a bar is of use: in a notebook, or where standard error is a terminal."""
    return in_notebook() or sys.stderr.isatty()
