"""A second decoder of .stgv files, written from docs/FORMAT.md alone, with NumPy and the standard library.

It takes nothing from stgvlib, so a test in which both decoders agree checks the document. It stops at the values of
Gaussians and field and does not render; format_field.py evaluates the field where a GoP is predicted. It is slow:
tokens are decoded one by one in Python.
"""

import json
import math
import struct
import zlib
from dataclasses import dataclass

import format_field
import numpy as np

MAGIC = bytes.fromhex("89535447560D0A0A")
HEADER, KEY, PREDICTED = 1, 2, 3  # kinds of sections
LEAST, MOST = math.log(0.3) - 1, 14  # of the logarithms of l1 and l3
FIELD_DEFAULTS = {
    "encoding": "hash",
    "spatial": True,
    "temporal": True,
    "levels": 8,
    "log2_table_size": 10,
    "base_resolution": 16,
    "growth": 1.5,
    "spatial_features": 2,
    "temporal_features": 4,
    "time_cells": None,
    "time_frequencies": 6,
    "position_frequencies": 10,
    "time_code": "pi",
    "position_code": "pi",
    "slope": 0,
    "position_space": "pixels",
    "position_scale": None,
    "width": 128,
    "deform_shape": False,
    "head_layers": 1,
    "polynomial": 0,
    "lattice": [],
    "fade": False,
}


@dataclass
class Gop:
    """One GoP: the integers as they stand in the file, and the values that they stand for."""

    frames: int
    origin: tuple[int, int]  # x, y
    gaps: np.ndarray  # [N] int64
    shape: np.ndarray  # [3, N]: a, b, c
    color: np.ndarray  # [3, N]: green, red - green, blue - green
    finer_position: np.ndarray  # [2, N]: the bits of x and y as a number
    finer_shape: np.ndarray  # [3, N]: the bits of a, b, c as a number
    motion: np.ndarray  # [2 degree, N], or [1, N] of what fades
    field: list[np.ndarray]  # the field's tensors, in their own shapes
    field_steps: list[float]
    sizes: np.ndarray  # [N]
    finer_bits: tuple[np.ndarray, np.ndarray]  # [N] each: how many, of positions and of shapes
    mu: np.ndarray  # [N, 2] px, float64
    cholesky: np.ndarray  # [N, 3] px: l1, l2, l3
    rgb: np.ndarray  # [N, 3]
    motion_values: np.ndarray  # [N, degree, 2], or [N, 1] of what fades
    field_values: list[np.ndarray]
    chain_steps: np.ndarray  # [3, N]: of position, shape and colour in the GoPs that are predicted from this one

    def integers(self) -> list[np.ndarray]:
        """Everything that "Integers are the same on every machine" promises, in the order of the file."""
        fixed = [np.array([self.frames, len(self.gaps), *self.origin])]
        finer = [self.finer_position, self.finer_shape]
        return [*fixed, self.gaps, self.shape, self.color, *finer, self.motion, *self.field]


@dataclass
class PredictedGop:
    """One predicted GoP: the integers as they stand in the file, and the values that they lead to."""

    frames: int
    flags: np.ndarray  # [M] int64
    position: np.ndarray  # [2, n]: x, y
    shape: np.ndarray  # [3, n]: a, b, c
    color: np.ndarray  # [3, n]: green, red - green, blue - green
    differences: list[int]  # of each tensor of the field: whether it is a difference
    field: list[np.ndarray]
    field_steps: list[float]
    mu: np.ndarray  # [M, 2] px, float64
    cholesky: np.ndarray  # [M, 3] px: l1, l2, l3
    rgb: np.ndarray  # [M, 3]
    field_values: list[np.ndarray]  # float32
    chain_steps: np.ndarray  # [3, M]

    def integers(self) -> list[np.ndarray]:
        """As `Gop.integers`."""
        fixed = [np.array([self.frames, len(self.flags)]), self.flags, self.position, self.shape, self.color]
        tensors = zip(self.differences, self.field, strict=True)
        return fixed + [part for differs, tensor in tensors for part in (np.array([differs], np.int64), tensor)]


