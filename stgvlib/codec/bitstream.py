"""The .stgv file: a fitted video as an entropy-coded bitstream, one independent unit a GoP (docs/FORMAT.md).

Its size on disk is the only bit rate that is ever reported. Symbols decode to the same integers on every machine. A
reader believes nothing: sizes are checked against the file before anything is allocated, and a damaged unit costs its
own GoP alone.
"""

import json
import math
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from stgvlib.codec.entropy import CodingError, decode_integers, encode_integers, pack, unpack
from stgvlib.codec.quantize import AXIS_BITS, Group, dequantize, quantize
from stgvlib.codec.steps import SIZES, Steps
from stgvlib.config import FieldConfig, FitConfig, changes, from_dict
from stgvlib.errors import StgvError
from stgvlib.files import write_atomically
from stgvlib.model.video_model import VideoModel

MAGIC, VERSION = b"\x89STGV\r\n\n", 3
PREFIX = struct.Struct("<8sHHI")  # magic, version, sections, CRC of the table
SECTION = struct.Struct("<BHII")  # kind, GoP, bytes, CRC-32
HEADER, GOP = 1, 2  # kinds of section
UNIT = struct.Struct("<HIii")  # frames, Gaussians, origin x, origin y
STEP = struct.Struct("<f")
MOST_HEADER = 1 << 16  # bytes
PARAMETERS_A_BYTE = 64  # of the file: more than any large file of ours comes near
ALWAYS_ALLOWED = 1 << 22  # parameters, 16 MiB: the field of a short video may be all zeros in hardly any bytes
PIXELS_A_BYTE = 1 << 14
STEPS = Steps()
FINEST, COARSEST = -3.0, 5.0  # log2 of how far rate control scales steps
PARTS = ("position", "shape", "color", "motion", "field")
LIMITS = {  # settings of a field that a reader accepts
    "levels": (1, 16),
    "log2_table_size": (1, 22),
    "base_resolution": (1, 4096),
    "growth": (1, 4),
    "spatial_features": (2, 4),
    "temporal_features": (2, 4),
    "time_frequencies": (0, 16),
    "position_frequencies": (0, 16),
    "width": (1, 1024),
    "head_layers": (1, 2),
    "polynomial": (0, 8),
}


@dataclass
class Content:
    """What a file holds."""

    model: VideoModel
    fps: float
    steps: Steps
    damaged: dict[int, str]  # GoP -> why it could not be read; its frames are black
    bytes: dict[str, int]  # header, and each of PARTS over all GoPs


def encode(model: VideoModel, path: str | Path, steps: Steps = STEPS, fps: float = 25.0) -> int:
    """Write a model as .stgv (docs/FORMAT.md), rounded to quantiser `steps`. Returns the size of the file in bytes.

    The file appears when it is complete. Raises StgvError for parameters that are not finite or too large for the
    format. `compress` fine-tunes a model first, for a much smaller file.

    Examples:
        >>> import tempfile
        >>> from stgvlib import PAPER, Steps, VideoModel, encode
        >>> model = VideoModel(PAPER, num_frames=[3, 2], size=(16, 24), count=5)
        >>> path = tempfile.mkdtemp() + "/small.stgv"
        >>> encode(model, path, Steps().scaled(4)) < encode(model, path)
        True
    """
    whole = stream(model, steps, fps)
    write_atomically(path, whole)
    return len(whole)


def steps_for(model: VideoModel, most: int, steps: Steps = STEPS, fps: float = 25.0) -> Steps:
    """The finest steps, all scaled alike, with which a file has at most `most` bytes. Raises StgvError when even the
    coarsest give more."""
    low, high = FINEST, COARSEST  # log2 of the scale
    least = len(stream(model, steps.scaled(2.0**high), fps))
    if least > most:
        raise StgvError(
            f"{most:,} bytes are too few: with the coarsest steps this model takes {least:,}; fit fewer Gaussians"
        )
    for _ in range(10):
        middle = (low + high) / 2
        try:
            fits = len(stream(model, steps.scaled(2.0**middle), fps)) <= most
        except StgvError:  # positions on too fine a grid to be coded
            fits = False
        low, high = (low, middle) if fits else (middle, high)
    return steps.scaled(2.0**high)


