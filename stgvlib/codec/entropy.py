"""Lossless coding of integers: what of .stgv files is entropy-coded (docs/FORMAT.md, "Integers").

An integer becomes a token and raw low bits: small ones are tokens of their own, larger ones share a token with all that
have the same three leading bits. Tokens are coded by an asymmetric numeral system under their own histogram, which is
sent to within a ninth; raw bits are packed. So sharp and heavy-tailed distributions are both coded near their entropy
without parameters to choose, and decoding is a compiled loop (entropy_cpu.py): a third of the time of a library's range
coder. Few integers are raw bits altogether.
"""

import numpy as np

from stgvlib.errors import StgvError

SMALL = 16  # integers below it are their own token
TOKENS = SMALL + 28 * 4  # of 32-bit integers
WEIGHTS = np.array([0, *(int(16 * 2 ** (level / 3) + 0.5) for level in range(43))])  # of a histogram's levels
SIGNED, FROM_LEAST, RAW = 0, 1, 2  # kinds
WRONG = (  # in the order of decode_values
    "integers are cut off",
    "integers of an unknown kind",
    "raw integers of more than 32 bits",
    "a histogram of too many tokens or none",
    "a histogram has levels out of range",
    "tokens or raw bits do not decode",
)


class CodingError(StgvError):
    """Bytes that no encoder of ours wrote."""


def encode_integers(values: np.ndarray) -> bytes:
    """Integers -> bytes: as distances from their median, or from their least, or raw, whichever is shortest.

    Raises ValueError when they spread over 2^31 or more, or when median or least do not fit in 32 bits.
    """
    values = values.astype(np.int64).ravel()
    if len(values) == 0:
        return _encode(values, 0, RAW)
    middle, least = int(np.median(values)), int(values.min())
    if int(values.max()) - least >= 2**31 or not -(2**31) <= least <= middle < 2**31:
        raise ValueError(f"integers from {least} to {values.max()} cannot be coded")
    coded = (
        (_zigzag(values - middle), middle, SIGNED),
        (values - least, least, FROM_LEAST),
        (values - least, least, RAW),
    )
    return min((_encode(*how) for how in coded), key=len)


def _encode(unsigned: np.ndarray, origin: int, kind: int) -> bytes:
    from stgvlib.codec.entropy_cpu import encode_tokens, tokens_of

    start = bytes([kind]) + _varint(int(_zigzag(np.int64(origin))))
    if kind == RAW:
        bits = int(unsigned.max(initial=0)).bit_length()
        return start + _varint(bits) + pack(unsigned, np.full(len(unsigned), bits))
    token, bits = tokens_of(unsigned, SMALL)
    levels = _levels(np.bincount(token))
    words = np.empty(0)
    if len(levels) > 1:
        words = encode_tokens(token, _frequencies(levels))
    head = _varint(len(levels)) + _varint(len(words)) + _nibbles(levels)
    return start + head + words.astype("<u2").tobytes() + pack(unsigned, bits)


def _levels(counts: np.ndarray) -> np.ndarray:
    """Logarithms of a histogram, in thirds of an octave under its largest; zero where it is zero."""
    with np.errstate(divide="ignore"):
        thirds = np.round(3 * np.log2(counts / counts.max()))
    return np.where(counts > 0, len(WEIGHTS) - 1 + np.maximum(thirds, 2 - len(WEIGHTS)), 0).astype(np.int64)


def _frequencies(levels: np.ndarray) -> np.ndarray:
    from stgvlib.codec.entropy_cpu import frequencies_of

    return frequencies_of(WEIGHTS[levels])


def decode_integers(
    data: memoryview, start: int, count: int, out: np.ndarray | None = None, scale: float = 1.0
) -> tuple[np.ndarray, int]:
    """(int64 [count], where the next begins); an `out` [count] is filled with them, one of float32 times `scale`.

    Raises CodingError for what `encode_integers` did not write.
    """
    from stgvlib.codec.entropy_cpu import decode_values

    values = np.empty(count, np.int64) if out is None else out
    factor = np.int64(1) if values.dtype == np.int64 else np.float64(scale)
    kinds = (SMALL, TOKENS, SIGNED, RAW)
    end = decode_values(np.frombuffer(data, np.uint8), start, values, factor, WEIGHTS, kinds)
    if end < 0:
        raise CodingError(WRONG[-1 - end])
    return values, end


def unpack(data: memoryview, start: int, bits: np.ndarray, rows: int) -> tuple[np.ndarray, int]:
    """(int64 [rows, n] of `bits` [n] raw bits each, where the next begins): what `pack` made of them, row by row."""
    from stgvlib.codec.entropy_cpu import read_bits

    values, end = read_bits(np.frombuffer(data, np.uint8), start, bits, rows)
    if end < 0:
        raise CodingError("raw bits are cut off")
    return values, end


def _zigzag(values: np.ndarray) -> np.ndarray:
    return np.where(values >= 0, 2 * values, -2 * values - 1)


def pack(unsigned: np.ndarray, bits: np.ndarray) -> bytes:
    """The low `bits` of each integer, lowest first, in one string of bits; bytes fill from their lowest bit."""
    from stgvlib.codec.entropy_cpu import pack_bits

    return pack_bits(unsigned, bits).tobytes()


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first, the highest bit set on all but the last."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _nibbles(levels: np.ndarray) -> bytes:
    """Each level's difference to the one before, plus 7, in four bits; or 15 and the level itself in eight."""
    parts: list[int] = []
    for level, change in zip(levels.tolist(), np.diff(levels, prepend=0).tolist()):
        parts += [change + 7] if -7 <= change <= 7 else [15, level & 15, level >> 4]
    return pack(np.array(parts), np.full(len(parts), 4))
