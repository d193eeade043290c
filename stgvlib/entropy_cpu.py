"""The inner loops of coding integers, compiled: an asymmetric numeral system of 32 bits over 16-bit words (Duda 2013,
range variant), and tokens with raw bits to values (docs/FORMAT.md, "Integers").
"""

import numba
import numpy as np

PRECISION = 14  # bits of a frequency: they sum to 2^14
LEAST = 1 << 16  # of the state between two tokens, and where it starts


@numba.njit(cache=True, nogil=True)
def encode_tokens(token, frequencies):
    """int64 tokens [n], frequencies [A] summing to 2^14 -> uint16 words in the order in which a decoder takes them."""
    starts = np.cumsum(frequencies) - frequencies
    words = np.empty(len(token) + 2, np.uint16)
    at, state = len(words), np.int64(LEAST)
    for i in range(len(token) - 1, -1, -1):
        f = frequencies[token[i]]
        if state >= f << (32 - PRECISION):
            at -= 1
            words[at] = state & 0xFFFF
            state >>= 16
        state = (state // f << PRECISION) + state % f + starts[token[i]]
    words[at - 1] = state & 0xFFFF
    words[at - 2] = state >> 16
    return words[at - 2 :].copy()


@numba.njit(cache=True, nogil=True)
def decode_values(words, frequencies, count, raw, small, origin, signed):
    """What `encode_tokens` wrote, with the raw bits of large integers: (int64 [count], bytes of raw bits that it took).

    Takes nothing beyond either array; -1 bytes say that they do not hold `count` integers.
    """
    mask = (1 << PRECISION) - 1
    # A slot's token, and what the state becomes: frequency and distance from the token's start.
    tokens = np.empty(1 << PRECISION, np.uint8)
    start = 0
    for k in range(len(frequencies)):
        tokens[start : start + frequencies[k]] = k
        start += frequencies[k]
    starts = np.cumsum(frequencies) - frequencies
    out = np.empty(count, np.int64)
    coded = len(frequencies) > 1 and count > 0
    state, at, place, most = np.int64(LEAST), 0, np.int64(0), 8 * len(raw)
    if coded:
        if len(words) < 2:
            return out, -1
        state, at = (np.int64(words[0]) << 16) | np.int64(words[1]), 2
    for i in range(count):
        value = np.int64(0)
        if coded:
            slot = state & mask
            value = np.int64(tokens[slot])
            state = frequencies[value] * (state >> PRECISION) + slot - starts[value]
            if state < LEAST:
                if at == len(words):
                    return out, -1
                state = state << 16 | np.int64(words[at])
                at += 1
        if value >= small:
            exponent = (value - small) // 4 + 4
            bits = exponent - 2
            if place + bits > most:
                return out, -1
            low = np.int64(0)
            for k in range(bits):
                low |= np.int64(raw[place >> 3] >> (place & 7) & 1) << k
                place += 1
            value = ((4 + (value - small) % 4) << bits) + low
        if signed:
            value = -((value + 1) // 2) if value & 1 else value // 2
        out[i] = origin + value
    if state != LEAST or at != len(words):
        return out, -1
    return out, (place + 7) >> 3


@numba.njit(cache=True, nogil=True)
def read_varints(data, count):
    """uint8 bytes -> (int64 [count], bytes taken); -1 bytes where they are cut off or one has more than 35 bits."""
    values, at = np.zeros(count, np.int64), 0
    for k in range(count):
        for part in range(6):
            if at == len(data) or part == 5:
                return values, -1
            byte = np.int64(data[at])
            at += 1
            values[k] |= (byte & 127) << (7 * part)
            if byte < 128:
                break
    return values, at


@numba.njit(cache=True, nogil=True)
def read_levels(data, count):
    """Levels of a histogram (docs/FORMAT.md): (int64 [count], bytes taken, -1 where they are cut off)."""
    levels, place, level = np.zeros(count, np.int64), 0, np.int64(0)
    for k in range(count):
        nibbles = 1
        if place < 2 * len(data) and data[place >> 1] >> 4 * (place & 1) & 15 == 15:
            nibbles = 3
        if place + nibbles > 2 * len(data):
            return levels, -1
        first = np.int64(data[place >> 1] >> 4 * (place & 1) & 15)
        if nibbles == 1:
            level += first - 7
        else:
            low, high = place + 1, place + 2
            level = (
                np.int64(data[low >> 1] >> 4 * (low & 1) & 15) | np.int64(data[high >> 1] >> 4 * (high & 1) & 15) << 4
            )
        place += nibbles
        levels[k] = level
    return levels, (place + 1) >> 1


@numba.njit(cache=True, nogil=True)
def frequencies_of(weights):
    """Integers in proportion to weights [A] that sum to 2^14; what has a weight has at least one."""
    total = max(weights.sum(), 1)
    frequencies = np.zeros(len(weights), np.int64)
    for k in range(len(weights)):
        if weights[k] > 0:
            frequencies[k] = max(1, (weights[k] << PRECISION) // total)
    off = (1 << PRECISION) - frequencies.sum()
    while off != 0:
        most = frequencies.argmax()
        frequencies[most] += max(off, -(frequencies[most] // 2))
        off = (1 << PRECISION) - frequencies.sum()
    return frequencies


@numba.njit(cache=True, nogil=True)
def read_bits(raw, bits, rows):
    """uint8 raw -> (integers [rows, n] of bits [n] each, row after row, lowest first; bytes taken, -1 if too few)."""
    out, place, most = np.zeros((rows, len(bits)), np.int64), np.int64(0), 8 * len(raw)
    for row in range(rows):
        for i in range(len(bits)):
            if place + bits[i] > most:
                return out, -1
            for k in range(bits[i]):
                out[row, i] |= np.int64(raw[place >> 3] >> (place & 7) & 1) << k
                place += 1
    return out, (place + 7) >> 3
