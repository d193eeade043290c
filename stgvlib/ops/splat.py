"""The render op: a frame is the plain sum of its 2D Gaussians (paper, eq. 1-2).

    C(p) = sum_n rgb_n exp(-sigma_n(p)),  sigma = |z|^2 / 2,  z = L^-1 (p - mu),  L = [[l1, 0], [l2, l3]]

`splat_reference` is the specification: dense torch, any float type, gradients by autograd. `splat` has the same
signature and picks numba on a CPU and our CUDA kernels on a GPU. What differs from the published kernels, on purpose:
every Gaussian counts (no cap of 256 a tile), the Cholesky gradient is the exact one, forward and backward cut at the
same place (weight < 1/255), pixel centres lie at +0.5, and sigma is a sum of squares, so it cannot turn negative.
l1 and l3 below MIN_SCALE are read as MIN_SCALE and get no gradient: a thinner Gaussian falls between the pixels.
"""

import math
import os

import torch
from torch import Tensor

from stgvlib.device import kernels_for
from stgvlib.errors import StgvError
from stgvlib.ops.constants import CUT, MIN_SCALE

MOST_SIDE = 2**15 - 1  # px of an image
ROW_COST = 8  # pairs that take as long as finding the ellipse's columns in a row


def splat(
    mu: Tensor,  # [G, N, 2] px, x then y, pixel (0, 0) has its centre at (0.5, 0.5)
    cholesky: Tensor,  # [G, N, 3] px, l1, l2, l3
    rgb: Tensor,  # [G, N, 3], any real value
    size: tuple[int, int],  # height, width
) -> Tensor:  # [G, H, W, 3], not clamped
    """Render G frames of N Gaussians each: every frame is the plain sum of its Gaussians (paper, eq. 1-2).

    C(p) = sum_n rgb_n exp(-|L_n^-1 (p - mu_n)|^2 / 2), L = [[l1, 0], [l2, l3]]; weights below 1/255 are left out.
    Differentiable in all three tensors. float32 runs numba on a CPU and CUDA kernels on a GPU; float64 runs the dense
    reference.

    Args:
        mu: [G, N, 2] px, x then y; the centre of pixel (0, 0) lies at (0.5, 0.5).
        cholesky: [G, N, 3] px, (l1, l2, l3); l1 and l3 below 0.3 px are read as 0.3 px.
        rgb: [G, N, 3], any real value.
        size: (height, width) in px.

    Returns:
        [G, H, W, 3], not clamped; 0 is black, 1 is white.

    Raises ValueError for wrong shapes.

    Examples:
        >>> import torch
        >>> from stgvlib import splat
        >>> mu = torch.tensor([[[2.5, 1.5]]], requires_grad=True)  # the centre of column 2, row 1
        >>> cholesky = torch.tensor([[[1.0, 0.0, 1.0]]])  # a circle with a standard deviation of 1 px
        >>> image = splat(mu, cholesky, torch.ones(1, 1, 3), size=(3, 5))
        >>> image.shape
        torch.Size([1, 3, 5, 3])
        >>> [round(value, 3) for value in image[0, 1, :, 0].tolist()]
        [0.135, 0.607, 1.0, 0.607, 0.135]
        >>> image[0, 1, 3, 0].backward()
        >>> [round(value, 3) for value in mu.grad[0, 0].tolist()]  # a px to the right makes this pixel brighter
        [0.607, 0.0]
    """
    _check(mu, cholesky, rgb, size)
    kernels = kernels_for(mu)
    if os.environ.get("STGV_BACKEND") == "gsplat":
        return splat_gsplat(mu, cholesky, rgb, size)
    if kernels == "reference":
        return splat_reference(mu, cholesky, rgb, size)
    if kernels == "cuda":
        from stgvlib.ops.cuda.splat import Splat
    else:
        from stgvlib.ops.splat_cpu import Splat
    return Splat.apply(mu.contiguous(), cholesky.contiguous(), rgb.contiguous(), size)


