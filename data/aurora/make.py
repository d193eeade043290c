"""Draw the clip of aurora.stgv: northern lights over a lake. It ships, and any machine draws the same frames.

    python data/aurora/make.py aurora                 # 72 PNGs of 448x256, which loop

Nothing in it is taken from anywhere: sums of sines for the light, seeded random numbers for stars, hills and lanterns.
"""

import sys

import numpy as np

from stgvlib import write_video

FRAMES, HEIGHT, WIDTH = 72, 256, 448
SHORE = 178  # row of the water's edge, px
Y, X = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)


def glow(x: float, y: float, radius: float) -> np.ndarray:
    """[H, W], 1 at a point and falling off over `radius` px."""
    return np.exp(-((X - x) ** 2 + (Y - y) ** 2) / (2 * radius**2))


def hills(random: np.random.Generator, base: float, height: float) -> np.ndarray:
    """Row of the crest for each column, px [W]."""
    waves = sum(random.normal() / k * np.sin(2 * np.pi * (k * X[0] / WIDTH + random.random())) for k in range(1, 40))
    return base - height * waves


def scene(phase: float) -> np.ndarray:
    """What stands over the water at a phase of the loop, 0 to 2 pi: [H, W, 3] in [0, 1] and above."""
    random = np.random.default_rng(7)
    height = np.clip(Y / SHORE, 0, 1)[..., None]
    picture = (1 - height) * [0.01, 0.02, 0.09] + height * [0.06, 0.11, 0.20]
    for x, y, size, beat in random.uniform((0, 0, 0.5, 0), (WIDTH, 0.75 * SHORE, 0.9, 2 * np.pi), (90, 4)):
        picture += (0.5 + 0.2 * np.sin(3 * phase + beat)) * glow(x, y, size)[..., None]
    for k, color in enumerate(([0.10, 0.95, 0.45], [0.15, 0.65, 0.80], [0.55, 0.20, 0.80])):
        edge = (
            96 - 17 * k + 20 * np.sin(2 * np.pi * X / 300 + phase + 1.9 * k) + 9 * np.sin(2 * np.pi * X / 130 - phase)
        )
        rays = 0.6 + 0.4 * np.sin(2 * np.pi * X / 37 + 2 * np.sin(X / 60 + phase) + 2 * phase + k)
        above = np.exp(-np.clip(edge - Y, 0, None) / (24 + 10 * k)) * np.exp(-np.clip(Y - edge, 0, None) / 5)
        picture += (0.75 - 0.15 * k) * (rays * above)[..., None] * color
    for base, tall, color in ((164, 16, [0.05, 0.08, 0.14]), (180, 11, [0.015, 0.03, 0.05])):
        inside = np.clip(Y - hills(random, base, tall) + 0.5, 0, 1)[..., None]
        picture = picture * (1 - inside) + inside * np.array(color)
    for x, y, size, beat in random.uniform((30, 95, 2.5, 0), (WIDTH - 30, 165, 5, 2 * np.pi), (9, 4)):
        x, y = x + 16 * np.sin(phase + beat), y - 12 * np.cos(phase + beat)
        picture += glow(x, y, size)[..., None] * [1.0, 0.62, 0.22] + glow(x, y, 4 * size)[..., None] * [
            0.16,
            0.08,
            0.02,
        ]
    return picture


def frame(index: int) -> np.ndarray:
    """Frame `index`, uint8 [256, 448, 3]: the scene, and below the shore its mirror image in waves."""
    phase = 2 * np.pi * index / FRAMES
    over = scene(phase)
    depth = Y[SHORE:] - SHORE + 1
    ripple = (1 + depth / 25) * np.sin(90 / np.sqrt(depth) * 4 + X[SHORE:] / 23 + 2 * phase)
    rows = np.clip(SHORE - 1.7 * depth + ripple, 0, SHORE - 1).astype(int)
    columns = np.clip(X[SHORE:] + 0.5 * ripple, 0, WIDTH - 1).astype(int)
    over[SHORE:] = 0.62 * over[rows, columns] + [0.0, 0.012, 0.03]
    return (255 * np.clip(over, 0, 1) ** 0.85 + 0.5).astype(np.uint8)


if __name__ == "__main__":
    write_video(sys.argv[1] if len(sys.argv) > 1 else "aurora", [frame(index) for index in range(FRAMES)])
