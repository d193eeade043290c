"""The render op for real sizes on a CPU: numba over all cores, the same values and gradients as the reference.

Forward: Gaussians are binned into bands of rows, a band is one task, so no two threads write one pixel and the order
of the sum is fixed. Where Gaussians reach many bands, some bands are listed at a time: memory stays within 40 bytes a
Gaussian. Backward: each Gaussian gathers the image gradient over its own ellipse, so there is nothing to race for. Both
are deterministic.

Within a row sigma is a parabola: dy^2 / (2 syy) + curve dx^2, dx = px - x - slope dy, syy = l2^2 + l3^2. An image lies
in blocks of LANES columns, [H, blocks, 3, LANES], and the inner loop over one of them has no branch, no call and no
remainder, so that LLVM turns it into a few SIMD instructions.

Values of any kind are safe, infinities and NaN too: of a Gaussian that has some, rows may be left out.
"""

import math

import numba
import numpy as np
import torch

from stgvlib.ops import constants

BAND = 8  # rows a task
LANES = 16  # columns of a block
LISTED = 8  # entries a Gaussian that the bands' lists may have at a time
MIN_SCALE, CUT = np.float32(constants.MIN_SCALE), np.float32(constants.CUT)
_FAST = {"contract", "reassoc", "nsz", "arcp"}  # not nnan / ninf: a NaN must stay one
_ONE, _HALF = np.float32(1), np.float32(0.5)


@numba.njit(fastmath=_FAST, inline="always")
def _weight(s):
    """exp(-s) to 1e-6 for 0 <= s <= CUT, else 0: a polynomial of s / 8, then three squarings."""
    u = min(s, np.float32(6)) * np.float32(-0.125)
    p = np.float32(1.0 / 720)
    p = p * u + np.float32(1.0 / 120)
    p = p * u + np.float32(1.0 / 24)
    p = p * u + np.float32(1.0 / 6)
    p = p * u + _HALF
    p = p * u + _ONE
    p = p * u + _ONE
    p = p * p
    p = p * p
    return p * p if s <= CUT else np.float32(0)


@numba.njit(fastmath={"contract", "nsz"})
def _offset(block, c, x, shift):
    """dx of column c of a block, in this order: pixel and centre differ without rounding, so needles stay exact."""
    return np.float32(block * LANES) + _HALF - x + np.float32(c) - shift


@numba.njit(fastmath=_FAST, inline="always")
def _shape(l):
    """l1, l2, l3 as they are drawn, 1 / syy, slope, standard deviation in a row, curve."""
    l1, l2, l3 = max(l[0], MIN_SCALE), l[1], max(l[2], MIN_SCALE)
    syy = l2 * l2 + l3 * l3
    deviation = l1 * l3 / math.sqrt(syy)
    return l1, l2, l3, _ONE / syy, l1 * l2 / syy, deviation, _HALF / (deviation * deviation)


@numba.njit(inline="always")
def _room(rows):
    return np.empty(rows, np.float32), np.empty(rows, np.float32), np.empty((2, rows), np.int32)


@numba.njit(fastmath=_FAST, inline="always")
def _spans(x, y, inverse, slope, deviation, rows, first, width, least, shift, span):
    """Of so many rows from `first`: least sigma, slope dy, and first and one-past-last block of the ellipse's columns
    with a quarter of slack each side (the cut is exact). Rows apart from their pixels, so that none waits for a root.

    Compared before it is converted: infinite centre and width make a NaN, which no integer stands for."""
    for n in range(rows):
        dy = np.float32(first + n) + _HALF - y
        least[n], shift[n] = _HALF * dy * dy * inverse, slope * dy
        half = deviation * math.sqrt(max(np.float32(2) * (CUT - least[n]), np.float32(0))) + np.float32(0.75)
        low, high = x + shift[n] - half, x + shift[n] + half
        some = least[n] < CUT and low < width and high > 0
        start = np.int32(max(low, np.float32(0)) if some else np.float32(0))
        end = np.int32(min(high, np.float32(width)) if some else np.float32(0))
        span[0, n], span[1, n] = start // LANES, (end + LANES - 1) // LANES


@numba.njit(fastmath=_FAST, inline="always")
def _rows(y, l2, l3, height):
    """First and last row whose centre the ellipse can reach; last < first when there is none."""
    reach = math.sqrt(np.float32(2) * CUT * (l2 * l2 + l3 * l3)) + np.float32(1e-3)
    low, high = y - reach - _HALF, y + reach - _HALF
    if not (high >= 0 and low <= height - 1):
        return 0, -1
    return int(math.ceil(max(low, np.float32(0)))), int(min(high, np.float32(height - 1)))