def stream(model: VideoModel, steps: Steps = STEPS, fps: float = 25.0) -> bytes:
    """The bytes of a model's file, GoPs side by side on all cores. Raises StgvError for what cannot be coded."""
    if model.gaussians.mu.device.type != "cpu":
        there, model = model, VideoModel(model.config, model.num_frames, model.size, model.count)
        model.load_state_dict(there.state_dict())
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise StgvError("the model has parameters that are not finite; fit it again")
    header = {"size": list(model.size), "fps": fps, "frames": model.num_frames}
    header |= {"field": changes(model.config.field), "steps": _written(steps)}

    def unit(g: int) -> tuple[int, bytes]:
        group = quantize(model, g, steps)
        return len(group.gaps), b"".join(_unit(group).values())

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts, units = zip(*pool.map(unit, range(len(model.num_frames))))
    header["gaussians"] = max(counts)
    payloads = [(HEADER, 0, json.dumps(header, separators=(",", ":")).encode())]
    payloads += [(GOP, g, data) for g, data in enumerate(units)]
    table = b"".join(SECTION.pack(kind, g, len(data), zlib.crc32(data)) for kind, g, data in payloads)
    prefix = PREFIX.pack(MAGIC, VERSION, len(payloads), zlib.crc32(table))
    return prefix + table + b"".join(data for _, _, data in payloads)


def _written(steps: Steps) -> dict:
    """What the header says of them; the field's tensors have theirs in each GoP."""
    values = {f.name: getattr(steps, f.name) for f in fields(Steps)}
    return {name: value for name, value in values.items() if value is not None}


def _of_sizes(sizes: np.ndarray) -> list[np.ndarray]:
    """Which Gaussians have each size: they are coded together."""
    return [np.flatnonzero(sizes == size) for size in range(SIZES + 1) if (sizes == size).any()]


def _unit(group: Group) -> dict[str, bytes]:
    """The parts of a GoP's section, in their order."""
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


def decode(path: str | Path, threads: int | None = None) -> Content:
    """Read a .stgv file, on `threads` cores (None: all): `model`, `fps`, `steps`, `bytes` of each part of the file, and
    `damaged`, which names the GoPs that could not be read; their frames are black.

    Raises StgvError when the file is missing, foreign, of another version, or its header is damaged.

    Examples:
        >>> import tempfile
        >>> from stgvlib import PAPER, Decoder, VideoModel, decode, encode
        >>> path = tempfile.mkdtemp() + "/small.stgv"
        >>> size = encode(VideoModel(PAPER, num_frames=[3, 2], size=(16, 24), count=5), path, fps=30)
        >>> content = decode(path)
        >>> content.fps, content.damaged, sum(content.bytes.values()) == size
        (30.0, {}, True)
        >>> Decoder(content.model)[4].shape
        torch.Size([16, 24, 3])
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StgvError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        return parse(data, threads)
    except StgvError as error:
        raise StgvError(f"{path} {error}") from error


def parse(data: bytes, threads: int | None = None) -> Content:
    """`decode` of a file's bytes, GoPs side by side on `threads` cores (None: all)."""
    sections, payload = _sections(data)
    header, model, steps = _header(data, sections, payload)
    sizes = dict.fromkeys(("header", *PARTS), 0) | {"header": payload + sections[0][2]}
    units: dict[int, tuple[memoryview, int, int]] = {}
    for kind, g, size, crc in sections:
        if kind == GOP and 0 <= g < len(model.num_frames) and g not in units:
            units[g] = memoryview(data)[payload : payload + size], size, crc
        payload += size

    def read(g: int) -> dict[str, int] | str:
        """Decode a GoP into the model: the bytes of its parts, or what is wrong with it."""
        unit, size, crc = units[g]
        try:
            if len(unit) < size:
                raise CodingError("is cut off")
            if zlib.crc32(unit) != crc:
                raise CodingError("fails its checksum")
            group, parts = _read_unit(unit, model, g, steps)
        except CodingError as error:
            return str(error)
        dequantize(group, model, g, steps)
        return parts

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:  # the compiled loops run side by side
        outcomes = dict(zip(units, pool.map(read, units)))
    damaged = {g: outcome for g, outcome in outcomes.items() if isinstance(outcome, str)}
    for parts in outcomes.values():
        for name, part in parts.items() if isinstance(parts, dict) else ():
            sizes[name] += part
    damaged |= {g: "is not in the file" for g in range(len(model.num_frames)) if g not in units}
    for g in damaged:
        _blank(model, g)
    return Content(model, header["fps"], steps, dict(sorted(damaged.items())), sizes)


