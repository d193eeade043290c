"""Every backend of the render op against the dense float64 reference: values and gradients, at awkward sizes."""

import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stgvlib.ops.splat import CUT, splat, splat_gsplat, splat_mse, splat_reference

pytestmark = pytest.mark.usefixtures("two_threads")
SIZES = [(1, 1), (1, 40), (37, 1), (16, 16), (17, 33), (48, 80)]


def gaussians(gops, count, size, seed=0, scale=5.0, spread=0.2):
    """Random Gaussians, some of them outside the frame."""
    generator = torch.Generator().manual_seed(seed)
    extent = torch.tensor([size[1], size[0]])
    mu = (torch.rand(gops, count, 2, generator=generator) * (1 + 2 * spread) - spread) * extent
    l1, l3 = (torch.rand(2, gops, count, generator=generator) * scale + 0.1).unbind(0)
    l2 = torch.randn(gops, count, generator=generator) * scale / 3
    rgb = torch.rand(gops, count, 3, generator=generator) * 2 - 0.5
    return mu, torch.stack([l1, l2, l3], -1), rgb


def relative(value, reference):
    return ((value.double().cpu() - reference).norm() / reference.norm().clamp(min=1e-12)).item()


def compare(tensors, size, device, seed=0):
    """Relative errors of the image and of the three gradients against float64."""
    fast = [t.clone().to(device).requires_grad_() for t in tensors]
    exact = [t.detach().double().requires_grad_() for t in tensors]
    image, reference = splat(*fast, size), splat_reference(*exact, size)
    weight = torch.randn(reference.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    (image * weight.float().to(device)).sum().backward()
    (reference * weight).sum().backward()
    return [relative(image.detach(), reference.detach())] + [relative(f.grad, e.grad) for f, e in zip(fast, exact)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("gops, count", [(1, 1), (2, 5), (3, 123)])
def test_values_and_gradients(device, size, gops, count):
    assert max(compare(gaussians(gops, count, size), size, device)) < 2e-3


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 40), st.floats(0.2, 30), st.integers(0, 10**6))
def test_any_size_and_shape(height, width, count, scale, seed):
    size = (height, width)
    image, *gradients = compare(gaussians(1, count, size, seed, scale), size, torch.device("cpu"), seed)
    assert image < 2e-3 and max(gradients) < 2e-2  # a pixel on the cut may fall either way in float32


def test_five_thousand_in_one_tile(device):
    """The published kernels sum the first 256 of a tile."""
    mu, cholesky, rgb = gaussians(1, 5000, (16, 16), spread=0.0, scale=2.0)
    assert max(compare((mu + 16, cholesky, rgb), (48, 48), device)) < 1e-3


@pytest.mark.parametrize("scale", [15.0, 200.0])
def test_large_among_small(device, scale):
    """Gaussians over hundreds of tiles, which a GPU bins by a warp and gathers by eight, next to small ones."""
    size = (150, 210)
    parts = zip(gaussians(2, 40, size, 0, scale), gaussians(2, 60, size, 1, 2.0))
    assert max(compare([torch.cat(pair, 1) for pair in parts], size, device)) < 2e-3


def test_outside_the_frame_is_black_and_without_gradient(device):
    mu, cholesky, rgb = (t.to(device) for t in gaussians(1, 50, (20, 30), scale=2.0))
    mu = (mu + torch.tensor([500.0, -900.0], device=device)).requires_grad_()
    image = splat(mu, cholesky, rgb, (20, 30))
    image.sum().backward()
    assert image.abs().max() == 0 and mu.grad.abs().max() == 0


def test_needles_stay_finite(device):
    """sigma of a thin, slanted Gaussian must not cancel below zero."""
    size = (64, 96)
    mu, cholesky, rgb = gaussians(1, 200, size)
    cholesky[..., 0], cholesky[..., 2] = 0.01, 0.3
    cholesky[..., 1] *= 20
    tensors = [t.to(device).requires_grad_() for t in (mu, cholesky, rgb)]
    image = splat(*tensors, size)
    image.square().sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in tensors)
    assert image.abs().max() <= rgb.abs().max() * 200
    assert tensors[1].grad[..., 0].abs().max() == 0  # l1 lies below MIN_SCALE


