"""Where Gaussians start, where more are added in the coarse stage, and in which order they lie in memory.

The paper starts from random ones. Placing them by the image gradient, and adding some where the error is, are ours
(docs/REPRODUCTION.md says what they are worth).
"""

import hashlib
import math

import torch
from torch import Tensor

from stgvlib.config import FitConfig
from stgvlib.fitting.plan import keyframe_of
from stgvlib.model.budget import grey_count
from stgvlib.model.gaussians import WAITING
from stgvlib.model.video_model import VideoModel
from stgvlib.ops.splat import splat

ADDED_SCALE = 1.5  # px, l1 and l3 of an added Gaussian
ADDED_PART = 0.5  # of the residual that it takes as its colour


def generator_for(seed: int, gop: int) -> torch.Generator:
    """Each GoP has its own, so that results do not depend on how GoPs were batched."""
    return torch.Generator().manual_seed(int(hashlib.sha256(f"{seed}/{gop}".encode()).hexdigest()[:15], 16))


def initial_model(config: FitConfig, frames: Tensor, length: int, count: int, generator: torch.Generator) -> VideoModel:
    """One GoP's starting point. Gaussians that are added later wait outside the frame."""
    height, width = frames.shape[1:3]
    model = VideoModel(config, [length], (height, width), count, generator)
    keyframe = frames[keyframe_of(config, length)].float() / 255
    keyframe, known = keyframe[..., :3], keyframe[..., 3] > 0
    placed = max(1, round(count * config.initial_part)) if config.additions else count
    if config.placement == "uniform":
        mu = torch.rand(placed, 2, generator=generator) * torch.tensor([width, height])
        rgb = torch.rand(placed, 3, generator=generator)
    else:
        spatial = config.placement == "gradient"
        change = _image_gradient(keyframe, known) if spatial else _temporal_gradient(frames[:length])
        at = _draw_pixels(_measure(change, known), placed, generator)
        rgb, at = keyframe.reshape(-1, 3)[at].cpu(), at.cpu()
        mu = torch.stack([at % width, at // width], 1) + torch.rand(placed, 2, generator=generator)
    if config.initial_scale is None:
        cholesky = torch.rand(placed, 3, generator=generator) + torch.tensor([0.5, 0.0, 0.5])
    else:
        scale = config.initial_scale
        if scale == "cover":  # 2 pi scale^2 a Gaussian fill the frame once
            scale = math.sqrt(height * width / (2 * math.pi * placed))
        cholesky = torch.tensor([scale, 0.0, scale]).expand(placed, 3)
    order = z_order(mu).argsort()
    waiting = count - placed
    mu = torch.cat([mu[order], torch.full((waiting, 2), WAITING)])
    cholesky = torch.cat([cholesky[order], torch.tensor([ADDED_SCALE, 0.0, ADDED_SCALE]).expand(waiting, 3)])
    model.gaussians.set_pixels(0, mu, cholesky, torch.cat([rgb[order], torch.zeros(waiting, 3)]))
    return model


@torch.no_grad()
def add_gaussians(model: VideoModel, frames: Tensor, keyframe: Tensor | None, rounds_left: int, generators) -> None:
    """Bring in a share of each GoP's waiting Gaussians where the error is, with the residual as their colour."""
    gaussians, width = model.gaussians, model.size[1]
    index = torch.zeros(len(frames), dtype=torch.int64, device=frames.device) if keyframe is None else keyframe
    target = frames[torch.arange(len(frames), device=frames.device), index].float() / 255
    residual = (target[..., :3] - splat(*gaussians.pixels(), gaussians.rgb, model.size)) * target[..., 3:]
    if (most := model.config.huber) is not None:
        residual = residual.clamp(-most, most)
    new, alike = [], torch.zeros_like(gaussians.rgb)
    for g in range(len(frames)):
        waiting = (gaussians.mu[g, :, 0] == WAITING).nonzero()[:, 0]
        chosen = waiting[: -(-len(waiting) // rounds_left)]
        measure = residual[g].square().sum(-1).flatten()
        if len(chosen) == 0 or not measure.sum() > 0:
            continue
        at = _draw_pixels(measure, len(chosen), generators[g])
        mu = torch.stack([at % width, at // width], 1) + 0.5
        order = z_order(mu).argsort()
        gaussians.mu[g, chosen], alike[g, chosen] = mu[order].float(), 1.0
        new.append((g, chosen, at[order]))
    # Where many come to one place they share the residual: each with its part, they would add up to several times it.
    together = splat(*gaussians.pixels(), alike, model.size)[..., 0].flatten(1)
    for g, chosen, at in new:
        part = ADDED_PART / (ADDED_PART * together[g, at]).clamp(min=1)
        gaussians.rgb[g, chosen] = residual[g].view(-1, 3)[at] * part[:, None]


@torch.no_grad()
def make_grey(model: VideoModel) -> None:
    """Take the colour from the part of each GoP's Gaussians whose colour shows least: of its difference from grey, the
    square over all pixels. The optimiser keeps grey what is grey (`Segment.grey`)."""
    rgb, (_, cholesky) = model.gaussians.rgb, model.gaussians.pixels()
    mean = rgb.mean(-1, keepdim=True)
    shows = (rgb - mean).square().sum(-1) * (cholesky[..., 0] * cholesky[..., 2]).abs()
    least = shows.argsort(dim=1, stable=True)[:, : grey_count(model.config, model.count), None].expand(-1, -1, 3)
    rgb.data.scatter_(1, least, mean.expand_as(rgb).gather(1, least))


def sort_gaussians(model: VideoModel) -> None:
    """Put each GoP's Gaussians in Z-order again, after the coarse stage has moved them: kernels read neighbours."""
    mu, _ = model.gaussians.pixels()
    for g in range(len(mu)):
        order = z_order(mu[g].detach()).argsort(stable=True)
        for p in model.gaussians.parameters():
            p.data[g] = p.data[g][order]


def _measure(gradient: Tensor, known: Tensor) -> Tensor:
    """Chance of each pixel: 70 % in proportion to a gradient [H, W], 30 % uniform; none where `known` is false."""
    uniform = known.float() / known.sum().clamp(min=1)
    gradient = gradient * known
    if gradient.sum() == 0:
        return (uniform if known.any() else torch.ones_like(uniform)).flatten()
    return (0.7 * gradient / gradient.sum() + 0.3 * uniform).flatten()


def _image_gradient(keyframe: Tensor, known: Tensor) -> Tensor:
    """Of the key frame [H, W, 3]; none beside pixels that are not known."""
    luma = keyframe.mean(-1)
    inner = -torch.nn.functional.max_pool2d(-known[None].float(), 3, 1, 1)[0]
    return torch.stack(torch.gradient(luma)).norm(dim=0) * inner if min(luma.shape) > 1 else torch.zeros_like(luma)


def _temporal_gradient(frames: Tensor) -> Tensor:
    """How much each pixel changes from a frame to the next, in the mean over a GoP [T, H, W, 4]; where both are known.
    GaussianVideo starts from temporal gradients; its abstract says no more."""
    change = torch.zeros(frames.shape[1:3], device=frames.device)
    for one, other in zip(frames, frames[1:]):
        both = (one[..., 3] > 0) & (other[..., 3] > 0)
        change += (other[..., :3].float() - one[..., :3].float()).abs().mean(-1) * both
    return change


def _draw_pixels(measure: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Pixel numbers [count], drawn in proportion to `measure` [H * W]."""
    cumulative = measure.double().cumsum(0)
    draw = torch.rand(count, generator=generator, dtype=torch.float64).to(measure.device) * cumulative[-1]
    return torch.searchsorted(cumulative, draw).clamp(max=len(measure) - 1)


def z_order(mu: Tensor) -> Tensor:
    """Z-order of 8-px cells: neighbours in space become neighbours in memory."""
    x, y = (mu / 8).long().clamp(min=0).unbind(1)
    code = torch.zeros_like(x)
    for bit in range(12):
        code |= (x >> bit & 1) << 2 * bit | (y >> bit & 1) << 2 * bit + 1
    return code
