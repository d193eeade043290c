"""Predicted GoPs in a file: read in any order, damaged in any way. How they are made: test_chains.py.

| case | test |
|---|---|
| a chain without the others | test_any_chain_decodes_alone |
| a damaged GoP of either kind | test_damage_costs_a_chain_from_there_on |
| a predicted GoP without, or with another, GoP before it | test_predicted_gops_that_lie |
| flags, steps, numbers out of range | test_predicted_gops_that_lie, test_differences_that_leave_the_range |
| Gaussians that fade | test_gaussians_that_fade_are_not_predicted |
| kind 3, or a lattice, in a file of version 3 | test_version_3_has_no_predicted_gops |
| on a GPU | test_a_gpu_predicts_as_a_cpu_does |
"""

import json
from dataclasses import replace

import hostile
import numpy as np
import pytest
import torch
from predicted_files import FIELD, chained, changes_of, same
from scenes import random_model

from stgvlib.codec.bitstream import VERSION, WITH_DIFFERENCES, parse, stream
from stgvlib.codec.predict import Ends
from stgvlib.codec.quantize import quantize
from stgvlib.codec.units import KEY, PREDICTED, predicted_unit
from stgvlib.config import STGV
from stgvlib.model.decoder import Decoder

LENGTHS, KINDS = (2, 3, 1, 2, 2), "KPPKP"


@pytest.fixture(scope="module")
def drawn():
    """(a file of two chains, of three and two GoPs, its model)."""
    data = chained(drawn_model(), KINDS)
    return data, parse(data).model


def drawn_model(**options):
    return random_model(replace(STGV, motion_steps=0, field=FIELD), LENGTHS, **options)


def lying(**values) -> bytes:
    """The section of GoP 1 of `drawn`, with other integers."""
    changes = changes_of(quantize(drawn_model(), 0, parse(chained(drawn_model(), KINDS)).steps), LENGTHS[1], 1, 1.0)
    return predicted_unit(replace(changes, **values))


def with_section(data: bytes, g: int, payload: bytes, kind: int | None = None, version=WITH_DIFFERENCES) -> bytes:
    """The file with another section of GoP g, checksums right."""
    sections = hostile.sections_of(data)
    sections[1 + g] = (sections[1 + g][0] if kind is None else kind, g, payload)
    return hostile.sealed(sections, version)


@pytest.mark.parametrize("chain", [[0, 1, 2], [3, 4]])
def test_any_chain_decodes_alone(drawn, chain):
    """With the sections of all other chains emptied, and as a file of its own."""
    data, whole = drawn
    header, *sections = hostile.sections_of(data)
    emptied = [section if section[1] in chain else (*section[:2], b"") for section in sections]
    content = parse(hostile.sealed([header, *emptied], WITH_DIFFERENCES))
    assert sorted(content.damaged) == [g for g in range(5) if g not in chain]
    assert same(content.model, whole, chain, chain)
    about = json.loads(header[2])
    about["frames"] = [about["frames"][g] for g in chain]
    own = [(kind, g - chain[0], payload) for kind, g, payload in sections if g in chain]
    content = parse(hostile.sealed([(1, 0, json.dumps(about).encode()), *own], WITH_DIFFERENCES))
    assert content.damaged == {} and same(content.model, whole, slice(None), chain)


@pytest.mark.parametrize(("g", "lost"), [(0, [0, 1, 2]), (1, [1, 2]), (2, [2]), (3, [3, 4]), (4, [4])])
def test_damage_costs_a_chain_from_there_on(drawn, g, lost):
    data, whole = drawn
    starts = np.cumsum([len(payload) for *_, payload in hostile.sections_of(data)])
    bad = bytearray(data)
    bad[len(data) - starts[-1] + starts[g] + 20] ^= 1
    content = parse(bytes(bad))
    reasons = [f"is predicted from GoP {k - 1}, which is damaged" for k in lost[1:]]
    assert content.damaged == dict(zip(lost, ["fails its checksum", *reasons], strict=True))
    left = [k for k in range(5) if k not in lost]
    assert same(content.model, whole, left, left)
    decoder, ends = Decoder(content.model), np.cumsum(LENGTHS)
    assert [bool((decoder[int(end) - 1] > 0).any()) for end in ends] == [k in left for k in range(5)]
    assert content.predicted == [1, 2, 4], "what they were stays known"


