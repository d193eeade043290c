"""Time to the paper's quality: from the video file to a fitted model of all of Bunny at 37.93 dB (Table II) or more.

Usage: python benchmarks/bench_quality.py    (needs a GPU)

Tries the preset `stgv` with longer and longer schedules, each a fit of its own from the file on, kernels compiled, and
reports the first that gets there.
"""

import time
from dataclasses import replace

import torch
from common import report

from stgvlib.config import STGV
from stgvlib.device import resolve_device
from stgvlib.fitting.fit import fit
from stgvlib.metrics import psnr
from stgvlib.model.decoder import Decoder
from stgvlib.repro.paper import TABLE_2
from stgvlib.video.datasets import load_dataset

PUBLISHED = TABLE_2["STGV"][1]  # dB
SCHEDULES = ((600, 2500), (800, 3500), (1000, 4500), (1500, 6000), (3000, 12000))  # coarse, deformation


def main() -> None:
    device = resolve_device("cuda")
    fit(load_dataset("bunny").with_(limit=32), replace(STGV, coarse_steps=50, steps=50), device)  # compiles the kernels
    for coarse, steps in SCHEDULES:
        began = time.perf_counter()
        video = load_dataset("bunny")
        model = fit(video, replace(STGV, coarse_steps=coarse, steps=steps), device).model
        torch.cuda.synchronize()
        wall = time.perf_counter() - began
        targets = (torch.from_numpy(video.read(i, i + 1)[0]).to(device).float() / 255 for i in range(video.num_frames))
        values = [psnr(frame, target) for frame, target in zip(Decoder(model, dtype=torch.float32), targets)]
        quality = sum(values) / len(values)
        about = f"stgv, bunny 640x1280, {coarse} + {steps} steps"
        report("PSNR of a short fit", about, device, quality, "dB")
        report("wall time of a short fit", about, device, wall, "s")
        if quality >= PUBLISHED:
            report(f"time to {PUBLISHED} dB", "stgv, bunny 640x1280, all frames", device, wall, "s")
            break


if __name__ == "__main__":
    main()
