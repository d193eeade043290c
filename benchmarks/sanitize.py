"""Every CUDA kernel under compute-sanitizer's memcheck, racecheck and initcheck, on a small problem.

Usage: python benchmarks/sanitize.py    (needs a GPU and compute-sanitizer; exit status 1 when a tool finds something)

torch's caching allocator is off: each tensor is an allocation of its own, and a read beyond it is seen. Steps run
without CUDA graphs: the kernels and their arguments are the same.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import torch

TOOLS = ("memcheck", "racecheck", "initcheck")


def kernels() -> None:
    """Launch every kernel: both stages, both parametrisations and optimisers, decoding in floats and bytes, the op."""
    from stgvlib.config import PAPER, STGV
    from stgvlib.fitting.optimizer import FlatOptimizer, Segment
    from stgvlib.fitting.stage_cuda import TrainingStep
    from stgvlib.model.field_cuda import FusedField
    from stgvlib.model.video_model import VideoModel
    from stgvlib.ops.cuda.splat import Projection
    from stgvlib.ops.splat import splat, splat_mse

    size, count, lengths = (40, 56), 300, [2, 3]
    generator = torch.Generator().manual_seed(0)
    for config in (replace(STGV, field=replace(STGV.field, deform_shape=True)), PAPER):
        model = VideoModel(config, lengths, size, count, generator)
        for g in range(2):
            mu = torch.rand(count, 2, generator=generator) * torch.tensor([size[1], size[0]])
            shape = torch.rand(count, 3, generator=generator) * 2 + 0.5
            model.gaussians.set_pixels(g, mu, shape, torch.rand(count, 3, generator=generator))
        model = model.cuda()
        frames = torch.randint(0, 256, (2, 3, *size, 4), dtype=torch.uint8, generator=generator).cuda()
        counts = torch.tensor(lengths, device="cuda")
        for coarse in (True, False):
            parameters = list((model.gaussians if coarse else model).parameters())
            optimizer = FlatOptimizer([Segment("all", parameters, torch.full((2,), 1e-3))], config.optimizer)
            losses = torch.zeros(2, 2, device="cuda")
            step = TrainingStep(model, frames, optimizer, losses, counts, counts, counts * 0, coarse)
            step()
            step()
            assert torch.isfinite(losses).all()
    with torch.no_grad():
        gops = torch.tensor([1, 0, 1], dtype=torch.int32, device="cuda")
        field = FusedField(model, 3, gops)
        field.t.copy_(torch.tensor([0.3, 0.5, 1.0]))
        mu, cholesky, rgb = field.forward()
        projection = Projection.empty(3, count, size, mu.device, capacity=8)  # some lists overflow
        projection.project(mu, cholesky, rgb, 0.5, gops)
        for dtype in (torch.uint8, torch.float32):
            projection.image(torch.zeros(3, *size, 3, dtype=dtype, device="cuda"))
        many = [torch.cat([t] * 7, 1) for t in (*model.gaussians.pixels(), model.gaussians.rgb)]
        for capacity in (64, 4096):  # lists longer than their room, and than a block
            projection = Projection.empty(2, many[0].shape[1], size, mu.device, capacity).project(*many)
            moments, partial = torch.zeros(2, many[0].shape[1], 8).cuda(), torch.zeros(2, 12).cuda()
            projection.mse(frames, torch.zeros(2, dtype=torch.int32).cuda(), moments, partial, None, False)
    leaves = [t.detach().requires_grad_() for t in (*model.gaussians.pixels(), model.gaussians.rgb)]
    index = torch.zeros(2, dtype=torch.int32, device="cuda")
    torch.autograd.grad(splat(*leaves, size).sum(), leaves)
    torch.autograd.grad(splat_mse(*leaves, frames, index).sum(), leaves)
    torch.cuda.synchronize()
    print("all kernels ran")


def only_ours() -> list[str]:
    """Options that leave torch's own kernels unchecked."""
    from stgvlib.ops.cuda.compiler import SOURCES, source
    from stgvlib.ops.cuda.signatures import kernels as declared

    names = [name for path in sorted(SOURCES.glob("*.cu")) for name in declared(source(path.stem))]
    return [option for name in names for option in ("--kernel-name", f"kernel_name={name}")]


def main() -> int:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None or not torch.cuda.is_available():
        print("sanitize.py needs a CUDA GPU and compute-sanitizer (part of the CUDA toolkit)", file=sys.stderr)
        return 2
    failed = []
    for tool in TOOLS:
        # What initcheck may call initialised, torch's kernels wrote: they have to be watched there.
        filters = [] if tool == "initcheck" else only_ours()
        command = [sanitizer, "--tool", tool, "--error-exitcode", "1", *filters]
        # Loaders ask the driver for entry points that it may not have: no fault of a kernel.
        command += ["--report-api-errors", "no"] if tool == "memcheck" else []
        command += [sys.executable, __file__, "--kernels"]
        environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        lines = (result.stdout + result.stderr).strip().splitlines()
        print(f"{tool}: {'clean' if result.returncode == 0 else 'FOUND'}  {lines[-1] if lines else ''}", flush=True)
        if result.returncode:
            failed.append(tool)
            print("\n".join(lines[:40]))
    return 1 if failed else 0


if __name__ == "__main__":
    if "--kernels" in sys.argv:
        kernels()
    else:
        sys.exit(main())
