"""Decoding to 8 bits: frames a second, many frames a call and one frame a call. Usage: bench_decode.py [cpu|cuda]

The model is Bunny at 640x1280 with 20,000 Gaussians a GoP after a short fit. Floor on a GPU: the splat's pixel-Gaussian
pairs at 10 lane instructions, the MLP's 48 k operations a Gaussian, and 3 bytes a pixel written.
"""

import sys
from dataclasses import replace

from bench_splat import instructions_a_ms, pairs
from common import report

from stgvlib.backend import resolve_device
from stgvlib.config import PAPER, STGV
from stgvlib.datasets import load
from stgvlib.decode import Decoder
from stgvlib.metrics import decode_fps
from stgvlib.train import fit


def main(name: str) -> None:
    device = resolve_device(name)
    on_gpu = device.type == "cuda"
    frames, coarse, steps = (132, 3000, 2000) if on_gpu else (10, 150, 4)
    config = replace(STGV, gop_size=PAPER.gop_size, gaussians=20_000, coarse_steps=coarse, steps=steps)
    model = fit(load("bunny").with_(limit=frames), config, device).model
    alone = model.gop(0)
    amount = pairs([*alone.gaussians.pixels()])
    floor = 10 * amount / instructions_a_ms(device)
    if on_gpu:
        floor += 1e3 * (48e3 * model.count / 790e12 + 3 * model.size[0] * model.size[1] / 4.3e12)
    about = f"bunny 640x1280 N={model.count}, {len(model.num_frames)} GoPs"
    decoder = Decoder(model)
    for batch in (1, 16, 64) if on_gpu else (1,):
        starts = range(0, len(decoder) - batch + 1, batch)
        numbers = [list(range(s, s + batch)) for s in starts]
        calls = decode_fps(lambda i, numbers=numbers: decoder.frames(numbers[i]), len(numbers), seconds=2.0)
        report("decode to uint8", f"{about}, {batch} a call", device, calls * batch, "frames/s", 1e3 / floor)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "auto")
