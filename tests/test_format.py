"""Four golden .stgv files, and a second decoder, written from docs/FORMAT.md alone, that agrees with the library's.

STGV_REGENERATE=1 writes the golden files anew, which only a new version of the format may need; then the hashes in
GOLDEN have to be those that the test reports.
"""

import hashlib
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import format_decoder
import numpy as np
import pytest
import torch
from format_hints import shown as shown_by
from hypothesis import given, settings
from hypothesis import strategies as st
from predicted_files import chained
from scenes import FIELDS, random_model

from stgvlib.codec import bitstream, units
from stgvlib.codec.bitstream import assembled, encode, parse, stream
from stgvlib.codec.entropy import decode_integers
from stgvlib.codec.predict import Changes
from stgvlib.codec.quantize import Group, adapted, quantize
from stgvlib.codec.steps import Steps
from stgvlib.config import STGV, FieldConfig, changes
from stgvlib.errors import StgvError
from stgvlib.model.gaussians import WAITING
from stgvlib.model.video_model import VideoModel
from stgvlib.video.timing import unpacked

FOLDER = Path(__file__).parent / "golden"
GOLDEN = {  # SHA-256 of the integers that a decoder reads
    "adaptive": "7f8dabce84ef1e2f67a0eb09fde59bc8a4e17db73a6372711e92a7c415ccaa3f",
    "lattice": "b8878ef0005d8fc8f35e9fad3049f640c8e3f1f80fab2123044485fa7f4cd778",
    "plain": "631ff4b1040114e0df2b6a71db665781f0e86ece278d34f8a2d1526a2a8f82be",
    "predicted": "2338a15f316abd1bd5ead01395d949ab29c49901cc1d8bf2061822d869e54224",
}
FILES = {  # SHA-256 of files of version 3, which stay as they are
    "adaptive": "142621d1c588089c28a0e5ec1457771518c64550d0d6944eb6949b3b4df4f8ad",
    "lattice": "0251a917af7d683b20ee3da0412f1cb0d4b019f0c54bd7704bde24f52d57eb67",
    "plain": "eae538e6620a7d789a8f8dacf31ff70e9372da0d6a21a35e780450e5ee1cc974",
}
KINDS = "KPPKP"  # GoPs of "predicted"
TABLES = FieldConfig(
    levels=4,
    log2_table_size=5,
    base_resolution=4,
    width=12,
    position_scale=40.0,
    deform_shape=True,
    time_cells=(2, 3, 4, 6),
    time_frequencies=2,
)
MOVING = FieldConfig(
    encoding="positional", position_frequencies=3, width=8, head_layers=2, polynomial=2, time_frequencies=1
)


