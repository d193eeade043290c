"""The trainer: it learns, it repeats itself, it resumes, it stops where the loss does."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from stgvlib import train
from stgvlib.config import PAPER, STGV, FieldConfig
from stgvlib.errors import StgvError
from stgvlib.metrics import evaluate
from stgvlib.train import fit, psnr_over_steps
from stgvlib.video import open_video, write_video

QUICK = replace(STGV, gop_size=4, gaussians=60, coarse_steps=60, steps=90)


@pytest.fixture
def video(tmp_path):
    """A disc that moves over a gradient."""
    y, x = np.mgrid[:24, :40]
    frames = []
    for t in range(9):
        disc = ((x - 8 - 3 * t) ** 2 + (y - 12) ** 2 < 30)[..., None] * np.array([200, 30, 60])
        frames.append((np.stack([x * 2, y * 4, x + y], -1) + disc).clip(0, 255).astype(np.uint8))
    write_video(tmp_path / "clip", frames)
    return open_video(tmp_path / "clip")


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


@pytest.mark.parametrize(
    "config",
    [
        QUICK,
        replace(QUICK, keyframe="middle"),
        replace(QUICK, keyframe="all"),
        replace(QUICK, field=FieldConfig(position_scale=40.0, encoding="positional")),
        replace(QUICK, field=FieldConfig(position_scale=40.0, encoding="planes")),
        replace(QUICK, field=FieldConfig(position_scale=40.0, width=64)),
    ],
    ids=["first", "middle", "all", "positional", "planes", "narrow"],
)
def test_it_learns(video, device, config):
    result = fit(video, config, device)
    assert result.model.num_frames == [4, 5]
    for stage, steps in (("coarse", 60), ("deformation", 90)):
        assert result.losses[stage].shape == (steps, 2)
        assert result.losses[stage][-6:].mean() < result.losses[stage][:6].mean() / 2
    frames = video.read()
    fitted = evaluate(result.model.frames(), frames)["psnr"]
    still = evaluate(
        (result.coarse.render(torch.tensor([0], device=device), canonical=True)[0] for _ in frames), frames
    )
    assert fitted > still["psnr"] + 1 and fitted > 20


def test_the_published_preset_runs(video, device):
    config = replace(PAPER, gop_size=9, gaussians=80, coarse_steps=150, steps=60)
    result = fit(video, config, device)
    assert result.losses["coarse"][-1].max() < result.losses["coarse"][0].min() / 4


def test_same_seed_same_result(video):
    a, b, c = (fit(video, QUICK, seed=s).model for s in (3, 3, 4))
    assert same(a, b) and not same(a, c)


def test_batching_does_not_matter(video, monkeypatch):
    """GoPs fitted together are the GoPs fitted alone: each has its own generator."""
    alone = fit(video, QUICK)
    monkeypatch.setattr(train, "_gops_per_batch", lambda *_: 2)
    together = fit(video, QUICK)
    for a, b in zip(alone.model.state_dict().values(), together.model.state_dict().values()):
        assert torch.allclose(a, b, atol=2e-2, rtol=1e-2)
    assert torch.allclose(alone.losses["coarse"], together.losses["coarse"], rtol=1e-2)


def test_resume_after_a_kill_gives_the_uninterrupted_result(video, tmp_path):
    whole = fit(video, QUICK, parts=tmp_path / "whole")

    def stop_in_the_second_gop(progress):
        if progress.gops[0] == 1:
            raise KeyboardInterrupt

    parts = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        fit(video, QUICK, parts=parts, progress=stop_in_the_second_gop)
    assert [p.name for p in sorted(parts.glob("gop*"))] == ["gop_0000.safetensors"]
    kept = (parts / "gop_0000.safetensors").read_bytes()
    with pytest.raises(StgvError, match="1 of 2 GoPs .*--resume"):
        fit(video, QUICK, parts=parts)
    resumed = fit(video, QUICK, parts=parts, resume=True)
    assert (parts / "gop_0000.safetensors").read_bytes() == kept
    assert same(whole.model, resumed.model)
    assert resumed.losses["coarse"].shape == (60, 1)  # only the second was fitted


def test_resume_refuses_another_fit_and_mends_a_cut_file(video, tmp_path):
    parts = tmp_path / "parts"
    whole = fit(video, QUICK, parts=parts)
    for changed, field in ((replace(QUICK, steps=91), "config"), (QUICK, "seed")):
        with pytest.raises(StgvError, match=f"another fit .*{field}"):
            fit(video, changed, seed=1 if field == "seed" else 0, parts=parts, resume=True)
    data = (parts / "gop_0001.safetensors").read_bytes()
    (parts / "gop_0001.safetensors").write_bytes(data[: len(data) // 2])
    assert same(fit(video, QUICK, parts=parts, resume=True).model, whole.model)
    (parts / "fit.json").write_text("{")
    with pytest.raises(StgvError, match="damaged"):
        fit(video, QUICK, parts=parts, resume=True)
    shutil.rmtree(parts)
    fit(video, replace(QUICK, coarse_steps=2, steps=2), parts=parts, resume=True)  # nothing there: starts
    assert json.loads((parts / "fit.json").read_text())["config"]["steps"] == 2


def test_a_loss_that_is_not_finite_stops_with_step_and_seed(video):
    with pytest.raises(StgvError, match=r"GoPs 0\.\.0, seed 5, coarse stage: the loss is not finite at step \d+"):
        fit(video, replace(QUICK, color_rate=float("inf")), seed=5)


def test_no_steps_is_the_starting_point(video):
    result = fit(video, replace(QUICK, coarse_steps=0, steps=0))
    assert result.losses["coarse"].numel() == 0 and result.model.num_parameters() > 0
    assert psnr_over_steps(result.losses["coarse"]) == []


def test_one_pixel_and_one_gaussian(tmp_path):
    write_video(tmp_path / "dot", np.full((2, 1, 1, 3), 77, np.uint8))
    result = fit(open_video(tmp_path / "dot"), replace(QUICK, gaussians=1, coarse_steps=200))
    assert evaluate(result.model.frames(), open_video(tmp_path / "dot").read())["psnr"] > 25


def test_psnr_over_steps_covers_whole_rounds():
    losses = torch.full((25, 2), 0.01)
    assert psnr_over_steps(losses, period=10, points=100) == [(10, 20.0), (20, 20.0), (25, 20.0)]


def test_one_step_is_enough(video, device):
    result = fit(video, replace(QUICK, coarse_steps=1, steps=1), device)
    assert result.losses["deformation"].shape == (1, 2) and torch.isfinite(result.losses["deformation"]).all()


@pytest.mark.gpu
def test_cuda_follows_the_cpu(video):
    cpu, cuda = fit(video, QUICK, "cpu"), fit(video, QUICK, "cuda")
    assert torch.allclose(cpu.losses["coarse"][:20], cuda.losses["coarse"][:20], rtol=2e-2)
    psnr = [evaluate(r.model.frames(), video.read())["psnr"] for r in (cpu, cuda)]
    assert abs(psnr[0] - psnr[1]) < 0.7
