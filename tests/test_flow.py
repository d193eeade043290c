"""Optical flow as the field's start: tracks of a known motion, holes, learning, what it is worth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import pan, random_model

from stgvlib.config import STGV, FieldConfig
from stgvlib.errors import StgvError
from stgvlib.fitting.fit import fit
from stgvlib.fitting.motion import follow, start_lattice, targets_of
from stgvlib.metrics import evaluate
from stgvlib.model.decoder import Decoder
from stgvlib.video.flow import Flow, flow_of
from stgvlib.video.video import video_of

STEP = np.array([3, -1])  # px a frame


def canonical(config, lengths):
    """200 Gaussians on the frames of `pan` that no field moves yet."""
    return random_model(config, lengths, 200, (64, 96), noise=0)


@pytest.mark.parametrize("keyframe", [0, 4])
@pytest.mark.parametrize("side", [512, 48])
def test_tracks_follow_the_motion(keyframe, side, monkeypatch):
    monkeypatch.setattr("stgvlib.video.flow.SIDE", side)
    y, x = np.mgrid[30:40, 30:60:0.5]
    mu = np.stack([x, y], -1).reshape(-1, 2)
    tracks = flow_of(pan(), keyframe).tracks(mu)
    expected = mu + STEP * (np.arange(8) - keyframe)[:, None, None]
    inside = (expected > 8).all(-1) & (expected[..., 0] < 88) & (expected[..., 1] < 56)
    assert tracks.shape == (8, 600, 2) and inside.mean() > 0.8
    assert np.abs(tracks - expected)[inside].mean() < (0.3 if side == 512 else 0.8)


def test_what_a_camera_uncovers():
    """The cells of the last frame that a known shift leaves empty, of 5 in 20 columns and 3 in 12 rows."""
    size, step = (60, 100), np.array([25, 15])
    flow = Flow([None, np.tile(step, (*size, 1)).astype(np.float32)], 0, 1.0)
    assert flow.uncovered(size) == pytest.approx(1 - 15 / 20 * 9 / 12)
    flow.steps[1] *= 0
    assert flow.uncovered(size) == 0


@pytest.mark.parametrize("steps", [8, 4])
def test_the_lattice_begins_along_the_flow(steps):
    """Also with fewer points in time than the GoP has frames."""
    config = replace(STGV, field=replace(STGV.field, lattice=(steps, 4, 6)))
    model = canonical(config, (8,))
    start_lattice(model, [flow_of(pan(), 4)])
    found = model.field.displacement(model.gaussians.mu, torch.tensor([7 / 8])).detach()[0].numpy()
    inside = ((model.gaussians.mu[0] > 20) & (model.gaussians.mu[0] < torch.tensor([70, 44]))).all(-1).numpy()
    assert np.abs(found - 2 * STEP)[inside].mean() < 0.4
    still = model.field.displacement(model.gaussians.mu, torch.tensor([5 / 8])).detach()[0].numpy()
    assert np.abs(still)[inside].max() < (1e-5 if steps == 8 else 4)


def test_many_points_and_tiny_frames():
    mu = np.random.default_rng(1).random((40_000, 2)) * [96, 64]
    found = flow_of(pan(3), 1)
    tracks = found.tracks(mu)
    assert np.allclose(tracks[:, :50], found.tracks(mu[:50]), atol=1e-5) and np.allclose(tracks[1], mu, atol=1e-5)
    still = flow_of(pan(3)[:, :9, :9], 0).tracks(mu[:7])
    assert np.allclose(still, mu[:7].astype(np.float32))


def test_holes_are_not_followed():
    """Missing squares that stand still over a picture that moves."""
    frames, known = pan(), np.full((8, 64, 96), 255, np.uint8)
    mu = np.stack(np.meshgrid(np.arange(34.0, 50), np.arange(28.0, 44)), -1).reshape(-1, 2)
    whole = flow_of(frames, 0).tracks(mu)
    assert np.array_equal(flow_of(frames, 0, known).tracks(mu), whole)
    holed = frames.copy()
    holed[:, 28:40, 40:52] = known[:, 28:40, 40:52] = 0
    assert np.abs(flow_of(holed, 0, known).tracks(mu) - whole)[3].mean() < 2
    seen = flow_of(holed, 0).tracks(mu)  # the same black squares, as if they were to be seen
    assert np.abs(seen - whole)[3].mean() > 2.5


@pytest.mark.parametrize("field", [STGV.field, FieldConfig(width=48, position_scale=40.0)], ids=["fused", "torch"])
@pytest.mark.parametrize("parametrization, parts", [("pixel", 1), ("pixel", 3), ("tanh", 2)])
def test_the_field_learns_its_targets(device, field, parametrization, parts):
    config = replace(
        STGV, motion_steps=400, motion_parts=parts, field=field, parametrization=parametrization, additions=0
    )
    model = canonical(config, [8, 5]).to(device)
    before = {name: p.detach().clone() for name, p in model.gaussians.named_parameters()}
    targets = targets_of(model, [flow_of(pan(n), 0) for n in (8, 5)])
    assert targets.shape == (2, 8, 200, 2) and (targets[1, 5:] == 0).all()
    told = []
    losses = follow(model, targets, told.append)
    assert losses.shape == (400, 2) and told == [200, 400]
    assert (losses[-20:].mean(0) < 0.5).all() and (losses[:8].mean(0) > 2).all()
    assert all(torch.equal(p, before[name]) for name, p in model.gaussians.named_parameters())
    with torch.no_grad():
        moved = model.deform(model.times(torch.tensor([3, 2], device=device)))[0]
    assert (moved[0] - targets[0, 3]).abs().mean() < 0.5 and (moved[1] - targets[1, 2]).abs().mean() < 0.5


def test_every_part_of_the_gaussians_is_taken():
    """More parts than frames, and a number of Gaussians that they do not divide: but for the last two all learn."""
    config = replace(STGV, motion_steps=600, motion_parts=11, additions=0)
    model, targets = canonical(config, [3]), torch.zeros(1, 3, 200, 2)
    targets[:] = model.gaussians.mu.detach() + torch.arange(200).remainder(11)[:, None]  # each part is told another way
    follow(model, targets)
    with torch.no_grad():
        moved = model.deform(model.times(torch.tensor([1])))[0][0] - model.gaussians.mu[0]
    learnt = [moved[k:198:11].mean().item() for k in range(11)]
    assert all(b > a for a, b in zip(learnt, learnt[1:])) and learnt[0] < 2 and learnt[-1] > 8
    many = replace(config, motion_parts=1000, motion_steps=2)  # as many as there are Gaussians
    follow(canonical(many, [3]), targets)


def test_it_is_worth_something_where_the_camera_pans(device):
    video = video_of(pan())
    config = replace(STGV, gop_size=8, gaussians=400, coarse_steps=200, motion_steps=0, steps=240)
    plain, told = fit(video, config, device), []
    started = fit(video, replace(config, motion_steps=200), device, progress=told.append)
    values = [evaluate(Decoder(r.model, dtype=torch.float32), video.read(), False)["psnr"] for r in (plain, started)]
    assert values[1] > values[0] + 1, values
    assert "motion" in started.seconds and "motion" not in plain.seconds
    assert {p.stage for p in told} == {"coarse", "motion", "deformation"} and told[-1].done == told[-1].total == 640
    assert all(a.done <= b.done for a, b in zip(told, told[1:]))


def test_what_cannot_follow_says_so():
    with pytest.raises(StgvError, match="motion_steps need"):
        replace(STGV, motion_steps=5, field=FieldConfig(encoding="planes", polynomial=1))