def test_a_file_that_ends_early_keeps_what_it_has(drawn):
    data, whole = drawn
    content = parse(data[:-5])
    assert content.damaged == {4: "is cut off"} and same(content.model, whole, slice(4), slice(4))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"flags": np.ones(39, np.int64)}, "is predicted from 39 Gaussians, but GoP 0 has 40"),
        ({"flags": np.ones(41, np.int64)}, "has 3 frames and 41 Gaussians, not what the header says"),
        ({"flags": np.full(40, 2)}, "has flags out of range"),
        ({"flags": -np.ones(40, np.int64)}, "has flags out of range"),
        ({"flags": np.zeros(40, np.int64)}, None),  # integers of 40 that change follow
        ({"frames": 2}, "has 2 frames and 40 Gaussians, not what the header says"),
        ({"predicted": [2] + [False] * 20}, "has flags out of range"),
        ({"tensors": [(float("nan"), np.zeros(16, np.int64))] * 21}, "has a step that is out of range"),
        ({"tensors": [(-1.0, np.zeros(16, np.int64))] * 21}, "has a step that is out of range"),
        ({"tensors": [(1e30, np.zeros(16, np.int64))] * 21}, "has a step that is out of range"),
    ],
)
def test_predicted_gops_that_lie(drawn, values, reason):
    data, whole = drawn
    tensors = len(list(whole.field.parameters()))
    values = {name: value[:tensors] if isinstance(value, list) else value for name, value in values.items()}
    if len(flags := values.get("flags", range(40))) != 40:
        values |= {
            name: np.zeros((n, len(flags)), np.int64) for name, n in (("position", 2), ("shape", 3), ("color", 3))
        }
    content = parse(with_section(data, 1, lying(**values)))
    assert sorted(content.damaged) == [1, 2] and content.damaged[2] == "is predicted from GoP 1, which is damaged"
    assert content.damaged[1] == reason or reason is None
    assert same(content.model, whole, [0, 3, 4], [0, 3, 4])


def test_chains_begin_with_a_key_gop(drawn):
    """Neither the first GoP nor one of another place can be predicted from what is not there."""
    data, whole = drawn
    unit = predicted_unit(changes_of(quantize(drawn_model(), 0, parse(data).steps), LENGTHS[0], 1))
    content = parse(with_section(data, 0, unit, PREDICTED))
    assert content.damaged[0] == "has nothing before it" and sorted(content.damaged) == [0, 1, 2]
    sections = hostile.sections_of(data)
    content = parse(hostile.sealed([*sections, (KEY, 1, b"")], WITH_DIFFERENCES))
    assert content.damaged == {} and same(content.model, whole), "of two sections of a GoP the first counts"
    key = sections[1][2]
    for kind, payload in ((PREDICTED, key), (KEY, sections[2][2])):  # called what it is not
        content = parse(with_section(data, 0, payload, kind))
        assert sorted(content.damaged) == [0, 1, 2] and same(content.model, whole, [3, 4], [3, 4])


HUGE = 2**30


