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

    RUN = 32  # neighbouring points that a group of lanes walks over

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
        (G, P, D), (entries, F), levels = x.shape, table.shape[1:], len(meta)
        stride = d_out.stride(1)
        if d_out.stride() != (P * stride, stride, 1):
            d_out, stride = d_out.contiguous(), levels * F
        d_table = torch.zeros_like(table)
        d_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        if P:
            threads = -(-P // HashEncode.RUN) * (F << D)
            grid = (-(-threads // 256), levels, G)
            arguments = (x, meta, d_out, d_table, P, entries, HashEncode.RUN, stride)
            run("hash_encoding", f"hash_table_gradient_{D}_{F}", grid, 256, *arguments)
        if P and d_x is not None:
            arguments = (x, table, meta, d_out, d_x, P, entries, levels, stride)
            run("hash_encoding", f"hash_position_gradient_{D}_{F}", (-(-P // 256), G, 1), 256, *arguments)
        return d_x, d_table, None


class FusedMLP(torch.autograd.Function):
    """Features -> 128 -> 128 -> (position, colour) on tensor cores; see mlp.cu. Arguments in `forward`'s order."""

    INPUTS, HIDDEN = 64, 128
    CHUNK = 1024  # rows of one product of the weight gradients
    PACKED = (4 * 16 + 8 * 16 + 8 + 16 + 8 * 16 + 8 * 8) * 32  # fragments, as in mlp.cu

    @staticmethod
    def forward(ctx, position_scale, grad_scale, w1, b1, w2, b2, wp, bp, wc, bc, *features):
        G, N = features[0].shape[:2]
        rows = -(-N // FusedMLP.CHUNK) * FusedMLP.CHUNK
        x = torch.zeros(G, rows, FusedMLP.INPUTS, dtype=torch.float16, device=w1.device)
        widths = [part.shape[2] for part in features]
        for part, columns in zip(features, x[:, :N, : sum(widths)].split(widths, 2)):
            columns.copy_(part)
        packed = torch.empty(G, FusedMLP.PACKED, 2, dtype=torch.int32, device=w1.device)
        grid = (-(-FusedMLP.PACKED // 256), G, 1)
        run("mlp", "mlp_pack", grid, 256, w1, w2, wp, wc, packed, w1.shape[1])
        training = any(ctx.needs_input_grad)
        hidden = [x.new_empty(G, rows, FusedMLP.HIDDEN) if training else None for _ in range(2)]
        d_mu, d_rgb = w1.new_empty(G, N, 2), w1.new_empty(G, N, 3)
        if N:
            arguments = (x, packed, b1, b2, bp, bc, position_scale, *hidden, d_mu, d_rgb, N, rows)
            run("mlp", "mlp_forward", (rows // 128, G, 1), 256, *arguments)
        ctx.save_for_backward(x, packed, position_scale, *hidden)
        ctx.grad_scale, ctx.widths = grad_scale, widths
        return d_mu, d_rgb

    @staticmethod
    def backward(ctx, grad_mu, grad_rgb):
        x, packed, position_scale, hidden1, hidden2 = ctx.saved_tensors
        (G, rows), N, scale = x.shape[:2], grad_mu.shape[1], ctx.grad_scale
        grad1, grad2 = torch.empty_like(hidden1), torch.empty_like(hidden2)
        grad_out, grad_x = x.new_empty(G, rows, 8), grad_mu.new_empty(G, N, FusedMLP.INPUTS)
        arguments = (grad_mu.contiguous(), grad_rgb.contiguous(), packed, position_scale, hidden1, hidden2)
        arguments += (grad_out, grad2, grad1, grad_x, N, rows, scale)
        if N:
            run("mlp", "mlp_backward", (rows // 128, G, 1), 256, *arguments)

        def over_rows(left: Tensor, right: Tensor) -> Tensor:
            """left^T right over all rows of a GoP, as products of CHUNK rows that are then summed: [G, in, out]."""
            chunks = [t.view(-1, FusedMLP.CHUNK, t.shape[2]) for t in (left, right)]
            product = torch.bmm(chunks[0].transpose(1, 2), chunks[1], out_dtype=torch.float32)
            return product.view(G, -1, *product.shape[1:]).sum(1) / scale

        heads, bias = over_rows(hidden2, grad_out), grad_out.sum(1, keepdim=True, dtype=torch.float32) / scale
        biases = [g.sum(1, keepdim=True, dtype=torch.float32) / scale for g in (grad1, grad2)]
        first = over_rows(x, grad1)[:, : sum(ctx.widths)]
        weights = [first, biases[0], over_rows(hidden1, grad2), biases[1], heads[..., :2], bias[..., :2]]
        parts = grad_x[..., : sum(ctx.widths)].split(ctx.widths, 2)
        return (None, None, *weights, heads[..., 2:5], bias[..., 2:5], *parts)