@numba.njit(cache=True, fastmath=_FAST)
def _forward(mu, cholesky, rgb, width, planes):
    height = len(planes)
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
    begin = end = 0  # bands that are listed together: nearly always all of them
    while end < bands:
        begin, end = end, end + 1
        while end < bands and starts[end + 1] - starts[begin] <= len(order):
            end += 1
        fill = starts[begin:end] - starts[begin]
        for i in range(count):
            for band in range(max(begin, rows[i, 0] // BAND), min(end, rows[i, 1] // BAND + 1)):
                order[fill[band - begin]] = i
                fill[band - begin] += 1
        _draw(mu, cholesky, rgb, width, begin, starts[begin : end + 1], order, rows, planes)


@numba.njit(parallel=True, cache=True, fastmath=_FAST, error_model="numpy")
def _draw(mu, cholesky, rgb, width, begin, starts, order, rows, planes):
    """The bands from `begin`: band begin + k takes order[starts[k] - starts[0] : starts[k + 1] - starts[0]]."""
    blocks, flat = np.uint32(planes.shape[1]), planes.reshape(-1)
    for k in numba.prange(len(starts) - 1):
        top, bottom = (begin + k) * BAND, min(len(planes), (begin + k + 1) * BAND)
        planes[top:bottom] = 0
        least, shift, span = _room(BAND)
        for j in range(starts[k] - starts[0], starts[k + 1] - starts[0]):
            i = order[j]
            x, y = mu[i, 0], mu[i, 1]
            _, _, _, inverse, slope, deviation, curve = _shape(cholesky[i])
            r, g, b = rgb[i, 0], rgb[i, 1], rgb[i, 2]
            first = max(top, rows[i, 0])
            many = min(bottom - 1, rows[i, 1]) + 1 - first
            _spans(x, y, inverse, slope, deviation, many, first, width, least, shift, span)
            for n in range(many):
                for block in range(span[0, n], span[1, n]):
                    at = np.uint64((np.uint32(first + n) * blocks + block) * np.uint32(3 * LANES))
                    for c in range(np.uint32(LANES)):
                        dx = _offset(block, c, x, shift[n])
                        e = _weight(least[n] + curve * dx * dx)
                        flat[at + c] += e * r
                        flat[at + np.uint64(LANES) + c] += e * g
                        flat[at + np.uint64(2 * LANES) + c] += e * b


@numba.njit(fastmath=_FAST, error_model="numpy")
def _row_sums(flat, row, blocks, start, stop, x, shift, least, curve, r, g, b):
    """Over a row of the ellipse: of e times each colour's gradient, and of the weight's gradient times dx and dx^2.

    Sums may be reassociated here, to become SIMD, and not in `_backward`: a process that compiles it would have other
    last bits than one that loads it from the cache."""
    er = eg = eb = w1 = w2 = np.float32(0)
    for block in range(start, stop):
        at = np.uint64((np.uint32(row) * blocks + block) * np.uint32(3 * LANES))
        for c in range(np.uint32(LANES)):
            dx = _offset(block, c, x, shift)
            e = _weight(least + curve * dx * dx)
            red, green = flat[at + c], flat[at + np.uint64(LANES) + c]
            blue = flat[at + np.uint64(2 * LANES) + c]
            er += e * red
            eg += e * green
            eb += e * blue
            w = e * (red * r + green * g + blue * b) * dx
            w1 += w
            w2 += w * dx
    return er, eg, eb, w1, w2


@numba.njit(parallel=True, cache=True, fastmath={"contract", "nsz", "arcp"}, error_model="numpy")
def _backward(mu, cholesky, rgb, width, grad, d_mu, d_cholesky, d_rgb):
    height, blocks, flat = len(grad), np.uint32(grad.shape[1]), grad.reshape(-1)
    zero, tasks = np.float32(0), (len(mu) + 63) // 64
    for task in numba.prange(tasks):
        least, shift, span = _room(height)
        for i in range(task * 64, min(len(mu), task * 64 + 64)):
            x, y = mu[i, 0], mu[i, 1]
            l1, l2, l3, inverse, slope, deviation, curve = _shape(cholesky[i])
            i1, i3 = _ONE / l1, _ONE / l3
            r, g, b = rgb[i, 0], rgb[i, 1], rgb[i, 2]
            first, last = _rows(y, l2, l3, height)
            ar = ag = ab = my = myy = m1 = my1 = m2 = zero  # colours, and moments of dy and dx
            _spans(x, y, inverse, slope, deviation, last + 1 - first, first, width, least, shift, span)
            for n in range(last + 1 - first):
                dy = np.float32(first + n) + _HALF - y
                place = flat, first + n, blocks, span[0, n], span[1, n]
                er, eg, eb, w1, w2 = _row_sums(*place, x, shift[n], least[n], curve, r, g, b)
                ar, ag, ab = ar + er, ag + eg, ab + eb
                w = (er * r + eg * g + eb * b) * dy
                my, myy, m1, my1, m2 = my + w, myy + w * dy, m1 + w1, my1 + w1 * dy, m2 + w2
            # z1 = p dy + i1 dx and z2 = q dy - k dx
            p, q, k = l2 * inverse, l3 * inverse, l2 * i3 * i1
            s1, s2 = p * my + i1 * m1, q * my - k * m1
            s11 = p * p * myy + np.float32(2) * p * i1 * my1 + i1 * i1 * m2
            s12 = p * q * myy + (q * i1 - p * k) * my1 - k * i1 * m2
            s22 = q * q * myy - np.float32(2) * q * k * my1 + k * k * m2
            d_rgb[i, 0], d_rgb[i, 1], d_rgb[i, 2] = ar, ag, ab
            d_mu[i, 0], d_mu[i, 1] = s1 * i1 - s2 * k, s2 * i3
            d_cholesky[i, 0] = s11 * i1 - s12 * k if cholesky[i, 0] >= MIN_SCALE else zero
            d_cholesky[i, 1] = s12 * i3
            d_cholesky[i, 2] = s22 * i3 if cholesky[i, 2] >= MIN_SCALE else zero


@numba.njit(parallel=True, cache=True, fastmath={"reassoc"}, error_model="numpy")
def _compare(planes, frame, huber, low, high, sums):
    """Weighted squared (or Huber) differences of the image clamped to low and high, their sum a row; the image's planes
    become the gradient of the mean. frame: [H, W] of four bytes, R G B and weight."""
    height, width = frame.shape
    scale, byte = np.float32(2 / (3 * height * width)), np.float32(255)
    for row in numba.prange(height):
        total = 0.0
        for block in range(planes.shape[1]):
            part, pixels = planes[row, block], frame[row, block * LANES : (block + 1) * LANES]
            part[:, len(pixels) :] = 0
            some = np.float32(0)
            for channel in range(3):
                to, shift = part[channel], np.uint32(8 * channel)
                for c in range(len(pixels)):
                    weight = np.float32(pixels[c] >> np.uint32(24)) / byte
                    shown = high if to[c] > high else low if to[c] < low else to[c]
                    difference = shown - np.float32(pixels[c] >> shift & np.uint32(255)) / byte
                    near = huber if difference > huber else -huber if difference < -huber else difference
                    some += weight * near * (np.float32(2) * difference - near)
                    to[c] = scale * weight * near if shown == to[c] else np.float32(0)
            total += some
        sums[row] = total


class Splat(torch.autograd.Function):
    """`splat` for float32 CPU tensors."""

    @staticmethod
    def forward(ctx, mu, cholesky, rgb, size):
        ctx.save_for_backward(mu, cholesky, rgb)
        ctx.width = size[1]
        image = torch.empty(len(mu), *size, 3)
        for to, planes in zip(image, _render(mu, cholesky, rgb, size)):
            to.copy_(planes.transpose(2, 3).flatten(1, 2)[:, : size[1]])
        return image

    @staticmethod
    def backward(ctx, grad):
        padded = torch.nn.functional.pad(grad, (0, 0, 0, -ctx.width % LANES))
        planes = padded.unflatten(2, (-1, LANES)).transpose(3, 4).contiguous()
        return *_gradients(ctx.saved_tensors, planes, ctx.width), None


class SplatMSE(torch.autograd.Function):
    """`splat_mse` for float32 CPU tensors: the image's planes turn into its gradient where they are compared."""

    @staticmethod
    def forward(ctx, mu, cholesky, rgb, frames, frame_index, huber, clamp):
        height, width = frames.shape[2:4]
        limits = [
            np.float32(v) for v in (np.inf if huber is None else huber, *((0, 1) if clamp else (-np.inf, np.inf)))
        ]
        planes = list(_render(mu, cholesky, rgb, (height, width)))
        sums = np.empty((len(mu), height))
        for image, of_gop, index, each in zip(planes, frames, frame_index.tolist(), sums):
            frame = of_gop[index].contiguous().numpy().view("<u4")[..., 0]
            _compare(image.numpy(), frame, *limits, each)
        ctx.save_for_backward(mu, cholesky, rgb, *planes)
        ctx.width = width
        return mu.new_tensor(sums.sum(1) / (3 * height * width))

    @staticmethod
    def backward(ctx, grad):
        *inputs, planes = *ctx.saved_tensors[:3], ctx.saved_tensors[3:]
        return *(d * grad[:, None, None] for d in _gradients(inputs, planes, ctx.width)), None, None, None, None


def _render(mu, cholesky, rgb, size):
    """Planes [H, blocks, 3, LANES] of the image of each GoP."""
    _use_torch_threads()
    for tensors in zip(mu, cholesky, rgb):
        planes = torch.empty(size[0], -(-size[1] // LANES), 3, LANES)
        _forward(*(t.detach().numpy() for t in tensors), size[1], planes.numpy())
        yield planes


def _gradients(inputs, planes, width):
    """Of mu, cholesky and rgb, from the gradient of the image of each GoP in planes."""
    outputs = [torch.empty_like(t) for t in inputs]
    _use_torch_threads()
    for part, *tensors in zip(planes, *inputs, *outputs):
        given, found = [t.detach().numpy() for t in tensors[:3]], [t.numpy() for t in tensors[3:]]
        _backward(*given, width, part.numpy(), *found)
    return outputs


def _use_torch_threads() -> None:
    """One thread setting for the user to know: torch.set_num_threads."""
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    if torch.get_num_threads() != threads:  # where Numba starts its threads it sets OpenMP's, which are torch's too
        torch.set_num_threads(threads)