@pytest.mark.parametrize(
    ("name", "rows", "lost"),
    [
        ("position", [HUGE, 0], [1, 2]),
        ("position", [0, -HUGE], [1, 2]),
        ("color", [HUGE, 0, 0], [1, 2]),
        ("color", [0, HUGE, -HUGE], [1, 2]),
        ("shape", [0, HUGE, HUGE], [1, 2]),
        ("shape", [HUGE, 0, -HUGE], []),  # logarithms are clipped
    ],
)
def test_differences_that_leave_the_range(drawn, name, rows, lost):
    data, whole = drawn
    content = parse(with_section(data, 1, lying(**{name: np.repeat(np.array(rows)[:, None], 40, 1)})))
    assert sorted(content.damaged) == lost and same(content.model, whole, [0, 3, 4], [0, 3, 4])
    assert not lost or content.damaged[1] == "has differences that leave the range of numbers"
    assert all(torch.isfinite(p).all() for p in content.model.parameters())


@pytest.mark.parametrize(("step", "value"), [(9e5, HUGE), (9e5, -HUGE), (0.0, HUGE), (3e-38, 1)])
@pytest.mark.parametrize("deform_shape", (False, True))
def test_a_field_that_leaves_the_range_costs_what_follows_it(deform_shape, step, value):
    """Its own GoP can be rendered, perhaps to nothing; what its last frame leads to is no number."""
    field = replace(FIELD, deform_shape=deform_shape)
    model = random_model(replace(STGV, motion_steps=0, field=field), LENGTHS)
    data = chained(model, KINDS)
    whole = parse(data)
    changes = changes_of(quantize(model, 0, whole.steps), LENGTHS[1], 1, 1.0)
    tensors = [(step, np.full(p[0].numel(), value)) for p in model.field.parameters()]
    content = parse(with_section(data, 1, predicted_unit(replace(changes, tensors=tensors))))
    assert content.damaged == ({2: "has differences that leave the range of numbers"} if step > 1 else {})
    assert same(content.model, whole.model, [0, 3, 4], [0, 3, 4])
    assert torch.isfinite(Decoder(content.model, dtype=torch.float32)[4]).all()


def test_gaussians_that_fade_are_not_predicted():
    for field in (replace(FIELD, fade=True), replace(FIELD, polynomial=2)):
        model = random_model(replace(STGV, motion_steps=0, field=field), LENGTHS)
        data = stream(model)
        unit = predicted_unit(changes_of(quantize(model, 0, parse(data).steps), LENGTHS[1], 1))
        content = parse(with_section(data, 1, unit, PREDICTED))
        assert content.damaged == {1: "is predicted, which Gaussians with numbers of their own cannot be"}


def test_version_3_has_no_predicted_gops(drawn):
    """Readers skip kinds that a version does not have."""
    data, whole = drawn
    content = parse(hostile.sealed(hostile.sections_of(data), VERSION))
    assert content.damaged == dict.fromkeys((1, 2, 4), "is not in the file") and content.predicted == []
    lattice = content.model.field.lattice.data
    assert torch.allclose(lattice.cumsum(1)[[0, 3]], whole.field.lattice[[0, 3]], atol=1e-5)
    lattice.copy_(whole.field.lattice)
    assert same(content.model, whole, [0, 3], [0, 3])
    keys = stream(random_model())
    assert keys[8] == VERSION
    assert same(parse(hostile.sealed(hostile.sections_of(keys), WITH_DIFFERENCES)).model, parse(keys).model)


@pytest.mark.gpu
@pytest.mark.parametrize("field", [FIELD, replace(STGV.field, width=64, lattice=(2, 2, 2))], ids=["torch", "fused"])
def test_a_gpu_predicts_as_a_cpu_does(field):
    data = chained(random_model(replace(STGV, motion_steps=0, field=field), LENGTHS), KINDS)
    here, there = parse(data).model, parse(data, device="cuda").model
    assert (Ends(there).fused is None) == (field is FIELD)
    gaussians = zip(here.gaussians.parameters(), there.gaussians.parameters(), strict=True)
    for (one, other), most in zip(gaussians, (0.02, 0.02, 2e-3), strict=True):  # px, px, brightness
        assert (one - other.cpu()).abs().max() < most
    for one, other in zip(here.field.parameters(), there.field.parameters(), strict=True):
        assert torch.allclose(one, other.cpu(), atol=1e-6)
