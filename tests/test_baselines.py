"""The other systems: sizes, published parameter counts, learning, resuming, and what makes each of them what it is."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stgvlib.baselines import SYSTEMS, gaussian
from stgvlib.baselines.e_nerv import ENerv
from stgvlib.baselines.inr import E_NERV, HNERV, NERV, SIREN, InrConfig, InrDecoder, InrModel, _rate, fit_inr, sized
from stgvlib.baselines.layers import layout
from stgvlib.baselines.siren import Siren
from stgvlib.config import FieldConfig, FitConfig
from stgvlib.errors import StgvError
from stgvlib.fitting.fit import fit
from stgvlib.fitting.plan import with_gop_size
from stgvlib.metrics import psnr
from stgvlib.model.budget import field_parameters, gaussian_count, paper_budget, split_gops
from stgvlib.model.video_model import VideoModel
from stgvlib.video.video import open_video
from stgvlib.video.write import write_video

IMPLICIT = {key: s.config for key, s in SYSTEMS.items() if isinstance(s.config, InrConfig)}
GAUSSIAN = {key: s.config for key, s in SYSTEMS.items() if isinstance(s.config, FitConfig)}
BUNNY = (640, 1280)


@pytest.fixture
def video(tmp_path):
    y, x = np.mgrid[:50, :70]
    frames = (np.stack([x * 3, y * 4 + 5 * t, x + y + 3 * t], -1).clip(0, 255).astype(np.uint8) for t in range(5))
    write_video(tmp_path / "clip", frames)
    return open_video(tmp_path / "clip")


@pytest.mark.parametrize("key", SYSTEMS)
def test_every_system_has_the_papers_budget(key):
    config = SYSTEMS[key].config
    budget = paper_budget(config, BUNNY, 132)
    assert budget == 3_013_569
    if isinstance(config, InrConfig):
        count = sized(config, BUNNY, 132, budget).num_parameters()
    else:
        config = with_gop_size(config, 16) if config.gop_size == "auto" else config
        gops, n = len(split_gops(132, config.gop_size)), gaussian_count(config, BUNNY, 132)
        count = gops * (n * (8 + 2 * config.field.polynomial) + field_parameters(config.field))
    assert 0.97 * budget < count <= budget


def test_networks_have_their_published_sizes():
    """SIREN 3.2M parameters with a width of 1,024; E-NeRV 12.49M with 196 channels of a 9x16 map."""
    with torch.device("meta"):
        siren, e_nerv = Siren(1024, (720, 1280), 132), ENerv(196, (720, 1280), 132)
    count, finer = (sum(p.numel() for p in network.parameters()) for network in (siren, e_nerv))
    assert count == pytest.approx(3.2e6, rel=0.02)
    assert finer == pytest.approx(12.49e6, rel=0.001)


@pytest.mark.parametrize("size", [(50, 70), (480, 854), (7, 3)])
@pytest.mark.parametrize("key", IMPLICIT)
def test_frames_have_the_videos_size(key, size):
    with torch.device("meta"):
        model = InrModel(IMPLICIT[key], 8, size, 5)
        assert model.render(torch.zeros(2, dtype=torch.int64)).shape == (2, *size, 3)


def test_layout_covers_with_the_least_excess():
    assert layout(BUNNY, ((5, 2, 2, 2, 2), (5, 4, 2, 2))) == ((5, 2, 2, 2, 2), (8, 16))
    assert layout((720, 1280), ((5, 4, 4), (3, 3, 5, 2))) == ((5, 4, 4), (9, 16))


@pytest.mark.parametrize("key", IMPLICIT)
def test_networks_learn_and_repeat_themselves(key, video):
    config = replace(IMPLICIT[key], epochs=60, rate=3e-3 if key != "siren" else 1e-3, pixels_per_gaussian=1.0)
    told = []
    result = fit_inr(video, config, seed=3, progress=told.append)
    losses = result.losses["training"]
    assert losses.shape == (60 * -(-5 // config.batch), 1) and losses[-5:].mean() < 0.3 * losses[:5].mean()
    assert told[-1].done == told[-1].total and told[-1].stage == "training"
    short = replace(config, epochs=2)
    once, twice, other = (fit_inr(video, short, seed=seed).losses["training"] for seed in (3, 3, 4))
    assert torch.equal(once, twice) and not torch.equal(once, other)
    decoder = InrDecoder(result.model, torch.float32)
    target = torch.from_numpy(video.read(2, 3)[0]).float() / 255
    assert psnr(decoder[2], target) > 15 and decoder.frames([0, 1]).shape == (2, 50, 70, 3)


@pytest.mark.parametrize("key", IMPLICIT)
def test_an_interrupted_fit_goes_on_from_its_checkpoint(key, video, tmp_path):
    config = replace(IMPLICIT[key], epochs=6, checkpoint_epochs=2, pixels_per_gaussian=1.0)
    whole = fit_inr(video, config).losses["training"]
    place, steps = tmp_path / "x" / "fit.checkpoint", []

    def stop(progress):
        steps.append(progress.done)
        if progress.done > 4 * len(whole) // 6:
            raise KeyboardInterrupt

    import stgvlib.baselines.inr as inr

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inr, "REPORT_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            fit_inr(video, config, checkpoint=place, progress=stop)
        assert place.is_file()
        steps.clear()
        spent = torch.load(place, weights_only=True)["spent"]
        again = fit_inr(video, config, checkpoint=place, progress=lambda p: steps.append(p.done))
    assert steps[0] == 4 * len(whole) // 6 + 1 and torch.allclose(again.losses["training"], whole)
    assert again.seconds["training"] > spent > 0
    assert not place.exists()
    place.write_bytes(b"no checkpoint")
    assert torch.equal(fit_inr(video, config, checkpoint=place).losses["training"], whole)


@pytest.mark.gpu
def test_a_network_trains_in_one_graph(video):
    """E-NeRV, whose loss has SSIM: compiled and captured on a GPU it learns what it learns on a CPU."""
    config = replace(E_NERV, epochs=30, rate=3e-3, pixels_per_gaussian=1.0, precision="tf32")
    cpu, cuda = (fit_inr(video, config, device).losses["training"] for device in ("cpu", "cuda"))
    assert cuda[-5:].mean() < 0.3 * cuda[:5].mean() and 0.2 < cuda[-5:].mean() / cpu[-5:].mean() < 5


@pytest.mark.gpu
@pytest.mark.parametrize("key", IMPLICIT)
def test_a_graph_decodes_what_the_network_does(key):
    """Any number of frames a call, in any order, twice; the same as without graphs."""
    model = InrModel(IMPLICIT[key], 8, (50, 70), 5).to("cuda").eval()
    if hasattr(model.network, "embeddings"):
        model.network.embeddings.normal_()
    decoder, rounded = InrDecoder(model, torch.float32), InrDecoder(model)
    for numbers in ([3], [0, 4, 1], [2], [1, 1, 3]):
        expected = model.render(torch.tensor(numbers, device="cuda"))
        assert torch.allclose(decoder.frames(numbers), expected, atol=1e-3)
        assert (rounded.frames(numbers).int() - (255 * expected.clamp(0, 1)).round().int()).abs().max() <= 1
    assert decoder.way == "one CUDA graph a call" and sorted(decoder._graphs) == [1, 3]


@pytest.mark.gpu
def test_a_network_that_no_graph_can_hold_says_so():
    class Waiting(Siren):
        def forward(self, frame):
            assert frame.max().item() < 5  # waits for the GPU
            return super().forward(frame)

    model = InrModel(SIREN, 8, (50, 70), 5).to("cuda").eval()
    model.network.__class__ = Waiting
    decoder = InrDecoder(model, torch.float32)
    assert torch.allclose(decoder[2], model.render(torch.tensor([2], device="cuda"))[0], atol=1e-3)
    assert decoder.way.startswith("no CUDA graph (")


def test_a_frame_that_is_not_there():
    decoder = InrDecoder(InrModel(NERV, 2, (50, 70), 5))
    for number in (5, -1):
        with pytest.raises(IndexError, match=f"frame {number} was asked for, the video has frames 0 to 4"):
            decoder[number]
    assert decoder.way == "no CUDA graph"


def test_what_cannot_be_fitted_says_why(video):
    with pytest.raises(StgvError, match=r"nerv, seed 0: the loss is not finite in epoch \d+; lower its rate"):
        fit_inr(video, replace(NERV, rate=1e30, epochs=5, pixels_per_gaussian=1.0))
    with pytest.raises(StgvError, match="needs at least .* parameters on this video, the budget is 10"):
        sized(NERV, BUNNY, 132, 10)


def test_rates_warm_up_and_end_at_nothing():
    assert _rate(0, 0.2) == pytest.approx(0.1) and _rate(0.2, 0.2) == 1 and _rate(1, 0.2) == pytest.approx(0)
    assert _rate(0, 0) == 1 and _rate(0.5, 0) == pytest.approx(0.5)


def test_hnerv_decodes_from_what_is_counted(video):
    """Without its encoder the model shows the same frames, and the encoder is not counted."""
    model = fit_inr(video, replace(HNERV, epochs=2, pixels_per_gaussian=1.0)).model
    network = model.network
    picture = torch.from_numpy(video.read(1, 2)).movedim(-1, 1).float() / 255
    expected = network.decode(network.encode(picture), torch.tensor([1]))
    del network.encoder
    assert torch.allclose(model.render(torch.tensor([1])), expected.movedim(1, -1), atol=1e-5)
    kept = network.embeddings.numel() + sum(p.numel() for p in network.parameters())
    assert model.num_parameters() == kept


def test_siren_sees_pixel_centres():
    network = Siren(4, (2, 4), 3)
    points = network.points(torch.tensor([0, 2]), torch.tensor([0, 7]))
    assert torch.allclose(points, torch.tensor([[-0.75, -0.5, -1.0], [0.75, 0.5, 1.0]]))
    colors = torch.cat([network.colors(network.points(torch.tensor([1]), torch.tensor([p]))) for p in range(8)])
    assert torch.allclose(network(torch.tensor([1]))[0].movedim(0, -1).reshape(8, 3), colors, atol=1e-6)
    assert SIREN.pixel_part < 1


@pytest.mark.parametrize("key", GAUSSIAN)
def test_gaussian_systems_learn(key, video):
    motion, steps = (min(steps, 100) for steps in (GAUSSIAN[key].motion_steps, GAUSSIAN[key].steps))
    config = replace(GAUSSIAN[key], coarse_steps=100, motion_steps=motion, steps=steps, gaussians=60)
    result = fit(video, config)
    first = result.losses["coarse"][:5].mean()  # a round of all frames
    assert result.losses["coarse"][-5:].mean() < 0.9 * first
    if len(result.losses["deformation"]):
        assert result.losses["deformation"][-5:].mean() < 0.9 * first
    assert sum(result.model.num_frames) == 5 and len(result.model.num_frames) == (5 if key == "2dgs" else 1)


def test_2dgs_has_no_field():
    model = VideoModel(gaussian.TWO_DGS, [1], (20, 30), 7)
    assert model.num_parameters() == 7 * 8
    with pytest.raises(StgvError, match="steps must be 0, got 5"):
        replace(gaussian.TWO_DGS, steps=5)


def test_gsvr_moves_by_its_polynomial():
    """mu(t) - mu(0) = scale * (a t + b t^2) once the field is silent, which it is at the start."""
    config = replace(gaussian.GSVR, parametrization="pixel", field=replace(gaussian.GSVR.field, position_scale=10.0))
    model = VideoModel(config, [4], (20, 30), 2)
    with torch.no_grad():
        model.gaussians.motion[0] = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, -1.0, 0.0, 0.0]])
        still, moved = model.gaussians.mu, model.deform(torch.tensor([0.5]))[0]
    assert torch.allclose(moved - still, 10 * torch.tensor([[[0.5 + 0.75, 1 + 1.0], [0.0, -0.5]]]))
    assert model.num_parameters() == 2 * 12 + field_parameters(config.field)


def test_d2gv_has_two_layer_heads():
    for config, heads in ((gaussian.D2GV, 2), (gaussian.D2GV_BEFORE, 3)):
        linear = field_parameters(FieldConfig(encoding="positional", width=156, deform_shape=heads == 3))
        assert field_parameters(config.field) == linear + heads * (156 * 156 + 156)
