"""Lossless coding of integers: what of .stgv files is entropy-coded (docs/FORMAT.md, "Integers").

An integer becomes a token and raw low bits: small ones are tokens of their own, larger ones share a token with all that
have the same three leading bits. Tokens are coded by an asymmetric numeral system under their own histogram, which is
sent; raw bits are packed. So sharp and heavy-tailed distributions are both coded near their entropy without parameters
to choose, and decoding is a compiled loop (entropy_cpu.py): a third of the time of a library's range coder.
"""

import struct

import numpy as np

from stgvlib.errors import StgvError

SMALL = 16  # integers below it are their own token
TOKENS = SMALL + 28 * 4  # of 32-bit integers
HEAD = struct.Struct("<IIiBB")  # integers, words, origin, kind, tokens in the histogram
TOTAL = 2**14  # sum of a histogram


class CodingError(StgvError):
    """Bytes that no encoder of ours wrote."""


def encode_integers(values: np.ndarray) -> bytes:
    """Integers -> bytes: as distances from their median, or from their least, whichever is shorter.

    Raises ValueError when they spread over 2^31 or more, or when median or least do not fit in 32 bits.
    """
    values = values.astype(np.int64).ravel()
    if len(values) == 0:
        return _encode(values, 0, 0)
    middle, least = int(np.median(values)), int(values.min())
    if int(values.max()) - least >= 2**31 or not -(2**31) <= least <= middle < 2**31:
        raise ValueError(f"integers from {least} to {values.max()} cannot be coded")
    pair = _encode(_zigzag(values - middle), middle, 0), _encode(values - least, least, 1)
    return min(pair, key=len)


def _encode(unsigned: np.ndarray, origin: int, kind: int) -> bytes:
    from stgvlib.entropy_cpu import encode_tokens

    token, bits = _tokens(unsigned)
    frequencies = _frequencies(np.bincount(token, minlength=1))
    words = encode_tokens(token, frequencies) if len(token) and len(frequencies) > 1 else np.empty(0)
    head = HEAD.pack(len(unsigned), len(words), origin, kind, len(frequencies))
    return head + _varints(frequencies) + words.astype("<u2").tobytes() + pack(unsigned, bits)


def _frequencies(counts: np.ndarray) -> np.ndarray:
    """A histogram in proportion to `counts` that sums to TOTAL; what occurs keeps at least one."""
    frequencies = np.where(counts > 0, np.maximum(1, counts * TOTAL // max(counts.sum(), 1)), 0)
    while (off := TOTAL - frequencies.sum()) != 0:
        most = frequencies.argmax()
        frequencies[most] += max(off, -(frequencies[most] // 2))
    return frequencies


def decode_integers(data: memoryview, start: int, count: int) -> tuple[np.ndarray, int]:
    """(int64 [count], where the next begins). `count` is what the caller expects; any other raises CodingError."""
    from stgvlib.entropy_cpu import decode_values, read_varints

    if len(data) - start < HEAD.size:
        raise CodingError("integers are cut off")
    found, size, origin, kind, alphabet = HEAD.unpack_from(data, start)
    if found != count or kind > 1 or not 1 <= alphabet <= TOKENS:
        raise CodingError(f"{count} integers expected, found {found} of {alphabet} tokens, kind {kind}")
    start += HEAD.size
    frequencies, taken = read_varints(np.frombuffer(data, np.uint8)[start:], alphabet)
    if taken < 0:
        raise CodingError("histogram is cut off" if taken == -1 else "histogram entry of more than 21 bits")
    start += taken
    if frequencies.sum() != TOTAL:
        raise CodingError(f"histogram of {frequencies.sum()} instead of {TOTAL}")
    if 2 * size > len(data) - start:
        raise CodingError("integers are cut off")
    words = np.frombuffer(data, "<u2", size, start)
    start += 2 * size
    raw = np.frombuffer(data, np.uint8)[start:]
    values, taken = decode_values(words, frequencies, count, raw, SMALL, origin, kind == 0)
    if taken < 0:
        raise CodingError("tokens or raw bits do not decode")
    return values, start + taken


def unpack(data: memoryview, start: int, bits: np.ndarray, rows: int) -> tuple[np.ndarray, int]:
    """(int64 [rows, n] of `bits` [n] raw bits each, where the next begins): what `pack` made of them, row by row."""
    from stgvlib.entropy_cpu import read_bits

    values, taken = read_bits(np.frombuffer(data, np.uint8)[start:], bits, rows)
    if taken < 0:
        raise CodingError("finer bits are cut off")
    return values, start + taken


def _zigzag(values: np.ndarray) -> np.ndarray:
    return np.where(values >= 0, 2 * values, -2 * values - 1)


def _tokens(unsigned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(token, number of raw bits) of each integer."""
    exponent = np.frexp(np.maximum(unsigned, SMALL).astype(np.float64))[1].astype(np.int64) - 1
    large = SMALL + (exponent - 4) * 4 + (unsigned >> (exponent - 2) & 3)
    small = unsigned < SMALL
    return np.where(small, unsigned, large), np.where(small, 0, exponent - 2)


def pack(unsigned: np.ndarray, bits: np.ndarray) -> bytes:
    """The low `bits` of each integer, lowest first, in one string of bits; bytes fill from their lowest bit."""
    owner = np.repeat(np.arange(len(bits)), bits)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(bits) - bits, bits)
    return np.packbits((unsigned[owner] >> place & 1).astype(np.uint8), bitorder="little").tobytes()


def _varints(values: np.ndarray) -> bytes:
    """Seven bits a byte, lowest first, the highest bit set on all but the last."""
    out = bytearray()
    for value in values.tolist():
        while value >= 128:
            out.append(value & 127 | 128)
            value >>= 7
        out.append(value)
    return bytes(out)