def _sections(data: bytes) -> tuple[list[tuple[int, int, int, int]], int]:
    """(kind, GoP, bytes, CRC) of each section, and where the first begins."""
    if len(data) < PREFIX.size or data[:8] != MAGIC:
        raise StgvError("is no .stgv file; expected one that `stgv encode` wrote")
    _, version, count, crc = PREFIX.unpack_from(data)
    if version != VERSION:
        raise StgvError(f"has format version {version}, this stgvlib reads {VERSION}: use the stgvlib that wrote it")
    end = PREFIX.size + count * SECTION.size
    table = data[PREFIX.size : end]
    if end > len(data) or zlib.crc32(table) != crc:
        raise StgvError("is damaged: its section table is cut off or fails its checksum")
    return [SECTION.unpack_from(table, k * SECTION.size) for k in range(count)], end


def _header(data: bytes, sections: list, start: int) -> tuple[dict, VideoModel, Steps]:
    """Header, an empty model of its sizes, and steps; everything in range, and the model in proportion to the file."""
    if not sections or sections[0][0] != HEADER or sections[0][2] > MOST_HEADER:
        raise StgvError("is damaged: it does not begin with a header")
    text = data[start : start + sections[0][2]]
    if len(text) < sections[0][2] or zlib.crc32(text) != sections[0][3]:
        raise StgvError("is damaged: its header is cut off or fails its checksum")
    try:
        header = json.loads(text)
        size, frames = tuple(map(_whole, header["size"])), list(map(_whole, header["frames"]))
        count, fps = _whole(header["gaussians"]), float(header["fps"])
        steps = _steps(header["steps"])
        field = _field(header["field"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, StgvError) as error:
        raise StgvError(f"is damaged: its header makes no sense ({str(error).splitlines()[0][:100]})") from error
    units = len(sections) - 1
    sane = len(size) == 2 and 1 <= min(size) and max(size) < 2**AXIS_BITS and 1 <= len(frames) <= max(units, 1)
    sane = sane and all(1 <= n < 2**16 for n in frames) and count >= 0 and 0 < fps <= 1000
    if not sane or math.prod(size) > PIXELS_A_BYTE * len(data):
        raise StgvError("is damaged: its header asks for sizes that such a file cannot hold")
    config = FitConfig(preset="decoded", parametrization="pixel", field=field, steps=0)
    allowed = max(PARAMETERS_A_BYTE * len(data), ALWAYS_ALLOWED)
    tables = field.levels * 2**field.log2_table_size * (field.spatial_features + field.temporal_features)
    model = VideoModel(config, frames[:1], size, 1) if tables <= allowed else None
    each = tables if model is None else sum(p.numel() for p in model.parameters())
    if len(frames) * (each + count * (8 + 2 * field.polynomial)) > allowed:
        raise StgvError("is damaged: its header asks for more parameters than such a file can hold")
    # The numbers are yet to be written: drawing, or zeroing, them would take longer than decoding does.
    for p in model.field.parameters():
        p.data = torch.empty(len(frames), *p.shape[1:])
    for p in model.gaussians.parameters():
        p.data = torch.empty(len(frames), count, p.shape[2])
    model.num_frames, model.count = frames, count
    return header | {"fps": fps}, model, steps


def _whole(value) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r:.40} is no whole number")
    return value


def _number(value) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r:.40} is no number")
    return value


def _steps(values: dict) -> Steps:
    lowest = {"lowest": tuple(map(_whole, values["lowest"]))} if "lowest" in values else {}
    return Steps(**{name: _number(value) for name, value in values.items() if name != "lowest"}, **lowest)


