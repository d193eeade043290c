"""Fine-tune a fitted model for its bitstream: learned quantisers, rate in the loss, pruning, rate control.

What is minimised, for each GoP, is  MSE + slope * bits per pixel.  The renderer sees rounded parameters; the optimiser
moves the unrounded ones by the gradient at the rounded (straight-through, Bengio et al. 2013). Steps are learned in
their logarithm: the distortion's derivative is sum g (rounded - value) (learned step sizes, Esser et al. 2020), the
rate's follows from the entropy model: symbols of one kind with mean distance b steps from their mean take
log2(1 + 2 e b) bits each: a Laplace distribution's entropy where steps are small, zero where they are large. Where the
file has too few bits a Gaussian, those of least energy are left out. The slope follows the size of the real file, or
the loss, for most of the steps; then all quantiser steps are scaled to what is missing, while there is training left.

Attributes and their steps are those of quantize.py, so `bitstream.encode` with the steps that come back writes exactly
what was trained.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stgvlib.backend import compiled, fast_products
from stgvlib.bitstream import stream
from stgvlib.config import FitConfig
from stgvlib.errors import StgvError
from stgvlib.model import VideoModel
from stgvlib.optimizer import FlatOptimizer
from stgvlib.placement import WAITING
from stgvlib.quantize import AXIS_BITS, LearnedSteps, Steps
from stgvlib.splat import MIN_SCALE
from stgvlib.train import CHUNK, Progress, load_gops, run_stage
from stgvlib.video import Video

FINE_TUNING = 24_000  # steps
SLOPE = 2e-3  # MSE a bit per pixel is worth where no target is given
FIRST_SLOPE = 2e-4  # where one is: from above the target, since what is left out stays out
SETTLED = 0.75  # part of the steps after which the slope stays
LOOKS = 15  # at the file's size until then
LAST_LOOKS = (0.77, 0.82, 0.88)  # parts of the steps where all quantiser steps are scaled to what is missing
TRIES = 20  # to make the file small enough in the end
PRUNED_UNTIL = 0.3  # part of the steps after which no Gaussians are left out
STEP_RATE = 0.02  # of the logarithm of quantiser steps
UNAIMED = 5.5  # bits a parameter that are expected where no size is given
SOUGHT = (0.6, 12.0)  # bits a parameter between which the size of a given quality is sought, ...
FIRST_GUESS = 3.2  # ... beginning here ...
ATTEMPTS, CLOSE = 3, 0.3  # ... with so many fine-tunings, or until it is so close, dB
DECADE = 12.0  # dB that ten times the bits are worth, until two attempts say more


def least_bits(bpp: float) -> float:
    """Of the file a Gaussian, at a number of bits a pixel: where there are fewer, those of least energy are left out.
    Found on Bunny, where 35, 45 and 60 were tried at three rates (docs/REPRODUCTION.md)."""
    return min(60.0, 30.0 + 340.0 * bpp)


def rate_part(bits: float) -> float:
    """Part of the preset's learning rates, at a number of bits a parameter: near the fitted model little has to change,
    far from it as much as in the fit."""
    return min(1.5, max(0.2, 1.5 * (3.2 / bits) ** 2.4))


@dataclass
class Compressed:
    """A model fine-tuned for its file: `bitstream.encode(model, path, steps)` writes it."""

    model: VideoModel
    steps: LearnedSteps
    slope: float
    kept: float  # part of the Gaussians
    seconds: float
    psnr: float  # dB, of the last frames seen


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

    def __init__(self, segments, kind, betas, model: VideoModel, slope: float, learned: bool, rate: bool):
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
        steps = Steps()
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
        total = len(self.rates)
        learning = max(1, round(SETTLED * total))
        rates = max(STEP_RATE, 30 / total) * torch.linspace(1, 0, learning, device=device).clamp(min=0.02)
        self.step_rates = torch.cat([rates, rates.new_zeros(total - learning)])
        self.rounded, self.derivatives = (compiled(function, device) for function in (rounded, derivatives))
        self._round()

    @property
    def state(self) -> list[Tensor]:
        return [*super().state, self.log_steps, self.noise]

    def _round(self) -> None:
        values = self.rounded(self.masters, self.log_steps.exp(), self.alive)
        torch._foreach_copy_([p.data for p in self.parameters], values)

    def _learn(self) -> None:
        """Add the rate's gradient to that of the distortion, and move the steps."""
        price = self.slope * self.weights  # [G], of a bit
        shown = [p.data for p in self.parameters]
        attributes = len(self.attributes)
        pulls, slopes, noise = self.derivatives(
            self.masters, shown, self.grads, self.log_steps.exp(), self.alive, price, attributes
        )
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

    def fit_into(self, most: int) -> LearnedSteps:
        """Coarsen all steps alike until the file has at most `most` bytes. What is rounded are the unrounded values:
        rounding what is rounded would cost several dB. Raises StgvError when even the coarsest steps give more."""
        for attempt in range(TRIES):
            size = len(stream(self.model, self.steps()))
            if size <= most:
                return self.steps()
            self.coarsen(min(2.0, max(1.01 ** (attempt + 1), (size / max(most, 1)) ** 1.5)))
            self._round()
        raise StgvError(
            f"{most:,} bytes are too few: with the coarsest steps this model takes {size:,}; fit fewer Gaussians"
        )

    def _bound_steps(self) -> None:
        self.log_steps.copy_(self.log_steps.clamp(max=math.log(64.0)).maximum(self.finest))

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
        return LearnedSteps(position=position, cholesky=cholesky, color=color, **motion, field=tuple(rest))


