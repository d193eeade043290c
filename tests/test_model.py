"""Parameter counts, GoP split, files, and rendering at another scale."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scenes import random_model
from torch.nn.functional import leaky_relu

from stgvlib.codec.bitstream import parse, stream
from stgvlib.codec.load import load_model
from stgvlib.config import PAPER, STGV, FieldConfig, FitConfig, changes, from_dict
from stgvlib.errors import StgvError
from stgvlib.fitting.plan import equal_gops, with_gop_size
from stgvlib.model.budget import field_parameters, gaussian_count, paper_budget, split_gops
from stgvlib.model.field import FinelyWeighted
from stgvlib.model.model_file import save_model
from stgvlib.model.video_model import VideoModel
from stgvlib.ops.encoding import positional

BUNNY = (640, 1280)


def test_parameter_counts_are_the_papers():
    assert VideoModel(PAPER, [10], BUNNY, 20_000).num_parameters() == 231_813
    assert VideoModel(PAPER, [10], (720, 1280), 40_000).num_parameters() == 391_813
    gops = split_gops(132, PAPER.gop_size)
    assert len(gops) * 231_813 == 3_013_569 and gops[-1] == (120, 132)
    assert gaussian_count(PAPER, BUNNY, 132) == 20_000


def test_stgv_spends_the_same_budget():
    for size, gops in ((16, 8), (8, 17), (5, 27)):
        config = with_gop_size(STGV, size)
        model = VideoModel(config, [1], BUNNY, gaussian_count(config, BUNNY, 132))
        assert len(split_gops(132, size)) == gops
        assert 3_013_569 - 8 * gops <= gops * model.num_parameters() <= 3_013_569


def test_grey_gaussians_leave_room_for_more():
    """Of the same budget, at one number of colour instead of three for half of them."""
    config = replace(with_gop_size(STGV, 8), gaussians="budget")
    halved = replace(config, grey=0.5)
    model = VideoModel(halved, [8] * 17, BUNNY, gaussian_count(halved, BUNNY, 132))
    assert 3_013_569 - 8 * 17 <= model.num_parameters() <= 3_013_569
    assert model.count == pytest.approx(gaussian_count(config, BUNNY, 132) * 8 / 7, rel=1e-3)


def test_more_gops_share_the_budget():
    """A video with scene cuts has more GoPs; together they have as many parameters as without."""
    for config in (PAPER, with_gop_size(STGV, 8)):
        gops = len(split_gops(132, config.gop_size))
        count = gaussian_count(config, BUNNY, 132, gops + 4)
        spent = (gops + 4) * (8 * count + field_parameters(config.field))
        assert 0.999 < spent / paper_budget(config, BUNNY, 132) <= 1
        assert gaussian_count(config, BUNNY, 132, gops) == gaussian_count(config, BUNNY, 132)


@pytest.mark.parametrize("frames, size", [(1, 10), (9, 10), (10, 10), (13, 10), (14, 10), (132, 22), (7, 1)])
def test_gops_cover_the_video(frames, size):
    gops = split_gops(frames, size)
    assert [i for a, b in gops for i in range(a, b)] == list(range(frames))
    assert all(b > a for a, b in gops)


@pytest.mark.parametrize("frames, size, lengths", [(132, 16, {16, 17}), (90, 8, {8, 9}), (7, 16, {7}), (50, 5, {5})])
def test_equal_gops_differ_by_a_frame_at_most(frames, size, lengths):
    gops = equal_gops(frames, size)
    assert [0, *(stop for _, stop in gops)] == [*(start for start, _ in gops), frames]
    assert {stop - start for start, stop in gops} == lengths and len(gops) == len(split_gops(frames, size))


def test_davis_has_fifty_gops():
    assert sum(len(split_gops(n, 10)) for n in (90, 90, 80, 50, 104, 75)) == 50


@pytest.mark.parametrize("parametrization", ["tanh", "pixel"])
def test_pixels_come_back(parametrization):
    model = random_model(replace(STGV, parametrization=parametrization, additions=0))
    mu, cholesky = model.gaussians.pixels()
    model.gaussians.set_pixels(1, mu[0], cholesky[0], model.gaussians.rgb[0])
    again = model.gaussians.pixels()
    assert torch.allclose(again[0][1], mu[0], atol=1e-3) and torch.allclose(again[1][1], cholesky[0], atol=1e-5)


@pytest.mark.parametrize(
    "field",
    [
        FieldConfig(),
        FieldConfig(spatial=False),
        FieldConfig(temporal=False),
        FieldConfig(encoding="positional"),
        FieldConfig(encoding="planes"),
        FieldConfig(time_cells=(1, 2, 3, 4, 5, 6, 9, 9)),
        FieldConfig(deform_shape=True),
        FieldConfig(lattice=(3, 2, 4)),
    ],
)
def test_every_field_gives_every_parameter_a_gradient(field):
    model = random_model(replace(STGV, field=field))
    deltas = [d for d in model.field(model.gaussians.pixels()[0], torch.tensor([0.3, 0.9])) if d is not None]
    assert [d.shape for d in deltas] == [(2, 40, 2), (2, 40, 3), (2, 40, 3)][: 2 + field.deform_shape]
    sum(d.square().sum() for d in deltas).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.field.parameters())


@pytest.mark.parametrize("encoding, lattice", [("none", (3, 4, 5)), ("hash", (1, 2, 2)), ("none", (1, 1, 1))])
def test_a_lattice_is_trilinear(encoding, lattice):
    """Against a sum over all its points of tent weights, in NumPy; beyond the frame and its times as at the edge."""
    field = replace(STGV.field, encoding=encoding, lattice=lattice)
    model = random_model(replace(STGV, motion_steps=0, steps=1, field=field), (2, 6), count=200, noise=0)
    torch.nn.init.normal_(model.field.lattice, std=5)
    model.gaussians.mu.data *= 1.3
    t, mu = torch.tensor([0.1, 0.77]), model.gaussians.mu.detach()
    found = model.deform(t)[0] - mu
    where = torch.cat([(t[:, None, None] * lattice[0] - 1).expand(2, 200, 1), mu.flip(-1) / torch.tensor([24, 40])], -1)
    where = where.double().numpy() * [1, lattice[1] - 1, lattice[2] - 1]
    weights = []
    for axis, points in enumerate(lattice):
        at = where[..., axis].clip(0, points - 1)
        weights.append(np.maximum(0, 1 - np.abs(at[..., None] - np.arange(points))))
    expected = np.einsum("gna,gnb,gnc,gabcd->gnd", *weights, model.field.lattice.detach().double().numpy())
    assert np.abs(found.detach().numpy() - expected).max() < 1e-4 < np.abs(expected).max()


def test_a_gaussian_fades_by_a_number_of_its_own():
    model = random_model(replace(STGV, field=replace(STGV.field, fade=True)), (2, 3), noise=0)
    model.gaussians.motion.data[:, 0] = 1 / 16
    rgb, canonical = model.deform(torch.tensor([0.5, 1.0]))[2], model.gaussians.rgb
    assert torch.allclose(rgb[0], canonical[0]) and torch.allclose(rgb[1, 0], 1.5 * canonical[1, 0])
    assert torch.allclose(rgb[1, 1:], canonical[1, 1:]) and model.num_parameters() == 2 * (
        40 * 9 + field_parameters(STGV.field)
    )


def two_layer_heads(slope=0.0):
    wide = {"encoding": "positional", "width": 13, "deform_shape": True, "slope": slope}
    config = FieldConfig(**wide, head_layers=2, zero_heads=False)
    torch.manual_seed(0)
    return VideoModel(replace(STGV, motion_steps=0, field=config), [3, 3], (20, 30), 50).field


def test_padded_layers_give_the_same_field():
    """What half-precision products on a GPU need: widths up to a multiple of eight, zeros that change nothing."""
    field = two_layer_heads()
    x = torch.rand(2, 5, field.hidden.weight.shape[1])
    padded = torch.cat([x, torch.rand(2, 5, 1)], -1)
    hidden = field.hidden(padded, pad=True)
    assert hidden.shape == (2, 5, 16) and (hidden[..., 13:] == 0).all()
    exact = field.features(field.hidden(x).relu())
    assert torch.allclose(field.features(hidden.relu(), pad=True)[..., :13], exact, atol=1e-6)


@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_two_layer_heads_at_once_are_those_one_by_one(device, slope):
    """Values and gradients, both with hidden layers in bfloat16. Padding is ignored whatever it holds."""
    field = two_layer_heads(slope).to(device)
    heads = [field.position_head, field.color_head, field.shape_head]
    features = torch.randn(2, 50, 16, device=device).relu().bfloat16()
    layers = [[(layer.weight, layer.bias) for layer in (head[0], head[2])] for head in heads]
    wanted = []
    for (w, b), (last, last_bias) in layers:
        hidden = leaky_relu(torch.bmm(features[..., :13], w.bfloat16()) + b.bfloat16(), slope)
        wanted.append(torch.bmm(hidden.float(), last) + last_bias)
    parameters = [p for head in heads for p in head.parameters()]
    weights = [torch.randn_like(w) for w in wanted]
    found = field._two_layers(heads, features)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == torch.float32 and (a - b).norm() < 1e-3 * b.norm()
    grads = [torch.autograd.grad(sum((w * v).sum() for w, v in zip(weights, o)), parameters) for o in (found, wanted)]
    errors = [((a - b).norm() / b.norm()).item() for a, b in zip(*grads, strict=True)]
    assert max(errors) < 0.02, errors


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_units_below_zero_are_times_the_slope(heads, slope):
    config = FieldConfig(width=16, levels=1, log2_table_size=2, head_layers=heads, zero_heads=False, slope=slope)
    model = random_model(replace(STGV, motion_steps=0, field=config))
    field, mu, t = model.field, model.gaussians.pixels()[0], torch.tensor([0.3, 0.9])
    code = positional(t[:, None, None], config.time_frequencies, config.time_code).expand(-1, mu.shape[1], -1)

    def layer(of, x):
        return x @ of.weight + of.bias

    x = layer(field.hidden, torch.cat([*field.encode(mu, t), code], -1))
    assert 0.1 < (x < 0).float().mean() < 0.9
    x = layer(field.features, torch.where(x > 0, x, slope * x))
    x = torch.where(x > 0, x, slope * x)
    color = field.color_head
    if heads == 2:
        x = layer(color[0], x)
        x, color = torch.where(x > 0, x, slope * x), color[2]
    assert torch.allclose(field(mu, t)[1], layer(color, x), atol=1e-5)


def test_the_slope_is_a_setting_like_others():
    assert FieldConfig().slope == 0 and changes(replace(STGV.field, slope=0.0)) == changes(STGV.field)
    assert changes(FieldConfig(slope=0.1)) == {"slope": 0.1}
    assert type(VideoModel(STGV, [2], (8, 8), 2).field.activation) is torch.nn.ReLU
    for bad in (-0.1, 1.0, float("nan")):
        with pytest.raises(StgvError, match="slope must be at least 0 and below 1, got"):
            replace(STGV, field=FieldConfig(slope=bad))
    model = random_model(replace(STGV, motion_steps=0, field=FieldConfig(width=8, slope=0.25)))
    assert parse(stream(model)).model.config.field.slope == 0.25


def test_the_last_layer_keeps_its_weights_precision(device):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 64, 32, generator=generator).bfloat16().to(device)
    weight = torch.randn(2, 32, 8, generator=generator).to(device).requires_grad_()
    grad = torch.randn(2, 64, 8, generator=generator).to(device)
    exact = x.double() @ weight.double()
    found = FinelyWeighted.apply(x, weight)
    assert (found - exact).norm() < 3e-5 * exact.norm()
    assert (torch.bmm(x, weight.bfloat16()) - exact).norm() > 1e-3 * exact.norm()
    found.backward(grad)
    exact = x.mT.double() @ grad.double()
    assert (weight.grad - exact).norm() < 3e-5 * exact.norm()


def test_join_undoes_gop():
    model = random_model(lengths=(3, 3, 3))
    again = VideoModel.join([model.gop(g) for g in range(3)])
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))


def test_twice_the_size_has_the_same_picture():
    model = random_model(lengths=(3,), count=30)
    frame = torch.tensor([1])
    whole, double = model.render(frame)[0], model.render(frame, scale=2.0)[0]
    assert double.shape == (48, 80, 3)
    blocks = double.view(24, 2, 40, 2, 3).mean((1, 3))
    assert (blocks - whole).abs().mean() < 0.05 * whole.abs().mean()


def test_file_round_trip(tmp_path):
    model = random_model()
    save_model(model, tmp_path / "m.safetensors", fps=12.5)
    again, about = load_model(tmp_path / "m.safetensors")
    assert about["fps"] == 12.5 and again.config == model.config and again.num_frames == model.num_frames
    assert torch.equal(again.render(torch.tensor([1, 2])), model.render(torch.tensor([1, 2])))
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_bad_files_are_told_in_one_line(tmp_path):
    model = random_model()
    save_model(model, tmp_path / "good.safetensors")
    data = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-100])
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "nil.safetensors").write_bytes(b"")
    save_file({"a": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    (tmp_path / "future.safetensors").write_bytes(data.replace(b'"version":"1"', b'"version":"9"'))
    for name, said in {
        "none": "does not exist",
        "cut": "damaged",
        "text": "damaged",
        "nil": "damaged",
        "foreign": "no model",
        "future": "model format 9",
    }.items():
        with pytest.raises(StgvError, match=said) as error:
            load_model(tmp_path / f"{name}.safetensors")
        assert "\n" not in str(error.value)


def test_config_survives_json():
    config = replace(STGV, field=FieldConfig(time_cells=(1.0, 2.0)))
    assert from_dict(FitConfig, json.loads(json.dumps(asdict(config)))) == config
    with pytest.raises(StgvError, match="unknown settings"):
        from_dict(FitConfig, {"bogus": 1})