def decode(data: bytes) -> tuple[dict, list[Gop | PredictedGop]]:
    """Header and GoPs of a .stgv file. Raises ValueError where the file is not as docs/FORMAT.md says."""
    if data[:8] != MAGIC:
        raise ValueError(f"not a .stgv file: it starts with {data[:8].hex()}")
    version, sections, table_crc = struct.unpack_from("<HHI", data, 8)
    if version not in (3, 4):
        raise ValueError(f"version must be 3 or 4, got {version}")
    table = data[16 : 16 + 11 * sections]
    if zlib.crc32(table) != table_crc:
        raise ValueError("the section table's checksum fails")
    header, gops, at = None, {}, 16 + 11 * sections
    for kind, number, size, crc in struct.iter_unpack("<BHII", table):
        body, at = data[at : at + size], at + size
        if zlib.crc32(body) != crc:
            raise ValueError(f"the checksum of a section of kind {kind}, GoP {number}, fails")
        if kind == HEADER:
            header = json.loads(body)
        elif kind == KEY:
            gops[number] = decode_gop(body, header, version)
        elif kind == PREDICTED and version == 4:
            gops[number] = decode_predicted(body, header, gops[number - 1])
    if sorted(gops) != list(range(len(header["frames"]))):
        raise ValueError(f"the header has {len(header['frames'])} GoPs, the file GoPs {sorted(gops)}")
    return header, [gops[number] for number in sorted(gops)]


def decode_gop(body: bytes, header: dict, version: int) -> Gop:
    steps = header["steps"]
    field = FIELD_DEFAULTS | header["field"]
    frames, count, *origin = struct.unpack_from("<HIii", body)
    reader = Reader(body, 14)
    gaps = reader.integers(count)
    shape = reader.rows(3, count)

    u, v = steps.get("lowest", (None, None))
    P, S = steps["position"], steps["cholesky"]
    size = np.zeros(count, np.int64)
    if u is not None:
        P, S = P / (steps["color"] * 2.0**v), S / (steps["color"] * 2.0**u)
        size = sum((shape[0] + shape[2] >= (k + 0.5) * 2 * math.log(2) / S).astype(np.int64) for k in range(5))
    color = np.zeros((3, count), np.int64)
    for channel in color:
        for one in np.unique(size):
            channel[size == one] = reader.integers(int((size == one).sum()))

    green = color[0]
    rgb = np.stack([color[1] + green, green, color[2] + green], -1)  # [N, 3]
    position_bits, shape_bits = np.zeros(count, np.int64), np.zeros(count, np.int64)
    if u is not None:
        energy = (rgb**2).sum(-1).astype(np.float64)
        shape_bits = sum((energy >= 4.0 ** (u + k)).astype(np.int64) for k in range(4))
        position_bits = sum((energy >= 4.0 ** (v + k + size)).astype(np.int64) for k in range(3))
    finer_position = reader.bits(np.tile(position_bits, 2)).reshape(2, count)
    finer_shape = reader.bits(np.tile(shape_bits, 3)).reshape(3, count)

    degree, fades = field["polynomial"], int(field["fade"])
    motion = reader.rows(2 * degree + fades, count)
    tensors, field_steps = [], []
    for extent in tensor_shapes(field):
        field_steps.append(reader.float32())
        tensors.append(reader.integers(math.prod(extent)).reshape(extent))
    if reader.at != len(body):
        raise ValueError(f"{len(body) - reader.at} bytes are left at the end of a GoP")

    code = np.cumsum(gaps)
    xy = np.stack([deinterleave(code), deinterleave(code >> 1)]) + np.array(origin)[:, None]  # [2, N]
    fine_a, b, fine_c = with_finer_bits(shape, finer_shape, shape_bits) * S
    moved = motion * steps["motion"]
    l1, l3 = np.exp(np.clip(fine_a, LEAST, MOST)), np.exp(np.clip(fine_c, LEAST, MOST))
    return Gop(
        frames,
        tuple(origin),
        gaps,
        shape,
        color,
        finer_position,
        finer_shape,
        motion,
        tensors,
        field_steps,
        size,
        (position_bits, shape_bits),
        mu=with_finer_bits(xy, finer_position, position_bits).T * P,
        cholesky=np.stack([l1, b * l3, l3], -1),
        rgb=rgb * (steps["color"] * 2.0 ** -size[:, None]),
        motion_values=moved.T if fades else moved.reshape(degree, 2, count).transpose(2, 0, 1),
        field_values=[sums(tensor, version) * step for tensor, step in zip(tensors, field_steps, strict=True)],
        chain_steps=np.stack([P / 2.0**position_bits, S / 2.0**shape_bits, steps["color"] / 2.0**size]),
    )


