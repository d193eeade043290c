"""D2GV against its own equations, written down apart from ours, and the settings in which peers differ from us."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from stgvlib.baselines.gaussian import D2GV, GAUSSIAN_VIDEO
from stgvlib.codec import bitstream
from stgvlib.config import PAPER, STGV, FieldConfig, FitConfig
from stgvlib.errors import StgvError
from stgvlib.fitting.fit import fit
from stgvlib.fitting.optimizer import FlatOptimizer, Segment
from stgvlib.fitting.placement import generator_for, initial_model
from stgvlib.fitting.stage import segments
from stgvlib.model.video_model import VideoModel
from stgvlib.repro.controls import SAME_FIELDS, same_trainer
from stgvlib.video.video import video_of

SIZE = (20, 30)


def random_model(config: FitConfig, frames: int = 4, count: int = 9) -> VideoModel:
    generator = torch.Generator().manual_seed(3)
    model = VideoModel(config, [frames], SIZE, count, generator)
    for name, p in model.named_parameters():
        p.data = torch.randn(p.shape, generator=generator) * (0.07 if name.startswith("field") else 0.3)
    return model


def d2gv_by_its_code(model: VideoModel, t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(positions px, Cholesky px, colours) as train_deform.py computes them, in NumPy."""
    arrays = {name: p[0].detach().double().numpy() for name, p in model.named_parameters()}
    xyz = arrays["gaussians.mu"]
    x, time = np.tanh(xyz), np.full((len(xyz), 1), t)

    def embed(v, frequencies):  # ours has all waves of an axis beside each other, which only orders the weights
        waves = [np.stack([np.sin(2.0**k * v) for k in range(frequencies)], -1)]
        waves += [np.stack([np.cos(2.0**k * v) for k in range(frequencies)], -1)]
        return np.concatenate([v, np.concatenate(waves, -1).reshape(len(v), -1)], -1)

    def layer(name, h):
        return h @ arrays[f"field.{name}.weight"] + arrays[f"field.{name}.bias"]

    h = np.concatenate([embed(x, 10), embed(time, 6)], -1)
    h = np.maximum(layer("features", np.maximum(layer("hidden", h), 0)), 0)
    moved, color = (layer(f"{n}.2", np.maximum(layer(f"{n}.0", h), 0)) for n in ("position_head", "color_head"))
    px = np.array([SIZE[1], SIZE[0]]) * (np.tanh(xyz + moved) + 1) / 2
    return px, arrays["gaussians.cholesky"] + [0.5, 0, 0.5], arrays["gaussians.rgb"] + color


def test_d2gv_deforms_as_its_code_does():
    model = random_model(D2GV)
    assert sorted({name.split(".")[1] for name, _ in model.field.named_parameters(prefix="field")}) == [
        "color_head", "features", "hidden", "position_head",
    ]  # fmt: skip
    ours = [v[0].detach().numpy() for v in model.deform(torch.tensor([0.75]))]
    for value, expected in zip(ours, d2gv_by_its_code(model, 0.75)):
        assert np.abs(value - expected).max() < 1e-4


def test_d2gvs_field_has_as_many_numbers_as_its_code_without_the_opacity():
    first, second, heads = 56 * 156, 157 * 156, 2 * 157 * 156 + 157 * 2 + 157 * 3
    assert sum(p.numel() for p in random_model(D2GV).field.parameters()) == first + second + heads


