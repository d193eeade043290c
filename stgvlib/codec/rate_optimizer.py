"""The optimiser that fine-tunes a model for its bitstream: learned quantisers and the rate in the loss.

What is minimised, for each GoP, is  MSE + slope * bits per pixel.  The renderer sees rounded parameters; the optimiser
moves the unrounded ones by the gradient at the rounded (straight-through, Bengio et al. 2013). Steps are learned in
their logarithm: the distortion's derivative is sum g (rounded - value) (learned step sizes, Esser et al. 2020), the
rate's follows from the entropy model: symbols of one kind with mean distance b steps from their mean take
log2(1 + 2 e b) bits each: a Laplace distribution's entropy where steps are small, zero where they are large. Adaptive
steps (quantize.py) differ by Gaussian, and what shape and colour cost besides by making them finer is in the gradient.

`rounded` and `derivatives` say it in torch, which a CPU runs; a GPU runs rate_cuda.py but for Gaussians that move on
their own.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from stgvlib.codec.bitstream import stream
from stgvlib.codec.quantize import AXIS_BITS, adapted, lowest_bits, of_lattice
from stgvlib.codec.steps import POSITION_BITS, SHAPE_BITS, SIZES, LearnedSteps, Steps
from stgvlib.device import compiled, kernels_for
from stgvlib.errors import StgvError
from stgvlib.fitting.optimizer import FlatOptimizer
from stgvlib.model.gaussians import WAITING
from stgvlib.model.video_model import VideoModel
from stgvlib.ops.splat import MIN_SCALE

SETTLED = 0.75  # part of the steps after which slope and quantiser steps are no longer learned
STEP_RATE = 0.02  # of the logarithm of quantiser steps
COARSEST = 64.0  # step of anything
TRIES = 20  # to make the file small enough in the end
LITTLE = 1.02  # times the size aimed at, up to which leaving Gaussians out may be better than other steps


class StraightThrough(FlatOptimizer):
    """Adam or Adan on unrounded parameters; the model's own are the rounded ones after each step (`_round`), and
    `_learn` adds to their gradients. `unrounded(p)` are a parameter's unrounded values, as a view."""

    def __init__(self, segments, kind, betas):
        super().__init__(segments, kind, betas)
        self.shown = self.flat
        self.flat = self.shown.clone()

    @property
    def state(self) -> list[Tensor]:
        return [*super().state, self.shown]

    def unrounded(self, p: Tensor) -> Tensor:
        return self.part_of(self.flat, p)

    def part_of(self, buffer: Tensor, p: Tensor) -> Tensor:
        """What belongs to a parameter in a buffer laid out as all of them are, as a view of the parameter's shape."""
        start = (p.data_ptr() - self.shown.data_ptr()) // self.shown.element_size()
        return buffer[start : start + p.numel()].view(p.shape)

    @torch.no_grad()
    def step(self) -> None:
        self._learn()
        super().step()
        self._round()