def splat_mse(
    mu: Tensor,  # [G, N, 2] px
    cholesky: Tensor,  # [G, N, 3] px
    rgb: Tensor,  # [G, N, 3]
    frames: Tensor,  # uint8 [G, T, H, W, 4]: RGB and a loss weight (255 counts, 0 does not)
    frame_index: Tensor,  # int32 [G], the frame of each GoP to compare with
    huber: float | None = None,  # difference, of 0 to 1, beyond which squares go on as their tangents
    clamp: bool = False,  # the picture to [0, 1] before it is compared
) -> Tensor:  # [G]
    """Render one frame of each of G GoPs and compare: sum of weight * (C - target)^2 over 3 H W, the paper's L2 loss.

    With `huber` d^2 becomes 2 huber |d| - huber^2 where |d| > huber (Huber 1964), so that outliers have less influence.
    Differentiable in mu, cholesky and rgb.

    Args:
        mu, cholesky, rgb: Gaussians as for `splat`, [G, N, 2] px, [G, N, 3] px, [G, N, 3].
        frames: uint8 [G, T, H, W, 4], RGB and a loss weight (255: the pixel counts, 0: it does not).
        frame_index: int32 [G], the frame of each GoP to compare with.
        huber: difference, from 0 to 1, beyond which the loss is linear; None: all is squared.
        clamp: compare the picture clamped to [0, 1], as the code of D2GV does; there is no gradient outside.

    Returns:
        [G], the mean squared error of each GoP's frame with colours in [0, 1].

    Raises ValueError for wrong shapes and types.

    Examples:
        >>> import torch
        >>> from stgvlib import splat_mse
        >>> white = torch.full((1, 2, 3, 5, 4), 255, dtype=torch.uint8)  # one GoP of two frames of 3x5 px
        >>> black = torch.tensor([[[2.5, 1.5]]]), torch.tensor([[[1.0, 0.0, 1.0]]]), torch.zeros(1, 1, 3)
        >>> splat_mse(*black, white, torch.tensor([1], dtype=torch.int32))
        tensor([1.])
    """
    if frames.dtype != torch.uint8 or frames.dim() != 5 or frames.shape[-1] != 4 or len(frames) != len(mu):
        got = f"{frames.dtype} {tuple(frames.shape)}"
        raise ValueError(f"frames must be uint8 [G, T, H, W, 4] with G = {len(mu)}, got {got}")
    height, width = frames.shape[2:4]
    _check(mu, cholesky, rgb, (height, width))
    kernels = kernels_for(mu)
    if kernels == "cuda":
        from stgvlib.ops.cuda.splat import SplatMSE
    elif kernels == "numba":
        from stgvlib.ops.splat_cpu import SplatMSE
    if kernels != "reference":
        gaussians = mu.contiguous(), cholesky.contiguous(), rgb.contiguous()
        return SplatMSE.apply(*gaussians, frames, frame_index, huber, clamp)
    if len(mu) > 1:
        return _OneByOne.apply(mu, cholesky, rgb, frames, frame_index, huber, clamp)
    target = frames[torch.arange(len(frames), device=frames.device), frame_index.long()].to(mu.dtype) / 255
    image = splat(mu, cholesky, rgb, (height, width))
    difference = (image.clamp(0, 1) if clamp else image) - target[..., :3]
    squares = difference.square()
    if huber is not None:
        near = difference.clamp(-huber, huber)
        squares = near * (2 * difference - near)
    return (squares * target[..., 3:]).mean(dim=(1, 2, 3))


class _OneByOne(torch.autograd.Function):
    """`splat_mse` on a CPU, a GoP at a time with its gradients at once: what it needs is a few frames, not some of each
    GoP."""

    @staticmethod
    def forward(ctx, mu, cholesky, rgb, frames, frame_index, huber, clamp):
        inputs, losses = (mu, cholesky, rgb), []
        grads = [torch.zeros_like(t) for t in inputs]
        for g in range(len(mu)):
            with torch.enable_grad():
                own = [t[g : g + 1].detach().requires_grad_() for t in inputs]
                loss = splat_mse(*own, frames[g : g + 1], frame_index[g : g + 1], huber, clamp)
            losses.append(loss.detach())
            if any(ctx.needs_input_grad):
                for grad, of_one in zip(grads, torch.autograd.grad(loss, own)):
                    grad[g : g + 1] = of_one
        ctx.save_for_backward(*grads)
        return torch.cat(losses)

    @staticmethod
    def backward(ctx, grad):
        return (*(grad[:, None, None] * of_one for of_one in ctx.saved_tensors), None, None, None, None)


def splat_reference(mu: Tensor, cholesky: Tensor, rgb: Tensor, size: tuple[int, int]) -> Tensor:
    """The specification, dense: needs G * N * H * W numbers. Arguments as for `splat`."""
    height, width = size
    l1, l2, l3 = cholesky[..., None].unbind(2)  # [G, N, 1] each
    l1, l3 = l1.clamp(min=MIN_SCALE), l3.clamp(min=MIN_SCALE)
    x = torch.arange(width, dtype=mu.dtype, device=mu.device) + 0.5
    y = torch.arange(height, dtype=mu.dtype, device=mu.device) + 0.5
    z1 = (x - mu[..., :1]) / l1  # [G, N, W]
    z2 = (y - mu[..., 1:])[..., None] / l3[..., None] - (z1 * l2 / l3)[:, :, None]  # [G, N, H, W]
    sigma = (z1.square()[:, :, None] + z2.square()) / 2
    weight = torch.where(sigma <= CUT, torch.exp(-sigma), 0)
    return torch.einsum("gnhw,gnc->ghwc", weight, rgb)


