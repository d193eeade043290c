"""Fine-tuning for a file on CUDA: buffers and launches of rate.cu and changes.cu. Nothing here waits for the GPU."""

import math

import torch
from torch import Tensor

from stgvlib.codec.quantize import LOG_SCALES, of_lattice
from stgvlib.codec.steps import POSITION_BITS, SHAPE_BITS, SIZES
from stgvlib.model.gaussians import WAITING
from stgvlib.ops.constants import BLOCK, RATE_SUMS, STEP_THREADS
from stgvlib.ops.cuda.compiler import run

A_BLOCK = 512, 2048  # Gaussians, numbers of the field
MOST_TENSORS = STEP_THREADS - 3  # rate_steps has a thread for each of them and of the three attributes
NO_LIMITS = (math.inf, 0.0)


def supported(model) -> bool:
    """Whether these kernels know all that the model has. A Gaussian's single number they take for one tensor more;
    several, whose symbols are of several kinds, they do not know."""
    own = model.config.field.own_numbers
    return own < 2 and own + len(list(model.field.parameters())) <= MOST_TENSORS


class _Fused:
    """Rows of blocks, and where the parameters of a `StraightThrough` lie in its buffers."""

    def __init__(self, optimizer):
        self.optimizer, device = optimizer, optimizer.flat.device
        self.gops, self.count = optimizer.alive.shape[:2]
        tensors = optimizer.parameters[3:]
        sizes = [p[0].numel() for p in tensors]
        self.tensors, backs = len(tensors), [p[0, 0].numel() if of_lattice(p) else p[0].numel() for p in tensors]
        start = optimizer.shown.data_ptr()
        offsets = [(p.data_ptr() - start) // 4 for p in optimizer.parameters]
        gaussians, field = A_BLOCK
        rows = [
            (k, g, first, min(first + size, total))
            for k, total, size in [(-1, self.count, gaussians), *((k, n, field) for k, n in enumerate(sizes))]
            for g in range(self.gops)
            for first in range(0, total, size)
        ]
        self.blocks, self.gaussian_blocks = len(rows), sum(row[0] < 0 for row in rows)
        self._tables = tuple(
            torch.tensor(v, dtype=torch.int32, device=device) for v in (rows, offsets, [*zip(sizes, backs)])
        )


class FusedChanges(_Fused):
    """A `ChangeOptimizer`'s gradients of the rate, and its rounding, in a launch each."""

    def round(self) -> None:
        o = self.optimizer
        arguments = (o.flat, o.shown, o.base, o.alive, o.own, o.field_steps, *self._tables)
        sizes = (self.gops, self.count, float(WAITING), *map(float, LOG_SCALES))
        run("changes", "change_round", (self.blocks, 1, 1), BLOCK, *arguments, *sizes)

    def learn(self) -> None:
        o = self.optimizer
        arguments = (o.flat, o.grad, o.base, o.alive, o.own, o.field_steps, o.price, *self._tables)
        run("changes", "change_pulls", (self.blocks, 1, 1), BLOCK, *arguments, self.gops, self.count, o.flag)


class FusedRate(_Fused):
    """The rate's gradients, learned steps and rounding in six launches."""

    def __init__(self, optimizer):
        super().__init__(optimizer)
        device = optimizer.flat.device
        self.sums = torch.zeros((RATE_SUMS + 2 * self.tensors) * self.gops + self.tensors + 5, device=device)
        self.fresh = torch.tensor(NO_LIMITS, device=device).repeat(self.gops, 3, 1)
        self.limits = self.fresh.clone()
        self.own = None if optimizer.energies is None else optimizer.own

    @property
    def state(self) -> list[Tensor]:
        """What a step changes and a later one needs."""
        return [self.limits]

    def round(self) -> None:
        """Unrounded parameters -> what the file will hold, and the steps of each Gaussian."""
        o = self.optimizer
        self.limits.copy_(self.fresh)
        arguments = (o.flat, o.shown, o.alive, o.log_steps, o.energies, self.own, self.limits, *self._tables)
        sizes = (self.gops, self.count, float(WAITING), SIZES, POSITION_BITS, SHAPE_BITS)
        run("rate", "rate_round", (self.blocks, 1, 1), BLOCK, *arguments, *sizes)

    def learn(self, coarsest: float) -> None:
        """Add the rate's gradients to those of the distortion, and move the steps' logarithms, up to `coarsest`."""
        o = self.optimizer
        every, gaussians = (self.blocks, 1, 1), (self.gaussian_blocks, 1, 1)
        sizes = (self.gops, self.count, self.tensors)
        prices = (o.log_steps, o.slope, o.weights)
        self.sums.zero_()
        arguments = (o.flat, o.shown, o.grad, o.alive, *self._tables, self.sums)
        run("rate", "rate_means", every, BLOCK, *arguments, *sizes)
        run("rate", "rate_distances", every, BLOCK, o.flat, o.alive, *self._tables, self.sums, *sizes)
        run("rate", "rate_parts", gaussians, BLOCK, o.alive, self.own, *prices, self._tables[0], self.sums, *sizes)
        if o.rate:
            arguments = (o.flat, o.grad, o.alive, self.own, self.limits, *prices, *self._tables, self.sums)
            run("rate", "rate_pulls", every, BLOCK, *arguments, *sizes)
        if o.learned:
            arguments = (o.log_steps, o.noise, o.step_rates, o.step_number, *prices[1:], o.finest, o.energies)
            sizes = (self.gops, self.tensors, coarsest)
            run("rate", "rate_steps", (1, 1, 1), STEP_THREADS, *arguments, self._tables[2], self.sums, *sizes)
