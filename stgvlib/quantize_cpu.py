"""What a GoP's integers stand for, compiled: the inner loop of `quantize.dequantize`."""

import math

import numba


@numba.njit(cache=True, nogil=True)
def deinterleave(code):
    """Every second bit of a Z-order code, from the lowest: the x of `interleave`; y is that of code >> 1."""
    code &= 0x55555555
    code = (code | code >> 1) & 0x33333333
    code = (code | code >> 2) & 0x0F0F0F0F
    code = (code | code >> 4) & 0x00FF00FF
    return (code | code >> 8) & 0x0000FFFF


@numba.njit(cache=True, nogil=True)
def set_gaussians(gaps, shape, color, origin, steps, log_scales, waiting, mu, cholesky, rgb):
    """Integers gaps [n], shape [3, n], colour [3, n] -> float32 mu [N, 2], cholesky [N, 3], rgb [N, 3] with N >= n;
    those beyond n wait at `waiting`. Steps of position, shape, colour; origin of positions in steps."""
    position_step, shape_step, color_step = steps
    least, most = log_scales
    code = 0
    for i in range(len(gaps)):
        code += gaps[i]
        mu[i, 0] = (deinterleave(code) + origin[0]) * position_step
        mu[i, 1] = (deinterleave(code >> 1) + origin[1]) * position_step
        l1 = math.exp(min(max(shape[0, i] * shape_step, least), most))
        l3 = math.exp(min(max(shape[2, i] * shape_step, least), most))
        cholesky[i, 0], cholesky[i, 1], cholesky[i, 2] = l1, shape[1, i] * shape_step * l3, l3
        green = color[0, i]
        rgb[i, 0], rgb[i, 1], rgb[i, 2] = (
            (color[1, i] + green) * color_step,
            green * color_step,
            (color[2, i] + green) * color_step,
        )
    for i in range(len(gaps), len(mu)):
        mu[i, 0], mu[i, 1] = waiting, waiting
        cholesky[i, 0], cholesky[i, 1], cholesky[i, 2] = 1.0, 0.0, 1.0
        rgb[i, 0], rgb[i, 1], rgb[i, 2] = 0.0, 0.0, 0.0
