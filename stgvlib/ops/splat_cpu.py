"""The render op for real sizes on a CPU: numba over all cores, the same values and gradients as the reference.

Forward: Gaussians are binned into bands of rows, a band is one task, so no two threads write one pixel and the order
of the sum is fixed. Where Gaussians reach many bands, some bands are listed at a time: memory stays within 40 bytes a
Gaussian. Backward: each Gaussian gathers the image gradient over its own ellipse, so there is nothing to race for. Both
are deterministic. The row loops carry no branch and no call, so that LLVM turns them into SIMD.

Values of any kind are safe, infinities and NaN too: of a Gaussian that has some, rows may be left out.

Values of any kind are safe, infinities and NaN too: of a Gaussian that has some, rows may be left out.
"""

import math

import numba
import numpy as np
import torch

from stgvlib.ops import constants

BAND = 8  # rows a task
LISTED = 8  # entries a Gaussian that the bands' lists may have at a time
MIN_SCALE, CUT = np.float32(constants.MIN_SCALE), np.float32(constants.CUT)
_FAST = {"contract", "reassoc", "nsz", "arcp"}  # not nnan / ninf: a NaN must stay one
_ONE = np.float32(1)


@numba.njit(fastmath=_FAST, inline="always")
def _exp_minus(s):
    """exp(-s) for 0 <= s <= 5.6, to 1e-6: a polynomial of s / 8, then three squarings. Plain arithmetic vectorises."""
    u = s * np.float32(-0.125)
    p = np.float32(1.0 / 720)
    p = p * u + np.float32(1.0 / 120)
    p = p * u + np.float32(1.0 / 24)
    p = p * u + np.float32(1.0 / 6)
    p = p * u + np.float32(0.5)
    p = p * u + _ONE
    p = p * u + _ONE
    p = p * p
    p = p * p
    return p * p


@numba.njit(fastmath=_FAST, inline="always")
def _row_span(x, l1, l2, l3, dy, width):
    """First and one-past-last column of the ellipse at offset dy, a column of slack each side (the cut is exact).

    Compared before it is converted: infinite centre and width make a NaN, which no integer stands for."""
    syy = l2 * l2 + l3 * l3
    room = np.float32(2) * CUT - dy * dy / syy
    if not room > 0:
        return 0, 0
    centre = x + l1 * l2 / syy * dy
    half = l1 * l3 / math.sqrt(syy) * math.sqrt(room)
    low, high = centre - half - np.float32(1.5), centre + half + np.float32(1.5)
    if not (low < width and high > 0):
        return 0, 0
    return int(max(low, np.float32(0))), int(min(high, np.float32(width)))


@numba.njit(fastmath=_FAST, inline="always")
def _rows(y, l2, l3, height):
    """First and last row whose centre the ellipse can reach; last < first when there is none."""
    reach = math.sqrt(np.float32(2) * CUT * (l2 * l2 + l3 * l3)) + np.float32(1e-3)
    low, high = y - reach - np.float32(0.5), y + reach - np.float32(0.5)
    if not (high >= 0 and low <= height - 1):
        return 0, -1
    return int(math.ceil(max(low, np.float32(0)))), int(min(high, np.float32(height - 1)))