class RateOptimizer(StraightThrough):
    """Learns the steps that it rounds to, prices bits, and leaves Gaussians out."""

    def __init__(
        self, segments, kind, betas, model: VideoModel, slope: float, learned: bool, rate: bool, adaptive: bool
    ):
        super().__init__(segments, kind, betas)
        self.model, self.learned, self.rate = model, learned, rate
        gaussians = model.gaussians
        self.attributes = [gaussians.mu, gaussians.cholesky, gaussians.rgb]
        if gaussians.motion is not None:
            self.attributes.append(gaussians.motion)
        self.tensors = list(model.field.parameters())
        device = self.flat.device
        self.parameters = [*self.attributes, *self.tensors]
        self.grads = [p.grad for p in self.parameters]
        self.masters = [self.unrounded(p) for p in self.parameters]
        steps = adapted(model, Steps()) if adaptive else Steps()
        self.lowest = steps.lowest
        first = [steps.position, steps.cholesky, steps.color] + [steps.motion] * (gaussians.motion is not None)
        levels = 2 ** (steps.field_bits - 1) - 1
        first += [p.detach().abs().max().item() / levels + 1e-8 for p in self.tensors]
        self.log_steps = torch.tensor(first, device=device).log()
        self.finest = torch.full_like(self.log_steps, math.log(1e-5))
        self.finest[0] = math.log(4 * max(model.size) / 2**AXIS_BITS)  # positions have to be coded
        self.noise = torch.zeros_like(self.log_steps)  # mean derivative of the distortion by them
        self.alive = (gaussians.mu[..., 0] != WAITING).float()  # [G, N]
        pixels = model.size[0] * model.size[1]
        self.weights = 1 / (torch.tensor(model.num_frames, device=device, dtype=torch.float32) * pixels)  # [G]
        self.slope = torch.tensor(slope, device=device)
        total = self.num_steps
        learning = max(1, round(SETTLED * total))
        rates = max(STEP_RATE, 30 / total) * torch.linspace(1, 0, learning, device=device).clamp(min=0.02)
        self.step_rates = torch.cat([rates, rates.new_zeros(total - learning)])
        self.rounded, self.derivatives = (compiled(function, device) for function in (rounded, derivatives))
        self.fused = None
        self.energies = torch.ones(2, device=device) if adaptive else None  # 4^lowest
        # steps of positions, shapes, colours: [3, G, N, 1] of each Gaussian where they are adaptive, else [3]
        self.own = torch.zeros(3, *self.alive.shape, 1, device=device) if adaptive else torch.zeros(3, device=device)
        if kernels_for(self.flat) == "cuda":
            from stgvlib.codec.rate_cuda import FusedRate, supported

            if supported(model):
                self.fused = FusedRate(self)
        self.place_bits()

    @property
    def state(self) -> list[Tensor]:
        return [*super().state, self.log_steps, self.noise, self.own, *(self.fused.state if self.fused else [])]

    def _round(self) -> None:
        if self.fused:
            return self.fused.round()
        values, own = self.rounded(self.masters, self.log_steps.exp(), self.alive, self.energies)
        torch._foreach_copy_([*(p.data for p in self.parameters), *self.own.unbind()], [*values, *own])

    @torch.no_grad()
    def place_bits(self) -> None:
        """Round again, with the finer bits of adaptive steps where amplitudes are now."""
        if self.energies is not None:
            alive = self.alive > 0
            self.lowest = lowest_bits(self.masters[1][alive], self.masters[2][alive], self.log_steps[2].exp())
            self.energies.copy_(4.0 ** torch.tensor(self.lowest, dtype=torch.float64))
        self._round()

    def _learn(self) -> None:
        """Add the rate's gradient to that of the distortion, and move the steps."""
        if self.fused:
            return self.fused.learn(math.log(COARSEST))
        price = self.slope * self.weights  # [G], of a bit
        shown = [p.data for p in self.parameters]
        attributes = len(self.attributes)
        steps = [*self.own.unbind(), *self.log_steps.exp()[3:].unbind()]
        pulls, slopes, noise = self.derivatives(self.masters, shown, self.grads, steps, self.alive, price, attributes)
        self.noise.lerp_(noise, 0.02)
        if self.rate:
            torch._foreach_add_(self.grads, pulls)
        if self.learned:
            part = (slopes + self.noise) / (slopes.abs() + self.noise.abs() + 1e-20)
            self.log_steps -= self.step_rates.index_select(0, self.step_number[None]) * part
            self._bound_steps()

    def coarsen(self, factor: float) -> None:
        """All steps alike: where they are not learned, and where they are not any more."""
        self.log_steps += math.log(factor)
        self._bound_steps()
        self.place_bits()

    def fit_into(self, most: int, quality: Callable[[], float] | None = None) -> LearnedSteps:
        """Make the file have at most `most` bytes: all steps are coarsened alike. That rounds all values anew, which
        were trained rounded as they are (up to 4.6 dB a group were lost so). Thus where little is missing Gaussians of
        least energy are left out, if `quality()` of the model is higher then. Raises StgvError when even the coarsest
        steps give more."""
        size = len(stream(self.model, self.steps()))
        if size <= most:
            return self.steps()
        trained = self._saved()
        self._coarsen_into(most)
        if quality and size <= LITTLE * most:
            coarser, reached = self._saved(), quality()
            self._restore(trained)
            if not self._thin_into(most) or quality() < reached:
                self._restore(coarser)
        return self.steps()

    def _coarsen_into(self, most: int) -> None:
        """What is rounded are the unrounded values: rounding what is rounded would cost several dB more."""
        for attempt in range(TRIES):
            size = len(stream(self.model, self.steps()))
            if size <= most:
                return
            self.coarsen(min(2.0, max(1.01 ** (attempt + 1), (size / max(most, 1)) ** 1.5)))
        raise StgvError(
            f"{most:,} bytes are too few: with the coarsest steps this model takes {size:,}; fit fewer Gaussians"
        )

    def _thin_into(self, most: int) -> bool:
        """Whether leaving out Gaussians was enough."""
        while (size := len(stream(self.model, self.steps()))) > most:
            left = int(self.alive.sum())
            if left <= len(self.alive):  # a GoP keeps something
                return False
            self.keep(left - math.ceil(1.5 * left * (size / most - 1)))
        return True

    @property
    def _restorable(self) -> list[Tensor]:
        return [*self.state, self.alive, *([] if self.energies is None else [self.energies])]

    def _saved(self) -> tuple[list[Tensor], tuple | None]:
        return [t.clone() for t in self._restorable], self.lowest

    def _restore(self, saved: tuple[list[Tensor], tuple | None]) -> None:
        for t, value in zip(self._restorable, saved[0], strict=True):
            t.copy_(value)
        self.lowest = saved[1]

    def _bound_steps(self) -> None:
        finest = self.finest
        if self.energies is not None:  # of positions without finer bits
            finest = finest.clone()
            finest[0] += self.log_steps[2] + self.energies[1].log() / 2
        self.log_steps.copy_(self.log_steps.clamp(max=math.log(COARSEST)).maximum(finest))

    @torch.no_grad()
    def keep(self, count: int) -> None:
        """Leave out all but the `count` Gaussians of most energy: the integral of (colour * weight)^2, all frames."""
        mu, cholesky, rgb = self.masters[:3]
        energy = rgb.square().sum(-1) * cholesky[..., 0] * cholesky[..., 2] / self.weights[:, None]
        energy = torch.where(self.alive > 0, energy, -1.0)
        kept = energy.flatten().topk(min(max(count, 1), energy.numel())).indices
        out = torch.ones_like(self.alive, dtype=torch.bool)
        out.view(-1)[kept] = False
        out &= energy < energy.amax(1, keepdim=True)  # a GoP keeps something
        self.alive.masked_fill_(out, 0.0)
        for master, fill in ((mu, WAITING), (cholesky, (1.0, 0.0, 1.0)), (rgb, 0.0)):
            master.copy_(torch.where(out[..., None], torch.tensor(fill, device=mu.device), master))
        for p in self.attributes:
            for moment in self.moments:
                self.part_of(moment, p).masked_fill_(out[..., None], 0.0)  # or they drift
        self._round()

    def steps(self) -> LearnedSteps:
        """What `bitstream.encode` takes."""
        position, cholesky, color, *rest = self.log_steps.exp().tolist()
        motion = {"motion": rest.pop(0)} if self.model.gaussians.motion is not None else {}
        return LearnedSteps(position, cholesky, color, **motion, lowest=self.lowest, field=tuple(rest))