def test_d2gvs_learning_rates_are_its_codes():
    rates = {s.name: s.rates for s in segments(random_model(D2GV), "deformation")}
    before = {s.name: s.rates for s in segments(random_model(D2GV), "coarse")}
    halved = [5e-3 * 0.5 ** (step // 20_000) for step in range(70_000)]  # StepLR over both stages
    assert torch.allclose(torch.cat([before["mu"], rates["mu"]]), torch.tensor(halved, dtype=torch.float64))
    field = rates["mlp"]
    assert field[0].item() == pytest.approx(8e-4) and field[-1].item() == pytest.approx(1.6e-5)
    assert field[25_000].item() == pytest.approx(math.sqrt(8e-4 * 1.6e-5), rel=1e-3)
    assert (field[50_000:] == 1.6e-5).all() and field[49_000] > 1.6e-5


def test_field_and_gaussians_may_have_optimisers_of_their_own(device):
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(n, generator=generator).to(device) for n in (6, 5, 4))
    rates, gradients = torch.full((8,), 0.01), torch.randn(8, 15, generator=generator).to(device)
    both = [p.clone() for p in (a, b, c)]
    kinds = (None, "adam", "adam")
    mixed = FlatOptimizer([Segment(str(k), [p], rates, kind=k) for p, k in zip(both, kinds)], "adan", (0.9, 0.8, 0.7))
    alone = FlatOptimizer([Segment("a", [a], rates)], "adan", (0.9, 0.8, 0.7))
    rest = FlatOptimizer([Segment("b", [b], rates), Segment("c", [c], rates)], "adam")
    for g in gradients:
        for optimizer, part in ((mixed, g), (alone, g[:6]), (rest, g[6:])):
            optimizer.grad.copy_(part)
            optimizer.step()
    for p, expected in zip(both, (a, b, c)):
        assert torch.equal(p, expected)
    assert {s.kind for s in segments(random_model(D2GV), "deformation")} == {None, "adam"}


@pytest.mark.parametrize("parametrization", ["tanh", "pixel"])
def test_moving_inside_tanh_is_the_same_in_both_parametrisations(parametrization):
    model = random_model(D2GV)
    t = torch.tensor([0.5])
    expected = model.deform(t)[0]
    if parametrization == "pixel":
        mu, _ = model.gaussians.pixels()
        pixel = VideoModel(replace(D2GV, parametrization="pixel"), [4], SIZE, model.count)
        pixel.load_state_dict(model.state_dict() | {"gaussians.mu": mu})
        pixel.gaussians.mu.data[0, 0] = torch.tensor([-1e4, 5.0])  # outside of the frame: stays
        moved = pixel.deform(t)[0]
        assert torch.equal(moved[0, 0], pixel.gaussians.mu[0, 0])
        assert torch.allclose(moved[0, 1:], expected[0, 1:], atol=1e-3)
    assert (expected > 0).all() and (expected < torch.tensor([SIZE[1], SIZE[0]])).all()


@pytest.mark.parametrize("code, factor", [("pi", math.pi), ("plain", 1.0)])
def test_time_code_has_pi_or_not(code, factor):
    config = replace(PAPER, field=FieldConfig(time_code=code, time_frequencies=2, zero_heads=False))
    field, mu, t = random_model(config).field, torch.full((1, 9, 2), 5.0), torch.tensor([0.3])
    hash_rows = field.hidden.weight.shape[1] - 5
    field.hidden.weight.data[:, :hash_rows] = 0
    waves = [0.3, *(f(2**k * factor * 0.3) for f in (math.sin, math.cos) for k in range(2))]
    h = (torch.tensor(waves) @ field.hidden.weight[0, hash_rows:] + field.hidden.bias[0]).relu()
    h = (h @ field.features.weight[0] + field.features.bias[0]).relu()
    color = h @ field.color_head.weight[0] + field.color_head.bias[0]
    assert torch.allclose(field(mu, t)[1][0], color.expand(9, 3), atol=1e-4)


def test_gaussian_video_starts_where_frames_change():
    frames = torch.full((6, *SIZE, 4), 255, dtype=torch.uint8)
    for k in range(6):
        frames[k, 5:10, 4 * k : 4 * k + 4, :3] = 0
    frames[5, 15:, :, 3] = 0  # of pixels that are not known nothing is known to change
    frames[5, 15:, :, :3] = 0
    model = initial_model(GAUSSIAN_VIDEO, frames, 6, 2_000, generator_for(0, 0))
    mu, _ = model.gaussians.pixels()
    rows = mu[0, :, 1]
    inside = ((rows >= 5) & (rows < 10)).float().mean().item()
    assert 0.7 < inside < 0.7 + 0.3 * 5 / 20 + 0.1
    assert ((rows > 15).float().mean() < 0.3 * 5 / 15).item()


def test_a_field_that_moves_inside_tanh_survives_its_files():
    model = random_model(replace(D2GV, parametrization="tanh"), count=30)
    model.gaussians.cholesky.data.clamp_(min=0.1)
    content = bitstream.parse(bitstream.stream(model, bitstream.Steps(position=1e-3, cholesky=1e-3, color=1e-3)))
    assert content.model.config.field == D2GV.field
    shown, again = (m.render(torch.tensor([1])) for m in (model, content.model))
    assert (shown - again).abs().mean() < 0.02 < shown.std()


def test_settings_that_exclude_each_other_are_refused():
    with pytest.raises(StgvError, match="excludes motion_steps"):
        replace(STGV, field=replace(STGV.field, position_space="tanh"))
    with pytest.raises(StgvError, match="field_rate_until"):
        replace(PAPER, field_rate_until=0.0)


@pytest.mark.parametrize("name", SAME_FIELDS)
def test_every_representation_is_fitted_by_the_same_trainer(name):
    config = same_trainer(name, 5)
    assert config.coarse_steps + config.motion_steps + config.steps == 4_000 + 6_000 + 18_750 or name == "polynomial"
    short = replace(config, coarse_steps=60, motion_steps=min(config.motion_steps, 10), steps=min(config.steps, 40))
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    frames = [np.stack([(x + 2 * k) * 6 % 200, y * 9, x + y], -1).astype(np.uint8) for k in range(5)]
    result = fit(video_of(np.stack(frames)), replace(short, gaussians=60), "cpu")
    moved = result.model.deform(torch.tensor([1.0]))[0] - result.model.gaussians.pixels()[0]
    assert (moved.abs().max() > 1e-3) == (name != "none")
