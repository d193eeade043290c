"""A GoP that is predicted from the one before it (docs/FORMAT.md, "A predicted GoP").

Its Gaussians begin where the GoP before leaves them in its last frame. The file has differences from there, in the
steps that each Gaussian was rounded with when it was first coded: integers alone decide those. Tensors of the field are
differences from those of the GoP before, or numbers of their own. GoPs that are predicted one from another are a chain,
which begins with a key GoP, that is coded on its own.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stgvlib.codec.entropy import CodingError
from stgvlib.codec.quantize import LOG_SCALES, Group
from stgvlib.codec.steps import Steps
from stgvlib.device import kernels_for
from stgvlib.model.gaussians import WAITING
from stgvlib.model.video_model import VideoModel
from stgvlib.ops.splat import MIN_SCALE

SAME, CHANGED = 0, 1  # flags
MOST_PLACE, MOST_COLOR = 2.0**20, 2.0**16  # px and of the brightness range, that differences may lead to
Gaussians = tuple[Tensor, Tensor, Tensor]  # mu [N, 2], cholesky [N, 3], rgb [N, 3]


@dataclass
class Changes:
    """The integers of one predicted GoP."""

    frames: int
    flags: np.ndarray  # [M] of each Gaussian of the GoP before: SAME or CHANGED
    position: np.ndarray  # [2, n] differences of those that changed, in their steps
    shape: np.ndarray  # [3, n] of log l1, l2 / l3, log l3
    color: np.ndarray  # [3, n]: green, red - green, blue - green
    predicted: list[bool]  # whether each tensor of the field is a difference
    tensors: list[tuple[float, np.ndarray]]  # (step, integers as sent) of each; none where a file was read


def own_steps(group: Group, steps: Steps) -> Tensor:
    """Of each Gaussian's position, shape and colour, float64 [3, N]: those of a key GoP, for the whole chain."""
    position, shape = steps.bases
    own = [np.ldexp(step, -bits) for step, bits in zip((position, shape, steps.color), (*group.bits, group.sizes))]
    return torch.from_numpy(np.stack(own))


class Ends:
    """`ends(g, count)`: the first `count` Gaussians of GoP g of a model as its last frame has them, float32."""

    def __init__(self, model: VideoModel):
        self.model, self.fused = model, None
        if kernels_for(model.gaussians.mu) == "cuda" and model.field.hidden is not None:
            from stgvlib.model.field_cuda import FusedField, supported

            if supported(model.field):
                self.fused = FusedField(model, 1, torch.zeros(1, dtype=torch.int32, device=model.gaussians.mu.device))
                self.fused.t.fill_(1)
        if self.fused is None:
            self.alone = VideoModel(model.config, [1], model.size, 1).to(model.gaussians.mu.device)

    @torch.no_grad()
    def __call__(self, g: int, count: int) -> Gaussians:
        if self.fused is not None:
            self.fused.gops.fill_(g)
            mu, cholesky, rgb = self.fused.forward()
            cholesky = cholesky if self.fused.cholesky is not None else cholesky[g : g + 1]
        else:
            for p, whole in zip(self.alone.parameters(), self.model.parameters(), strict=True):
                p.data = whole.data[g : g + 1]
            for p in self.alone.gaussians.parameters():
                p.data = p.data[:, :count]
            mu, cholesky, rgb = self.alone.deform(torch.ones(1, device=p.device))
        l1, l2, l3 = cholesky[0, :count].unbind(1)
        least = torch.stack([l1.clamp(min=MIN_SCALE), l2, l3.clamp(min=MIN_SCALE)], 1)
        return mu[0, :count].clone(), least, rgb[0, :count].clone()


@torch.no_grad()
def changed(end: Gaussians, own: Tensor, changes: Changes) -> Gaussians:
    """Gaussians after the differences, float64. Raises CodingError where one leaves the range of numbers."""
    mu, cholesky, rgb = (v.double() for v in end)

    def sent(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(mu.device)

    at = sent(np.flatnonzero(changes.flags == CHANGED))
    position, shape, color = own[:, at]
    mu[at] += (sent(changes.position) * position).T
    green, red, blue = sent(changes.color)
    rgb[at] += (torch.stack([red + green, green, blue + green]) * color).T
    turned = sent(np.flatnonzero((changes.shape != 0).any(0)))  # others keep theirs to the last bit
    some, by = at[turned], sent(changes.shape)[:, turned] * shape[turned]
    l1, l2, l3 = cholesky[some].T
    ratio = l2 / l3 + by[1]
    l1, l3 = ((v.log() + d).clamp(*LOG_SCALES).exp() for v, d in ((l1, by[0]), (l3, by[2])))
    cholesky[some] = torch.stack([l1, ratio * l3, l3], 1)
    bounds = ((mu, MOST_PLACE), (cholesky, math.exp(2 * LOG_SCALES[1])), (rgb, MOST_COLOR))
    if not torch.stack([(v.abs() < most).all() for v, most in bounds]).all():  # nor where something is no number
        raise CodingError("has differences that leave the range of numbers")
    return mu, cholesky, rgb


@torch.no_grad()
def follow(model: VideoModel, g: int, changes: Changes, own: Tensor, ends: Ends) -> None:
    """Set GoP g of a model from the GoP before it, whose Gaussians have the steps `own`; numbers of its field are the
    file's already. Raises CodingError."""
    before = own.shape[1]
    if before != len(changes.flags):
        raise CodingError(f"is predicted from {len(changes.flags)} Gaussians, but GoP {g - 1} has {before}")
    gaussians = model.gaussians
    values = changed(ends(g - 1, before), own.to(gaussians.mu.device), changes)
    gaussians.mu[g, before:], gaussians.rgb[g, before:] = WAITING, 0
    gaussians.cholesky[g, before:] = gaussians.cholesky.new_tensor((1.0, 0.0, 1.0))
    for p, value in zip((gaussians.mu, gaussians.cholesky, gaussians.rgb), values):
        p[g, :before] = value
    for p, predicted in zip(model.field.parameters(), changes.predicted, strict=True):
        if predicted:
            p[g] += p[g - 1]
    if sum((~p[g].isfinite()).sum() for p in model.field.parameters()) > 0:
        raise CodingError("has differences that leave the range of numbers")
