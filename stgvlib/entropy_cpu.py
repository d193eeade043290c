"""The inner loop of decoding integers, compiled: tokens and raw bits to values (docs/FORMAT.md, "Integers")."""

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def values(token, raw, small, origin, signed):
    """int32 tokens [n], uint8 raw bits -> int64 [n]: `origin` plus the unsigned integers, or plus their zigzag."""
    out = np.empty(len(token), np.int64)
    place = 0
    for i in range(len(token)):
        value = np.int64(token[i])
        if value >= small:
            exponent = (value - small) // 4 + 4
            bits = exponent - 2
            low = np.int64(0)
            for k in range(bits):
                low |= np.int64(raw[place >> 3] >> (place & 7) & 1) << k
                place += 1
            value = ((4 + (value - small) % 4) << bits) + low
        if signed:
            value = -((value + 1) // 2) if value & 1 else value // 2
        out[i] = origin + value
    return out
