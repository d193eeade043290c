"""The optimiser of a predicted group: learns differences from a prediction, rounded, with what they cost in the loss.

What is minimised, for each GoP, is  MSE + slope * bits per pixel,  as in `rate_optimizer.py`, where a difference of d
steps is taken to cost log2(1 + |d|) bits: most are zero, and those that are not have heavy tails. A Gaussian that
changes at all costs a flag more.

`rounded` and `pulls` are the reference in torch, which a CPU runs; a GPU runs changes.cu.
"""

import math

import torch
from torch import Tensor

from stgvlib.codec.quantize import LOG_SCALES
from stgvlib.codec.rate_optimizer import StraightThrough, by_values, symbols
from stgvlib.device import kernels_for
from stgvlib.model.gaussians import WAITING
from stgvlib.model.video_model import VideoModel
from stgvlib.ops.splat import MIN_SCALE


class ChangeOptimizer(StraightThrough):
    """Trains a model whose parameters are its prediction; `integers` are the differences in steps."""

    def __init__(
        self,
        segments,
        kind,
        betas,
        model: VideoModel,  # one group of each chain, set to its prediction
        own: Tensor,  # [3, G, N, 1] steps of each Gaussian's position, shape, colour
        field_steps: list[float],  # of the field's tensors, in their order
        bases: list[Tensor],  # what those are predicted from, on the model's device
        slope: float,
        flag: float,  # weight of the bits by which a Gaussian is told to change
    ):
        super().__init__(segments, kind, betas)
        gaussians = model.gaussians
        self.model, self.slope = model, slope
        self.parameters = [gaussians.mu, gaussians.cholesky, gaussians.rgb, *model.field.parameters()]
        self.masters = [self.unrounded(p) for p in self.parameters]
        self.alive = (gaussians.mu[..., 0] != WAITING).float()[..., None]  # [G, N, 1]
        device = self.flat.device
        self.own, self.flag = own.to(device), flag
        self.field_steps = torch.tensor(field_steps, device=device)
        self.base = torch.zeros_like(self.flat)
        self.bases = [self.part_of(self.base, p) for p in self.parameters]
        torch._foreach_copy_(self.bases, [p.detach() for p in self.parameters[:3]] + bases)
        pixels = model.size[0] * model.size[1]
        counts = torch.tensor(model.num_frames, device=device, dtype=torch.float32)
        self.price = slope / (counts * pixels * math.log(2))  # [G], of e-fold of a difference
        self.grads, self.fused = [p.grad for p in self.parameters], None
        if kernels_for(self.flat) == "cuda":
            from stgvlib.codec.rate_cuda import FusedChanges

            self.fused = FusedChanges(self)
        self._round()

    def _arguments(self):
        return self.masters, self.bases, self.own, self.field_steps, self.alive

    def _round(self) -> None:
        if self.fused:
            return self.fused.round()
        torch._foreach_copy_([p.data for p in self.parameters], rounded(*self._arguments()))

    def _learn(self) -> None:
        if self.fused:
            return self.fused.learn()
        torch._foreach_add_(self.grads, pulls(*self._arguments(), self.price, self.flag))

    @torch.no_grad()
    def integers(self) -> list[Tensor]:
        """Differences of positions, shapes, colours (green, red - green, blue - green) and of the field's tensors."""
        mu, shape, rgb, *tensors = differences(*self._arguments()[:4])
        green = rgb[..., 1:2].round()
        sent = torch.cat([green, rgb[..., :1].round() - green, rgb[..., 2:].round() - green], -1)
        parts = [(v.round() * self.alive).int() for v in (mu, shape)] + [(sent * self.alive).int()]
        return parts + [symbols(t.round().int()) for t in tensors]


def in_logs(cholesky: Tensor) -> Tensor:
    """(log l1, l2 / l3, log l3)."""
    l1, l2, l3 = cholesky.unbind(-1)
    l1, l3 = l1.clamp(min=MIN_SCALE), l3.clamp(min=MIN_SCALE)
    return torch.stack([l1.log(), l2 / l3, l3.log()], -1)


def differences(masters: list[Tensor], bases: list[Tensor], own: Tensor, field_steps: Tensor) -> list[Tensor]:
    """In steps, not rounded."""
    position, shape, color = own
    parts = [
        (masters[0] - bases[0]) / position,
        (in_logs(masters[1]) - in_logs(bases[1])) / shape,
        (masters[2] - bases[2]) / color,
    ]
    rest = zip(masters[3:], bases[3:], field_steps, strict=True)
    return parts + [(p - base) / step for p, base, step in rest]


def rounded(masters, bases, own, field_steps, alive) -> list[Tensor]:
    """What the file will hold."""
    mu, shape, rgb, *tensors = (d.round() for d in differences(masters, bases, own, field_steps))
    logs = in_logs(bases[1]) + shape * own[1]
    l1, l3 = (logs[..., k].clamp(*LOG_SCALES).exp() for k in (0, 2))
    cholesky = torch.stack([l1, logs[..., 1] * l3, l3], -1)
    values = [
        torch.where(alive > 0, bases[0] + mu * own[0], WAITING),
        torch.where((shape == 0).all(-1, keepdim=True), bases[1], cholesky),
        bases[2] + rgb * own[2],
    ]
    rest = zip(bases[3:], tensors, field_steps, strict=True)
    return values + [base + d * step for base, d, step in rest]


def pulls(masters, bases, own, field_steps, alive, price, flag) -> list[Tensor]:
    """The rate's gradient by each parameter."""
    mu, shape, rgb, *tensors = differences(masters, bases, own, field_steps)
    green = rgb[..., 1:2]
    sent = torch.cat([green, rgb[..., :1] - green, rgb[..., 2:] - green], -1)
    every = [mu, shape, sent]
    total = sum(v.abs().sum(-1, keepdim=True) for v in every)
    worth = price[:, None, None] * alive
    flagged = flag * worth / (1 + total)
    mu, shape, sent = ((worth / (1 + v.abs()) + flagged) * v.sign() for v in every)
    l1, l2, l3 = masters[1].unbind(-1)
    l1, l3 = l1.clamp(min=MIN_SCALE), l3.clamp(min=MIN_SCALE)
    shape = shape / own[1]
    by_l3 = shape[..., 2] / l3 - shape[..., 1] * l2 / l3.square()
    chroma = sent[..., 1] + sent[..., 2]
    by_color = torch.stack([sent[..., 1], sent[..., 0] - chroma, sent[..., 2]], -1)
    out = [mu / own[0], torch.stack([shape[..., 0] / l1, shape[..., 1] / l3, by_l3], -1), by_color / own[2]]
    for d, step in zip(map(symbols, tensors), field_steps, strict=True):
        each = price.view(-1, *[1] * (d.dim() - 1))
        out.append(by_values(each / (1 + d.abs()) * d.sign() / step))
    return out