def rounded(masters: list[Tensor], steps: Tensor, alive: Tensor) -> list[Tensor]:
    """What the file will hold of unrounded parameters: `quantize` rounds the same."""
    steps = steps.unbind()
    mu, cholesky, *others = masters
    l1, l2, l3 = cholesky.unbind(-1)
    l1, l3 = (((v.clamp(min=MIN_SCALE).log() / steps[1]).round() * steps[1]).exp() for v in (l1, l3))
    l2 = (l2 / l3 / steps[1]).round() * steps[1] * l3
    return [
        torch.where(alive[..., None] > 0, (mu / steps[0]).round() * steps[0], WAITING),
        torch.stack([l1, l2, l3], -1),
        *((master / step).round() * step for master, step in zip(others, steps[2:], strict=True)),
    ]


def derivatives(
    masters: list[Tensor],  # unrounded
    shown: list[Tensor],  # rounded
    grads: list[Tensor],  # of the distortion
    steps: Tensor,
    alive: Tensor,  # [G, N]
    price: Tensor,  # [G], of a bit
    attributes: int,  # how many of the tensors are Gaussians'; the rest are the field's
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The rate's by the parameters and by the steps' logarithms; the distortion's by the latter."""
    noise = torch.stack([(g * (p - master)).sum() for g, p, master in zip(grads, shown, masters, strict=True)])
    steps, count = steps.unbind(), alive.sum(1)
    slopes = [-2 * (price * count).sum() / math.log(2)]
    mu, cholesky, rgb, *others = masters
    pulls = [torch.zeros_like(mu)]  # positions: their rate hardly depends on where they are
    l1, l2, l3 = cholesky.unbind(-1)
    logs = torch.stack([l1.clamp(min=MIN_SCALE).log(), l2 / l3, l3.clamp(min=MIN_SCALE).log()], -1)
    pull, slope = _rate(logs, steps[1], price, alive[..., None], count[:, None, None])
    pulls.append(pull / torch.stack([l1, l3, l3], -1))
    slopes.append(slope)
    red, green, blue = rgb.unbind(-1)
    sent = torch.stack([green, red - green, blue - green], -1)
    pull, slope = _rate(sent, steps[2], price, alive[..., None], count[:, None, None])
    pulls.append(torch.stack([pull[..., 1], pull[..., 0] - pull[..., 1:].sum(-1), pull[..., 2]], -1))
    slopes.append(slope)
    for k, master in enumerate(others, 3):
        values = master.reshape(len(master), -1, 1)
        ones = torch.ones_like(values[..., :1])
        number = torch.full_like(ones[:, :1], values.shape[1])
        if k < attributes:  # motion: one kind of symbols a coefficient
            values, ones, number = master, alive[..., None], count[:, None, None]
        pull, slope = _rate(values, steps[k], price, ones, number)
        pulls.append(pull.view_as(master))
        slopes.append(slope)
    return pulls, torch.stack(slopes), noise


def _rate(values: Tensor, step: Tensor, price: Tensor, alive: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of price [G] times bits: by values [G, N, K], each k coded for itself; by the step's logarithm."""
    count = count.clamp(min=1)
    centred = (values - (values * alive).sum(1, keepdim=True) / count) * alive
    b = centred.abs().sum(1, keepdim=True) / count / step  # [G, 1, K]
    part = 2 * math.e * b / (1 + 2 * math.e * b) / math.log(2)
    worth = price[:, None, None]
    pull = worth * part / (b.clamp(min=1e-6) * step) * centred.sign()
    return pull, -(worth * count * part).sum()


def compress(
    video: Video,
    model: VideoModel,
    bpp: float | None = None,  # bits per pixel that the file may have
    psnr: float | None = None,  # dB that it shall reach: up to three fine-tunings find the size
    slope: float | None = None,  # MSE that a bit per pixel is worth, without a target
    fine_tuning: int = FINE_TUNING,
    prune: bool = True,  # leave Gaussians out where there are few bits for each
    learned: bool = True,  # steps of the quantisers; else all are scaled alike
    rate: bool = True,  # is part of the loss; else steps alone meet the target
    progress: Callable[[Progress], None] | None = None,
) -> Compressed:
    """Fine-tune `model` of `video` so that its file has a target size or quality, or else a slope's trade-off.

    The result's model is a copy in px parametrisation, on the model's device. Raises StgvError when video and model do
    not match, the loss is not finite, or the size is out of reach.
    """
    if (video.num_frames, tuple(video.size)) != (sum(model.num_frames), tuple(model.size)):
        raise StgvError(
            f"the video has {video.num_frames} frames of {video.size[0]}x{video.size[1]}, the model "
            f"{sum(model.num_frames)} of {model.size[0]}x{model.size[1]}: give the video that was fitted"
        )
    began, parts = time.perf_counter(), {"prune": prune, "learned": learned, "rate": rate}
    if psnr is None:
        return _fine_tune(video, model, bpp, slope, fine_tuning, progress or (lambda p: None), **parts)
    each = model.num_parameters() / (video.num_frames * math.prod(video.size))
    bits, tried, decade, newest = FIRST_GUESS, [], DECADE, None

    def report(p: Progress) -> None:
        nonlocal newest
        newest = replace(p, done=len(tried) * fine_tuning + p.done, total=ATTEMPTS * fine_tuning)
        if progress:
            progress(newest)

    for _ in range(ATTEMPTS):
        made = _fine_tune(video, model, bits * each, None, fine_tuning, report, **parts)
        tried.append((math.log10(bits), made))
        if abs(made.psnr - psnr) < CLOSE:
            break
        if len(tried) > 1:
            (x, one), (y, other) = tried[-2:]
            decade = min(2 * DECADE, max(DECADE / 3, (one.psnr - other.psnr) / (x - y or 1.0)))
        before, bits = bits, min(SOUGHT[1], max(SOUGHT[0], bits * 10 ** ((psnr - made.psnr) / decade)))
        if bits == before:
            break
    if progress:
        progress(replace(newest, done=newest.total))
    closest = min((made for _, made in tried), key=lambda made: abs(made.psnr - psnr))
    return replace(closest, seconds=time.perf_counter() - began)


def _fine_tune(
    video: Video,
    model: VideoModel,
    bpp: float | None,
    slope: float | None,
    fine_tuning: int,
    progress: Callable[[Progress], None],
    prune: bool,
    learned: bool,
    rate: bool,
) -> Compressed:
    began = time.perf_counter()
    device, original = model.gaussians.mu.device, model
    bits = UNAIMED if bpp is None else bpp * video.num_frames * math.prod(video.size) / max(1, model.num_parameters())
    model = to_pixels(model, fine_tuning, rate_part(bits))
    starts = [sum(model.num_frames[:g]) for g in range(len(model.num_frames) + 1)]
    frames, _ = load_gops(video, list(zip(starts, starts[1:])), device)
    pixels = video.num_frames * video.size[0] * video.size[1]
    made: list[RateOptimizer] = []
    first = slope or (SLOPE if bpp is None else FIRST_SLOPE)

    def make(segments, kind, betas) -> RateOptimizer:
        made.append(RateOptimizer(segments, kind, betas, model, first, learned, rate))
        return made[0]

    looks = [*(SETTLED * (k + 1) / LOOKS for k in range(LOOKS)), *LAST_LOOKS]
    before = int((original.gaussians.mu[..., 0] != WAITING).sum())

    def control(part: float) -> None:
        """Look at the file after a part of the steps."""
        optimizer, size = made[0], 8 * len(stream(model, made[0].steps())) / pixels
        pruning, off = prune and part <= PRUNED_UNTIL, size / (bpp or size)
        if pruning:  # what is left out makes the file smaller at first, until the rest has settled
            off = max(1.0, off)
        if part <= SETTLED:
            gain = min(4.0, max(1.0, 0.6 * bits))  # at high rates the slope matters little
            optimizer.slope *= min(4.0, max(0.25, off**gain))
            if not learned:
                optimizer.coarsen(min(2.0, max(0.5, off)))
        else:
            optimizer.coarsen(min(1.3, max(0.8, off**1.5)))
        if pruning:
            left, wanted = int(optimizer.alive.sum()), bpp or size
            most = wanted * pixels / least_bits(wanted)
            to_come = sum(part < look <= PRUNED_UNTIL for look in looks) + 1
            if most < left:
                optimizer.keep(round(left * (most / left) ** (1 / to_come)))

    quality = 0.0

    def look(done: int, recent: Tensor) -> None:
        nonlocal quality
        quality = -10 * math.log10(max(recent.mean().item(), 1e-12)) if len(recent) else 0.0
        due = [part for part in looks if round(part * fine_tuning) <= done < fine_tuning]
        if due:
            del looks[: len(due)]
            control(due[-1])
        progress(Progress((0, len(frames)), len(frames), "fine-tuning", done, fine_tuning, quality))

    stage = "coarse" if model.field.hidden is None else "deformation"
    try:
        with fast_products(device):
            often = min(CHUNK, max(1, fine_tuning // 50))  # so that short fine-tunings look as often as long ones
            _, diverged = run_stage(model, frames, stage, look, make_optimizer=make, chunk=often)
    except torch.OutOfMemoryError as error:
        told = "all groups at once do not fit in the GPU's memory: fine-tune on --device cpu, or encode without it"
        raise StgvError(told) from error
    if diverged:
        raise StgvError(f"GoP {diverged[0].place}: the loss is not finite while fine-tuning; take a smaller target")
    optimizer = made[0]
    steps = optimizer.steps() if bpp is None else optimizer.fit_into(int(bpp * pixels / 8))
    kept = optimizer.alive.sum().item() / max(before, 1)
    return Compressed(model, steps, optimizer.slope.item(), kept, time.perf_counter() - began, quality)


@torch.no_grad()
def to_pixels(model: VideoModel, steps: int, part: float) -> VideoModel:
    """A copy in px parametrisation with the settings for fine-tuning: Adam, part of our preset's rates."""
    config = model.config
    ours = FitConfig(
        preset=config.preset,
        gop_size=config.gop_size,
        coarse_steps=steps if config.field.encoding == "none" else 0,
        steps=0 if config.field.encoding == "none" else steps,
        keyframe="all",
        order="golden",
        parametrization="pixel",
        optimizer="adam",
        betas=(0.95, 0.99),
        position_rate=0.2 * part,
        cholesky_rate=0.06 * part,
        color_rate=4e-3 * part,
        gaussian_schedule="cosine",
        last_rate=0.01,
        field_rate=4e-3 * part,
        field_rate_last=2e-4 * part,
        field=config.field,
    )
    copy = VideoModel(ours, model.num_frames, model.size, model.count).to(model.gaussians.mu.device)
    copy.load_state_dict({name: value for name, value in model.state_dict().items()})
    mu, cholesky = model.gaussians.pixels()
    waiting = model.gaussians.mu[..., :1] == WAITING
    copy.gaussians.mu.data = torch.where(waiting, torch.full_like(mu, WAITING), mu).clone()
    copy.gaussians.cholesky.data = cholesky.clone()
    return copy
