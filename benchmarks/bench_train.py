"""A training step of each stage, per GoP, and a whole fit, on Bunny. Usage: python benchmarks/bench_train.py [cpu|cuda]

A step's time is a stage's wall time over its steps and GoPs, graph capture included. Floor of the deformation step on
an H200: 18 M pixel-Gaussian pairs at 6 instructions, 3 GFLOP of MLP and about 50 MB of activations a GoP.
"""

import sys
import time
from dataclasses import replace

import torch
from common import report

from stgvlib.config import PRESETS
from stgvlib.device import resolve_device
from stgvlib.fitting.fit import fit
from stgvlib.video.datasets import load_dataset


def main(name: str) -> None:
    device = resolve_device(name)
    steps = 1000 if device.type == "cuda" else 4
    floor = 1e3 * (18e6 * 6 / (132 * 128 * 1.75e9) + 3e9 / 790e12 + 50e6 / 4.3e12) if device.type == "cuda" else None
    crop = load_dataset("bunny")
    whole = crop.with_(crop=None)  # 720 x 1280
    cases = [("paper", crop.with_(limit=10), None)]
    if device.type == "cuda":
        cases += [("paper", crop, None), ("stgv", crop, None), ("paper", whole, 40_000)]
    for preset, video, count in cases:
        config = replace(PRESETS[preset], coarse_steps=steps, steps=steps, gaussians=count)
        began = time.perf_counter()
        result = fit(video, config, device)
        wall, gops = time.perf_counter() - began, len(result.model.num_frames)
        about = f"{preset}, bunny {video.size[0]}x{video.size[1]}, {gops} GoPs x {result.model.count}"
        for stage, seconds in result.seconds.items():
            least = floor if stage == "deformation" and preset == "paper" and count is None else None
            report(f"{stage} step a GoP", about, device, 1e3 * seconds / steps / gops, "ms", least)
        report(f"fit {steps} + {steps} steps", about, device, wall, "s")
        if device.type == "cuda":
            report("fit peak GPU memory", about, device, torch.cuda.max_memory_allocated() / 1e9, "GB")
            torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "auto")
