"""A GoP's section of a .stgv file: its integers to bytes and back (docs/FORMAT.md, "A GoP" and "A predicted GoP").

A reader believes nothing: what it reads is in range, or the GoP is damaged.
"""

import struct

import numpy as np
import torch

from stgvlib.codec.entropy import CodingError, decode_integers, encode_integers, pack, unpack
from stgvlib.codec.predict import CHANGED, SAME, Changes
from stgvlib.codec.quantize import AXIS_BITS, MOST_STEP, Group, of_lattice
from stgvlib.codec.steps import SIZES, Steps
from stgvlib.model.video_model import VideoModel

KEY, PREDICTED = 2, 3  # kinds of section
UNIT = struct.Struct("<HIii")  # frames, Gaussians, origin x, origin y
CHANGES = struct.Struct("<HI")  # frames, Gaussians of the GoP before
STEP, FLAG = struct.Struct("<f"), struct.Struct("<B")
PARTS = ("position", "shape", "color", "motion", "field", "flags")


def key_unit(group: Group) -> bytes:
    """The section of a GoP that is coded on its own."""
    return b"".join(key_parts(group).values())


def key_parts(group: Group) -> dict[str, bytes]:
    """Its parts, in their order."""
    head = UNIT.pack(group.frames, len(group.gaps), *group.origin)
    alike = _of_sizes(group.sizes)
    finer = (pack(v.ravel(), np.tile(bits, len(v))) for bits, v in zip(group.bits, group.finer, strict=True))
    return {
        "position": head + encode_integers(group.gaps),
        "shape": b"".join(map(encode_integers, group.cholesky)),
        "color": b"".join(encode_integers(row[of]) for row in group.color for of in alike),
        "finer": b"".join(finer),
        "motion": b"".join(map(encode_integers, group.motion)),
        "field": b"".join(STEP.pack(step) + encode_integers(values) for step, values in group.tensors),
    }


def predicted_unit(changes: Changes) -> bytes:
    """The section of a GoP that is predicted from the one before it."""
    rows = [changes.flags[None], changes.position, changes.shape, changes.color]
    parts = [CHANGES.pack(changes.frames, len(changes.flags)), *(encode_integers(row) for part in rows for row in part)]
    for predicted, (step, values) in zip(changes.predicted, changes.tensors, strict=True):
        parts += [bytes([predicted]), STEP.pack(step), encode_integers(values)]
    return b"".join(parts)


def read_unit(
    kind: int, unit: memoryview, model: VideoModel, g: int, steps: Steps, lattice_differences: bool = True
) -> tuple[Group | Changes, dict]:
    """A GoP's integers, and the bytes of each of PARTS. Numbers of the field go right into the model, of a predicted
    GoP as differences. `lattice_differences`: a lattice was sent as differences in time. Raises CodingError."""
    reader = _Reader(unit, model, g, lattice_differences)
    group = reader.key(steps) if kind == KEY else reader.predicted()
    if reader.at != len(unit):
        raise CodingError("has bytes too many")
    reader.ends("field")
    return group, reader.parts


class _Reader:
    """Reads a section from its first byte to its last; `parts` are the bytes so far."""

    def __init__(self, unit: memoryview, model: VideoModel, g: int, lattice_differences: bool):
        self.unit, self.model, self.g, self.at, self.begun = unit, model, g, 0, 0
        self.lattice_differences = lattice_differences
        self.parts = dict.fromkeys(PARTS, 0)

    def key(self, steps: Steps) -> Group:
        from stgvlib.codec.quantize_cpu import finer_bits, size_classes

        frames, count, *origin = self._head(UNIT)
        self._check(frames, count)
        gaps = self._rows(1, count)[0]
        if (gaps < 0).any() or gaps.sum() >= 2 ** (2 * AXIS_BITS):
            raise CodingError("has positions out of range")
        self.ends("position")
        sizes_from, shape_from, position_from = steps.bounds
        shape = self._rows(3, count)
        self.ends("shape")
        sizes = size_classes(shape[0], shape[2], sizes_from)
        color = np.zeros((3, count), np.int64)
        alike = _of_sizes(sizes)
        for row in color:
            for of in alike:
                row[of] = self._integers(len(of))
        self.ends("color")
        rgb = color[[1, 0, 2]]  # sent as green, red - green, blue - green
        rgb[::2] += color[0]
        bits = finer_bits(rgb, sizes, position_from), finer_bits(rgb, np.zeros_like(sizes), shape_from)
        finer = []
        for part, own, n in zip(("position", "shape"), bits, (2, 3), strict=True):
            values, self.at = unpack(self.unit, self.at, own, n)
            finer.append(values)
            self.ends(part)
        motion = self._rows(self.model.config.field.own_numbers, count)
        self.ends("motion")
        for p in self.model.field.parameters():
            self._tensor(p)
        return Group(frames, tuple(origin), gaps, shape, color, sizes, bits, tuple(finer), motion, [])

    def predicted(self) -> Changes:
        if self.model.config.field.own_numbers:
            raise CodingError("is predicted, which Gaussians with numbers of their own cannot be")
        frames, before = self._head(CHANGES)
        self._check(frames, before)
        flags = self._rows(1, before)[0]
        if ((flags != SAME) & (flags != CHANGED)).any():
            raise CodingError("has flags out of range")
        self.ends("flags")
        changed, rows = int(flags.sum()), []
        for part, n in (("position", 2), ("shape", 3), ("color", 3)):
            rows.append(self._rows(n, changed))
            self.ends(part)
        predicted = []
        for p in self.model.field.parameters():
            (from_before,) = self._head(FLAG)
            if from_before > 1:
                raise CodingError("has flags out of range")
            predicted.append(bool(from_before))
            self._tensor(p)
        return Changes(frames, flags, *rows, predicted, [])

    def ends(self, part: str) -> None:
        self.parts[part] += self.at - self.begun
        self.begun = self.at

    def _head(self, layout: struct.Struct) -> tuple:
        if len(self.unit) - self.at < layout.size:
            raise CodingError("is cut off")
        values = layout.unpack_from(self.unit, self.at)
        self.at += layout.size
        return values

    def _check(self, frames: int, count: int) -> None:
        if frames != self.model.num_frames[self.g] or count > self.model.count:
            raise CodingError(f"has {frames} frames and {count} Gaussians, not what the header says")

    def _tensor(self, p: torch.Tensor) -> None:
        (step,) = self._head(STEP)
        if not 0 <= step < MOST_STEP:
            raise CodingError("has a step that is out of range")
        numbers = p.detach().numpy()[self.g].reshape(-1)  # a view
        if self.lattice_differences and of_lattice(p):
            rows = self._integers(numbers.size).reshape(p.shape[1], -1)
            numbers[:] = (rows.cumsum(0) * float(step)).ravel()
        else:
            _, self.at = decode_integers(self.unit, self.at, numbers.size, numbers, step)

    def _integers(self, n: int) -> np.ndarray:
        values, self.at = decode_integers(self.unit, self.at, n)
        return values

    def _rows(self, n: int, count: int) -> np.ndarray:
        rows = np.empty((n, count), np.int64)
        for row in rows:
            _, self.at = decode_integers(self.unit, self.at, count, row)
        return rows


def _of_sizes(sizes: np.ndarray) -> list[np.ndarray]:
    """Which Gaussians have each size: they are coded together."""
    return [np.flatnonzero(sizes == size) for size in range(SIZES + 1) if (sizes == size).any()]
