"""The flat optimiser against torch's Adam and a plain transcription of Adan, and its CUDA kernels against both."""

from dataclasses import replace

import pytest
import torch

from stgvlib.config import PAPER
from stgvlib.errors import StgvError
from stgvlib.fitting.optimizer import FlatOptimizer, Segment, schedule

STEPS = 25


def problem(device):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 7, 3, generator=generator), torch.randn(5, generator=generator)
    gradients = torch.randn(STEPS, 47, generator=generator)
    return a.to(device), b.to(device), gradients.to(device)


def run(device, kind, rates, floor=-torch.inf, betas=None):
    a, b, gradients = problem(device)
    segments = [Segment("a", [a], rates[0], floor), Segment("b", [b], rates[1])]
    optimizer = FlatOptimizer(segments, kind, betas)
    for g in gradients:
        optimizer.grad.copy_(g)
        optimizer.step()
    return torch.cat([a.flatten(), b]).cpu()


@pytest.mark.parametrize("betas", [None, (0.95, 0.99)])
def test_adam_is_torchs(device, betas):
    a, b, gradients = problem("cpu")
    flat = torch.cat([a.flatten(), b]).requires_grad_()
    reference = torch.optim.Adam([flat], lr=0.01, eps=1e-15, betas=betas or (0.9, 0.999))
    for g in gradients:
        flat.grad = g.clone()
        reference.step()
    rates = [schedule("constant", 0.01, 0.01, STEPS)] * 2
    assert torch.allclose(run(device, "adam", rates, betas=betas), flat.detach(), atol=1e-5)


def test_adan_follows_its_algorithm(device):
    a, b, gradients = problem("cpu")
    p = torch.cat([a.flatten(), b]).double()
    m = v = n = torch.zeros_like(p)
    last = gradients[0].double()
    for t, g in enumerate(gradients.double(), 1):
        m, v = 0.98 * m + 0.02 * g, 0.92 * v + 0.08 * (g - last)
        n = 0.99 * n + 0.01 * (g + 0.92 * (g - last)) ** 2
        step = m / (1 - 0.98**t) + 0.92 * v / (1 - 0.92**t)
        p = p - 0.01 * step / ((n / (1 - 0.99**t)).sqrt() + 1e-8)
        last = g
    rates = [schedule("constant", 0.01, 0.01, STEPS)] * 2
    assert torch.allclose(run(device, "adan", rates).double(), p, atol=1e-4)


@pytest.mark.parametrize("kind", ["adam", "adan"])
def test_segments_have_their_own_rates_and_floors(device, kind):
    rates = [schedule("cosine", 0.05, 0.01, STEPS), torch.zeros(STEPS)]
    result = run(device, kind, rates, floor=0.3)
    a, b, _ = problem("cpu")
    assert torch.equal(result[42:], b)
    rows = result[:42].view(-1, 3)
    assert rows[:, ::2].min() >= 0.3 and rows[:, 1].min() < 0.3


def test_schedules():
    assert schedule("cosine", 1.0, 0.1, 11)[[0, 5, 10]].tolist() == pytest.approx([1.0, 0.55, 0.1])
    assert schedule("exponential", 1.0, 0.01, 3).tolist() == pytest.approx([1.0, 0.1, 0.01])
    assert schedule("halving", 1.0, 0.0, 50_000, 20_000)[[0, 19_999, 20_000, 40_000]].tolist() == [1.0, 1.0, 0.5, 0.25]
    with pytest.raises(ValueError, match="schedule must be"):
        schedule("linear", 1, 0, 5)


def test_decay_rates_fit_the_optimiser():
    with pytest.raises(StgvError, match="betas of adan must be 3 numbers"):
        replace(PAPER, betas=(0.9, 0.999))


def test_grey_rows_stay_grey(device):
    """Rows of three equal numbers get the mean of their gradients, all others their own."""
    a, _, gradients = problem("cpu")
    a[0, :3] = a[0, :3, :1]
    tied = gradients[:, :42].reshape(STEPS, 2, 7, 3).clone()
    tied[:, 0, :3] = tied[:, 0, :3].mean(-1, keepdim=True)
    results = []
    for given, grey in ((gradients[:, :42], True), (tied.reshape(STEPS, 42), False)):
        p = a.clone().to(device)
        optimizer = FlatOptimizer([Segment("rgb", [p], schedule("constant", 0.01, 0.01, STEPS), grey=grey)])
        for g in given.to(device):
            optimizer.grad.copy_(g)
            optimizer.step()
        results.append(p.cpu())
    assert torch.allclose(*results, atol=1e-6) and (results[0] != a).all()
    assert (results[0][0, :3] == results[0][0, :3, :1]).all()
    assert (results[0][0, 3:, 0] != results[0][0, 3:, 1]).all()
