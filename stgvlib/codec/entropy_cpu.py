"""The inner loops of coding integers, compiled: an asymmetric numeral system of 32 bits over 16-bit words (Duda 2013,
range variant), and tokens with raw bits to values (docs/FORMAT.md, "Integers").
"""

import numba
import numpy as np

PRECISION = 14  # bits of a frequency: they sum to 2^14
LEAST = 1 << 16  # of the state between two tokens, and where it starts


@numba.njit(cache=True, nogil=True)
def tokens_of(unsigned, small):
    """(token, number of raw bits), int64 [n] each, of integers [n] of which those below `small`, 16, are their own."""
    token, bits = unsigned.copy(), np.zeros(len(unsigned), np.int64)
    for i in range(len(unsigned)):
        if unsigned[i] >= small:
            rest = unsigned[i] >> 2  # two bits after the leading one are in the token
            while rest >= 2:
                rest >>= 1
                bits[i] += 1
            token[i] = small + (bits[i] - 2) * 4 + (unsigned[i] >> bits[i] & 3)
    return token, bits


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
def decode_values(data, at, out, scale, weights, kinds):
    """Integers that begin at byte `at` of uint8 data, times scale, into all of `out`: returns where the next begins.

    Weights of a histogram's levels; kinds: (integers that are their own token, tokens, signed, raw). Reads nothing
    beyond the data: where they do not hold so many integers, the result is the negative of what is wrong, from 1 as in
    `entropy.WRONG`.
    """
    small, most_tokens, signed, raw = kinds
    if at >= len(data):
        return -1
    kind, at = np.int64(data[at]), at + 1
    origin, at = read_varint(data, at)
    first, at = read_varint(data, at)
    if kind > max(signed, raw):
        return -2
    if at < 0:
        return -1
    origin = (origin >> 1) ^ -(origin & 1)
    held, have = np.int64(0), np.int64(0)  # raw bits that were read and not taken
    if kind == raw:
        bits = first
        if bits > 32:
            return -3
        for i in range(len(out)):
            while have < bits:
                if at == len(data):
                    return -1
                held |= np.int64(data[at]) << have
                at, have = at + 1, have + 8
            out[i] = (origin + (held & ((1 << bits) - 1))) * scale
            held, have = held >> bits, have - bits
        return at
    alphabet = first
    size, at = read_varint(data, at)
    if at < 0:
        return -1
    if not 1 <= alphabet <= most_tokens:
        return -4
    levels, at = read_levels(data, at, alphabet)
    if at < 0:
        return -1
    if levels.min() < 0 or levels.max() >= len(weights) or levels.max() == 0:
        return -5
    frequencies = frequencies_of(weights[levels])
    word, at = at, at + 2 * size  # raw bits follow the words
    end = at
    if end > len(data):
        return -1
    mask = (1 << PRECISION) - 1
    tokens = np.empty(1 << PRECISION, np.uint8)  # of each slot
    start = 0
    for k in range(alphabet):
        tokens[start : start + frequencies[k]] = k
        start += frequencies[k]
    starts = np.cumsum(frequencies) - frequencies
    coded = alphabet > 1 and len(out) > 0
    state = np.int64(LEAST)
    if coded:
        if size < 2:
            return -6
        for _ in range(2):
            state = (state & 0xFFFF) << 16 | np.int64(data[word]) | np.int64(data[word + 1]) << 8
            word += 2
    last = len(data) - 2  # where a word can be read, also where none is left: that is found out after the loop
    for i in range(len(out)):
        value = np.int64(0)
        if coded:  # without a branch for the next word, which could not be predicted
            slot = state & mask
            value = np.int64(tokens[slot])
            state = frequencies[value] * (state >> PRECISION) + slot - starts[value]
            low, place = state < LEAST, min(word, last)
            more = np.int64(data[place]) | np.int64(data[place + 1]) << 8
            state = state << 16 | more if low else state
            word += 2 * np.int64(low)
        if value >= small:
            bits = ((value - small) >> 2) + 2
            while have < bits:
                if at == len(data):
                    return -6
                held |= np.int64(data[at]) << have
                at, have = at + 1, have + 8
            value = ((4 + ((value - small) & 3)) << bits) + (held & ((1 << bits) - 1))
            held, have = held >> bits, have - bits
        if kind == signed:
            value = (value >> 1) ^ -(value & 1)
        out[i] = (origin + value) * scale
    if state != LEAST or word != end:
        return -6
    return at


@numba.njit(cache=True, nogil=True)
def read_varint(data, at):
    """The number at byte `at` of uint8 data, and where the next begins; -1 for that where `at` is, where the number is
    cut off, or has more than 35 bits."""
    value = np.int64(0)
    for part in range(5):
        if at < 0 or at >= len(data):
            break
        byte = np.int64(data[at])
        at += 1
        value |= (byte & 127) << (7 * part)
        if byte < 128:
            return value, at
    return value, -1


@numba.njit(cache=True, nogil=True)
def read_levels(data, at, count):
    """Levels of a histogram (docs/FORMAT.md) from byte `at`: (int64 [count], where the next byte is, -1 where they are
    cut off)."""
    levels, place, level = np.zeros(count, np.int64), 2 * at, np.int64(0)
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
def pack_bits(unsigned, bits):
    """The low bits[i] of each of integers [n], lowest bit first, as uint8: what `read_bits` reads."""
    out = np.zeros((bits.sum() + 7) >> 3, np.uint8)
    at, held, have = 0, np.int64(0), np.int64(0)
    for i in range(len(bits)):
        held |= (unsigned[i] & ((1 << bits[i]) - 1)) << have
        have += bits[i]
        while have >= 8:
            out[at] = held & 255
            at, held, have = at + 1, held >> 8, have - 8
    if have > 0:
        out[at] = held
    return out


@numba.njit(cache=True, nogil=True)
def read_bits(data, at, bits, rows):
    """Integers [rows, n] of `bits` [n] each from byte `at` of uint8 data, row after row, lowest bit first; where the
    next byte is, -1 where there are too few."""
    out = np.empty((rows, len(bits)), np.int64)
    held, have = np.int64(0), np.int64(0)
    for row in range(rows):
        for i in range(len(bits)):
            while have < bits[i]:
                if at == len(data):
                    return out, -1
                held |= np.int64(data[at]) << have
                at, have = at + 1, have + 8
            out[row, i] = held & ((1 << bits[i]) - 1)
            held, have = held >> bits[i], have - bits[i]
    return out, at
