"""Autograd around the CUDA kernels: shapes, allocation, launches. Nothing here waits for the GPU.

Everything can be captured in a CUDA graph: buffers come from torch's allocator, launches go to torch's stream.
"""

import torch
from torch import Tensor

from stgvlib.cuda.compiler import run

TILE = 16
THREADS = 128
LIST_CAPACITY = 512  # entries a tile; a fuller tile scans all Gaussians, which is slower and just as right


def _project(mu: Tensor, cholesky: Tensor, rgb: Tensor, size: tuple[int, int]) -> tuple:
    """Whitening factors, boxes and tile lists: what forward and backward both start from."""
    G, N = mu.shape[:2]
    height, width = size
    tiles_x, tiles_y = -(-width // TILE), -(-height // TILE)
    shape, paint = mu.new_empty(2, G, N, 4)
    boxes = torch.empty(G, N, 4, dtype=torch.int16, device=mu.device)
    counts = torch.zeros(G, tiles_y, tiles_x, dtype=torch.int32, device=mu.device)
    lists = torch.empty(G * tiles_y * tiles_x * LIST_CAPACITY, dtype=torch.int32, device=mu.device)
    if N:
        geometry = (N, width, height, tiles_x, tiles_y, LIST_CAPACITY)
        inputs = (mu, cholesky, rgb, shape, paint, boxes, counts, lists)
        run("splat", "project_bin", (-(-N // 256), G, 1), 256, *inputs, *geometry)
    return shape, paint, boxes, counts, lists, (tiles_x, tiles_y, G), (N, width, height, tiles_x, tiles_y)


def _gather(function, saved, image_grad, scale, factor, size) -> tuple[Tensor, Tensor, Tensor]:
    """Run a backward kernel: one warp a Gaussian."""
    cholesky, shape, paint, boxes = saved
    G, N = cholesky.shape[:2]
    d_mu, d_cholesky, d_rgb = cholesky.new_empty(G, N, 2), torch.empty_like(cholesky), torch.empty_like(cholesky)
    if N:
        arguments = (shape, paint, boxes, cholesky, image_grad, scale, factor, d_mu, d_cholesky, d_rgb)
        run("splat", function, (-(-N // 8), G, 1), 256, *arguments, N, size[1], size[0])
    return d_mu, d_cholesky, d_rgb


class Splat(torch.autograd.Function):
    """`splat` for float32 CUDA tensors."""

    @staticmethod
    def forward(ctx, mu, cholesky, rgb, size):
        shape, paint, boxes, counts, lists, grid, geometry = _project(mu, cholesky, rgb, size)
        image = mu.new_empty(len(mu), *size, 3)
        run(
            "splat", "splat_forward", grid, THREADS, shape, paint, boxes, counts, lists, image, *geometry, LIST_CAPACITY
        )
        ctx.save_for_backward(cholesky, shape, paint, boxes)
        ctx.size = size
        return image

    @staticmethod
    def backward(ctx, grad):
        ones = grad.new_ones(len(grad))
        grads = _gather("splat_backward", ctx.saved_tensors, grad.contiguous(), ones, 1.0, ctx.size)
        return (*grads, None)


class SplatMSE(torch.autograd.Function):
    """`splat_mse` for float32 CUDA tensors: the image gradient leaves the forward kernel as fp16, 8 bytes a pixel."""

    @staticmethod
    def forward(ctx, mu, cholesky, rgb, frames, frame_index):
        size = tuple(frames.shape[2:4])
        shape, paint, boxes, counts, lists, grid, geometry = _project(mu, cholesky, rgb, size)
        residual = torch.empty(len(mu), *size, 4, dtype=torch.float16, device=mu.device)
        loss = mu.new_empty(len(mu), grid[1] * grid[0])
        arguments = (shape, paint, boxes, counts, lists, frames, frame_index.int(), residual, loss)
        run("splat", "splat_mse_forward", grid, THREADS, *arguments, *geometry, LIST_CAPACITY, frames.shape[1])
        ctx.save_for_backward(cholesky, shape, paint, boxes, residual)
        ctx.size = size
        return loss.sum(1) / (3 * size[0] * size[1])

    @staticmethod
    def backward(ctx, grad):
        *saved, residual = ctx.saved_tensors
        factor = 2 / (3 * ctx.size[0] * ctx.size[1])
        grads = _gather("splat_mse_backward", saved, residual, grad.contiguous(), factor, ctx.size)
        return (*grads, None, None)


class HashEncode(torch.autograd.Function):
    """Hash encoding of x [G, P, D] with tables [G, entries, F]; `meta` [L, 9] int32 describes the levels."""

    SHARED_BYTES = 48 * 1024
    POINTS_PER_BLOCK = 2048

    @staticmethod
    def forward(ctx, x, table, meta):
        G, P, D = x.shape
        F = table.shape[2]
        out = x.new_empty(G, P, len(meta) * F)
        if P:
            grid = (-(-P // 256), len(meta), G)
            run("hash_encoding", f"hash_forward_{D}_{F}", grid, 256, x, table, meta, out, P, table.shape[1])
        ctx.save_for_backward(x, table, meta)
        return out

    @staticmethod
    def backward(ctx, d_out):
        x, table, meta = ctx.saved_tensors
        G, P, D = x.shape
        entries, F = table.shape[1:]
        d_table = torch.zeros_like(table)
        d_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        if P:
            per_block = HashEncode.POINTS_PER_BLOCK
            grid = (-(-P // per_block), len(meta), G)
            shared_entries = min(entries, HashEncode.SHARED_BYTES // (4 * F))
            arguments = (x, table, meta, d_out.contiguous(), d_table, d_x, P, entries, shared_entries, per_block)
            run("hash_encoding", f"hash_backward_{D}_{F}", grid, 256, *arguments, shared=shared_entries * 4 * F)
        return d_x, d_table, None
