"""The render op on Gaussians fitted to a Bunny key frame: forward, backward, against the dense reference, and the peak
memory of a fit. Usage: python benchmarks/bench_splat.py [cpu|cuda]

Floors: a pixel-Gaussian pair inside the ellipse takes about 10 instructions forward and 16 backward, and 6 where tensor
cores do the sums (splat_mse on a GPU). On a GPU each of
the SM's four schedulers issues one warp instruction a cycle; on a CPU a core issues about two AVX-512 operations of 16
floats a cycle. The pair count is measured on the Gaussians at hand.
"""

import resource
import subprocess
import sys
import tempfile
from dataclasses import replace

import torch
from common import measure, report

from stgvlib.config import STGV
from stgvlib.device import resolve_device
from stgvlib.fitting.batches import load_gops
from stgvlib.fitting.fit import fit
from stgvlib.ops.splat import CUT, splat, splat_mse, splat_reference
from stgvlib.video.datasets import load_dataset


def fitted(device: torch.device, size: tuple[int, int], count: int, steps: int) -> tuple[list, torch.Tensor]:
    video = load_dataset("bunny").with_(limit=1, resize=size)
    model = fit(video, replace(STGV, gaussians=count, coarse_steps=steps, steps=0), device).model
    tensors = [t.detach().clone().requires_grad_() for t in (*model.gaussians.pixels(), model.gaussians.rgb)]
    return tensors, load_gops(video, [(0, 1)], device)[0]


def wide(device: torch.device, size: tuple[int, int], count: int) -> list:
    """Random Gaussians as wide as after 70,000 steps: a mean bounding box of about 920 px at the cut."""
    generator = torch.Generator().manual_seed(0)
    mu = torch.rand(1, count, 2, generator=generator) * torch.tensor([size[1], size[0]])
    cholesky = torch.rand(1, count, 3, generator=generator) * torch.tensor([7.0, 3.0, 7.0]) + torch.tensor([1, -1.5, 1])
    rgb = torch.rand(1, count, 3, generator=generator)
    return [t.to(device).requires_grad_() for t in (mu, cholesky, rgb)]


def pairs(tensors: list) -> float:
    """Pixels inside the ellipses: 2 CUT pi l1 l3 each."""
    cholesky = tensors[1].detach()
    return float((2 * CUT * torch.pi * cholesky[..., 0] * cholesky[..., 2]).sum())


def instructions_a_ms(device: torch.device) -> float:
    """Lane instructions that the machine can issue in a millisecond."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count * 128 * 1.75e6
    return torch.get_num_threads() * 2 * 16 * 2.5e6


def bench(config: str, tensors: list, frames: torch.Tensor, size: tuple[int, int], device: torch.device) -> None:
    counts = (10, 26, 6 if device.type == "cuda" else 26)
    forward, both, compared = (n * pairs(tensors) / instructions_a_ms(device) for n in counts)
    index = torch.zeros(1, dtype=torch.int32, device=device)

    def image() -> None:
        splat(*tensors, size)

    def gradients() -> None:
        torch.autograd.grad(splat(*tensors, size).sum(), tensors)

    def mse() -> None:
        torch.autograd.grad(splat_mse(*tensors, frames, index).sum(), tensors)

    report("splat pairs", config, device, pairs(tensors) / 1e6, "M")
    report("splat forward", config, device, measure(image, device), "ms", forward)
    report("splat forward + backward", config, device, measure(gradients, device), "ms", both)
    report("splat_mse forward + backward", config, device, measure(mse, device), "ms", compared)


def yardstick(config: str, tensors: list, size: tuple[int, int], device: torch.device) -> None:
    """gsplat's alpha-compositing rasteriser on the same Gaussians at opacity 0.5, binning and sort included: another
    blend, the same amount of work."""
    try:
        from gsplat import isect_offset_encode, isect_tiles, rasterize_to_pixels
    except ImportError:
        print("gsplat is not installed: no yardstick")
        return
    mu, cholesky, rgb = tensors
    l1, l2, l3 = cholesky.unbind(-1)
    a, c = 1 / l1, 1 / l3
    b = -l2 * a * c
    conics = torch.stack([a * a + b * b, b * c, c * c], -1).detach().requires_grad_()
    radii = torch.stack([3.33 * l1, 3.33 * (l2 * l2 + l3 * l3).sqrt()], -1).detach().ceil().int()
    tiles = (-(-size[1] // 16), -(-size[0] // 16))
    opacity, depths = torch.full_like(l1, 0.5), torch.zeros_like(l1)

    def image() -> torch.Tensor:
        _, ids, flat = isect_tiles(mu.detach(), radii, depths, 16, *tiles)
        offsets = isect_offset_encode(ids, len(mu), *tiles)
        return rasterize_to_pixels(mu, conics, rgb, opacity, size[1], size[0], 16, offsets, flat)[0]

    def gradients() -> None:
        torch.autograd.grad(image().sum(), (mu, conics, rgb))

    report("gsplat forward (yardstick)", config, device, measure(image, device, captured=False), "ms")
    report("gsplat forward + backward (yardstick)", config, device, measure(gradients, device, captured=False), "ms")


def main(name: str) -> None:
    device = resolve_device(name)
    size, count = (640, 1280), 20_000
    tensors, frames = fitted(device, size, count, 300 if device.type == "cpu" else 2000)
    bench(f"bunny key frame 640x1280 N={count}", tensors, frames, size, device)
    if device.type == "cuda":
        yardstick(f"bunny key frame 640x1280 N={count}", tensors, size, device)
    bench(f"random wide 640x1280 N={count}", wide(device, size, count), frames, size, device)

    small, few = (160, 320), 1250
    tensors, _ = fitted(device, small, few, 300)

    def dense() -> None:
        torch.autograd.grad(splat_reference(*tensors, small).sum(), tensors)

    def fast() -> None:
        torch.autograd.grad(splat(*tensors, small).sum(), tensors)

    slow, quick = measure(dense, device), measure(fast, device)
    config = f"bunny 160x320 N={few}"
    report("dense forward + backward", config, device, slow, "ms")
    report("splat forward + backward", config, device, quick, "ms")
    report("speed-up over dense", config, device, slow[0] / quick[0], "x")
    if device.type == "cpu":
        with tempfile.TemporaryDirectory() as folder:
            memory(folder, device)


def memory(folder: str, device: torch.device) -> None:
    """Peak resident memory of a whole `stgv fit` of one full-size GoP."""
    command = [sys.executable, "-m", "stgvlib", "fit", "bunny", f"{folder}/m.safetensors", "--device", "cpu"]
    command += ["--preset", "paper", "--profile", "paper", "--frames", "10", "--coarse-steps", "3", "--steps", "12"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    report("fit peak memory", "bunny 640x1280 N=20000, 10 frames", device, peak, "GB")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "auto")
