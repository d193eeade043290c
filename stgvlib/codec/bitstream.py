"""The .stgv file: a fitted video as an entropy-coded bitstream, a section a GoP (docs/FORMAT.md).

Its size on disk is the only bit rate that is ever reported. Symbols decode to the same integers on every machine. A
reader believes nothing: sizes are checked against the file before anything is allocated, and a damaged section costs
its own GoP, and those that are predicted from it, alone.
"""

import json
import os
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from stgvlib.codec.entropy import CodingError
from stgvlib.codec.predict import Changes, Ends, follow, own_steps
from stgvlib.codec.quantize import Group, dequantize, quantize
from stgvlib.codec.steps import Steps
from stgvlib.codec.units import KEY, PARTS, PREDICTED, key_unit, read_unit
from stgvlib.config import FitConfig, changes
from stgvlib.errors import StgvError
from stgvlib.files import write_atomically
from stgvlib.model import limits
from stgvlib.model.video_model import VideoModel

MAGIC = b"\x89STGV\r\n\n"
VERSION, WITH_DIFFERENCES = 3, 4  # of files: the latter have predicted GoPs, or a lattice as differences in time
PREFIX = struct.Struct("<8sHHI")  # magic, version, sections, CRC of the table
SECTION = struct.Struct("<BHII")  # kind, GoP, bytes, CRC-32
HEADER = 1  # a kind of section, beside those of units.py
KINDS = {KEY: "key", PREDICTED: "predicted"}
MOST_HEADER = 1 << 16  # bytes
STEPS = Steps()
FINEST, COARSEST = -3.0, 5.0  # log2 of how far rate control scales steps


@dataclass
class Content:
    """What a file holds."""

    model: VideoModel
    fps: float
    steps: Steps
    damaged: dict[int, str]  # GoP -> why it could not be read; its frames are black
    bytes: dict[str, int]  # header, and each of PARTS over all GoPs
    hints: dict  # those of limits.HINTS that it has: how frames are shown
    gops: list[dict]  # of each: kind (key, predicted, missing), bytes, part of its Gaussians that it changes

    @property
    def sample_aspect(self) -> tuple[int, int] | None:
        """Width and height of a pixel; None: square."""
        return tuple(self.hints["sample_aspect"]) if "sample_aspect" in self.hints else None

    @property
    def predicted(self) -> list[int]:
        """GoPs that are predicted from the one before."""
        return [g for g, gop in enumerate(self.gops) if gop["kind"] == "predicted"]


def encode(
    model: VideoModel,
    path: str | Path,
    steps: Steps = STEPS,
    fps: float = 25.0,
    sample_aspect: tuple[int, int] | None = None,  # width and height of a pixel, in any unit; None: square
    **hints,
) -> int:
    """Write a model as .stgv (docs/FORMAT.md), rounded to quantiser `steps`. Returns the size of the file in bytes.

    `hints`, as `Video.hints` gives them, say how frames are shown: `durations` (in ticks of a fraction of a second),
    `color` (numbers of ITU-T H.273) and `poster` (number of a frame).

    The file appears when it is complete. Raises StgvError for hints out of range, and for parameters that are not
    finite or too large for the format. `compress` fine-tunes a model first, for a much smaller file.

    Examples:
        >>> import tempfile
        >>> from stgvlib import PAPER, Steps, VideoModel, encode
        >>> model = VideoModel(PAPER, num_frames=[3, 2], size=(16, 24), count=5)
        >>> path = tempfile.mkdtemp() + "/small.stgv"
        >>> encode(model, path, Steps().scaled(4)) < encode(model, path, poster=4)
        True
    """
    whole = stream(model, steps, fps, sample_aspect=sample_aspect, **hints)
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


def stream(model: VideoModel, steps: Steps = STEPS, fps: float = 25.0, **hints) -> bytes:
    """The bytes of a model's file, GoPs side by side on all cores. Raises StgvError for what cannot be coded."""
    if model.gaussians.mu.device.type != "cpu":
        there, model = model, VideoModel(model.config, model.num_frames, model.size, model.count)
        model.load_state_dict(there.state_dict())
    for name, p in model.named_parameters():
        if not torch.isfinite(p).all():
            raise StgvError(f"{name} of the model has numbers that are not finite; fit it again")

    def unit(g: int) -> tuple[int, bytes]:
        group = quantize(model, g, steps)
        try:
            return len(group.gaps), key_unit(group)
        except ValueError as error:
            raise StgvError(f"GoP {g}: {error}; take larger steps, or fit the model again") from error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts, units = zip(*pool.map(unit, range(len(model.num_frames))))
    return assembled(model, max(counts), steps, [(KEY, data) for data in units], fps, **hints)


