"""Predicted GoPs: fitted for their file, read in any order, damaged in any way, and the command that makes them.

| case | test |
|---|---|
| a size, a quality, a slope, and those out of reach | test_targets, test_what_no_file_reaches |
| one GoP a chain | test_chains_of_one_gop_have_no_predicted_gops |
| a chain without the others | test_any_chain_decodes_alone |
| a damaged GoP of either kind | test_damage_costs_a_chain_from_there_on |
| a predicted GoP without, or with another, GoP before it | test_predicted_gops_that_lie |
| flags, steps, numbers out of range | test_predicted_gops_that_lie, test_differences_that_leave_the_range |
| Gaussians that fade | test_gaussians_that_fade_are_not_predicted |
| kind 3, or a lattice, in a file of version 3 | test_version_3_has_no_predicted_gops |
| `stgv fit clip clip.stgv`, options that exclude each other, Ctrl-C | the last tests |
"""

import json
import re
from dataclasses import replace
from functools import partial

import cv2
import format_decoder
import hostile
import numpy as np
import pytest
import torch
from command import refused, stgv
from predicted_files import chained, changes_of
from scenes import TINY, random_model, waves
from test_format import assert_same_values

from stgvlib.cli import main
from stgvlib.codec import chains
from stgvlib.codec.bitstream import DIFFERENCES, VERSION, parse, stream
from stgvlib.codec.chains import chains_of, code_chains, compress_video, fit_keys, plan_chains, setting_for
from stgvlib.codec.change_optimizer import ChangeOptimizer, differences, pulls
from stgvlib.codec.predict import Ends
from stgvlib.codec.quantize import quantize
from stgvlib.codec.units import KEY, PREDICTED, predicted_unit
from stgvlib.config import STGV
from stgvlib.errors import StgvError
from stgvlib.fitting.stage import segments
from stgvlib.metrics import evaluate
from stgvlib.model.decoder import Decoder
from stgvlib.model.gaussians import WAITING
from stgvlib.model.video_model import VideoModel
from stgvlib.video.video import video_of

FIELD = replace(TINY, lattice=(2, 2, 2))
LENGTHS, KINDS = (2, 3, 1, 2, 2), "KPPKP"
SHORT = {"gop_size": 2, "gaussians": 20, "coarse_steps": 8, "motion_steps": 4, "steps": 12, "field": FIELD}
TRAINING = {"fine_tuning": 20, "changing": 20}  # steps


# Fitted for their file


@pytest.fixture(scope="module")
def video():
    """Two scenes of four frames."""
    return video_of(waves(8, (128, 96))).with_(cuts=(4,))


@pytest.fixture(scope="module")
def keys(video):
    """Key GoPs of two chains of two GoPs."""
    return fit_keys(plan_chains(video, replace(setting_for(video.size), **SHORT), keyint=3))


@pytest.fixture(scope="module")
def made(keys):
    return code_chains(keys, slope=1e-5, **TRAINING)


def test_chains_end_where_scenes_do():
    gops = [(0, 4), (4, 8), (8, 10), (10, 14), (14, 18), (18, 22)]
    assert chains_of(gops, (), 4) == [[0, 1, 2, 3], [4, 5]]
    assert chains_of(gops, (10,), 4) == [[0, 1, 2], [3, 4, 5]]
    assert chains_of(gops, (4, 8), 2) == [[0], [1], [2, 3], [4, 5]]
    assert chains_of(gops, (), 1) == [[g] for g in range(6)]
    assert chains_of(gops, (), 100) == [list(range(6))]


def test_what_the_camera_uncovers_begins_a_chain():
    """A texture that stands still for two GoPs, then moves by a third of the frame in each."""
    wide = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (64, 300, 3), np.uint8), (0, 0), 3)
    wide = cv2.normalize(wide, None, 0, 255, cv2.NORM_MINMAX)
    at = [0] * 16 + [4 * k for k in range(1, 17)]
    setting = replace(setting_for((64, 96)), gop_size=8)
    video = video_of(np.stack([wide[:, x : x + 96] for x in at]))
    assert plan_chains(video, setting)[1] == [[(0, 8), (8, 16)], [(16, 24)], [(24, 32)]]
    assert plan_chains(video.with_(limit=16), setting, keyint=1)[1] == [[(0, 8)], [(8, 16)]]


