"""HNeRV-Boost: its published sizes, its equations, its loss against independent ones, and what it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pytorch_msssim import ms_ssim, ssim

from stgvlib.baselines import SYSTEMS
from stgvlib.baselines.hnerv_boost import Block, HNervBoost, TemporalAffine
from stgvlib.baselines.inr import HNERV_BOOST, InrDecoder, fit_inr, sized
from stgvlib.baselines.inr_codec import decode_inr, encode_inr
from stgvlib.baselines.objective import Objective, similarity_over_scales, spectral_distance
from stgvlib.errors import StgvError
from stgvlib.metrics import psnr
from stgvlib.model.budget import paper_budget
from stgvlib.repro.registry import RUNS
from stgvlib.video.video import video_of

WINDOW = Objective(torch.nn.Identity(), HNERV_BOOST.loss, bf16=False).window


@pytest.fixture(scope="module")
def video():
    y, x = np.mgrid[:48, :80]
    return video_of(np.stack([np.stack([3 * x, 4 * y, x + y + 9 * t], -1) for t in range(3)]).astype(np.uint8))


@pytest.fixture(scope="module")
def fitted(video):
    config = replace(HNERV_BOOST, epochs=80, pixels_per_gaussian=1.0)
    return fit_inr(video, config).model


@pytest.mark.parametrize(
    ("width", "name", "count"), [(86, "hnerv_boost_small", 1_507_946), (134, "hnerv_boost", 3_080_653)]
)
def test_networks_have_the_authors_sizes(width, name, count):
    """Counts of their own code, decoder and embeddings, at the widths that their scripts give for 1.5M and 3M."""
    with torch.device("meta"):
        network = HNervBoost(width, (720, 1280), 132)
    assert network.num_parameters() == count and network.embeddings.shape == (132, 16, 9, 16)
    config = RUNS[f"bunny_720/{name}"].config
    with torch.device("meta"):
        assert sized(config, (720, 1280), 132, paper_budget(config, (720, 1280), 132)).width == width


def test_an_affine_transform_starts_from_the_identity():
    """With silent networks it changes nothing; with biases alone it is x (1 + a) + b, whatever the time."""
    affine, x, time = TemporalAffine(4, 32), torch.randn(2, 4, 3, 5), torch.randn(2, 32)
    with torch.no_grad():
        for last in (affine.scale[-1], affine.shift[-1]):
            last.weight.zero_(), last.bias.zero_()
        assert torch.equal(affine(x, time), x)
        affine.scale[-1].bias.fill_(0.5), affine.shift[-1].bias.copy_(torch.arange(4.0))
    assert torch.allclose(affine(x, time), 1.5 * x + torch.arange(4.0)[:, None, None])
    other = TemporalAffine(4, 32)
    assert not torch.allclose(other(x, time), other(x, time.flip(0)))


def test_a_block_is_a_sine_and_a_residual():
    block, x, time = Block(3, 4, 2, 3, 32), torch.randn(1, 3, 5, 6), torch.randn(1, 32)
    with torch.no_grad():
        block.convolution[1].weight.zero_(), block.convolution[1].bias.zero_()
    assert torch.equal(block(x, time), torch.sin(block.up(x))) and block(x, time).shape == (1, 4, 10, 12)


@pytest.mark.parametrize("size", [(161, 200), (170, 203), (50, 71), (7, 30)])
def test_similarity_is_that_of_the_usual_library(size):
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    y = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1).requires_grad_()
    usual = ms_ssim if min(size) > 160 else ssim
    with pytest.warns(UserWarning) if min(size) < 11 else torch.enable_grad():
        expected = usual(x, y, data_range=1)
    found = similarity_over_scales(x, y, WINDOW)
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    gradients = [torch.autograd.grad(value, y)[0] for value in (expected, found)]
    assert torch.allclose(*gradients, atol=1e-8)
    (opposed,) = torch.autograd.grad(similarity_over_scales(x, 1 - y, WINDOW), y)  # roots of 0
    assert opposed.isfinite().all()


def test_the_frequency_term_is_of_the_transform():
    """Against the sums that define it; an error that is the same everywhere is in one coefficient."""
    error = torch.randn(1, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    h, w = np.mgrid[:3, :4]
    waves = [np.exp(-2j * np.pi * (u * h / 3 + v * w / 4)) for u in range(3) for v in range(4)]
    sums = np.array([(error[0, 0].numpy() * wave).sum() for wave in waves])
    expected = (np.abs(sums.real) + np.abs(sums.imag)).sum() / 24
    assert spectral_distance(error, torch.zeros_like(error)).item() == pytest.approx(expected, rel=1e-5)
    assert spectral_distance(torch.full((1, 3, 8, 10), 0.3), torch.zeros(1, 3, 8, 10)).item() == pytest.approx(0.15)


def test_it_overfits_a_short_clip(fitted, video, tmp_path):
    """28 dB after 240 steps on three frames; from files, rounded or not, the same frames."""
    decoder = InrDecoder(fitted, torch.float32)
    targets = torch.from_numpy(video.read(0, 3)).float() / 255
    assert min(psnr(frame, target) for frame, target in zip(decoder, targets, strict=True)) > 28
    system = SYSTEMS["hnerv_boost"]
    system.save(fitted, tmp_path / "m", hash="x")
    again, about = system.load(tmp_path / "m", torch.device("cpu"))
    written, read = fitted.state_dict(), again.state_dict()
    assert about == {"hash": "x"} and all(torch.equal(written[name], read[name]) for name in written | read)
    frames = [model.render(torch.tensor([1])) for model in (fitted, again)]
    assert torch.allclose(*frames, atol=1e-6)  # where tensors lie in memory may decide last bits
    shown = InrDecoder(decode_inr(encode_inr(fitted, 12)), torch.float32)[1]
    assert psnr(shown, decoder[1]) > 35


def test_the_time_decides(fitted):
    """The same embedding at another time is another picture."""
    network = fitted.network
    embedding = network.embeddings[[1]]
    pictures = [network.decode(embedding, torch.tensor([frame])) for frame in (1, 2)]
    assert (pictures[0] - pictures[1]).abs().mean() > 0.01


def test_missing_pixels_are_refused(video):
    holes = video.with_(missing=np.ones((3, 48, 80), bool))
    with pytest.raises(StgvError, match="hnerv_boost cannot leave pixels out of its loss; NeRV and HNeRV can"):
        fit_inr(holes, replace(HNERV_BOOST, pixels_per_gaussian=1.0))
