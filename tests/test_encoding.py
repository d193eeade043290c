"""The encodings: tiny-cuda-nn's layout, and every backend against the float64 reference."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from stgvlib.ops.encoding import HashGrid, Planes, hash_encode_reference, positional

pytestmark = pytest.mark.usefixtures("two_threads")


def points(gops, count, dims, seed=0):
    return torch.rand(gops, count, dims, generator=torch.Generator().manual_seed(seed)) * 1.2 - 0.1


@pytest.mark.parametrize("dims, features", [(2, 2), (2, 4), (3, 2), (3, 4)])
@pytest.mark.parametrize("gops, count, size", [(1, 1, 10), (2, 700, 10), (1, 5, 4), (1, 300, 14)])
def test_values_and_gradients(device, dims, features, gops, count, size):
    grid = HashGrid(gops, dims, features, levels=5, log2_table_size=size, generator=torch.Generator().manual_seed(1))
    grid.table.data *= 1e4
    x = points(gops, count, dims)
    exact_x, exact_table = x.double().requires_grad_(), grid.table.detach().double().requires_grad_()
    reference = hash_encode_reference(exact_x, exact_table, grid)
    weight = torch.randn(reference.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (reference * weight).sum().backward()
    grid, x = grid.to(device), x.to(device).requires_grad_()
    out = grid(x)
    (out * weight.float().to(device)).sum().backward()
    for value, expected in ((out, reference), (grid.table.grad, exact_table.grad), (x.grad, exact_x.grad)):
        assert (value.double().cpu() - expected).norm() < 1e-3 * expected.norm()


def test_layout_is_tiny_cuda_nns():
    """Sizes that give the paper's parameter counts: two dense 2D levels, every 3D level hashed."""
    flat, solid = HashGrid(1, 2, 2), HashGrid(1, 3, 4)
    assert flat.sizes == [256, 576] + [1024] * 6 and flat.table.numel() == 13_952
    assert solid.sizes == [1024] * 8 and all(solid.hashed) and solid.table.numel() == 32_768
    assert flat.hashed == [False, False] + [True] * 6
    # A grid of 5 x 5 points takes 32 entries: sizes are rounded up to 8.
    assert HashGrid(1, 2, 2, levels=1, base=5).sizes == [32]


def test_dense_level_interpolates_its_grid():
    """With one entry set, the encoding is the tent around that grid point, at (index - 0.5) / scale."""
    grid = HashGrid(1, 2, 2, levels=1, base=16)
    grid.table.data.zero_()
    grid.table.data[0, 5 * 16 + 3, 0] = 1.0
    at = (torch.tensor([3.0, 5.0]) - 0.5) / 15
    x = torch.stack([at, at + torch.tensor([0.25 / 15, 0.0]), at + torch.tensor([1 / 15, 0.0])])[None]
    assert grid(x)[0, :, 0].tolist() == pytest.approx([1.0, 0.75, 0.0], abs=1e-5)


def test_time_cells_set_the_last_axis_alone():
    grid = HashGrid(1, 3, 4, time_cells=(1, 2, 3, 4, 5, 6, 9, 9))
    assert [r[2] for r in grid.resolutions] == [2, 3, 4, 5, 6, 7, 10, 10]
    assert [r[0] for r in grid.resolutions] == [r[0] for r in HashGrid(1, 3, 4).resolutions]
    with pytest.raises(ValueError, match="time_cells needs one number a level"):
        HashGrid(1, 3, 4, time_cells=(1, 2))


def test_gops_do_not_mix(device):
    grid = HashGrid(3, 3, 4, generator=torch.Generator().manual_seed(0)).to(device)
    x = points(3, 50, 3).to(device)
    alone = HashGrid(1, 3, 4).to(device)
    alone.table.data = grid.table.data[1:2].clone()
    assert torch.allclose(grid(x)[1], alone(x[1:2])[0], atol=1e-7)


def test_positional_is_gamma():
    code = positional(torch.tensor([[0.25]]), 6)
    assert code.shape == (1, 13)
    assert code[0, 0] == 0.25 and code[0, 1] == pytest.approx(2**-0.5) and code[0, 8] == pytest.approx(0.0, abs=1e-6)


def test_planes_are_bilinear(device):
    """Against grid_sample in float64 on all three planes, also beyond the frame and in every gradient."""
    planes = Planes(2, generator=torch.Generator().manual_seed(3))
    exact = Planes(2, generator=torch.Generator().manual_seed(3)).double()
    x, t = points(2, 60, 2), torch.tensor([0.3, 1.0])
    exact_x = x.double().requires_grad_()
    both = torch.cat([exact_x, t.double()[:, None, None].expand(2, 60, 1)], -1)
    expected = []
    for plane, axes in zip(exact.planes, ([0, 1], [0, 2], [1, 2])):
        at = both[..., axes][:, :, None] * 2 - 1
        sampled = torch.nn.functional.grid_sample(plane, at, align_corners=True, padding_mode="border")
        expected.append(sampled[..., 0].transpose(1, 2))
    expected = torch.cat(expected, -1)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    (expected * weight).sum().backward()
    planes, x = planes.to(device), x.to(device).requires_grad_()
    out = planes(x, t.to(device))
    (out * weight.float().to(device)).sum().backward()
    pairs = [(out, expected), (x.grad, exact_x.grad)]
    pairs += [(p.grad, q.grad) for p, q in zip(planes.planes, exact.planes)]
    for value, wanted in pairs:
        assert wanted.norm() > 0 and (value.double().cpu() - wanted).norm() < 1e-4 * wanted.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("dims, features", [(2, 2), (3, 4)])
def test_tinycudann_agrees(dims, features):
    """In a process of its own: a broken installation of tiny-cuda-nn fails this test and no other."""
    if find_spec("tinycudann") is None:
        pytest.skip("tiny-cuda-nn is not installed")
    done = subprocess.run([sys.executable, __file__, str(dims), str(features)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-4


def difference_to_tinycudann(dims: int, features: int) -> float:
    """Largest absolute difference between our hash encoding and tiny-cuda-nn's, of features of about 1."""
    grid = HashGrid(2, dims, features).cuda()
    grid.table.data *= 1e4
    x = points(2, 512, dims).clamp(0, 1).cuda()
    ours = grid(x)
    os.environ["STGV_BACKEND"] = "tinycudann"
    return (grid(x) - ours).abs().max().item()


if __name__ == "__main__":  # the process of test_tinycudann_agrees
    print(difference_to_tinycudann(*map(int, sys.argv[1:])))