def test_the_reader_has_the_model_of_the_encoder(made, keys, video):
    content = parse(made.data)
    assert keys.chains == [[0, 1], [2, 3]] and [gop["kind"] for gop in made.gops] == ["key", "predicted"] * 2
    assert made.data[8] == DIFFERENCES and content.damaged == {} and content.predicted == [1, 3]
    assert same(content.model, made.model) and content.model.num_frames == [2] * 4
    sizes = [len(payload) for _, _, payload in hostile.sections_of(made.data)[1:]]
    assert [gop["bytes"] for gop in made.gops] == sizes and sum(content.bytes.values()) == len(made.data)
    judged = evaluate(Decoder(content.model, dtype=torch.float32), video, similarity=False)
    assert judged["psnr"] == pytest.approx(made.psnr, abs=1e-4)
    assert_same_values(format_decoder.decode(made.data)[1], content.model)


def test_targets(made, keys):
    bits = 8 * len(made.data) / keys.pixels
    small = code_chains(keys, bpp=0.9 * bits, **TRAINING)
    assert 8 * len(small.data) <= 0.9 * bits * keys.pixels
    near = code_chains(keys, psnr=made.psnr - 0.5, **TRAINING)
    assert abs(near.psnr - made.psnr + 0.5) < 0.5
    cheap = code_chains(keys, slope=1e-2, **TRAINING)
    assert len(cheap.data) < len(made.data) and [made.slope, cheap.slope] == pytest.approx([1e-5, 1e-2])


def test_what_no_file_reaches(keys, video):
    with pytest.raises(StgvError, match="too few"):
        code_chains(keys, bpp=0.01, **TRAINING)
    with pytest.raises(StgvError, match="give one of bpp, psnr and slope"):
        code_chains(keys, bpp=0.1, psnr=30, **TRAINING)
    setting = replace(setting_for(video.size), **SHORT)
    with pytest.raises(StgvError, match="keyint must be at least 1, got 0"):
        plan_chains(video, setting, keyint=0)
    with pytest.raises(StgvError, match="without fade and polynomial"):
        plan_chains(video, replace(setting, field=replace(FIELD, fade=True)))


def test_chains_of_one_gop_have_no_predicted_gops(video):
    made = compress_video(video, replace(setting_for(video.size), **SHORT), keyint=1, **TRAINING)
    assert {gop["kind"] for gop in made.gops} == {"key"}
    content = parse(made.data)
    assert content.damaged == {} and content.predicted == [] and same(content.model, made.model)


@pytest.mark.gpu
def test_a_gpu_makes_files_that_a_cpu_reads(video):
    made = compress_video(video, replace(setting_for(video.size), **SHORT), keyint=3, device="cuda", **TRAINING)
    content = parse(made.data)
    assert content.predicted == [1, 3]
    for here, there in zip(content.model.parameters(), made.model.parameters(), strict=True):
        assert torch.allclose(here, there, rtol=1e-4, atol=1e-3)  # predictions were computed on another machine
    judged = evaluate(Decoder(content.model, dtype=torch.float32), video, similarity=False)
    assert judged["psnr"] == pytest.approx(made.psnr, abs=0.02)


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