def spread_model(field, count, waiting=0, seed=0, lengths=(2, 3)):
    """GoPs of `lengths` frames of 40x24 px: Gaussians of 0.3 to 100 px, very different colours, a field of mostly small
    numbers and few large ones. `waiting` Gaussians of the second GoP were never placed."""
    model = random_model(replace(STGV, motion_steps=0, field=field), lengths, count, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values, spread in ((model.gaussians.cholesky, 1.2), (model.gaussians.rgb, 1.5)):
            values *= torch.exp(spread * torch.randn(len(lengths), count, 1, generator=generator))
        for values in model.field.parameters():
            values *= torch.exp(2 * torch.randn(values.shape, generator=generator))
        model.gaussians.mu -= 3.0  # some beyond the frame, so that the origin is below zero
        model.gaussians.mu[1, count - waiting :] = WAITING
    return model


def golden_model(name):
    """(model, steps) of a golden file. "adaptive": adaptive steps, 2D and 3D hash tables, shape head. "plain": one step
    for all Gaussians, motion of degree 2, no tables, two-layer heads. "lattice": displacements, and Gaussians that
    fade. "predicted": two chains, of three GoPs and of two, with displacements."""
    if name == "predicted":
        model = spread_model(replace(TABLES, lattice=(3, 2, 4)), 40, lengths=(2, 3, 1, 2, 2))
        return model, adapted(model, Steps())
    if name == "lattice":
        model = spread_model(replace(TABLES, lattice=(3, 2, 4), fade=True), 60)
        return model, adapted(model, Steps())
    if name == "plain":
        return spread_model(MOVING, 100), Steps()
    model = spread_model(TABLES, 160, waiting=40)
    return model, adapted(model, Steps())


@pytest.fixture(scope="module", params=GOLDEN)
def golden(request):
    """(name, bytes) of each golden file."""
    path = FOLDER / f"{request.param}.stgv"
    if os.environ.get("STGV_REGENERATE") and request.param != "lattice":  # of version 3, which is not written any more
        model, steps = golden_model(request.param)
        path.write_bytes(chained(model, KINDS)) if request.param == "predicted" else encode(model, path, steps)
    return request.param, path.read_bytes()


def digest(integers: list[np.ndarray]) -> str:
    """SHA-256 of integers as int64, little-endian, one array after the other."""
    return hashlib.sha256(b"".join(values.astype("<i8").tobytes() for values in integers)).hexdigest()


def of_group(group: Group | Changes, tensors: list[np.ndarray]) -> list[np.ndarray]:
    """A GoP's integers in the order of `integers` of format_decoder.py's GoPs."""
    if isinstance(group, Changes):
        fixed = [np.array([group.frames, len(group.flags)]), group.flags, group.position, group.shape, group.color]
        flags = [np.array([differs], np.int64) for differs in group.predicted]
        return fixed + [part for pair in zip(flags, tensors, strict=True) for part in pair]
    fixed = np.array([group.frames, len(group.gaps), *group.origin])
    return [fixed, group.gaps, group.cholesky, group.color, *group.finer, group.motion, *tensors]


def integers_of_library(data: bytes, monkeypatch) -> list[list[np.ndarray]]:
    """What the library's decoder reads of each GoP, caught before it becomes numbers of a model."""
    groups, tensors, read_unit, of_tensor = [], [], units.read_unit, units._Reader._tensor

    def read_tensor(reader, p):  # its integers otherwise go right into the model alone
        tensors.append(decode_integers(reader.unit, reader.at + units.STEP.size, p[0].numel())[0])
        of_tensor(reader, p)

    def read_group(*given):
        group, parts = read_unit(*given)
        groups.append(group)
        return group, parts

    with monkeypatch.context() as patch:
        patch.setattr(units._Reader, "_tensor", read_tensor)
        patch.setattr(bitstream, "read_unit", read_group)
        model = parse(data, threads=1).model
    each = len(list(model.field.parameters()))
    return [of_group(group, tensors[g * each : (g + 1) * each]) for g, group in enumerate(groups)]


def assert_same_values(gops: list[format_decoder.Gop | format_decoder.PredictedGop], model) -> None:
    """Values of the second decoder, rounded to float32, against the library's. exp may differ in its last bit, and
    Gaussians that are predicted by single precision."""
    for g, gop in enumerate(gops):
        gaussians, count = model.gaussians, len(gop.mu)
        pairs = [(gaussians.mu, gop.mu), (gaussians.cholesky, gop.cholesky), (gaussians.rgb, gop.rgb)]
        if gaussians.motion is not None:
            pairs.append((gaussians.motion, gop.motion_values.reshape(count, gaussians.motion.shape[2])))
        pairs = [(parameter[g, :count].detach().numpy(), values) for parameter, values in pairs]
        if isinstance(gop, format_decoder.PredictedGop):
            for (expected, values), most in zip(pairs, (2e-3, 5e-4, 5e-5), strict=True):  # px, px, brightness
                np.testing.assert_allclose(values, expected, rtol=2e-5, atol=most)
            pairs = []
        for parameter, values in zip(model.field.parameters(), gop.field_values, strict=True):
            pairs.append((parameter[g].detach().numpy().reshape(values.shape), values))
        for expected, values in pairs:
            np.testing.assert_array_max_ulp(expected, values.astype(np.float32), 1)


def test_golden_files_decode_to_their_integers(golden, monkeypatch):
    name, data = golden
    header, gops = format_decoder.decode(data)
    found = digest([values for gop in gops for values in gop.integers()])
    assert found == digest([values for gop in integers_of_library(data, monkeypatch) for values in gop])
    assert found == GOLDEN[name]
    content = parse(data)
    assert content.damaged == {} and content.model.num_frames == header["frames"]
    assert header["frames"] == ([2, 3, 1, 2, 2] if name == "predicted" else [2, 3])
    assert list(content.model.size) == header["size"] == [24, 40] and content.fps == header["fps"] == 25
    assert changes(content.model.config.field).keys() == header["field"].keys()
    assert_same_values(gops, content.model)
    if name == "predicted":
        assert content.predicted == [1, 2, 4] and data[8] == 4
    else:
        again = stream(content.model, content.steps, content.fps)
        if name == "lattice":  # of version 3, which is read and no longer written
            assert again[8] == 4 and all(map(torch.equal, parse(again).model.parameters(), content.model.parameters()))
        else:
            assert again == data, "decoded and encoded again"
        assert hashlib.sha256(data).hexdigest() == FILES[name] and data[8] == 3


def test_golden_files_have_every_part_of_the_format():
    """Every size, every number of finer bits, waiting Gaussians, motion, and both tables."""
    header, gops = format_decoder.decode((FOLDER / "adaptive.stgv").read_bytes())
    assert header["gaussians"] == 160 and [len(gop.gaps) for gop in gops] == [160, 120]
    assert "lowest" in header["steps"] and min(gop.origin for gop in gops) < (0, 0)
    assert set(np.concatenate([gop.sizes for gop in gops])) == set(range(6))
    for axis, most in ((0, 3), (1, 4)):
        assert set(np.concatenate([gop.finer_bits[axis] for gop in gops])) == set(range(most + 1))
    assert [tensor.shape for tensor in gops[0].field[:2]] == [(16 + 3 * 32, 2), (4 * 32, 4)]
    header, gops = format_decoder.decode((FOLDER / "plain.stgv").read_bytes())
    assert "lowest" not in header["steps"] and gops[0].motion.any(1).tolist() == [True] * 4
    header, gops = format_decoder.decode((FOLDER / "lattice.stgv").read_bytes())
    assert header["field"]["fade"] and gops[0].motion.any(1).tolist() == [True]
    assert gops[0].field[0].shape == (3, 2, 4, 2) and gops[0].field[0].any()
    data = (FOLDER / "predicted.stgv").read_bytes()
    header, gops = format_decoder.decode(data)
    assert len(data) < 10_000 and [isinstance(gop, format_decoder.PredictedGop) for gop in gops] == [
        kind == "P" for kind in KINDS
    ]
    for gop in (gops[1], gops[2], gops[4]):
        assert 0 < gop.flags.sum() < len(gop.flags) and all(row.any() for row in (gop.position, gop.shape, gop.color))
        assert set(gop.differences) == {0, 1} and not gop.shape.any(0).all(), "some keep their shape"
    assert all(len(set(steps)) > 1 for steps in gops[0].chain_steps)


def assert_decoders_agree(model, steps):
    data = stream(model, steps)
    _, gops = format_decoder.decode(data)
    for g, gop in enumerate(gops):
        group = quantize(model, g, steps)
        expected = of_group(group, [values for _, values in group.tensors])
        for one, other in zip(gop.integers(), expected, strict=True):
            assert np.array_equal(one.ravel(), other.ravel())
        assert gop.field_steps == [step for step, _ in group.tensors]
    content = parse(data)
    assert content.damaged == {} and content.steps == steps
    assert_same_values(gops, content.model)


@pytest.mark.parametrize("adaptive", (False, True))
@pytest.mark.parametrize("name", FIELDS)
def test_the_second_decoder_agrees_on_every_field(name, adaptive):
    model = random_model(FIELDS[name])
    assert_decoders_agree(model, adapted(model, Steps()) if adaptive else Steps())


@pytest.mark.parametrize("adaptive", (False, True))
@pytest.mark.parametrize("name", [*(name for name in FIELDS if not FIELDS[name].field.own_numbers), "lattice", "heads"])
def test_the_second_decoder_predicts_with_every_field(name, adaptive):
    """Every encoding, the lattice, two-layer heads, heads of shapes, leaky activations."""
    heads = replace(MOVING, polynomial=0, deform_shape=True, slope=0.1)
    more = {"lattice": replace(TABLES, lattice=(3, 2, 4)), "heads": heads}
    config = replace(STGV, motion_steps=0, field=more[name]) if name in more else FIELDS[name]
    data = chained(random_model(config, (2, 3, 2, 1)), "KPPK", adaptive)
    content = parse(data)
    assert content.damaged == {} and content.predicted == [1, 2]
    assert_same_values(format_decoder.decode(data)[1], content.model)


@given(
    field=st.sampled_from([TABLES, MOVING]),
    count=st.integers(1, 80),
    part=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
    coarser=st.floats(-3, 3),
    adaptive=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_the_second_decoder_agrees_on_any_model(field, count, part, seed, coarser, adaptive):
    model = spread_model(field, count, round(part * count), seed)
    steps = Steps().scaled(2.0**coarser)
    assert_decoders_agree(model, adapted(model, steps) if adaptive else steps)


def test_a_header_says_how_frames_are_shown():
    """Pixels that are not square, times that are not even, colours, a still: optional keys; without them a file's bytes
    are as before. Both decoders give the same times."""
    model = random_model(replace(STGV, motion_steps=0, field=TABLES))
    frames = sum(model.num_frames)
    hints = {"sample_aspect": [64, 45], "color": [9, 16, 9, 0], "poster": frames - 1}
    hints["durations"] = {"tick": [1001, 30_000], "runs": [1, 3, frames - 1, 2]}
    data = stream(model, Steps(), **hints)
    header, _ = format_decoder.decode(data)
    assert parse(data).hints == hints and parse(data).sample_aspect == (64, 45)
    assert {name: header[name] for name in hints} == hints
    tick, times = unpacked(hints["durations"])
    shown = shown_by(header)
    assert shown.times == [tick * int(time) for time in times] and shown.times[2] == Fraction(5005, 30_000)
    assert (shown.sample_aspect, shown.color, shown.poster) == (Fraction(64, 45), [9, 16, 9, 0], frames - 1)
    plain = stream(model)
    assert parse(plain).sample_aspect is None and parse(plain).hints == {}
    default = shown_by(format_decoder.decode(plain)[0])
    assert default.times == [Fraction(k, 25) for k in range(frames + 1)] and default.poster == frames // 2
    assert stream(model, sample_aspect=None, durations=None) == plain
    for bad in ((0, 1), (1,), (65_536, 1), (1.5, 1)):
        with pytest.raises(StgvError, match="sample_aspect must be"):
            stream(model, Steps(), sample_aspect=bad)
    with pytest.raises(StgvError, match="hints are sample_aspect, durations, color, poster, got colour"):
        stream(model, Steps(), colour=[9, 16, 9, 0])


@pytest.mark.parametrize(
    "lie",
    [
        {"durations": {"tick": [1, 25], "runs": [4, 1]}},
        {"durations": {"tick": [1, 25], "runs": [5, 0]}},
        {"durations": {"tick": [1], "runs": [5, 1]}},
        {"durations": None},
        {"color": [9, 16, 9, 2]},
        {"color": [9, 16]},
        {"poster": 5},
        {"sample_aspect": [0, 1]},
    ],
)
def test_the_second_decoder_refuses_what_is_out_of_range(lie):
    with pytest.raises(ValueError, match=next(iter(lie))):
        shown_by({"fps": 25, "frames": [3, 2]} | lie)


def test_a_header_is_not_longer_than_readers_take():
    model = VideoModel(replace(STGV, motion_steps=0, field=TABLES), [1] * 4, (16, 24), 2)
    model.num_frames = [1] * 33_000
    with pytest.raises(StgvError, match="the header takes 66,[0-9]{3} bytes, more than 65,536: fit longer GoPs"):
        assembled(model, 2, Steps(), [], 25.0)


def test_the_second_decoder_refuses_what_is_damaged(golden):
    data = golden[1]
    for at, message in ((0, "not a .stgv"), (8, "version must be"), (20, "section table"), (len(data) - 9, "GoP [14]")):
        bad = bytearray(data)
        bad[at] ^= 8
        with pytest.raises(ValueError, match=message):
            format_decoder.decode(bytes(bad))
