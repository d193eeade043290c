"""How the cost of a training step grows with Gaussians, pixels and GoPs in a batch.

Usage: python benchmarks/scaling.py          measure on the GPU, into results.csv
       python benchmarks/scaling.py figure   draw docs/scaling.png from results.csv, anywhere

Scenes are random: Gaussians lie evenly in Z-order and cover the frame about as often as after a fit of Bunny, whatever
their number, so what grows is what a user would grow.
"""

import csv
import math
import sys
from dataclasses import replace
from pathlib import Path

import torch
from common import RESULTS, measure, report

from stgvlib.config import STGV
from stgvlib.device import resolve_device
from stgvlib.fitting.optimizer import FlatOptimizer, Segment
from stgvlib.fitting.placement import z_order
from stgvlib.model.video_model import VideoModel

NAME, MEMORY = "deformation step, scaling", "memory, scaling"
COVER = 22.0  # pixel-Gaussian pairs a pixel: 18 M on 640 x 1280
SIZES = {"360p": (360, 640), "640x1280": (640, 1280), "720p": (720, 1280), "1080p": (1080, 1920), "4K": (2160, 3840)}
SWEEPS = {
    "Gaussians": [(n, "640x1280", 4) for n in (5_000, 10_000, 20_000, 40_000, 80_000, 160_000)],
    "pixels": [(20_000, size, 4) for size in ("360p", "720p", "1080p", "4K")],
    "GoPs": [(20_000, "640x1280", g) for g in (1, 2, 8, 13, 32, 64)],
}


def bench(count: int, size_name: str, gops: int, device: torch.device) -> None:
    from stgvlib.fitting.stage_cuda import TrainingStep

    size = SIZES[size_name]
    generator = torch.Generator().manual_seed(0)
    model = VideoModel(replace(STGV, gaussians=count), [2] * gops, size, count, generator)
    mu = torch.rand(count, 2, generator=generator) * torch.tensor([size[1], size[0]])
    mu = mu[z_order(mu).argsort()]
    scale = math.sqrt(COVER * size[0] * size[1] / count / (2 * math.pi * math.log(255)))
    for g in range(gops):
        model.gaussians.set_pixels(
            g, mu, torch.tensor([scale, 0.0, scale]).expand(count, 3), torch.full((count, 3), 0.1)
        )
    model = model.to(device)
    torch.cuda.reset_peak_memory_stats()
    frames = torch.randint(0, 256, (gops, 2, *size, 4), dtype=torch.uint8, device=device)
    optimizer = FlatOptimizer([Segment("all", list(model.parameters()), torch.zeros(5_000))], "adam")
    counts, losses = torch.full((gops,), 2, device=device), torch.zeros(5_000, gops, device=device)
    step = TrainingStep(model, frames, optimizer, losses, counts, counts * 0 + 1, None, False)
    step.gradients()
    step.grow_lists()
    about = f"N={count} {size_name} {gops} GoPs"
    report(NAME, about, device, measure(step, device, seconds=0.25), "ms")
    report(MEMORY, about, device, torch.cuda.max_memory_allocated() / 1e9, "GB")


def rows() -> dict[tuple[str, str], float]:
    with open(RESULTS, newline="") as file:
        return {(r["name"], r["config"]): float(r["value"]) for r in csv.DictReader(file) if "scaling" in r["name"]}


def figure() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    found = rows()
    base = (20_000, "640x1280", 4)
    axes_of = {
        "Gaussians": lambda c: c[0],
        "pixels": lambda c: SIZES[c[1]][0] * SIZES[c[1]][1] / 1e6,
        "GoPs": lambda c: c[2],
    }
    labels = {"Gaussians": "Gaussians a GoP", "pixels": "megapixels a frame", "GoPs": "GoPs in a batch"}
    fixed = {
        "Gaussians": "640x1280, 4 GoPs",
        "pixels": "20,000 Gaussians, 4 GoPs",
        "GoPs": "20,000 Gaussians, 640x1280",
    }
    drawn, panels = plt.subplots(1, 3, figsize=(15, 4.4), layout="constrained")
    for panel, (name, cases) in zip(panels, SWEEPS.items()):
        cases = sorted({*cases, base}, key=axes_of[name])
        text = {c: f"N={c[0]} {c[1]} {c[2]} GoPs" for c in cases}
        cases = [c for c in cases if (NAME, text[c]) in found]
        x = [axes_of[name](c) for c in cases]
        panel.plot(x, [1e3 * found[NAME, text[c]] / c[2] for c in cases], "o-", color="tab:blue")
        panel.set(xscale="log", yscale="log", xlabel=labels[name], title=fixed[name])
        apart = [v for v, before in zip(x, [0, *x]) if v > 1.2 * before]
        panel.set_xticks(apart, [f"{v:.2g}" if v < 1000 else f"{v // 1000}K" for v in apart])
        panel.tick_params(axis="x", which="minor", labelbottom=False)
        panel.set_ylabel("us a step and GoP", color="tab:blue")
        panel.grid(alpha=0.3, which="both")
        memory = panel.twinx()
        memory.plot(x, [found[MEMORY, text[c]] for c in cases], "s--", color="tab:orange")
        memory.set_yscale("log")
        memory.set_ylabel("peak GPU memory, GB", color="tab:orange")
        for axis in (panel.yaxis, memory.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    path = Path(__file__).parent.parent / "docs" / "scaling.png"
    drawn.savefig(path, dpi=110)
    print(path.name)


if __name__ == "__main__":
    if sys.argv[1:] == ["figure"]:
        figure()
    else:
        for cases in SWEEPS.values():
            for case in cases:
                bench(*case, resolve_device("cuda"))
