"""The render op on CUDA, with gradients: shapes, allocation, launches. Nothing here waits for the GPU.

Everything can be captured in a CUDA graph: buffers come from torch's allocator, launches go to torch's stream.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stgvlib.ops.constants import BLOCK, GATHER_WARPS, SPLAT_THREADS, TILE
from stgvlib.ops.cuda.compiler import run

WIDE_BLOCKS = 64  # a GoP, each takes one large Gaussian after the other
LIST_CAPACITY = 512  # entries a tile to begin with; a fuller tile scans all Gaussians: slower, and just as right


@dataclass
class Projection:
    """What forward and backward kernels share: whitening factors, boxes and tile lists of B frames."""

    shape: Tensor  # [B, N, 4]
    paint: Tensor  # [B, N, 4]
    boxes: Tensor  # int16 [B, N, 4]
    counts: Tensor  # int32 [B, tiles y, tiles x], how many Gaussians reach a tile
    lists: Tensor  # int32 [B, tiles y, tiles x, capacity]
    wide: Tensor  # int32 [B, N], Gaussians with a large box
    wide_counts: Tensor  # int32 [B]
    zeroed: Tensor  # what both counts are views of
    size: tuple[int, int]

    @staticmethod
    def empty(batch: int, count: int, size: tuple[int, int], device: torch.device, capacity: int | None = None):
        capacity = capacity or LIST_CAPACITY
        tiles = (-(-size[0] // TILE), -(-size[1] // TILE))
        zeroed = torch.empty(batch * (math.prod(tiles) + 1), dtype=torch.int32, device=device)
        return Projection(
            torch.empty(batch, count, 4, device=device),
            torch.empty(batch, count, 4, device=device),
            torch.empty(batch, count, 4, dtype=torch.int16, device=device),
            zeroed[batch:].view(batch, *tiles),
            torch.zeros(batch, *tiles, capacity, dtype=torch.int32, device=device),  # kernels read ahead of the counts
            torch.empty(batch, count, dtype=torch.int32, device=device),
            zeroed[:batch],
            zeroed,
            size,
        )

    @property
    def capacity(self) -> int:
        return self.lists.shape[3]

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.counts.shape[2], self.counts.shape[1], self.counts.shape[0]

    @property
    def geometry(self) -> tuple:
        return self.shape.shape[1], self.size[1], self.size[0], *self.grid[:2], self.capacity

    @property
    def lists_of(self) -> tuple[Tensor, ...]:
        return self.shape, self.paint, self.boxes, self.counts, self.lists

    def project(self, mu: Tensor, cholesky: Tensor, rgb: Tensor, offset: float = 0.0, gops: Tensor | None = None):
        """Fill everything. Cholesky vectors are those of GoPs `gops`, l1 and l3 raised by `offset`."""
        self.zeroed.zero_()
        batch, count = self.shape.shape[:2]
        if count:
            arguments = (mu, cholesky, rgb, gops, *self.lists_of, self.wide, self.wide_counts, *self.geometry, offset)
            run("splat", "project_bin", (-(-count // BLOCK), batch, 1), BLOCK, *arguments)
        return self

    def image(self, out: Tensor) -> Tensor:
        """Render into out [B, H, W, 3], float32 or uint8."""
        function = "splat_bytes" if out.dtype == torch.uint8 else "splat_forward"
        run("splat", function, self.grid, SPLAT_THREADS, *self.lists_of, out, *self.geometry)
        return out

    def gather(self, image_grad: Tensor, cholesky: Tensor, grads: list[Tensor]) -> None:
        """Gradients of mu, cholesky and rgb into `grads`, from that of the image, float32 [B, H, W, 3]."""
        batch, count = self.shape.shape[:2]
        if count:
            arguments = (self.shape, self.paint, self.boxes, cholesky, image_grad, *grads, self.wide, self.wide_counts)
            arguments += (count, self.size[1], self.size[0])
            threads = 32 * GATHER_WARPS
            run("splat", "splat_backward", (-(-count // GATHER_WARPS), batch, 1), threads, *arguments)
            run("splat", "splat_backward_wide", (WIDE_BLOCKS, batch, 1), threads, *arguments)

    def mse(self, frames: Tensor, frame_index: Tensor, moments: Tensor, partial: Tensor, huber, clamp: bool) -> None:
        """Render and compare with frames uint8 [B, T, H, W, 4]: partial losses [B, tiles], and added to `moments`
        [B, N, 8] what `mse_gradients` makes gradients of."""
        most = math.inf if huber is None else float(huber)
        arguments = (*self.lists_of, frames, frame_index, moments, partial, *self.geometry)
        arguments += (frames.shape[1], most, int(clamp))
        run("splat_mse", "splat_mse", self.grid, SPLAT_THREADS, *arguments)

    def mse_gradients(self, moments: Tensor, cholesky: Tensor, grads: list[Tensor], factor, scale=None, offset=0.0):
        """Gradients of mu, cholesky and rgb into `grads`, times `factor` and `scale` [B]; `moments` are zero then."""
        batch, count = self.shape.shape[:2]
        if count:
            arguments = (moments, self.shape, self.paint, cholesky, scale, float(factor), *grads, count, offset)
            run("splat_mse", "splat_mse_gradients", (-(-count // BLOCK), batch, 1), BLOCK, *arguments)


class Splat(torch.autograd.Function):
    """`splat` for float32 CUDA tensors."""

    @staticmethod
    def forward(ctx, mu, cholesky, rgb, size):
        ctx.projection = Projection.empty(*mu.shape[:2], size, mu.device).project(mu, cholesky, rgb)
        ctx.save_for_backward(cholesky)
        return ctx.projection.image(mu.new_empty(len(mu), *size, 3))

    @staticmethod
    def backward(ctx, grad):
        (cholesky,) = ctx.saved_tensors
        grads = [cholesky.new_empty(*cholesky.shape[:2], n) for n in (2, 3, 3)]
        ctx.projection.gather(grad.contiguous(), cholesky, grads)
        return (*grads, None)


class SplatMSE(torch.autograd.Function):
    """`splat_mse` for float32 CUDA tensors: a render on tensor cores, in fp16, whose gradients come with it."""

    @staticmethod
    def forward(ctx, mu, cholesky, rgb, frames, frame_index, huber, clamp):
        size = tuple(frames.shape[2:4])
        ctx.projection = Projection.empty(*mu.shape[:2], size, mu.device).project(mu, cholesky, rgb)
        moments = mu.new_zeros(*mu.shape[:2], 8)
        partial = mu.new_empty(len(mu), ctx.projection.counts[0].numel())
        ctx.projection.mse(frames.contiguous(), frame_index.int(), moments, partial, huber, clamp)
        ctx.save_for_backward(cholesky, moments)
        return partial.sum(1) / (3 * size[0] * size[1])

    @staticmethod
    def backward(ctx, grad):
        cholesky, moments = ctx.saved_tensors
        height, width = ctx.projection.size
        grads = [cholesky.new_empty(*cholesky.shape[:2], n) for n in (2, 3, 3)]
        factor = 2 / (3 * height * width)
        ctx.projection.mse_gradients(moments.clone(), cholesky, grads, factor, grad.contiguous())
        return (*grads, None, None, None, None)