def splat_gsplat(mu: Tensor, cholesky: Tensor, rgb: Tensor, size: tuple[int, int]) -> Tensor:
    """The same sum over the pixel-Gaussian pairs that gsplat lists: an independent oracle, not a fast path.

    gsplat only alpha-composites, so its rasteriser cannot sum; its pair list, with opacity 1 and a transmittance that
    never runs out, can. Raises StgvError where gsplat or CUDA is missing.
    """
    try:
        from gsplat import isect_offset_encode, isect_tiles, rasterize_to_indices_in_range
    except ImportError as error:
        raise StgvError("STGV_BACKEND=gsplat needs gsplat and a CUDA GPU: pip install gsplat") from error
    if not mu.is_cuda:
        raise StgvError("STGV_BACKEND=gsplat needs a CUDA GPU; tensors are on the CPU")
    height, width = size
    tile = 16
    tiles = (math.ceil(width / tile), math.ceil(height / tile))
    l1, l2, l3 = cholesky.unbind(-1)
    l1, l3 = l1.clamp(min=MIN_SCALE), l3.clamp(min=MIN_SCALE)
    a, c = 1 / l1, 1 / l3
    b = -l2 * a * c
    conics = torch.stack([a * a + b * b, b * c, c * c], -1)
    reach = math.sqrt(2 * CUT)
    radii = torch.stack([reach * l1, reach * (l2 * l2 + l3 * l3).sqrt()], -1).ceil().int()
    depths = torch.zeros_like(l1)
    _, ids, flat = isect_tiles(mu.detach(), radii, depths, tile, *tiles)
    offsets = isect_offset_encode(ids, len(mu), *tiles)
    endless = torch.full((len(mu), height, width), torch.inf, device=mu.device)
    opacity = torch.ones_like(l1)
    pairs = (mu.detach(), conics.detach(), opacity, width, height, tile, offsets, flat)
    gaussian, pixel, image = rasterize_to_indices_in_range(0, len(flat), endless, *pairs)
    px, py = pixel % width + 0.5, pixel // width + 0.5
    z1 = (px - mu[image, gaussian, 0]) * a[image, gaussian]
    z2 = (py - mu[image, gaussian, 1]) * c[image, gaussian] - z1 * (l2 * c)[image, gaussian]
    sigma = (z1.square() + z2.square()) / 2
    weight = torch.where(sigma <= CUT, torch.exp(-sigma), 0)
    out = torch.zeros(len(mu) * height * width, 3, device=mu.device)
    out = out.index_add(0, image * height * width + pixel, weight[:, None] * rgb[image, gaussian])
    return out.view(len(mu), height, width, 3)


def splat_pairs(mu: Tensor, cholesky: Tensor, size: tuple[int, int]) -> float:
    """How much there is to render: pairs of a pixel and a Gaussian that reaches it, of the GoP that has most of them.
    Arguments as for `splat`, of any values."""
    l1, l3 = cholesky[..., 0].clamp(min=MIN_SCALE), cholesky[..., 2].clamp(min=MIN_SCALE)
    reach = math.sqrt(2 * CUT) * torch.stack([l1, torch.hypot(cholesky[..., 1], l3)], -1)
    extent = mu.new_tensor([size[1], size[0]])
    columns, rows = (torch.minimum(mu + reach, extent) - (mu - reach).clamp(min=0)).clamp(min=0).unbind(-1)
    inside = torch.minimum(2 * CUT * torch.pi * l1 * l3, columns * rows)
    pairs = inside.nan_to_num() + ROW_COST * rows.nan_to_num()
    return pairs.double().sum(1).max().item() if pairs.numel() else 0.0


def _check(mu: Tensor, cholesky: Tensor, rgb: Tensor, size: tuple[int, int]) -> None:
    if mu.dim() != 3 or mu.shape[-1] != 2:
        raise ValueError(f"mu must be [G, N, 2], got {tuple(mu.shape)}")
    for name, tensor in (("cholesky", cholesky), ("rgb", rgb)):
        if tensor.shape != (*mu.shape[:2], 3):
            raise ValueError(f"{name} must be {(*mu.shape[:2], 3)} to go with mu, got {tuple(tensor.shape)}")
    if not (0 < size[0] <= MOST_SIDE and 0 < size[1] <= MOST_SIDE):
        raise ValueError(f"size must be (height, width) between 1 and {MOST_SIDE}, got {tuple(size)}")