def _field(values: dict) -> FieldConfig:
    field = from_dict(FieldConfig, values)
    for name, (least, most) in LIMITS.items():
        value = getattr(field, name)
        if name != "growth":
            _whole(value)
        if not least <= _number(value) <= most:
            raise ValueError(f"{name} must be from {least} to {most}, got {value}")
    if not (field.spatial_features in (2, 4) and field.temporal_features in (2, 4)):
        raise ValueError("hash features must be 2 or 4")
    if field.base_resolution * field.growth ** (field.levels - 1) > 2**20:
        raise ValueError("the finest level has too many cells")
    cells = field.time_cells
    if cells is not None and not (len(cells) == field.levels and all(0 < _number(c) <= 2**20 for c in cells)):
        raise ValueError("time_cells must be one number a level")
    if field.position_scale is not None and not 0 < _number(field.position_scale) <= 2**16:
        raise ValueError("position_scale is out of range")
    if field.encoding not in ("hash", "positional", "planes", "none"):
        raise ValueError(f"unknown encoding {field.encoding!r:.40}")
    for name in ("spatial", "temporal", "zero_heads", "deform_shape"):
        if not isinstance(getattr(field, name), bool):
            raise ValueError(f"{name} must be true or false")
    return field


def _read_unit(unit: memoryview, model: VideoModel, g: int, steps: Steps) -> tuple[Group, dict[str, int]]:
    """A GoP's integers, and the bytes of its parts; those of the field go right into the model. Raises CodingError."""
    from stgvlib.codec.quantize_cpu import finer_bits, size_classes

    if len(unit) < UNIT.size:
        raise CodingError("is cut off")
    frames, count, *origin = UNIT.unpack_from(unit)
    if frames != model.num_frames[g] or count > model.count:
        raise CodingError(f"has {frames} frames and {count} Gaussians, not what the header says")
    at, begin, parts = UNIT.size, 0, dict.fromkeys(PARTS, 0)

    def read(n: int) -> np.ndarray:
        nonlocal at
        values, at = decode_integers(unit, at, n)
        return values

    def rows(n: int) -> np.ndarray:
        return np.stack([read(count) for _ in range(n)]) if n else np.zeros((0, count), np.int64)

    def ends(part: str) -> None:
        nonlocal begin
        parts[part] += at - begin
        begin = at

    gaps = rows(1)[0]
    if (gaps < 0).any() or gaps.sum() >= 2 ** (2 * AXIS_BITS):
        raise CodingError("has positions out of range")
    ends("position")
    sizes_from, shape_from, position_from = steps.bounds
    shape = rows(3)
    ends("shape")
    sizes = size_classes(shape[0], shape[2], sizes_from)
    color = np.zeros((3, count), np.int64)
    alike = _of_sizes(sizes)
    for row in color:
        for of in alike:
            row[of] = read(len(of))
    ends("color")
    green, red, blue = color
    rgb = np.stack([red + green, green, blue + green])
    bits = finer_bits(rgb, sizes, position_from), finer_bits(rgb, np.zeros_like(sizes), shape_from)
    finer = []
    for part, own, n in zip(("position", "shape"), bits, (2, 3), strict=True):
        values, at = unpack(unit, at, own, n)
        finer.append(values)
        ends(part)
    motion = rows(2 * model.config.field.polynomial)
    ends("motion")
    for p in model.field.parameters():
        if len(unit) - at < STEP.size:
            raise CodingError("is cut off")
        (step,) = STEP.unpack_from(unit, at)
        if not 0 <= step < 1e6:
            raise CodingError("has a step that is out of range")
        numbers = p.detach().numpy()[g].reshape(-1)  # a view
        _, at = decode_integers(unit, at + STEP.size, numbers.size, numbers, step)
    if at != len(unit):
        raise CodingError("has bytes too many")
    ends("field")
    return Group(frames, tuple(origin), gaps, shape, color, sizes, bits, tuple(finer), motion, []), parts


@torch.no_grad()
def _blank(model: VideoModel, g: int) -> None:
    """A GoP that shows black."""
    for p in model.parameters():
        p[g] = 0
    model.gaussians.cholesky[g] = torch.tensor([1.0, 0.0, 1.0])