def decode_predicted(body: bytes, header: dict, before: Gop | PredictedGop) -> PredictedGop:
    field = FIELD_DEFAULTS | header["field"]
    frames, count = struct.unpack_from("<HI", body)
    if count != len(before.mu):
        raise ValueError(f"a GoP is predicted from {count} Gaussians, the one before it has {len(before.mu)}")
    reader = Reader(body, 6)
    flags = reader.integers(count)
    if not np.isin(flags, (0, 1)).all():
        raise ValueError("flags must be 0 or 1")
    at = np.flatnonzero(flags)
    position, shape, color = (reader.rows(rows, len(at)) for rows in (2, 3, 3))
    differences, field_steps, tensors, values = [], [], [], []
    for extent, base in zip(tensor_shapes(field), before.field_values, strict=True):
        differences.append(reader.take(1)[0])
        field_steps.append(reader.float32())
        tensors.append(reader.integers(math.prod(extent)).reshape(extent))
        numbers = sums(tensors[-1], 4).astype(np.float32) * np.float32(field_steps[-1])
        values.append(numbers + base.astype(np.float32) if differences[-1] else numbers)
    if reader.at != len(body):
        raise ValueError(f"{len(body) - reader.at} bytes are left at the end of a GoP")

    canonical = [v.astype(np.float32) for v in (before.mu, before.cholesky, before.rgb)]
    end = format_field.deformed(field, header["size"], *canonical, before.field_values, 1.0)
    mu, cholesky, rgb = (v.astype(np.float32).astype(np.float64) for v in end)
    cholesky[:, ::2] = np.maximum(cholesky[:, ::2], np.float32(0.3))
    by_position, by_shape, by_color = before.chain_steps[:, at]
    mu[at] += (position * by_position).T
    green, red, blue = color
    rgb[at] += (np.stack([red + green, green, blue + green]) * by_color).T
    changes = (shape != 0).any(0)
    turned, (a, b, c) = at[changes], (shape * by_shape)[:, changes]
    l1, l2, l3 = cholesky[turned].T
    ratio = l2 / l3 + b
    l1, l3 = (np.exp(np.clip(np.log(v) + d, LEAST, MOST)) for v, d in ((l1, a), (l3, c)))
    cholesky[turned] = np.stack([l1, ratio * l3, l3], 1)
    numbers = [frames, flags, position, shape, color, differences, tensors, field_steps]
    return PredictedGop(*numbers, mu, cholesky, rgb, values, before.chain_steps)


def sums(tensor: np.ndarray, version: int) -> np.ndarray:
    """A tensor's integers; from version 4 on a lattice, the only tensor of four axes, has sums over its points in
    time."""
    return tensor.cumsum(0) if version == 4 and tensor.ndim == 4 else tensor


