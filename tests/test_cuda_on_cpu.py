"""What CUDA kernels compute, without a GPU: their sources run on a CPU (cuda_on_cpu.py), on small problems."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install '.[cuda]'")

import cuda_on_cpu  # noqa: E402
from test_cuda import errors_of_a_fused_step  # noqa: E402
from test_splat import gaussians, relative  # noqa: E402

from stgvlib.fitting import stage_cuda  # noqa: E402
from stgvlib.model import field_cuda  # noqa: E402
from stgvlib.ops.cuda import encoding, splat  # noqa: E402
from stgvlib.ops.splat import splat_mse, splat_reference  # noqa: E402

pytestmark = pytest.mark.skipif(not cuda_on_cpu.available(), reason="needs g++ 12 or newer")
H100 = SimpleNamespace(multi_processor_count=132, major=9, minor=0)


@pytest.fixture(params=["sm_90", "sm_75"])
def arch(request, monkeypatch):
    """Kernels as they are built for an architecture take the place of the GPU's."""
    for module in (splat, encoding, field_cuda, stage_cuda):
        monkeypatch.setattr(module, "run", partial(cuda_on_cpu.run, arch=request.param))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: H100)
    return request.param


def compared(tensors, size, huber=None, clamp=False):
    """Relative errors of the losses of two GoPs and of their gradients, against float64."""
    frames = torch.randint(0, 256, (2, 3, *size, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    frames[..., 3] = (frames[..., 3] > 60) * 255
    index = torch.tensor([2, 0], dtype=torch.int32)
    fast = [t.clone().requires_grad_() for t in tensors]
    exact = [t.double().requires_grad_() for t in tensors]
    loss = splat.SplatMSE.apply(*fast, frames, index, huber, clamp)
    reference = splat_mse(*exact, frames, index, huber, clamp)
    for of in (loss, reference):
        (of * torch.tensor([1.0, 2.0])).sum().backward()
    pairs = zip([loss.detach(), *(t.grad for t in fast)], [reference.detach(), *(t.grad for t in exact)])
    return [relative(*pair) for pair in pairs]


@pytest.mark.parametrize("huber, clamp", [(None, False), (None, True), (0.5, False)])
@pytest.mark.parametrize("size", [(16, 16), (33, 50)])
def test_a_step_of_the_splat_has_the_gradients_of_the_reference(arch, size, huber, clamp):
    loss, *gradients = compared(gaussians(2, 60, size, seed=3), size, huber, clamp)
    assert loss < 1e-4 and max(gradients) < 1e-3


@pytest.mark.parametrize("capacity", [512, 64])
def test_lists_longer_than_a_block_or_than_their_room(arch, monkeypatch, capacity):
    monkeypatch.setattr(splat, "LIST_CAPACITY", capacity)
    loss, *gradients = compared(gaussians(2, 400, (20, 30), seed=5, spread=0.0), (20, 30))
    assert loss < 1e-4 and max(gradients) < 1e-3


def test_large_gaussians_among_small_ones(arch):
    parts = zip(gaussians(2, 20, (33, 50), 0, 200.0), gaussians(2, 40, (33, 50), 1, 2.0))
    loss, *gradients = compared([torch.cat(pair, 1) for pair in parts], (33, 50))
    assert loss < 1e-4 and max(gradients) < 1e-3


def one(mu, cholesky, rgb):
    return [torch.tensor([[values]] * 2) for values in (mu, cholesky, rgb)]


def test_a_thin_gaussian_reaches_the_far_end_of_its_column(arch):
    """128 halvings lie between its centre's row and the first of the four that are computed from one another."""
    loss, *gradients = compared(one([4.5079, 8.46662], [1.0, 0.0, 0.3], [1.0, 1.0, 1.0]), (16, 16))
    assert loss < 1e-5 and max(gradients) < 1e-3


@pytest.mark.parametrize("reach, off", [(3.0, 2e-3), (10.0, 2e-2)])
def test_needles(arch, reach, off):
    mu, cholesky, rgb = gaussians(2, 30, (32, 48), seed=2)
    cholesky = torch.stack(
        [cholesky[..., 0] * 0 + 0.3, reach * cholesky[..., 1].sign(), cholesky[..., 2] * 0 + 0.3], -1
    )
    loss, *gradients = compared((mu, cholesky, rgb), (32, 48))
    assert loss < 1e-4 and max(gradients) < off


def test_what_is_not_finite_or_much_too_bright(arch):
    """A NaN shows in the loss of its GoP alone; colours of hundreds, in a fit that diverges, have finite gradients."""
    mu, cholesky, rgb = (t.repeat(1, 12, 1) for t in one([8.0, 8.0], [3.0, 0.0, 3.0], [500.0, 500.0, 500.0]))
    frames, index = torch.full((2, 1, 16, 16, 4), 255, dtype=torch.uint8), torch.zeros(2, dtype=torch.int32)
    leaves = [t.requires_grad_() for t in (mu, cholesky, rgb)]
    loss = splat.SplatMSE.apply(*leaves, frames, index, None, False)
    assert torch.isfinite(loss).all()
    assert all(torch.isfinite(grad).all() for grad in torch.autograd.grad(loss.sum(), leaves))
    with torch.no_grad():
        rgb[1, 3] = torch.nan
    assert splat.SplatMSE.apply(mu, cholesky, rgb, frames, index, None, False).isnan().tolist() == [False, True]


def test_images_and_their_gradients(arch):
    size = (33, 50)
    tensors = gaussians(2, 60, size)
    fast, exact = [t.requires_grad_() for t in tensors], [t.detach().double().requires_grad_() for t in tensors]
    image, reference = splat.Splat.apply(*fast, size), splat_reference(*exact, size)
    for of in (image, reference):
        of.square().sum().backward()
    assert relative(image.detach(), reference.detach()) < 1e-5
    assert max(relative(a.grad, b.grad) for a, b in zip(fast, exact)) < 1e-4
    projection = splat.Projection.empty(2, 60, size, torch.device("cpu"))
    shown = projection.project(*(t.detach() for t in tensors)).image(torch.empty(2, *size, 3, dtype=torch.uint8))
    assert (shown - 255 * reference.detach().clamp(0, 1)).abs().max() < 0.51


@pytest.mark.parametrize("name", ["shape", "lattice, fade", "narrow and leaky", "positional"])
def test_a_fused_step_has_the_gradients_of_the_reference(arch, name):
    errors = errors_of_a_fused_step(name, 140, (24, 40), "cpu")
    assert max(errors.values()) < 4e-2, errors
