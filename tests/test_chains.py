"""Predicted GoPs: fitted for their file, and the command that makes them. How they are read: test_predicted.py.

| case | test |
|---|---|
| a size, a quality, a slope, and those out of reach | test_targets, test_what_no_file_reaches |
| one GoP a chain | test_chains_of_one_gop_have_no_predicted_gops |
| what the camera uncovers | test_what_the_camera_uncovers_begins_a_chain |
| chains of several lengths | test_keys_of_chains_have_one_price |
| `stgv fit clip clip.stgv`, options that exclude each other, Ctrl-C | the last tests |
"""

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
from predicted_files import FIELD, same
from scenes import waves
from test_format import assert_same_values

from stgvlib.cli import main
from stgvlib.codec import chains
from stgvlib.codec.bitstream import WITH_DIFFERENCES, parse
from stgvlib.codec.chains import chains_of, code_chains, compress_video, fit_keys, plan_chains, setting_for
from stgvlib.codec.change_optimizer import ChangeOptimizer, differences, pulls
from stgvlib.errors import StgvError
from stgvlib.fitting.stage import segments
from stgvlib.metrics import evaluate
from stgvlib.model.decoder import Decoder
from stgvlib.model.gaussians import WAITING
from stgvlib.model.video_model import VideoModel
from stgvlib.video.video import video_of

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


def test_keys_of_chains_have_one_price(keys):
    """The mean of what a bit of each is worth: 1 of a GoP alone, 3 of one that three are predicted from."""
    prices = []
    for lengths in ([[0, 1, 2, 3], [4], [5], [6]], [[0], [1]], [[0, 1, 2, 3]]):
        coder = chains._Coder(replace(keys, chains=lengths), 1e-3, None, 1, 1, None)
        prices.append(coder.worth)
    assert prices == [1.5, 1.0, 3.0]


def test_the_reader_has_the_model_of_the_encoder(made, keys, video):
    content = parse(made.data)
    assert keys.chains == [[0, 1], [2, 3]] and [gop["kind"] for gop in made.gops] == ["key", "predicted"] * 2
    assert made.data[8] == WITH_DIFFERENCES and content.damaged == {} and content.predicted == [1, 3]
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