def with_finer_bits(integers: np.ndarray, finer: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """i + (r + 1/2) / 2^w - 1/2: the middle of part r of the cell around i, cut into 2^w."""
    return integers + (finer + 0.5) / 2.0**bits - 0.5


def deinterleave(code: np.ndarray) -> np.ndarray:
    """The number whose bits are the even bits of a Z-order code of 32 bits."""
    return sum((code >> 2 * bit & 1) << bit for bit in range(16))


def tensor_shapes(field: dict) -> list[tuple[int, ...]]:
    """Shapes of the field's tensors, in the order of the file."""
    lattice = [(*field["lattice"], 2)] if field["lattice"] else []
    if field["encoding"] == "none":
        return lattice
    tables, width = [], 1 + 2 * field["time_frequencies"]  # gamma(t): t, and sine and cosine of each frequency
    if field["encoding"] == "positional":  # x and y, and sine and cosine of each frequency
        width += 2 * (1 + 2 * field["position_frequencies"])
    elif field["encoding"] == "planes":
        tables, width = [(16, 40, 40), (16, 16, 40), (16, 16, 40)], width + 3 * 16
    elif field["encoding"] == "hash":
        for dims, name in ((2, "spatial"), (3, "temporal")):
            if field[name]:
                features = field[f"{name}_features"]
                tables.append((int(format_field.grids(field, dims)[2].sum()), features))
                width += field["levels"] * features
    else:
        raise ValueError(f"unknown encoding {field['encoding']!r}")
    layers = [(width, field["width"]), (field["width"], field["width"])]
    for outputs in (2, 3, 3)[: 3 if field["deform_shape"] else 2]:
        layers += [(field["width"], field["width"])] * (field["head_layers"] - 1) + [(field["width"], outputs)]
    return lattice + tables + [extent for layer in layers for extent in (layer, layer[1:])]


class Reader:
    """Reads a GoP's integers one run after the other ("Integers" in docs/FORMAT.md)."""

    def __init__(self, data: bytes, at: int):
        self.data, self.at = data, at

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise ValueError("a GoP ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def float32(self) -> float:
        return struct.unpack("<f", self.take(4))[0]

    def varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def rows(self, rows: int, count: int) -> np.ndarray:
        return np.array([self.integers(count) for _ in range(rows)], np.int64).reshape(rows, count)

    def bits(self, widths: np.ndarray) -> np.ndarray:
        """One number of `widths[i]` raw bits each, lowest bit first, padded to whole bytes at the end."""
        packed = np.frombuffer(self.take((int(widths.sum()) + 7) // 8), np.uint8)
        bits = np.unpackbits(packed, bitorder="little").astype(np.int64)
        number = np.repeat(np.arange(len(widths)), widths)  # that each bit belongs to
        place = np.arange(len(number)) - (np.cumsum(widths) - widths)[number]
        numbers = np.zeros(len(widths), np.int64)
        np.add.at(numbers, number, bits[: len(number)] << place)
        return numbers

    def integers(self, count: int) -> np.ndarray:
        """A run of `count` integers."""
        kind, origin = self.take(1)[0], self.varint()
        origin = -(origin + 1) // 2 if origin & 1 else origin // 2
        if kind == 2:
            u = self.bits(np.full(count, self.varint()))
        else:
            alphabet, words = self.varint(), self.varint()
            frequencies = self.frequencies(alphabet)
            tokens = self.tokens(count, frequencies, np.frombuffer(self.take(2 * words), "<u2").tolist())
            e = (tokens - 16) // 4 + 4
            raw = np.where(tokens < 16, 0, e - 2)
            r = self.bits(raw)
            u = np.where(tokens < 16, tokens, (4 + (tokens - 16) % 4 << raw) + r)
        if kind == 0:
            return origin + np.where(u % 2, -(u + 1) // 2, u // 2)
        return origin + u

    def frequencies(self, alphabet: int) -> list[int]:
        """Counts f_k of the tokens, which sum to 2^14."""
        start, level, levels, nibbles = self.at, 0, [], 0

        def nibble() -> int:
            nonlocal nibbles
            byte = self.data[start + nibbles // 2]
            nibbles += 1
            return byte & 15 if nibbles % 2 else byte >> 4

        for _ in range(alphabet):
            d = nibble()
            level = nibble() + 16 * nibble() if d == 15 else level + d - 7
            levels.append(level)
        self.take((nibbles + 1) // 2)
        weights = [math.floor(16 * 2 ** ((l - 1) / 3) + 0.5) if l else 0 for l in levels]
        total = sum(weights)
        f = [max(1, 2**14 * weight // total) if weight else 0 for weight in weights]
        while d := 2**14 - sum(f):
            largest = f.index(max(f))
            f[largest] += max(d, -(f[largest] // 2))
        return f

    def tokens(self, count: int, f: list[int], words: list[int]) -> np.ndarray:
        if len(f) == 1:
            return np.zeros(count, np.int64)
        c = np.cumsum([0, *f]).tolist()
        token_of = np.repeat(np.arange(len(f)), f).tolist()  # [2^14]
        words = iter(words)
        s, tokens = next(words) << 16 | next(words), []
        for _ in range(count):
            m = s % 2**14
            k = token_of[m]
            tokens.append(k)
            s = f[k] * (s >> 14) + m - c[k]
            if s < 2**16:
                s = s << 16 | next(words)
        if s != 2**16 or next(words, None) is not None:
            raise ValueError(f"after the last integer the state is {s}, not 2^16, or words are left")
        return np.array(tokens, np.int64)
