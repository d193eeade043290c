"""A fitted model between its pixels and between its frames: rendered at another size, or half-way in time."""

import torch
from torch import Tensor

from stgvlib.errors import StgvError
from stgvlib.model.video_model import VideoModel
from stgvlib.ops.splat import MIN_SCALE, splat

MOST_PIXELS = 2**28  # of a frame that is rendered: 3 GB in float32


def check_scale(scale: float, size: tuple[int, int]) -> float:
    """A scale to render at. Raises StgvError for what cannot be rendered."""
    if not 0 < scale < float("inf"):
        raise StgvError(f"scale must be above 0, got {scale}")
    if size[0] * size[1] * scale**2 > MOST_PIXELS:
        most = (MOST_PIXELS / (size[0] * size[1])) ** 0.5
        raise StgvError(
            f"scale {scale:g} makes frames that do not fit in memory; at {size[0]}x{size[1]} take {most:.1f}"
        )
    return scale


@torch.no_grad()
def render_scaled(model: VideoModel, frame: Tensor, size: tuple[int, int], sharpen: bool = True) -> Tensor:
    """Frames `frame[g]` of every GoP at another size (height, width), [G, H, W, 3], not clamped.

    A pixel of the fitted frames is a mean over its square, so the fitted Gaussians are blurred by that square, whose
    variance is 1/12 px^2. With `sharpen`, what the smaller pixels lack of it is taken out of every covariance, that is
    1/12 (1 - 1/s^2) px^2 at scale s on each axis, at the same integral over the Gaussian.
    """
    mu, cholesky, rgb = model.deform(model.times(frame))
    ratio = model.size_ratio(size)  # of x, of y
    if sharpen:
        l1, l2, l3 = cholesky.unbind(-1)
        less = ((1 - 1 / ratio.square()) / 12).clamp(min=0)
        xx = (l1.square() - less[0]).clamp(min=(0.5 * l1).square())  # never more than half of an axis
        xy = l1 * l2
        yy = l2.square() + l3.square() - less[1]
        new1 = xx.sqrt()
        new2 = xy / new1
        new3 = (yy - new2.square()).clamp(min=(0.5 * l3).square()).sqrt().clamp(min=MIN_SCALE / ratio[1])
        new1 = new1.clamp(min=MIN_SCALE / ratio[0])
        rgb = rgb * ((l1 * l3) / (new1 * new3))[..., None]
        cholesky = torch.stack([new1, new2, new3], -1)
    return splat(mu * ratio, cholesky * ratio[[0, 1, 1]], rgb, size)


def between(model: VideoModel, number: int) -> tuple[int, float]:
    """(GoP, fractional frame in it) half-way between frames `number` and `number + 1`: where two GoPs meet, just before
    the later one's first frame."""
    if not 0 <= number < sum(model.num_frames) - 1:
        raise StgvError(f"frame {number} of {sum(model.num_frames)} has no successor")
    g = 0
    while number >= model.num_frames[g]:
        number, g = number - model.num_frames[g], g + 1
    return (g, number + 0.5) if number + 1 < model.num_frames[g] else (g + 1, -0.5)


@torch.no_grad()
def render_half_way(model: VideoModel, number: int) -> Tensor:
    """The frame between `number` and `number + 1`, [H, W, 3], not clamped: every Gaussian half-way between what it is
    in both. Where two GoPs meet no Gaussian is in both, and the frame is the mean of the two."""
    g, place = between(model, number)
    device = model.gaussians.mu.device
    if place < 0:
        last, first = (torch.tensor([i], device=device) for i in (model.num_frames[g - 1] - 1, 0))
        return (model.gop(g - 1).render(last)[0] + model.gop(g).render(first)[0]) / 2
    alone = model.gop(g)
    ends = (alone.deform(alone.times(torch.tensor([place + d], device=device))) for d in (-0.5, 0.5))
    return splat(*((a + b) / 2 for a, b in zip(*ends)), model.size)[0]
