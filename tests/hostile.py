"""Model files that lie, and Gaussians of any values, drawn from a seed: for test_fuzz.py and benchmarks/fuzz.py.

A case is (kind, bytes). `try_file` reads one and renders a frame of it, as `stgv render` would.
"""

import json
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from predicted_files import chained, changes_of
from scenes import TINY, random_model

from stgvlib.codec import bitstream
from stgvlib.codec.bitstream import MAGIC, PREFIX, SECTION, VERSION, WITH_DIFFERENCES, stream
from stgvlib.codec.load import load_model
from stgvlib.codec.quantize import adapted, quantize
from stgvlib.codec.steps import Steps
from stgvlib.codec.units import KEY, PREDICTED, predicted_unit
from stgvlib.config import PAPER, STGV, FieldConfig, FitConfig
from stgvlib.errors import StgvError
from stgvlib.model.decoder import Decoder
from stgvlib.model.model_file import save_model
from stgvlib.model.video_model import VideoModel
from stgvlib.ops.encoding import HashGrid
from stgvlib.ops.splat import splat

MODELS = (  # small ones of every encoding but the planes, whose tensors are large
    replace(STGV, field=replace(TINY, deform_shape=True, lattice=(2, 2, 3), fade=True)),
    replace(PAPER, field=replace(TINY, time_cells=(2, 3.5))),
    replace(STGV, motion_steps=0, field=FieldConfig(encoding="positional", width=4, head_layers=2, polynomial=2)),
    replace(STGV, motion_steps=0, steps=0, field=FieldConfig(encoding="none")),
)
CHAINS = (  # fields that predicted GoPs may have
    replace(STGV, motion_steps=0, field=replace(TINY, deform_shape=True, lattice=(2, 2, 3))),
    replace(PAPER, field=replace(TINY, time_cells=(2, 3.5))),
    replace(STGV, motion_steps=0, field=FieldConfig(encoding="positional", width=4, head_layers=2, slope=0.1)),
    replace(STGV, motion_steps=0, steps=0, field=FieldConfig(encoding="none")),
)
KINDS = "KPPKP"
VALUES = (
    *(None, True, False, [], {}, "", "hash", "a" * 5000, "\x1b[31mred\x1b]0;title\x07\n", "\u202e", [[]], {"a": 1}),
    *(-1, 0, 1, 2, 3, 8, 70, 32767, 32768, 65535, 65536, 2**31, 2**63, 10**30, 10**400, -(10**30)),
    *(0.5, 4.5, -5.0, 1e-320, 1e308, -1e308, float("inf"), float("-inf"), float("nan")),
    *([1], [48], [0, 0], [24, 40, 1], [20_000, 20_000], [32767, 100], [1.5, 2.5], ["a", "b"], [None], [True, True]),
    *([65535] * 50, [1] * 3000, [float("nan")] * 2, [1e308] * 8),
)
INTEGERS = (5_000 - 2**31, 2**31 - 5_000, 2**30, -(2**24), 40_000, 2, -1, 0)  # that can be coded
NUMBERS = (0.0, -0.0, 1e-45, 1e-38, 1e-20, 0.3, 1e4, 1e9, 1e19, 1e30, 3.4e38, np.inf, np.nan)