@pytest.mark.gpu
def test_fused_kernels_round_and_learn_as_torch_does():
    """Three steps on the same random model, with Gaussians that are not there and steps that differ by Gaussian."""
    seen = {}
    for device in ("cpu", "cuda"):
        generator = torch.Generator().manual_seed(0)
        model = VideoModel(replace(setting_for((48, 80)), field=FIELD, steps=100), [4, 3], (48, 80), 700, generator)
        with torch.no_grad():
            model.gaussians.mu.copy_(60 * torch.rand(2, 700, 2, generator=generator))
            model.gaussians.cholesky.copy_(torch.randn(2, 700, 3, generator=generator))
            model.gaussians.cholesky[..., ::2] = torch.randn(2, 700, 2, generator=generator).exp() + 0.3
            model.gaussians.mu[0, 5:30] = WAITING
        model = model.to(device)
        bases = [torch.zeros_like(p) for p in model.field.parameters()]
        own, steps = 0.01 + 0.1 * torch.rand(3, 2, 700, 1, generator=generator), [0.01] * len(bases)
        trained = segments(model, "deformation")
        optimizer = ChangeOptimizer(trained, "adam", (0.95, 0.99), model, own, steps, bases, 1e-2, 4.0)
        assert (optimizer.fused is not None) == (device == "cuda")
        seen[device] = [optimizer.shown.cpu().clone()]
        for _ in range(3):
            optimizer.grad.copy_(1e-6 * torch.randn(optimizer.grad.shape, generator=generator))
            optimizer.flat += (0.02 * torch.randn(optimizer.flat.shape, generator=generator)).to(device)
            optimizer.step()
            seen[device] += [v.cpu().clone() for v in (optimizer.grad, optimizer.shown)]
    for expected, found in zip(seen["cpu"], seen["cuda"], strict=True):
        off = (expected - found).abs() > 1e-3 * expected.abs().mean() + 1e-3 * expected.abs()
        assert off.float().mean() < 2e-3  # values on the edge of a cell may fall to its other side


def test_what_differences_cost_has_the_gradient_that_is_learned():
    """Against autograd through all bits."""
    generator = torch.Generator().manual_seed(0)
    masters = [torch.rand(shape, generator=generator).double() + 0.5 for shape in ((2, 9, 2), (2, 9, 3), (2, 9, 3))]
    bases = [p + 0.1 * torch.randn(p.shape, generator=generator).double() for p in masters]
    alive, price = (torch.rand(2, 9, 1, generator=generator) > 0.2).double(), torch.tensor([0.5, 2.0]).double()
    own, flag = 0.01 + 0.1 * torch.rand(3, 2, 9, 1, generator=generator).double(), 4.0
    for p in masters:
        p.requires_grad_()
    mu, shape, (red, green, blue) = (*(d := differences(masters, bases, own, []))[:2], d[2].unbind(-1))
    sent = [mu.abs(), shape.abs(), torch.stack([green, red - green, blue - green], -1).abs()]
    total = sum(v.sum(-1) for v in sent)
    bits = sum(torch.log1p(v).sum(-1) for v in sent) + flag * torch.log1p(total)
    (price[:, None] * alive[..., 0] * bits).sum().backward()
    found = pulls([p.detach() for p in masters], bases, own, [], alive, price, flag)
    assert all(torch.allclose(p.grad, pull) for p, pull in zip(masters, found, strict=True))


# Read, whole and damaged


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


def with_section(data: bytes, g: int, payload: bytes, kind: int | None = None, version: int = DIFFERENCES) -> bytes:
    """The file with another section of GoP g, checksums right."""
    sections = hostile.sections_of(data)
    sections[1 + g] = (sections[1 + g][0] if kind is None else kind, g, payload)
    return hostile.sealed(sections, version)