@pytest.mark.parametrize("l1", [0.31, 40.0])
def test_needles_are_exact_on_a_cpu(l1):
    """A row of a slanted needle is a hundredth of a px wide, far less than float32 resolves in sums of coordinates."""
    mu, cholesky, rgb = gaussians(1, 60, (80, 200))
    cholesky *= torch.tensor([0.0, 20.0, 0.0])
    cholesky += torch.tensor([l1, 0.0, 0.31])
    assert max(compare((mu, cholesky, rgb), (80, 200), torch.device("cpu"))) < 5e-5


@pytest.mark.parametrize("huber", [None, 0.5])
def test_a_loss_of_nan_is_nan_on_a_cpu(huber):
    """So that a fit that diverges is seen."""
    mu, cholesky, rgb = gaussians(2, 5, (9, 20), scale=9.0)
    rgb[1, 2] = torch.nan
    frames = torch.full((2, 1, 9, 20, 4), 255, dtype=torch.uint8)
    loss = splat_mse(mu, cholesky, rgb, frames, torch.zeros(2, dtype=torch.int32), huber)
    assert loss.isnan().tolist() == [False, True]


def test_finite_differences():
    mu, cholesky, rgb = (t.double() for t in gaussians(1, 4, (9, 11), scale=3.0))
    cholesky[..., [0, 2]] += 1.0
    keep = splat_reference(mu, cholesky, torch.ones_like(rgb), (9, 11)).detach()
    # Only pixels well inside the cut: the cut itself is a step.
    mask = torch.zeros_like(keep)
    for i in range(4):
        alone = splat_reference(*(t[:, i : i + 1] for t in (mu, cholesky, torch.ones_like(rgb))), (9, 11))
        mask += ((alone > 0) & (alone < 1.2 / 255)).double()

    def f(*tensors):
        return (splat_reference(*tensors, (9, 11)) * (mask == 0)).sum((1, 2))

    assert torch.autograd.gradcheck(f, [t.requires_grad_() for t in (mu, cholesky, rgb)], eps=1e-6, atol=1e-5)


def test_cut_is_exact(device):
    """Weights of 1/255 and more count, smaller ones do not, and the gradient agrees."""
    l = torch.tensor([[[2.0, 0.0, 2.0]]], device=device)
    mu = torch.tensor([[[0.5, 0.5]]], device=device)
    image = splat(mu, l, torch.ones(1, 1, 3, device=device), (1, 12))[0, 0, :, 0].cpu()
    reach = 2 * math.sqrt(2 * CUT)  # 6.66 px
    assert image[6] > 1 / 255 and image[7] == 0 and 6 < reach < 7


def test_pixel_centres_and_scale(device):
    """At scale s, position times s and Cholesky times s give the analytic value at every pixel centre."""
    s, (x, y), (l1, l2, l3) = 3, (7.3, 5.1), (2.0, 0.7, 1.5)
    mu = torch.tensor([[[x, y]]], device=device) * s
    cholesky = torch.tensor([[[l1, l2, l3]]], device=device) * s
    image = splat(mu, cholesky, torch.ones(1, 1, 3, device=device), (12 * s, 16 * s)).cpu()
    px, py = 20, 17
    z1 = ((px + 0.5) / s - x) / l1
    z2 = ((py + 0.5) / s - y - l2 * z1) / l3
    assert image[0, py, px, 1].item() == pytest.approx(math.exp(-(z1 * z1 + z2 * z2) / 2), rel=1e-5)


