"""Time to the paper's quality: from the video file to a fitted model of all of Bunny at 37.93 dB (Table II) or more.

Usage: python benchmarks/bench_quality.py    (needs a GPU)

Tries the preset `quality` with longer and longer schedules, each a fit of its own from the file on, kernels compiled,
and reports the first that gets there: with trials of the GoP length, and with 16 frames a GoP given.
"""

import time
from dataclasses import replace

import torch
from common import report

from stgvlib.config import QUALITY
from stgvlib.device import resolve_device
from stgvlib.fitting.fit import fit
from stgvlib.metrics import evaluate
from stgvlib.model.decoder import Decoder
from stgvlib.repro.paper import TABLE_2
from stgvlib.video.datasets import load_dataset

PUBLISHED = TABLE_2["STGV"][1]  # dB
# coarse, following flow, deformation
SCHEDULES = (
    (400, 100, 1000),
    (500, 150, 1500),
    (600, 200, 2200),
    (800, 250, 3000),
    (1000, 300, 4500),
    (2000, 500, 9000),
)


def main() -> None:
    device = resolve_device("cuda")
    compiling = replace(QUALITY, gop_size=16, coarse_steps=50, motion_steps=20, steps=50)
    fit(load_dataset("bunny").with_(limit=32), compiling, device, progress=None)
    for gop_size in ("auto", 16):
        of = "trials" if gop_size == "auto" else f"GoPs of {gop_size}"
        for coarse, motion, steps in SCHEDULES:
            schedule = {"coarse_steps": coarse, "motion_steps": motion, "steps": steps}
            began = time.perf_counter()
            video = load_dataset("bunny")
            model = fit(video, replace(QUALITY, gop_size=gop_size, **schedule), device, progress=None).model
            torch.cuda.synchronize()
            wall = time.perf_counter() - began
            quality = evaluate(Decoder(model, dtype=torch.float32), video, similarity=False)["psnr"]
            about = f"quality, bunny 640x1280, {of}, {coarse} + {motion} + {steps} steps"
            report("PSNR of a short fit", about, device, quality, "dB")
            report("wall time of a short fit", about, device, wall, "s")
            if quality >= PUBLISHED:
                report(f"time to {PUBLISHED} dB", f"quality, bunny 640x1280, {of}", device, wall, "s")
                break


if __name__ == "__main__":
    main()
