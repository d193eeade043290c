"""Quantiser steps: how coarsely each attribute of a model is rounded. Imports neither torch nor numba."""

import math
from dataclasses import dataclass, fields, replace

import numpy as np

from stgvlib.errors import StgvError

SIZES = 5  # octaves of the root of an area in px, from 1 px up: what a colour's adaptive step halves with
POSITION_BITS, SHAPE_BITS = 3, 4  # that adaptive steps add at most


@dataclass(frozen=True)
class Steps:
    """Quantiser steps of each attribute of a model, for `encode`: a value is rounded to a multiple of its step.

    Raises StgvError for steps out of range.

    Examples:
        >>> from stgvlib import Steps
        >>> coarse = Steps().scaled(4)
        >>> coarse.position, coarse.color, coarse.field_bits  # px, of the brightness range, bits
        (0.25, 0.015625, 8)
        >>> Steps(position=0)
        Traceback (most recent call last):
        stgvlib.errors.StgvError: the step of position must be from 1e-6 to 1000, got 0
    """

    position: float = 1 / 16  # px
    cholesky: float = 0.02  # of the logarithm of l1 and l3, and of l2 / l3
    color: float = 1 / 256
    motion: float = 1 / 512  # of a coefficient, in units of the position head
    field_bits: int = 10  # of the largest value of each tensor of the field
    # Adaptive steps: powers of two of the amplitude, in steps of the colour, from which shape and position have finer
    # bits. Position, Cholesky and colour steps are then those of a Gaussian of 1 px whose colour is 1.
    lowest: tuple[int, int] | None = None

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in ("field", "lowest"):  # the former of LearnedSteps
                continue
            if f.name == "field_bits":
                if not 2 <= value <= 16:
                    raise StgvError(f"field_bits must be from 2 to 16, got {value}")
            elif not 1e-6 <= value <= 1e3:
                raise StgvError(f"the step of {f.name} must be from 1e-6 to 1000, got {value}")
        if self.lowest is not None:
            if len(self.lowest) != 2 or not all(isinstance(v, int) and -32 <= v <= 32 for v in self.lowest):
                raise StgvError(f"lowest must be two whole numbers from -32 to 32, got {self.lowest}")
            if not all(1e-6 <= base <= 1e6 for base in self.bases):
                raise StgvError(f"steps are out of range where there are no finer bits: {self.bases}")

    @property
    def bases(self) -> tuple[float, float]:
        """Steps of positions and shapes without finer bits."""
        if self.lowest is None:
            return self.position, self.cholesky
        shape, position = self.lowest
        return self.position / (self.color * 2.0**position), self.cholesky / (self.color * 2.0**shape)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What a Gaussian has to reach: l1's and l3's integers together for one size more, energy in steps of the
        colour for one bit more of its shape, and energy over 4^size for one of its position."""
        if self.lowest is None:
            return np.empty(0), np.empty(0), np.empty(0)
        sizes = (np.arange(SIZES) + 0.5) * 2 * math.log(2) / self.bases[1]
        shape, position = self.lowest
        return sizes, 4.0 ** (shape + np.arange(SHAPE_BITS)), 4.0 ** (position + np.arange(POSITION_BITS))

    def scaled(self, factor: float) -> "Steps":
        """Coarser by a factor; the field loses four bits where everything else loses five."""
        bits = min(16, max(2, round(self.field_bits - 0.8 * math.log2(factor))))
        kept = ("field_bits", "lowest")
        others = {f.name: getattr(self, f.name) * factor for f in fields(Steps) if f.name not in kept}
        return replace(self, **others, field_bits=bits)


@dataclass(frozen=True)
class LearnedSteps(Steps):
    """What fine-tuning found: the field's tensors have a step each, in their order, instead of bits."""

    field: tuple[float, ...] = ()

    def scaled(self, factor: float) -> "LearnedSteps":
        return replace(super().scaled(factor), field=tuple(step * factor for step in self.field))
