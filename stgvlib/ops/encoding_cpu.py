"""Hash encoding on a CPU: numba over all cores, the same values and gradients as the torch reference.

Forward: points in blocks. Backward: a task is one level of one GoP and owns that level's table, so nothing races and
the result is deterministic; gradients of the position are kept a level and summed in order.
"""

import numba
import numpy as np
import torch

from stgvlib.ops.constants import PRIMES
from stgvlib.ops.splat_cpu import _use_torch_threads

_, Y_PRIME, Z_PRIME = PRIMES
_ONE = np.float32(1)


@numba.njit(inline="always")
def _entry(cell, corner, table, dims):
    """Row of the level's table for one corner (eq. 4, or the dense index)."""
    if table.hashed:
        index = cell[0] + (corner & 1)
        index ^= (cell[1] + (corner >> 1 & 1)) * Y_PRIME & 0xFFFFFFFF
        if dims == 3:
            index ^= (cell[2] + (corner >> 2 & 1)) * Z_PRIME & 0xFFFFFFFF
        return index % np.int64(table.size)
    index, stride = 0, 1
    for d in range(dims):
        index += (cell[d] + (corner >> d & 1)) * stride
        stride *= table.resolution[d]
    return index % np.int64(table.size)


@numba.njit(inline="always")
def _locate(x, scales, level, dims, cell, fraction):
    for d in range(dims):
        inside = min(x[d], _ONE) if x[d] > 0 else np.float32(0)  # NaN lies at 0
        position = inside * scales[level, d] + np.float32(0.5)
        cell[d] = int(position)
        fraction[d] = position - np.float32(cell[d])


@numba.njit(parallel=True, cache=True)
def _forward(x, table, scales, tables, out):
    points, dims = x.shape
    levels, features = len(scales), table.shape[1]
    blocks = (points + 511) // 512
    for block in numba.prange(blocks):
        cell, fraction = np.empty(3, np.int64), np.empty(3, np.float32)
        for i in range(block * 512, min(points, block * 512 + 512)):
            for level in range(levels):
                _locate(x[i], scales, level, dims, cell, fraction)
                for f in range(features):
                    out[i, level * features + f] = 0
                for corner in range(1 << dims):
                    weight = _ONE
                    for d in range(dims):
                        weight *= fraction[d] if corner >> d & 1 else _ONE - fraction[d]
                    row = tables[level].offset + _entry(cell, corner, tables[level], dims)
                    for f in range(features):
                        out[i, level * features + f] += weight * table[row, f]


@numba.njit(parallel=True, cache=True)
def _backward(x, table, scales, tables, d_out, d_table, d_x):
    points, dims = x.shape
    levels, features = len(scales), table.shape[1]
    for level in numba.prange(levels):
        cell, fraction, slope = np.empty(3, np.int64), np.empty(3, np.float32), np.empty(3, np.float32)
        for i in range(points):
            _locate(x[i], scales, level, dims, cell, fraction)
            slope[:] = 0
            for corner in range(1 << dims):
                weight = _ONE
                for d in range(dims):
                    weight *= fraction[d] if corner >> d & 1 else _ONE - fraction[d]
                row = tables[level].offset + _entry(cell, corner, tables[level], dims)
                dot = np.float32(0)
                for f in range(features):
                    grad = d_out[i, level * features + f]
                    d_table[row, f] += weight * grad
                    dot += table[row, f] * grad
                for d in range(dims):
                    others = _ONE if corner >> d & 1 else -_ONE
                    for other in range(dims):
                        if other != d:
                            others *= fraction[other] if corner >> other & 1 else _ONE - fraction[other]
                    slope[d] += dot * others
            for d in range(dims):
                inside = x[i, d] >= 0 and x[i, d] <= 1
                d_x[level, i, d] = slope[d] * scales[level, d] if inside else 0


class HashEncode(torch.autograd.Function):
    """`HashGrid.forward` for float32 CPU tensors: x [G, P, D], table [G, E, F], scales [L, D], levels: LEVEL [L]."""

    @staticmethod
    def forward(ctx, x, table, scales, levels):
        ctx.save_for_backward(x, table, scales)
        ctx.levels = levels
        out = torch.empty(*x.shape[:2], len(levels) * table.shape[2])
        _use_torch_threads()
        for g in range(len(x)):
            points, entries, scale = (t.detach().numpy() for t in (x[g], table[g], scales))
            _forward(points, entries, scale, levels, out[g].numpy())
        return out

    @staticmethod
    def backward(ctx, d_out):
        x, table, scales = ctx.saved_tensors
        d_table, d_x = torch.zeros_like(table), torch.empty_like(x)
        each = torch.empty(len(ctx.levels), *x.shape[1:])
        d_out = d_out.contiguous()
        _use_torch_threads()
        for g in range(len(x)):
            inputs = (t.detach().numpy() for t in (x[g], table[g], scales, d_out[g], d_table[g], each))
            points, entries, scale, *gradients = inputs
            _backward(points, entries, scale, ctx.levels, *gradients)
            torch.sum(each, 0, out=d_x[g])
        return d_x, d_table, None, None
