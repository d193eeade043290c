"""What a GoP's integers stand for, compiled: the inner loops of `quantize.quantize` and `dequantize`."""

import math

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def deinterleave(code):
    """Every second bit of a Z-order code, from the lowest: the x of `interleave`; y is that of code >> 1."""
    code &= 0x55555555
    code = (code | code >> 1) & 0x33333333
    code = (code | code >> 2) & 0x0F0F0F0F
    code = (code | code >> 4) & 0x00FF00FF
    return (code | code >> 8) & 0x0000FFFF


@numba.njit(cache=True, nogil=True)
def size_classes(first, last, bounds):
    """How many of `bounds` the sum of l1's and l3's integers [n] reaches: int64 [n]."""
    sizes = np.zeros(len(first), np.int64)
    for i in range(len(first)):
        for bound in bounds:
            sizes[i] += first[i] + last[i] >= bound
    return sizes


@numba.njit(cache=True, nogil=True)
def finer_bits(color, sizes, bounds):
    """How many of `bounds` the energy of integers red, green, blue [3, n] reaches, over 4^sizes [n]: int64 [n]."""
    bits, areas = np.zeros(len(sizes), np.int64), 4.0 ** np.arange(16)
    for i in range(len(sizes)):
        energy = float(color[0, i]) ** 2 + float(color[1, i]) ** 2 + float(color[2, i]) ** 2
        for bound in bounds:
            bits[i] += energy >= bound * areas[sizes[i]]
    return bits


@numba.njit(cache=True, nogil=True)
def set_gaussians(
    gaps, shape, color, sizes, bits, finer, origin, steps, log_scales, waiting, mu, cholesky, rgb
):  # fmt: skip
    """Integers of a `Group` of n Gaussians -> float32 mu [N, 2], cholesky [N, 3], rgb [N, 3] with N >= n; those beyond
    n wait at `waiting`. Steps of position and shape without finer bits, and of colour; origin in steps."""
    position_step, shape_step, color_step = steps
    least, most = log_scales
    parts = 0.5 ** np.arange(16)
    code = 0
    for i in range(len(gaps)):
        code += gaps[i]
        part = parts[bits[0][i]]
        mu[i, 0] = (deinterleave(code) + origin[0] + (finer[0][0, i] + 0.5) * part - 0.5) * position_step
        mu[i, 1] = (deinterleave(code >> 1) + origin[1] + (finer[0][1, i] + 0.5) * part - 0.5) * position_step
        part = parts[bits[1][i]]
        a = (shape[0, i] + (finer[1][0, i] + 0.5) * part - 0.5) * shape_step
        b = (shape[1, i] + (finer[1][1, i] + 0.5) * part - 0.5) * shape_step
        c = (shape[2, i] + (finer[1][2, i] + 0.5) * part - 0.5) * shape_step
        l1, l3 = math.exp(min(max(a, least), most)), math.exp(min(max(c, least), most))
        cholesky[i, 0], cholesky[i, 1], cholesky[i, 2] = l1, b * l3, l3
        green, step = color[0, i], color_step * parts[sizes[i]]
        rgb[i, 0], rgb[i, 1], rgb[i, 2] = (color[1, i] + green) * step, green * step, (color[2, i] + green) * step
    for i in range(len(gaps), len(mu)):
        mu[i, 0], mu[i, 1] = waiting, waiting
        cholesky[i, 0], cholesky[i, 1], cholesky[i, 2] = 1.0, 0.0, 1.0
        rgb[i, 0], rgb[i, 1], rgb[i, 2] = 0.0, 0.0, 0.0
