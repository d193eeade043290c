"""Fine-tuning for the bitstream: targets met, better than rounding, the file is what was trained."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stgvlib import bitstream, train
from stgvlib.baselines import GSVR, TWO_DGS
from stgvlib.compress import _rate, compress
from stgvlib.config import PAPER, STGV, FieldConfig
from stgvlib.decode import Decoder
from stgvlib.errors import StgvError
from stgvlib.metrics import evaluate
from stgvlib.placement import WAITING
from stgvlib.train import fit
from stgvlib.video import open_video, write_video

SMALL = FieldConfig(log2_table_size=6, position_scale=10.0)
FITS = {
    "stgv": replace(STGV, coarse_steps=200, steps=300, gaussians=150, gop_size=4, field=SMALL),
    "paper": replace(PAPER, coarse_steps=200, steps=300, gaussians=150, gop_size=4, field=SMALL),
    "gsvr": replace(GSVR, coarse_steps=200, steps=100, gaussians=150, gop_size=4, cuts="even"),
    "2dgs": replace(TWO_DGS, coarse_steps=200, gaussians=150),
}


@pytest.fixture(autouse=True)
def looked_at_often(monkeypatch):
    """Tests take few steps: rate control has to look more often than every 200."""
    monkeypatch.setattr(train, "CHUNK", 20)


@pytest.fixture
def video(tmp_path):
    y, x = np.mgrid[:48, :80]
    waves = (np.sin(x / (3 + c) + t / 3) * np.cos(y / (4 + c)) * 90 + 128 for t in range(8) for c in range(3))
    write_video(tmp_path / "clip", np.stack(list(waves)).reshape(8, 3, 48, 80).transpose(0, 2, 3, 1).astype(np.uint8))
    return open_video(tmp_path / "clip")


def quality(model, video):
    return evaluate(Decoder(model, dtype=torch.float32), video.read())["psnr"]


@pytest.mark.parametrize("key", ["stgv", "paper"])
def test_a_target_is_met_better_than_by_rounding(key, video, device):
    model = fit(video, FITS[key], device).model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pixels, told = video.num_frames * 48 * 80, []
    whole = 8 * len(bitstream.stream(model)) / pixels
    made = compress(video, model, bpp=0.6 * whole, fine_tuning=300, progress=told.append)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    data = bitstream.stream(made.model, made.steps)
    assert 0.3 * whole < 8 * len(data) / pixels <= 0.6 * whole
    coarsest = 2.0**bitstream.COARSEST
    least = len(bitstream.stream(model, bitstream.STEPS.scaled(coarsest)))
    rounded = bitstream.stream(model, bitstream.steps_for(model, max(len(data), least)))
    decoded = bitstream.parse(data).model.to(device)
    assert quality(decoded, video) > quality(bitstream.parse(rounded).model.to(device), video) + 1
    assert told[-1].stage == "fine-tuning" and told[-1].done == told[-1].total == 300


@pytest.mark.parametrize("key", FITS)
def test_the_file_is_what_was_trained(key, video):
    """Encoding rounds nothing that is not on its grid already, and Gaussians that were left out are not in it."""
    model = fit(video, FITS[key]).model
    made = compress(video, model, slope=2e-3, fine_tuning=60)
    decoded = bitstream.parse(bitstream.stream(made.model, made.steps)).model
    assert quality(decoded, video) == pytest.approx(quality(made.model, video), abs=0.01)
    alive = (made.model.gaussians.mu[..., 0] != WAITING).sum().item()
    assert (decoded.gaussians.mu[..., 0] != WAITING).sum() == alive
    assert made.kept == pytest.approx(alive / model.gaussians.mu[..., 0].numel())


def test_a_higher_slope_gives_a_smaller_file_and_a_quality_is_met(video):
    model = fit(video, FITS["stgv"]).model
    sizes = [
        len(bitstream.stream(m.model, m.steps))
        for m in (compress(video, model, slope=s, fine_tuning=100) for s in (1e-4, 1e-2))
    ]
    assert sizes[1] < 0.8 * sizes[0]
    made = compress(video, model, psnr=24.0, fine_tuning=300)
    assert abs(quality(made.model, video) - 24) < 2


def test_the_rates_gradient_is_that_of_its_model():
    """Against autograd through sum log2(1 + 2 e b), with b the mean distance from the mean in steps."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 50, 3, generator=generator, dtype=torch.float64).requires_grad_()
    alive = (torch.rand(2, 50, 1, generator=generator) > 0.2).double()
    log_step, price = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True), torch.tensor([0.5, 2.0]).double()
    count = alive.sum(1, keepdim=True)
    mean = ((values * alive).sum(1, keepdim=True) / count).detach()
    b = ((values - mean) * alive).abs().sum(1, keepdim=True) / count / log_step.exp()
    bits = (price[:, None, None] * count * torch.log2(1 + 2 * np.e * b)).sum()
    bits.backward()
    pull, slope = _rate(values.detach(), log_step.detach().exp(), price, alive, count)
    assert torch.allclose(pull, values.grad) and torch.allclose(slope, log_step.grad)


def test_what_cannot_be_compressed(video, tmp_path):
    model = fit(video, replace(FITS["stgv"], coarse_steps=2, steps=2)).model
    with pytest.raises(StgvError, match="the video has 3 frames of 48x80, the model 8 of 48x80: give the video that"):
        compress(video.with_(limit=3), model)
    with pytest.raises(StgvError, match="bytes are too few"):
        compress(video, model, bpp=1e-4, fine_tuning=10)