def extremes(draw: np.random.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    """float32 of any value: half of them random of ordinary size, the others of NUMBERS with either sign."""
    values = draw.normal(0, 30, shape)
    odd = draw.choice(np.array(NUMBERS), shape) * draw.choice([-1, 1], shape)
    return torch.from_numpy(np.where(draw.random(shape) < 0.5, values, odd).astype(np.float32))


def extreme_gaussians(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """mu [1, N, 2], Cholesky vectors and colours [1, N, 3]. The first is the smallest that once crashed."""
    draw = np.random.default_rng(seed)
    mu, cholesky, rgb = (extremes(draw, (1, count, n)) for n in (2, 3, 3))
    mu[0, 0], cholesky[0, 0] = torch.tensor([20.5, -1.3]), torch.tensor([3.4e38, 49.0, 61.0])
    return mu, cholesky, rgb


def try_gaussians(count: int, seed: int) -> None:
    """Render extreme Gaussians at awkward sizes and encode their positions, forward and backward."""
    leaves = [t.requires_grad_() for t in extreme_gaussians(count, seed)]
    for size in ((64, 64), (1, 33), (37, 1)):
        image = splat(*leaves, size)
        torch.autograd.grad(image, leaves, torch.ones_like(image))
    for dims, features in ((2, 2), (3, 4)):
        grid = HashGrid(1, dims, features, 4, 6, 4, generator=torch.Generator().manual_seed(seed))
        where = extremes(np.random.default_rng(seed + dims), (1, count, dims)).requires_grad_()
        found = grid(where)
        gradients = torch.autograd.grad(found, [where, grid.table], torch.ones_like(found))
        assert torch.isfinite(found).all() and all(torch.isfinite(g).all() for g in gradients)


def try_file(path: Path) -> bool:
    """Whether a file is read and gives frames; False where it is refused, in one short line."""
    try:
        model, about = load_model(path)
        decoder = Decoder(model)
        for number in {len(decoder) // 2, len(decoder) - 1}:
            assert decoder[number].shape == (*model.size, 3)
        json.dumps(about, allow_nan=False)
    except StgvError as error:
        text = str(error)
        assert text.isprintable() and len(text) < 600, f"message {text!r:.700}"
        return False
    return True


def placed(value, draw: random.Random) -> list:
    """A random path in nested JSON."""
    path = []
    while isinstance(value, (dict, list)) and value and (not path or draw.random() < 0.6):
        path.append(draw.choice(list(value) if isinstance(value, dict) else range(len(value))))
        value = value[path[-1]]
    return path


def with_a_lie(value, draw: random.Random):
    """JSON with one value replaced by one of VALUES, removed, or added."""
    copy = json.loads(json.dumps(value))
    *path, last = placed(copy, draw)
    there = copy
    for step in path:
        there = there[step]
    if draw.random() < 0.1:
        del there[last]
    elif draw.random() < 0.1 and isinstance(there, dict):
        names = (
            "unknown",
            "fps",
            "damaged",
            "bytes",
            "sample_aspect",
            "lowest",
            "seconds",
            "durations",
            "color",
            "poster",
        )
        there[draw.choice(names)] = draw.choice(VALUES)
    else:
        there[last] = draw.choice(VALUES)
    return copy


def damaged(data: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Bytes flipped, replaced, cut, inserted or repeated."""
    at, length = draw.randrange(len(data) + 1), draw.randrange(1, 40)
    kind = draw.choice(("flip", "replace", "ones", "cut", "remove", "insert", "repeat"))
    end = min(len(data), at + length)
    if kind == "flip" and at < len(data):
        return kind, data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
    middle = {"replace": draw.randbytes(end - at), "ones": b"\xff" * (end - at), "insert": draw.randbytes(length)}
    if kind in middle:
        return kind, data[:at] + middle[kind] + data[at if kind == "insert" else end :]
    return kind, data[:at] + (data[at:end] * 2 if kind == "repeat" else b"") + (b"" if kind == "cut" else data[end:])


def sealed(sections: list[tuple[int, int, bytes]], version: int = VERSION) -> bytes:
    """A .stgv file of sections (kind, GoP, bytes), with every checksum right."""
    table = b"".join(SECTION.pack(kind, g, len(data), zlib.crc32(data)) for kind, g, data in sections)
    head = PREFIX.pack(MAGIC, version, len(sections), zlib.crc32(table))
    return head + table + b"".join(data for _, _, data in sections)


def sections_of(data: bytes) -> list[tuple[int, int, bytes]]:
    found, at = [], bitstream._sections(data)[1]
    for kind, g, size, _ in bitstream._sections(data)[0]:
        found.append((kind, g, data[at : at + size]))
        at += size
    return found


def base_streams() -> list[bytes]:
    """Files of version 3, then as many of version 4."""
    models = [random_model(config, count=12) for config in MODELS]
    files = [stream(model, adapted(model, Steps()) if k % 2 else Steps()) for k, model in enumerate(models)]
    return files + [chained(chain_model(config), KINDS, k % 2 == 0) for k, config in enumerate(CHAINS)]


def chain_model(config: FitConfig) -> VideoModel:
    return random_model(config, (2, 3, 1, 2, 2), count=12)


def lying_changes(number: int, config: FitConfig, g: int) -> bytes:
    """The section of a predicted GoP whose numbers are huge, or whose GoP before has another number of Gaussians."""
    draw, model = random.Random(number), chain_model(config)
    if draw.random() < 0.2:
        model = random_model(config, (2, 3, 1, 2, 2), count=draw.choice((1, 11, 13)))
    changes = changes_of(quantize(model, g, Steps()), model.num_frames[g], number, draw.random(), 3)
    for values in (changes.flags[None], changes.position, changes.shape, changes.color):
        if draw.random() < 0.3 and values.size:
            values[draw.randrange(len(values)), draw.randrange(values.shape[1])] = draw.choice(INTEGERS)
    for k, (step, values) in enumerate(changes.tensors):
        if draw.random() < 0.3:
            values = np.where(
                np.random.default_rng(number + k).random(len(values)) < 0.5, draw.choice(INTEGERS), values
            )
            step = float(draw.choice((step, -step, *NUMBERS)))
            changes.tensors[k] = step if abs(step) == np.inf else float(np.float32(step)), values
    return predicted_unit(changes)


def hostile_streams(first: int, last: int) -> Iterator[tuple[str, bytes]]:
    """Cases first to last - 1 of .stgv files; every second one has right checksums."""
    files = base_streams()
    for number in range(first, last):
        draw = random.Random(number)
        of = draw.randrange(len(files))
        data, chain = files[of], of - len(MODELS)
        if number % 2 == 0:
            kind, changed = damaged(data, draw)
            yield f"stgv {kind}", changed
            continue
        sections, version = sections_of(data), VERSION if chain < 0 else WITH_DIFFERENCES
        what = draw.choice(("header", "header", "payload", "payload", "payload", "swap", "double", "drop", "kind"))
        what = "changes" if chain >= 0 and draw.random() < 0.25 else what
        k = draw.randrange(1, len(sections))
        kind, g, payload = sections[k]
        if what == "header":
            sections[0] = (1, 0, json.dumps(with_a_lie(json.loads(sections[0][2]), draw)).encode())
        elif what == "payload":
            sections[k] = (kind, g, damaged(payload, draw)[1])
        elif what == "swap":
            other = draw.randrange(len(sections))
            sections[k], sections[other] = (kind, g, sections[other][2]), (*sections[other][:2], payload)
        elif what == "double":
            sections.insert(
                draw.randrange(len(sections) + 1), (draw.choice((kind, 1, 9)), draw.choice((g, 9)), payload)
            )
        elif what == "kind":
            sections[k] = (KEY + PREDICTED - kind, g, payload)
            version = draw.choice((VERSION, WITH_DIFFERENCES))
        elif what == "changes":
            sections[k] = (PREDICTED, g, lying_changes(number, CHAINS[chain], g))
        else:
            del sections[draw.randrange(len(sections))]
        yield f"stgv {what}, right checksums", sealed(sections, version)


def safetensors_of(about: str, tensors: dict[str, tuple[str, list, bytes]], draw: random.Random) -> bytes:
    """The bytes of a .safetensors file, whose head may lie."""
    metadata = {"format": "stgv-model", "version": "1", "about": about}
    head, at = {"__metadata__": metadata}, 0
    for name, (kind, shape, data) in tensors.items():
        head[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    if draw.random() < 0.05:
        head = with_a_lie(head, draw)
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values())


def hostile_models(first: int, last: int, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Cases first to last - 1 of .safetensors files. Base models are written into `folder`."""
    bases = []
    for k, config in enumerate(MODELS):
        save_model(
            random_model(config, count=12), folder / f"{k}", fps=25.0, seed=0, seconds={"fit": 1.5}, device="a CPU"
        )
        data = (folder / f"{k}").read_bytes()
        (length,) = struct.unpack_from("<Q", data)
        head, body = json.loads(data[8 : 8 + length]), data[8 + length :]
        about = json.loads(head.pop("__metadata__")["about"])
        places = {name: (v["dtype"], v["shape"], slice(*v["data_offsets"])) for name, v in head.items()}
        bases.append((data, about, {name: (kind, shape, body[part]) for name, (kind, shape, part) in places.items()}))
    for number in range(first, last):
        draw = random.Random(number)
        data, about, tensors = draw.choice(bases)
        text, tensors = json.dumps(about), dict(tensors)
        name = draw.choice(list(tensors))
        kind, shape, values = tensors[name]
        what = draw.choice(("bytes", "description", "description", "values", "values", "type", "shape", "names"))
        if what == "bytes":
            yield f"safetensors {what}", damaged(data, draw)[1]
            continue
        if what == "description":
            text = json.dumps(with_a_lie(about, draw)) if draw.random() < 0.9 else damaged(text.encode(), draw)[1].hex()
        elif what == "values":
            numbers = np.frombuffer(values, "<f4").copy()
            some = np.random.default_rng(number).random(len(numbers)) < draw.choice((0.01, 0.5, 1.0))
            numbers[some] = np.float32(draw.choice(NUMBERS) * draw.choice((1, -1)))
            tensors[name] = (kind, shape, numbers.tobytes())
        elif what == "type":
            other, size = draw.choice(
                (("F64", 8), ("F16", 2), ("BF16", 2), ("I32", 4), ("U8", 1), ("BOOL", 1), ("X9", 4))
            )
            tensors[name] = (other, shape, bytes(len(values) // 4 * size))
        elif what == "shape":
            bad = draw.choice((shape[::-1], shape[1:], [*shape, 1], [1, *shape], [2**62, 4, *shape], [0]))
            tensors[name] = (kind, bad, values)
        elif draw.random() < 0.5:
            del tensors[name]
        else:
            tensors[draw.choice((name + "\x1b[2J", "", "x" * 500))] = tensors[name]
        yield f"safetensors {what}", safetensors_of(text, tensors, draw)
