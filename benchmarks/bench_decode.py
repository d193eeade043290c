"""Decoding to 8 bits: frames a second, many a call and one a call. Usage: bench_decode.py [cpu|cuda] [FILE]

The model is Bunny at 640x1280 with 20,000 Gaussians a GoP after a short fit. Floor on a GPU: the splat's pixel-Gaussian
pairs at 10 lane instructions, the MLP's 48 k operations a Gaussian, and 3 bytes a pixel written.

With a .stgv file instead: its entropy decoding on one core and on all, coding what it holds again, and all from its
bytes to 8-bit frames, with a decoder that has captured its graph before, as in records of rate curves, and with a new
one.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from bench_splat import instructions_a_ms, pairs
from common import measure, report

from stgvlib.codec.bitstream import parse, stream
from stgvlib.config import PAPER, STGV
from stgvlib.device import resolve_device
from stgvlib.fitting.fit import fit
from stgvlib.model.decoder import Decoder
from stgvlib.model.judge import decoding_speed
from stgvlib.video.datasets import load_dataset


def main(name: str) -> None:
    device = resolve_device(name)
    on_gpu = device.type == "cuda"
    frames, coarse, motion, steps = (132, 3000, 6000, 2000) if on_gpu else (10, 150, 0, 4)
    schedule = {"coarse_steps": coarse, "motion_steps": motion, "steps": steps}
    config = replace(STGV, gop_size=PAPER.gop_size, gaussians=20_000, **schedule)
    model = fit(load_dataset("bunny").with_(limit=frames), config, device).model
    alone = model.gop(0)
    amount = pairs([*alone.gaussians.pixels()])
    floor = 10 * amount / instructions_a_ms(device)
    if on_gpu:
        floor += 1e3 * (48e3 * model.count / 790e12 + 3 * model.size[0] * model.size[1] / 4.3e12)
    about = f"bunny 640x1280 N={model.count}, {len(model.num_frames)} GoPs"
    found = decoding_speed(model, batches=(1, 16, 64), seconds=2.0)
    for batch, speed in found["decode_batches"].items():
        report("decode to uint8", f"{about}, {batch} a call", device, speed, "frames/s", 1e3 / floor)


def of_file(name: str, path: Path) -> None:
    device, data = resolve_device(name), path.read_bytes()
    video, size = parse(data).model, f"{len(data) / 1e6:.2f} MB"
    frames = sum(video.num_frames)
    about = f"{frames} frames of {video.size[0]}x{video.size[1]}, N={video.count}, {len(video.num_frames)} GoPs, {size}"

    def show(decoder: Decoder) -> None:
        for start in range(0, frames, decoder.batch):
            decoder.frames(range(start, min(start + decoder.batch, frames)))
        if device.type == "cuda":
            torch.cuda.synchronize()

    cpu, decoder = torch.device("cpu"), Decoder(video.to(device))
    for threads in (1, None):
        told = "one core" if threads else "all cores"
        report("entropy decoding", f"{about}, {told}", cpu, measure(lambda n=threads: parse(data, n), cpu), "ms")
    held = parse(data)
    report("coding a file", f"{about}, all cores", cpu, measure(lambda: stream(held.model, held.steps), cpu), "ms")
    to_model = measure(lambda: parse(data).model.to(device), cpu)[0]
    to_frames = measure(lambda: show(decoder), cpu)[0]
    report("file to frames", about, device, 1e3 * frames / (to_model + to_frames), "frames/s")
    whole = measure(lambda: show(Decoder(parse(data).model.to(device))), cpu)
    report("file to frames, new decoder", about, device, 1e3 * frames / whole[0], "frames/s")


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "auto"
    main(chosen) if len(sys.argv) < 3 else of_file(chosen, Path(sys.argv[2]))
