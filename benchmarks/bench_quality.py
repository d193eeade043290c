"""Time to a quality, from the video file to a fitted model.

Usage: python benchmarks/bench_quality.py [cpu|cuda]

On a GPU all of Bunny to 37.93 dB, as the paper prints (Table II), by preset `quality`; on a CPU its first 16 frames at
320x640 to 35.9 dB, by preset `fast`. Tries longer and longer schedules, each a fit of its own from the file on, kernels
compiled, and reports the first that gets there: on a GPU with trials of the GoP length, and with 16 frames a GoP given.
"""

import sys
import time
from dataclasses import replace

import torch
from common import report

from stgvlib.config import FAST, QUALITY
from stgvlib.device import resolve_device
from stgvlib.fitting.fit import fit
from stgvlib.metrics import evaluate
from stgvlib.model.decoder import Decoder
from stgvlib.repro.paper import TABLE_2
from stgvlib.video.datasets import load_dataset
from stgvlib.video.video import Video

PUBLISHED = TABLE_2["STGV"][1]  # dB
ON_CPU = 35.9  # dB, 16 frames at half the size
# coarse, following flow, deformation
SCHEDULES = (
    (400, 100, 1000),
    (500, 150, 1500),
    (600, 200, 2200),
    (800, 250, 3000),
    (1000, 300, 4500),
    (2000, 500, 9000),
)
SCHEDULES_ON_CPU = ((300, 200, 500), (350, 250, 650), (400, 300, 700), (500, 300, 1000))


def main(name: str) -> None:
    device = resolve_device(name)
    on_gpu = device.type == "cuda"
    preset, goal, schedules = (QUALITY, PUBLISHED, SCHEDULES) if on_gpu else (FAST, ON_CPU, SCHEDULES_ON_CPU)

    def load() -> Video:
        return load_dataset("bunny") if on_gpu else load_dataset("bunny").with_(limit=16).scaled(0.5)

    compiling = replace(preset, gop_size=16, coarse_steps=50, motion_steps=20, steps=50)
    fit(load().with_(limit=16), compiling, device, progress=None)
    for gop_size in ("auto", 16) if on_gpu else (16,):
        of = "trials" if gop_size == "auto" else f"GoPs of {gop_size}"
        for coarse, motion, steps in schedules:
            schedule = {"coarse_steps": coarse, "motion_steps": motion, "steps": steps}
            began, spent = time.perf_counter(), time.process_time()
            video = load()
            model = fit(video, replace(preset, gop_size=gop_size, **schedule), device, progress=None).model
            if on_gpu:
                torch.cuda.synchronize()
            wall, spent = time.perf_counter() - began, time.process_time() - spent
            quality = evaluate(Decoder(model, dtype=torch.float32), video, similarity=False)["psnr"]
            frames = "bunny 640x1280" if on_gpu else "16 frames of bunny at 320x640"
            about = f"{preset.preset}, {frames}, {of}, {coarse} + {motion} + {steps} steps"
            report("PSNR of a short fit", about, device, quality, "dB")
            report("wall time of a short fit", about, device, wall, "s")
            if not on_gpu:
                report("processor time of a short fit", about, device, spent, "s")
            if quality >= goal:
                report(f"time to {goal} dB", f"{preset.preset}, {frames}, {of}", device, wall, "s")
                break


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "auto")
