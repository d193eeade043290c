"""Hash encoding on a CPU: numba over all cores, the same values and gradients as the torch reference.

Points go in blocks that stay in the first cache, and the loops inside run over a block's points: SIMD, but for the sums
of and into the table, whose order is that of the points. Forward: a task is a block. Backward: a task is one level of
one GoP and owns that level's table, so nothing races and the result is deterministic; gradients of the position are
kept a level and summed in order.
"""

import numba
import numpy as np
import torch

from stgvlib.ops.constants import PRIMES
from stgvlib.ops.splat_cpu import _use_torch_threads

BLOCK = 128  # points
_PRIMES = np.array(PRIMES, np.uint32)
_ONE = np.float32(1)


@numba.njit(inline="always")
def _products(factor, product):
    """Products of one factor an axis: [D, 2, BLOCK] -> [2^D, BLOCK]; bit d of a corner picks the factor of axis d."""
    product[:2] = factor[0]
    for d in range(1, len(factor)):
        for corner in range(1 << d):
            for i in range(BLOCK):
                product[corner + (1 << d), i] = product[corner, i] * factor[d, 1, i]
                product[corner, i] *= factor[d, 0, i]


@numba.njit(inline="always")
def _locate(x, scale, level, factor, cell, row):
    """Of points: weights along each axis [D, 2, BLOCK], rows of the table (eq. 4, or the dense index) [2^D, BLOCK]."""
    dims, entries, hashed = x.shape[1], np.uint32(level.size), level.hashed != 0
    stride, offset = np.uint32(1), np.uint32(level.offset)
    row[0] = 0
    for d in range(dims):
        for i in range(len(x)):
            inside = min(x[i, d], _ONE) if x[i, d] > 0 else np.float32(0)  # NaN lies at 0
            position = inside * scale[d] + np.float32(0.5)
            whole = np.int32(position)
            cell[i], factor[d, 1, i] = whole, position - np.float32(whole)
        factor[d, 0] = _ONE - factor[d, 1]
        step = _PRIMES[d] if hashed else stride
        stride *= np.uint32(level.resolution[d])
        for corner in range(1 << d):
            for i in range(BLOCK):
                near = np.uint32(cell[i] * step)
                far = np.uint32(near + step)
                before = row[corner, i]
                row[corner, i] = before ^ near if hashed else before + near
                row[corner + (1 << d), i] = before ^ far if hashed else before + far
    for corner in range(1 << dims):
        if hashed:
            for i in range(BLOCK):
                row[corner, i] = offset + (row[corner, i] & np.uint32(entries - 1))  # entries are a power of two
        else:
            for i in range(BLOCK):
                row[corner, i] = offset + row[corner, i] % entries


@numba.njit(parallel=True, cache=True, error_model="numpy")
def _forward(x, table, scales, levels, out):
    points, dims = x.shape
    features = table.shape[1]
    for block in numba.prange((points + BLOCK - 1) // BLOCK):
        first = block * BLOCK
        part, to = x[first : first + BLOCK], out[first : first + BLOCK]
        factor, cell = np.zeros((dims, 2, BLOCK), np.float32), np.zeros(BLOCK, np.uint32)
        weight, row = np.empty((1 << dims, BLOCK), np.float32), np.empty((1 << dims, BLOCK), np.uint32)
        for level in range(len(levels)):
            _locate(part, scales[level], levels[level], factor, cell, row)
            _products(factor, weight)
            for i in range(len(part)):
                for f in range(0, features, 2):  # features are two or four
                    even = odd = np.float32(0)
                    for corner in range(1 << dims):
                        w, r = weight[corner, i], row[corner, i]
                        even += w * table[r, f]
                        odd += w * table[r, f + 1]
                    to[i, level * features + f], to[i, level * features + f + 1] = even, odd


@numba.njit(parallel=True, cache=True, error_model="numpy")
def _backward(x, table, scales, levels, d_out, d_table, d_x):
    points, dims = x.shape
    features = table.shape[1]
    for level in numba.prange(len(levels)):
        factor, cell = np.zeros((dims, 2, BLOCK), np.float32), np.zeros(BLOCK, np.uint32)
        weight, row = np.empty((1 << dims, BLOCK), np.float32), np.empty((1 << dims, BLOCK), np.uint32)
        dot, slope = np.zeros((1 << dims, BLOCK), np.float32), np.empty(BLOCK, np.float32)
        for first in range(0, points, BLOCK):
            part, grad = x[first : first + BLOCK], d_out[first : first + BLOCK]
            _locate(part, scales[level], levels[level], factor, cell, row)
            _products(factor, weight)
            dot[:] = 0
            for i in range(len(part)):
                for f in range(0, features, 2):
                    even, odd = grad[i, level * features + f], grad[i, level * features + f + 1]
                    for corner in range(1 << dims):
                        w, r = weight[corner, i], row[corner, i]
                        d_table[r, f] += w * even
                        d_table[r, f + 1] += w * odd
                        dot[corner, i] = dot[corner, i] + table[r, f] * even + table[r, f + 1] * odd
            for d in range(dims):
                low, high = factor[d, 0].copy(), factor[d, 1].copy()
                factor[d, 0], factor[d, 1] = -_ONE, _ONE  # the slopes of the weights along this axis
                _products(factor, weight)
                factor[d, 0], factor[d, 1] = low, high
                slope[:] = 0
                for corner in range(1 << dims):
                    for i in range(BLOCK):
                        slope[i] += dot[corner, i] * weight[corner, i]
                for i in range(len(part)):
                    inside = part[i, d] >= 0 and part[i, d] <= 1
                    d_x[level, first + i, d] = slope[i] * scales[level, d] if inside else 0


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
