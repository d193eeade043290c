"""Files with predicted GoPs for tests: key GoPs of a model that was never fitted, differences drawn from a seed."""

from dataclasses import replace

import numpy as np
import torch
from scenes import TINY

from stgvlib.codec.bitstream import assembled
from stgvlib.codec.predict import Changes
from stgvlib.codec.quantize import Group, adapted, quantize
from stgvlib.codec.steps import Steps
from stgvlib.codec.units import KEY, PREDICTED, key_unit, predicted_unit
from stgvlib.model.video_model import VideoModel

FIELD = replace(TINY, lattice=(2, 2, 2))


def changes_of(key: Group, frames: int, seed: int, part: float = 0.5, most: int = 3) -> Changes:
    """Of a GoP in the chain of `key`: `part` of its Gaussians change by up to `most` steps; every second tensor of the
    field is a difference."""
    draw, count = np.random.default_rng(seed), len(key.gaps)
    flags = (draw.random(count) < part).astype(np.int64)
    rows = [draw.integers(-most, most + 1, (n, flags.sum())) for n in (2, 3, 3)]
    rows[1] *= draw.random(flags.sum()) < 0.7  # others keep their shape
    differs = [k % 2 == 0 for k in range(len(key.tensors))]
    tensors = [
        (step, draw.integers(-most, most + 1, len(values)) if difference else values)
        for difference, (step, values) in zip(differs, key.tensors, strict=True)
    ]
    return Changes(frames, flags, *rows, differs, tensors)


def chained_units(model: VideoModel, kinds: str, steps: Steps, seed: int = 0, **options) -> list[tuple[int, bytes]]:
    """Kind and section of each GoP of a model: `kinds` has K for a key GoP, P for a predicted one. `options` are those
    of `changes_of`."""
    units, key = [], None
    for g, kind in enumerate(kinds):
        if kind == "K":
            key = quantize(model, g, steps)
        made = changes_of(key, model.num_frames[g], seed + g, **options) if kind == "P" else None
        units.append((KEY, key_unit(key)) if made is None else (PREDICTED, predicted_unit(made)))
    return units


def chained(model: VideoModel, kinds: str, adaptive: bool = True, seed: int = 0, **options) -> bytes:
    """A file of `chained_units`."""
    steps = adapted(model, Steps()) if adaptive else Steps()
    return assembled(model, model.count, steps, chained_units(model, kinds, steps, seed, **options), 25.0)


def same(a, b, gops=slice(None), others=slice(None)) -> bool:
    return all(torch.equal(p[gops], q[others]) for p, q in zip(a.parameters(), b.parameters(), strict=True))