def same(a, b, gops=slice(None), others=slice(None)) -> bool:
    return all(torch.equal(p[gops], q[others]) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("chain", [[0, 1, 2], [3, 4]])
def test_any_chain_decodes_alone(drawn, chain):
    """With the sections of all other chains emptied, and as a file of its own."""
    data, whole = drawn
    header, *sections = hostile.sections_of(data)
    emptied = [section if section[1] in chain else (*section[:2], b"") for section in sections]
    content = parse(hostile.sealed([header, *emptied], DIFFERENCES))
    assert sorted(content.damaged) == [g for g in range(5) if g not in chain]
    assert same(content.model, whole, chain, chain)
    about = json.loads(header[2])
    about["frames"] = [about["frames"][g] for g in chain]
    own = [(kind, g - chain[0], payload) for kind, g, payload in sections if g in chain]
    content = parse(hostile.sealed([(1, 0, json.dumps(about).encode()), *own], DIFFERENCES))
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
    content = parse(hostile.sealed([*sections, (KEY, 1, b"")], DIFFERENCES))
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
    assert same(parse(hostile.sealed(hostile.sections_of(keys), DIFFERENCES)).model, parse(keys).model)


# The command


QUICK = "--gop-size 2 --gaussians 20 --coarse-steps 4 --motion-steps 2 --steps 6 --device cpu --profile paper".split()


@pytest.mark.parametrize(
    ("output", "options", "reason"),
    [
        ("a.stgv", "--target-bpp 0.1 --quality 30", "give either target_bpp or quality"),
        ("a.stgv", "--target-bpp 0", "target_bpp must be above 0, got 0"),
        ("a.stgv", "--target-bpp nan", "target_bpp must be above 0, got nan"),
        ("a.stgv", "--quality -3", "quality must be above 0, got -3"),
        ("a.stgv", "--keyint 0", "keyint must be at least 1, got 0"),
        ("a.stgv", "--mask CLIP", "a mask needs two steps: fit to a .safetensors file, then encode it"),
        ("a.stgv", "--huber 0.1", "huber needs two steps"),
        ("a.safetensors", "--target-bpp 0.1", "target_bpp: of an .stgv file, got the output a.safetensors"),
        ("a.safetensors", "--quality 30 --keyint 2", "quality, keyint: of an .stgv file"),
    ],
)
def test_bad_input_of_the_command(clip, tmp_path, output, options, reason):
    options = [clip if option == "CLIP" else option for option in options.split()]
    assert reason in refused("fit", clip, tmp_path / output, *QUICK, *options)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_keeps_key_gops(clip, tmp_path, monkeypatch, capsys):
    """Three GoPs in two chains: Ctrl-C while the second key GoP is fitted."""
    monkeypatch.setattr(chains, "FINE_TUNING", 10)
    monkeypatch.setattr(chains, "CHANGING", 10)
    command = ["fit", str(clip), str(tmp_path / "clip.stgv"), *QUICK, "--keyint", "2"]
    fitted = set()

    def watched(planned, device, parts, progress, stop=False):
        def report(state):
            fitted.add(state.gops)
            if stop and state.gops == (1, 2):
                raise KeyboardInterrupt

        return fit_keys(planned, device, parts, report)

    monkeypatch.setattr(chains, "fit_keys", partial(watched, stop=True))
    with pytest.raises(KeyboardInterrupt):
        main(command)
    assert "interrupted; kept are fitted key GoPs: 1; add --resume to go on" in capsys.readouterr().err
    assert not (tmp_path / "clip.stgv").exists() and "--resume" in refused(*command)
    fitted.clear()
    monkeypatch.setattr(chains, "fit_keys", watched)
    done = stgv(*command, "--resume")
    assert done.returncode == 0 and "as 3 GoPs in 2 chains" in done.stderr, done.stderr
    assert fitted == {(1, 2)}, "the other is taken over"
    size = (tmp_path / "clip.stgv").stat().st_size
    lines = dict(line.split(maxsplit=1) for line in done.stderr.splitlines() if " " in line)
    assert lines["size"] == f"{size:,} bytes, {8 * size / (5 * 24 * 32):.4f} bits a pixel"
    assert re.fullmatch(r"PSNR [0-9.]+ dB", lines["quality"])  # a side of 160 px or less has no MS-SSIM
    assert re.fullmatch(r"2 GoPs of [0-9,]+ bytes, [0-9,]+ a frame", lines["key"])
    assert re.fullmatch(r"1 GoP of [0-9,]+ bytes, [0-9,]+ a frame, [0-9.]+ % of Gaussians change", lines["predicted"])
    parts = [line for line in done.stderr.splitlines() if line.endswith(" %")]
    assert sum(int(line.split()[1].replace(",", "")) for line in parts) == size
    assert sum(float(line.split()[3]) for line in parts) == pytest.approx(100, abs=0.4)
    assert len({line.index(" bytes") for line in parts}) == 1, "columns are aligned"
    content = parse((tmp_path / "clip.stgv").read_bytes())
    assert content.damaged == {} and content.predicted == [1] and content.model.num_frames == [1, 2, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["clip.stgv"]
