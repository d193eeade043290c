"""Lossless coding of integers: what of .stgv files is entropy-coded (docs/FORMAT.md, "Integers").

An integer becomes a token and raw low bits: small ones are tokens of their own, larger ones share a token with all that
have the same three leading bits. Tokens are range-coded (constriction) under their own histogram, which is sent; raw
bits are packed. So sharp and heavy-tailed distributions are both coded near their entropy without parameters to choose.
"""

import struct

import numpy as np

from stgvlib.errors import StgvError

SMALL = 16  # integers below it are their own token
TOKENS = SMALL + 28 * 4  # of 32-bit integers
HEAD = struct.Struct("<IIiBB")  # integers, words, origin, kind, tokens in the histogram
TOTAL = 2**14  # histograms are sent with about this sum


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
    import constriction

    token, bits = _tokens(unsigned)
    counts = np.bincount(token, minlength=1)
    frequencies = np.where(counts > 0, np.maximum(1, counts * TOTAL // max(len(token), 1)), 0)
    words = np.empty(0, np.uint32)
    if len(token) and len(counts) > 1:
        coder = constriction.stream.queue.RangeEncoder()
        coder.encode(token.astype(np.int32), _model(frequencies))
        words = coder.get_compressed()
    head = HEAD.pack(len(unsigned), len(words), origin, kind, len(counts))
    return head + _varints(frequencies) + words.astype("<u4").tobytes() + _pack(unsigned, bits)


def decode_integers(data: memoryview, start: int, count: int) -> tuple[np.ndarray, int]:
    """(int64 [count], where the next begins). `count` is what the caller expects; any other raises CodingError."""
    import constriction

    if len(data) - start < HEAD.size:
        raise CodingError("integers are cut off")
    found, size, origin, kind, alphabet = HEAD.unpack_from(data, start)
    if found != count or kind > 1 or not 1 <= alphabet <= TOKENS:
        raise CodingError(f"{count} integers expected, found {found} of {alphabet} tokens, kind {kind}")
    frequencies, start = _read_varints(data, start + HEAD.size, alphabet)
    if 4 * size > len(data) - start:
        raise CodingError("integers are cut off")
    words = np.frombuffer(data, "<u4", size, start).astype(np.uint32)
    start += 4 * size
    if count == 0 or alphabet == 1:
        token = np.zeros(count, np.int32)
    else:
        if not 0 < frequencies.sum() < 2**24:
            raise CodingError("histogram without entries, or too many")
        try:
            token = constriction.stream.queue.RangeDecoder(words).decode(_model(frequencies), count)
        except (AssertionError, ValueError) as error:
            raise CodingError("tokens do not decode") from error
    return _values(token, data, start, origin, kind == 0)


def _model(frequencies: np.ndarray):
    import constriction

    # One in 2^20 for tokens that do not occur keeps every table valid for the coder.
    share = (frequencies + 2.0**-20) / (frequencies + 2.0**-20).sum()
    return constriction.stream.model.Categorical(share.astype(np.float64), perfect=False)


def _zigzag(values: np.ndarray) -> np.ndarray:
    return np.where(values >= 0, 2 * values, -2 * values - 1)


def _tokens(unsigned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(token, number of raw bits) of each integer."""
    exponent = np.frexp(np.maximum(unsigned, SMALL).astype(np.float64))[1].astype(np.int64) - 1
    large = SMALL + (exponent - 4) * 4 + (unsigned >> (exponent - 2) & 3)
    small = unsigned < SMALL
    return np.where(small, unsigned, large), np.where(small, 0, exponent - 2)


def _pack(unsigned: np.ndarray, bits: np.ndarray) -> bytes:
    """The low `bits` of each integer, lowest first, in one string of bits; bytes fill from their lowest bit."""
    owner = np.repeat(np.arange(len(bits)), bits)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(bits) - bits, bits)
    return np.packbits((unsigned[owner] >> place & 1).astype(np.uint8), bitorder="little").tobytes()


def _values(token: np.ndarray, data: memoryview, start: int, origin: int, signed: bool) -> tuple[np.ndarray, int]:
    """Integers from their tokens and the raw bits at `start`, and where those end."""
    from stgvlib.entropy_cpu import values

    large = np.bincount(token, minlength=SMALL)[SMALL:]  # how often each token with raw bits occurs
    size = -(-int((large * (np.arange(len(large)) // 4 + 2)).sum()) // 8)
    if size > len(data) - start:
        raise CodingError("raw bits are cut off")
    return values(token, np.frombuffer(data, np.uint8, size, start), SMALL, origin, signed), start + size


def _varints(values: np.ndarray) -> bytes:
    """Seven bits a byte, lowest first, the highest bit set on all but the last."""
    out = bytearray()
    for value in values.tolist():
        while value >= 128:
            out.append(value & 127 | 128)
            value >>= 7
        out.append(value)
    return bytes(out)


def _read_varints(data: memoryview, start: int, count: int) -> tuple[np.ndarray, int]:
    values = np.zeros(count, np.int64)
    for k in range(count):
        for shift in (0, 7, 14):
            if start >= len(data):
                raise CodingError("histogram is cut off")
            byte = data[start]
            start += 1
            values[k] |= (byte & 127) << shift
            if byte < 128:
                break
        else:
            raise CodingError("histogram entry of more than 21 bits")
    return values, start