@numba.njit(cache=True, fastmath=_FAST)
def _forward(mu, cholesky, rgb, height, width, image):
    bands = (height + BAND - 1) // BAND
    count = len(mu)
    starts = np.zeros(bands + 1, np.int64)
    rows = np.empty((count, 2), np.int32)
    for i in range(count):
        first, last = _rows(mu[i, 1], cholesky[i, 1], max(cholesky[i, 2], MIN_SCALE), height)
        rows[i, 0], rows[i, 1] = first, last
        for band in range(first // BAND, last // BAND + 1):
            starts[band + 1] += 1
    for band in range(bands):
        starts[band + 1] += starts[band]
    order = np.empty(min(starts[bands], LISTED * count), np.int32)
    begin = end = np.int64(0)  # bands that are listed together: nearly always all of them
    while end < bands:
        begin, end = end, end + 1
        while end < bands and starts[end + 1] - starts[begin] <= len(order):
            end += 1
        fill = starts[begin:end] - starts[begin]
        for i in range(count):
            for band in range(max(begin, rows[i, 0] // BAND), min(end, rows[i, 1] // BAND + 1)):
                order[fill[band - begin]] = i
                fill[band - begin] += 1
        _draw(mu, cholesky, rgb, height, width, begin, starts[begin : end + 1], order, rows, image)


@numba.njit(parallel=True, cache=True, fastmath=_FAST)
def _draw(mu, cholesky, rgb, height, width, begin, starts, order, rows, image):
    """The bands from `begin`: band begin + k takes order[starts[k] - starts[0] : starts[k + 1] - starts[0]]."""
    for k in numba.prange(len(starts) - 1):
        band = begin + k
        top, bottom = band * BAND, min(height, (band + 1) * BAND)
        planes = np.zeros((BAND, 3, width), np.float32)
        for j in range(starts[k] - starts[0], starts[k + 1] - starts[0]):
            i = order[j]
            x, y = mu[i, 0], mu[i, 1]
            l1, l2, l3 = max(cholesky[i, 0], MIN_SCALE), cholesky[i, 1], max(cholesky[i, 2], MIN_SCALE)
            i1, i3 = _ONE / l1, _ONE / l3
            r, g, b = rgb[i, 0], rgb[i, 1], rgb[i, 2]
            for row in range(max(top, rows[i, 0]), min(bottom - 1, rows[i, 1]) + 1):
                dy = np.float32(row) + np.float32(0.5) - y
                low, high = _row_span(x, l1, l2, l3, dy, width)
                plane = planes[row - top]
                red, green, blue = plane[0, low:high], plane[1, low:high], plane[2, low:high]
                x0, t, slant = np.float32(low) + np.float32(0.5) - x, dy * i3, l2 * i3
                for c in range(high - low):
                    z1 = (np.float32(c) + x0) * i1
                    z2 = t - slant * z1
                    s = np.float32(0.5) * (z1 * z1 + z2 * z2)
                    e = _exp_minus(min(s, np.float32(6)))
                    e = e if s <= CUT else np.float32(0)
                    red[c] += e * r
                    green[c] += e * g
                    blue[c] += e * b
        for row in range(top, bottom):
            for c in range(width):
                for channel in range(3):
                    image[row, c, channel] = planes[row - top, channel, c]


@numba.njit(parallel=True, cache=True, fastmath=_FAST)
def _backward(mu, cholesky, rgb, grad, d_mu, d_cholesky, d_rgb):
    height, width = grad.shape[1:]
    tasks = (len(mu) + 63) // 64
    for task in numba.prange(tasks):
        for i in range(task * 64, min(len(mu), task * 64 + 64)):
            x, y = mu[i, 0], mu[i, 1]
            l1, l2, l3 = max(cholesky[i, 0], MIN_SCALE), cholesky[i, 1], max(cholesky[i, 2], MIN_SCALE)
            i1, i3 = _ONE / l1, _ONE / l3
            r, g, b = rgb[i, 0], rgb[i, 1], rgb[i, 2]
            first, last = _rows(y, l2, l3, height)
            zero = np.float32(0)
            ar, ag, ab, s1, s2, s11, s12, s22 = zero, zero, zero, zero, zero, zero, zero, zero
            for row in range(first, last + 1):
                dy = np.float32(row) + np.float32(0.5) - y
                low, high = _row_span(x, l1, l2, l3, dy, width)
                red, green, blue = grad[0, row, low:high], grad[1, row, low:high], grad[2, row, low:high]
                x0, t, k = np.float32(low) + np.float32(0.5) - x, dy * i3, l2 * i3
                for c in range(high - low):
                    z1 = (np.float32(c) + x0) * i1
                    z2 = t - k * z1
                    s = np.float32(0.5) * (z1 * z1 + z2 * z2)
                    e = _exp_minus(min(s, np.float32(6)))
                    e = e if s <= CUT else np.float32(0)
                    ar += e * red[c]
                    ag += e * green[c]
                    ab += e * blue[c]
                    w = e * (red[c] * r + green[c] * g + blue[c] * b)
                    w1, w2 = w * z1, w * z2
                    s1 += w1
                    s2 += w2
                    s11 += w1 * z1
                    s12 += w1 * z2
                    s22 += w2 * z2
            k = l2 * i1 * i3
            d_rgb[i, 0], d_rgb[i, 1], d_rgb[i, 2] = ar, ag, ab
            d_mu[i, 0], d_mu[i, 1] = s1 * i1 - s2 * k, s2 * i3
            d_cholesky[i, 0] = s11 * i1 - s12 * k if cholesky[i, 0] >= MIN_SCALE else zero
            d_cholesky[i, 1] = s12 * i3
            d_cholesky[i, 2] = s22 * i3 if cholesky[i, 2] >= MIN_SCALE else zero


class Splat(torch.autograd.Function):
    """`splat` for float32 CPU tensors."""

    @staticmethod
    def forward(ctx, mu, cholesky, rgb, size):
        ctx.save_for_backward(mu, cholesky, rgb)
        image = torch.empty(len(mu), *size, 3)
        _use_torch_threads()
        for g in range(len(mu)):
            m, c, v, out = (t.detach()[g].numpy() for t in (mu, cholesky, rgb, image))
            _forward(m, c, v, size[0], size[1], out)
        return image

    @staticmethod
    def backward(ctx, grad):
        inputs = ctx.saved_tensors
        outputs = [torch.empty_like(t) for t in inputs]
        planes = grad.detach().permute(0, 3, 1, 2).contiguous()  # channels apart, so that rows are unit-stride
        _use_torch_threads()
        for g in range(len(planes)):
            _backward(*(t.detach()[g].numpy() for t in (*inputs, planes, *outputs)))
        return (*outputs, None)


def _use_torch_threads() -> None:
    """One thread setting for the user to know: torch.set_num_threads."""
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