def assembled(
    model: VideoModel,
    count: int,  # the largest number of Gaussians of a GoP
    steps: Steps,
    units: Sequence[tuple[int, bytes]],  # kind and section of each GoP
    fps: float,
    **hints,
) -> bytes:
    """A file of sections."""
    header = {"size": list(model.size), "fps": limits.fps_of(fps), "frames": model.num_frames}
    hints = {name: value for name, value in hints.items() if value is not None}
    if unknown := hints.keys() - set(limits.HINTS):
        raise StgvError(f"hints are {', '.join(limits.HINTS)}, got {', '.join(sorted(unknown))}")
    header |= limits.hints_of(hints, sum(model.num_frames))
    header |= {"field": changes(model.config.field), "steps": _written(steps), "gaussians": count}
    payloads = [(HEADER, 0, json.dumps(header, separators=(",", ":")).encode())]
    if len(payloads[0][2]) > MOST_HEADER:
        raise StgvError(f"the header takes {len(payloads[0][2]):,} bytes, more than {MOST_HEADER:,}: fit longer GoPs")
    payloads += [(kind, g, data) for g, (kind, data) in enumerate(units)]
    table = b"".join(SECTION.pack(kind, g, len(data), zlib.crc32(data)) for kind, g, data in payloads)
    newer = model.config.field.lattice or PREDICTED in (kind for kind, _, _ in payloads)
    version = WITH_DIFFERENCES if newer else VERSION
    prefix = PREFIX.pack(MAGIC, version, len(payloads), zlib.crc32(table))
    return prefix + table + b"".join(data for _, _, data in payloads)


def _written(steps: Steps) -> dict:
    """What the header says of them; the field's tensors have theirs in each GoP."""
    values = {f.name: getattr(steps, f.name) for f in fields(Steps)}
    return {name: value for name, value in values.items() if value is not None}