def rounded(
    masters: list[Tensor], steps: Tensor, alive: Tensor, energies: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    """What the file will hold of unrounded parameters, `quantize` rounds the same; and the steps of each Gaussian's
    position, shape and colour. `energies`: 4^lowest of shape and position where steps are adaptive."""
    position, shape, color, *others_steps = steps.unbind()
    mu, cholesky, rgb, *others = masters
    l1, l2, l3 = cholesky.unbind(-1)
    l1, l3 = (v.clamp(min=MIN_SCALE).log() for v in (l1, l3))
    if energies is None:
        own, cells = [position, shape, color], [1.0, 1.0]
    else:
        bases = position / (color * energies[1].sqrt()), shape / (color * energies[0].sqrt())
        coarse = (l1 / bases[1] + 0.5).floor() + (l3 / bases[1] + 0.5).floor()
        area = torch.ones_like(coarse)  # powers of 4
        for size in range(SIZES):
            area = torch.where(coarse >= (2 * size + 1) * math.log(2) / bases[1], 4.0 ** (size + 1), area)
        color = color / area.sqrt()[..., None]
        energy = (rgb / color).round().square().sum(-1)
        cells = [torch.ones_like(coarse), torch.ones_like(coarse)]
        for bit in range(POSITION_BITS):
            cells[0] = torch.where(energy >= energies[1] * 4.0**bit * area, 2.0 ** (bit + 1), cells[0])
        for bit in range(SHAPE_BITS):
            cells[1] = torch.where(energy >= energies[0] * 4.0**bit, 2.0 ** (bit + 1), cells[1])
        own = [base / cell[..., None] for base, cell in zip(bases, cells, strict=True)] + [color]
        position, shape, cells[0] = *bases, cells[0][..., None]

    def in_cells(values: Tensor, base: Tensor, cells) -> Tensor:
        return (((values / base + 0.5) * cells).floor() + 0.5) / cells * base - 0.5 * base

    l1, l3 = (in_cells(v, shape, cells[1]).exp() for v in (l1, l3))
    l2 = in_cells(l2 / l3, shape, cells[1]) * l3
    values = [
        torch.where(alive[..., None] > 0, in_cells(mu, position, cells[0]), WAITING),
        torch.stack([l1, l2, l3], -1),
        (rgb / color).round() * color,
        *((master / step).round() * step for master, step in zip(others, others_steps, strict=True)),
    ]
    return values, own


def derivatives(
    masters: list[Tensor],  # unrounded
    shown: list[Tensor],  # rounded
    grads: list[Tensor],  # of the distortion
    steps: list[Tensor],
    alive: Tensor,  # [G, N]
    price: Tensor,  # [G], of a bit
    attributes: int,  # how many of the tensors are Gaussians'; the rest are the field's
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The rate's by the parameters and by the steps' logarithms; the distortion's by the latter."""
    noise = torch.stack([(g * (p - master)).sum() for g, p, master in zip(grads, shown, masters, strict=True)])
    count = alive.sum(1)
    slopes = [-2 * (price * count).sum() / math.log(2)]
    mu, cholesky, rgb, *others = masters
    pulls = [torch.zeros_like(mu)]  # positions: their rate hardly depends on where they are
    l1, l2, l3 = cholesky.unbind(-1)
    logs = torch.stack([l1.clamp(min=MIN_SCALE).log(), l2 / l3, l3.clamp(min=MIN_SCALE).log()], -1)
    by_logs, shape_slope = _rate(logs, steps[1], price, alive[..., None], count[:, None, None])
    red, green, blue = rgb.unbind(-1)
    sent = torch.stack([green, red - green, blue - green], -1)
    pull, color_slope = _rate(sent, steps[2], price, alive[..., None], count[:, None, None])
    by_color = torch.stack([pull[..., 1], pull[..., 0] - pull[..., 1:].sum(-1), pull[..., 2]], -1)
    slopes += [shape_slope.sum(), color_slope.sum()]
    if steps[0].dim():  # a larger amplitude has finer steps of position and shape, a larger Gaussian of colour
        finer = [
            -step_slope * ((step < step.amax(1, keepdim=True)) & (step > step.amin(1, keepdim=True)))[..., 0]
            for step_slope, step in (
                (-2 / math.log(2) * price[:, None] * alive, steps[0]),
                (shape_slope, steps[1]),
                (color_slope, steps[2]),
            )
        ]
        square = rgb.square().sum(-1).maximum(steps[2][..., 0].square())
        by_color = by_color + ((finer[0] + finer[1]) / square)[..., None] * rgb
        larger = (finer[1] + finer[2]) / 2
        by_logs = by_logs + torch.stack([larger, torch.zeros_like(larger), larger], -1)
    pulls += [by_logs / torch.stack([l1, l3, l3], -1), by_color]
    for k, master in enumerate(others, 3):
        values = symbols(master).reshape(len(master), -1, 1)
        ones = torch.ones_like(values[..., :1])
        number = torch.full_like(ones[:, :1], values.shape[1])
        if k < attributes:  # motion: one kind of symbols a coefficient
            values, ones, number = master, alive[..., None], count[:, None, None]
        pull, slope = _rate(values, steps[k], price, ones, number)
        pulls.append(by_values(pull.view_as(master)))
        slopes.append(slope.sum())
    return pulls, torch.stack(slopes), noise


def symbols(values: Tensor) -> Tensor:
    """What is sent of a tensor of all GoPs, in its own unit: a lattice's differences in time, else the values."""
    return values.diff(dim=1, prepend=torch.zeros_like(values[:, :1])) if of_lattice(values) else values


def by_values(pull: Tensor) -> Tensor:
    """Derivatives by a tensor's values of those by its `symbols`."""
    return -pull.diff(dim=1, append=torch.zeros_like(pull[:, :1])) if of_lattice(pull) else pull


def _rate(values: Tensor, step: Tensor, price: Tensor, alive: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of price [G] times bits: by values [G, N, K], each k coded for itself; by the logarithm of the step,
    one for all or one a value [G, N, 1]."""
    count = count.clamp(min=1)
    centred = (values - (values * alive).sum(1, keepdim=True) / count) * alive
    distance = centred.abs().sum(1, keepdim=True) / count  # [G, 1, K]
    b = distance / step
    part = 2 * math.e * b / (1 + 2 * math.e * b) / math.log(2) * alive
    worth = price[:, None, None]
    pull = worth * part.sum(1, keepdim=True) / count / distance.maximum(1e-6 * step) * centred.sign()
    return pull, -(worth * part).sum(-1)