@pytest.mark.parametrize("huber", [None, 0.5])
@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (33, 50)])
def test_mse_matches_its_parts(device, size, clamp, huber):
    """splat_mse is the weighted mean square of splat, with frames picked and pixels masked; gradients too. With `huber`
    it is twice torch's Huber loss; with `clamp` the picture is clamped as torch.clamp does."""
    tensors = gaussians(2, 60, size, seed=3)
    frames = torch.randint(0, 256, (2, 3, *size, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    frames[..., 3] = (frames[..., 3] > 60) * 255
    index = torch.tensor([2, 0], dtype=torch.int32)
    fast = [t.clone().to(device).requires_grad_() for t in tensors]
    exact = [t.double().requires_grad_() for t in tensors]
    loss = splat_mse(*fast, frames.to(device), index.to(device), huber, clamp)
    target = frames[torch.arange(2), index.long()].double() / 255
    rendered, target, weight = splat_reference(*exact, size), target[..., :3], target[..., 3:]
    if clamp:
        assert 0.02 < ((rendered < 0) | (rendered > 1)).double().mean() < 0.98
        rendered = rendered.clamp(0, 1)
    error = (rendered - target).square()
    if huber is not None:
        assert 0.1 < ((rendered - target).abs() > huber).double().mean() < 0.9
        error = 2 * torch.nn.functional.huber_loss(rendered, target, reduction="none", delta=huber)
    reference = (error * weight).mean((1, 2, 3))
    (loss * torch.tensor([1.0, 2.0], device=device)).sum().backward()
    (reference * torch.tensor([1.0, 2.0])).sum().backward()
    assert relative(loss.detach(), reference.detach()) < 1e-4
    assert max(relative(f.grad, e.grad) for f, e in zip(fast, exact)) < 2e-3  # weights and residual are fp16


def test_same_input_same_result_on_a_cpu():
    tensors = [t.requires_grad_() for t in gaussians(1, 300, (40, 60))]
    results = []
    for _ in range(2):
        image = splat(*tensors, (40, 60))
        results.append([image, *torch.autograd.grad(image.square().sum(), tensors)])
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_nothing_cuts_a_large_gaussian(device):
    size = (70, 90)
    tensors = torch.tensor([[[45.0, 35.0]]]), torch.tensor([[[400.0, 30.0, 300.0]]]), torch.ones(1, 1, 3)
    assert max(compare(tensors, size, device)) < 1e-3


def test_shapes_are_checked():
    mu, cholesky, rgb = gaussians(1, 3, (4, 4))
    with pytest.raises(ValueError, match=r"cholesky must be .*got \(1, 2, 3\)"):
        splat(mu, cholesky[:, :2], rgb, (4, 4))
    with pytest.raises(ValueError, match="size must be"):
        splat(mu, cholesky, rgb, (0, 4))
    with pytest.raises(ValueError, match="frames must be uint8"):
        splat_mse(mu, cholesky, rgb, torch.zeros(1, 1, 4, 4, 3), torch.zeros(1))


@pytest.mark.gpu
def test_overflowing_lists_change_nothing(monkeypatch):
    """A tile with more Gaussians than its list scans all of them."""
    from stgvlib.ops.cuda import splat as ops

    tensors = gaussians(2, 400, (50, 70))
    monkeypatch.setattr(ops, "LIST_CAPACITY", 3)
    assert max(compare(tensors, (50, 70), torch.device("cuda"))) < 2e-3


@pytest.mark.gpu
def test_gsplat_agrees():
    pytest.importorskip("gsplat", reason="gsplat is not installed")
    tensors = [t.cuda() for t in gaussians(1, 200, (48, 80), scale=3.0)]
    tensors[1][..., [0, 2]] += 0.3
    assert relative(splat_gsplat(*tensors, (48, 80)), splat(*tensors, (48, 80)).double().cpu()) < 2e-3


def test_compiled_code_and_cached_code_give_the_same_bits(tmp_path):
    """A fit that begins on a new machine compiles its kernels; one that resumes it loads them."""
    code = """
import hashlib, torch
from stgvlib.ops.splat import splat, splat_mse
g = torch.Generator().manual_seed(0)
mu = torch.rand(1, 300, 2, generator=g) * torch.tensor([40, 24])
shape = torch.rand(1, 300, 3, generator=g) * 3 + torch.tensor([0.7, -1.5, 0.7])
inputs = [t.requires_grad_() for t in (mu, shape, torch.randn(1, 300, 3, generator=g))]
frames = torch.randint(0, 256, (1, 1, 24, 40, 4), dtype=torch.uint8, generator=g)
splat_mse(*inputs, frames, torch.zeros(1, dtype=torch.int32)).sum().backward()
splat(*inputs, (24, 40)).square().sum().backward()
print(hashlib.sha256(b"".join(t.grad.numpy().tobytes() for t in inputs)).hexdigest())
"""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    ran = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
    assert len(ran[0].stdout) == 65 and ran[0].stdout == ran[1].stdout and list(tmp_path.rglob("*.nbc"))