def decode(path: str | Path, threads: int | None = None, device: torch.device | str = "cpu") -> Content:
    """Read a .stgv file, on `threads` cores (None: all): `model` on `device`, `fps`, `hints`, `steps`, `bytes` of each
    part of the file, `gops`, and `damaged`, which names the GoPs that could not be read; their frames are black.

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
        return parse(data, threads, device)
    except StgvError as error:
        raise StgvError(f"{path} {error}") from error


def is_stream(path: str | Path) -> bool:
    """Whether a file, whatever its name, begins as .stgv files do."""
    if not Path(path).is_file():  # a pipe would wait for its writer
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def parse(data: bytes, threads: int | None = None, device: torch.device | str = "cpu") -> Content:
    """`decode` of a file's bytes: integers of GoPs side by side on `threads` cores (None: all), predictions on `device`
    one after the other."""
    sections, payload = _sections(data)
    header, hints, model, steps = _header(data, sections, payload)
    sizes = dict.fromkeys(("header", *PARTS), 0) | {"header": payload + sections[0][2]}
    differences = PREFIX.unpack_from(data)[1] == WITH_DIFFERENCES
    known = (KEY, PREDICTED) if differences else (KEY,)
    units: dict[int, tuple[memoryview, int, int]] = {}
    for kind, g, size, crc in sections:
        if kind in known and 0 <= g < len(model.num_frames) and g not in units:
            units[g] = kind, memoryview(data)[payload : payload + size], size, crc
        payload += size

    def read(g: int) -> tuple[Group | Changes, dict[str, int]] | str:
        """Decode a GoP into the model, a predicted one as differences: its integers and the bytes of its parts, or what
        is wrong with it."""
        kind, unit, size, crc = units[g]
        try:
            if len(unit) < size:
                raise CodingError("is cut off")
            if zlib.crc32(unit) != crc:
                raise CodingError("fails its checksum")
            group, parts = read_unit(kind, unit, model, g, steps, differences)
        except CodingError as error:
            return str(error)
        if kind == KEY:
            dequantize(group, model, g, steps)
        return group, parts

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:  # the compiled loops run side by side
        outcomes = dict(zip(units, pool.map(read, units)))
    damaged = {g: outcome for g, outcome in outcomes.items() if isinstance(outcome, str)}
    damaged |= {g: "is not in the file" for g in range(len(model.num_frames)) if g not in units}
    model = model.to(device)
    _follow_chains(model, outcomes, damaged, steps)
    for g, outcome in outcomes.items():
        for name, part in outcome[1].items() if g not in damaged else ():
            sizes[name] += part
    for g in damaged:
        _blank(model, g)
    gops = [{"kind": "missing", "bytes": 0, "changed": 0.0} for _ in model.num_frames]
    for g, (kind, _, size, _) in units.items():
        group, changed = outcomes[g][0], 0.0
        if g not in damaged:
            changed = round(float(group.flags.sum()) / max(1, len(group.flags)), 4) if kind == PREDICTED else 1.0
        gops[g] = {"kind": KINDS[kind], "bytes": size, "changed": changed}
    return Content(model, header["fps"], steps, dict(sorted(damaged.items())), sizes, hints, gops)


def _follow_chains(model: VideoModel, outcomes: dict, damaged: dict[int, str], steps: Steps) -> None:
    """Set predicted GoPs, each from the one before it; adds to `damaged` those that cannot be."""
    own, ends = None, None  # steps of the Gaussians of the GoP before, where it can be predicted from
    for g in range(len(model.num_frames)):
        if g in damaged:
            own = None
            continue
        group = outcomes[g][0]
        if isinstance(group, Group):
            after = outcomes.get(g + 1)
            own = own_steps(group, steps) if after and isinstance(after[0], Changes) else None
            continue
        try:
            if own is None:
                raise CodingError(f"is predicted from GoP {g - 1}, which is damaged" if g else "has nothing before it")
            ends = ends or Ends(model)
            follow(model, g, group, own, ends)
        except CodingError as error:
            damaged[g], own = str(error), None


def _sections(data: bytes) -> tuple[list[tuple[int, int, int, int]], int]:
    """(kind, GoP, bytes, CRC) of each section, and where the first begins."""
    if len(data) < PREFIX.size or data[:8] != MAGIC:
        raise StgvError("is no .stgv file; expected one that `stgv encode` wrote")
    _, version, count, crc = PREFIX.unpack_from(data)
    if version not in (VERSION, WITH_DIFFERENCES):
        known = f"{VERSION} and {WITH_DIFFERENCES}"
        raise StgvError(f"has format version {version}, this stgvlib reads {known}: use the stgvlib that wrote it")
    end = PREFIX.size + count * SECTION.size
    table = data[PREFIX.size : end]
    if end > len(data) or zlib.crc32(table) != crc:
        raise _damaged("its section table is cut off or fails its checksum")
    return [SECTION.unpack_from(table, k * SECTION.size) for k in range(count)], end


def _header(data: bytes, sections: list, start: int) -> tuple[dict, dict, VideoModel, Steps]:
    """Header, its hints, an empty model of its sizes, and steps; everything in range, and the model in proportion to
    the file."""
    if not sections or sections[0][0] != HEADER or sections[0][2] > MOST_HEADER:
        raise _damaged("it does not begin with a header")
    text = data[start : start + sections[0][2]]
    if len(text) < sections[0][2] or zlib.crc32(text) != sections[0][3]:
        raise _damaged("its header is cut off or fails its checksum")
    try:
        header = json.loads(text)
        size, frames = limits.sides(header["size"]), limits.lengths(header["frames"])
        count = limits.whole(header["gaussians"], "gaussians")
        header["fps"] = float(limits.fps_of(header["fps"]))
        hints = limits.hints_of(header, sum(frames))
        steps, field = _steps(header["steps"]), limits.field_of(header["field"])
        if len(frames) > max(len(sections) - 1, 1):
            raise StgvError(f"{len(frames)} GoPs of which the file has {len(sections) - 1}")
        config = FitConfig(preset="decoded", parametrization="pixel", field=field, steps=0)
        # The numbers are yet to be written: drawing, or zeroing, them would take longer than decoding does.
        model = limits.model_of(config, frames, size, count, len(data), lambda _, shape: torch.empty(shape))
    except (ValueError, TypeError, KeyError, RecursionError, StgvError) as error:
        reason = f"its header makes no sense ({limits.printable(str(error)):.150})"
        raise _damaged(reason) from error
    return header, hints, model, steps


def _damaged(reason: str) -> StgvError:
    return StgvError(f"is damaged: {reason}; encode it again")


def _steps(values: dict) -> Steps:
    if not isinstance(values, dict):
        raise StgvError(f"steps must be an object, got {values!r:.40}")
    values |= {"lowest": tuple(values["lowest"])} if "lowest" in values else {}
    for name, value in values.items():
        for one in value if name == "lowest" else (value,):
            limits.whole(one, name, -32, 32) if name in ("lowest", "field_bits") else limits.number(one, name)
    return Steps(**values)


@torch.no_grad()
def _blank(model: VideoModel, g: int) -> None:
    """A GoP that shows black."""
    for p in model.parameters():
        p[g] = 0
    model.gaussians.cholesky[g] = model.gaussians.cholesky.new_tensor((1.0, 0.0, 1.0))
