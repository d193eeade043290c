"""Small videos and models that several test files use: drawn from a seed, never read from a file."""

from dataclasses import replace

import cv2
import numpy as np
import torch

from stgvlib.baselines.gaussian import D2GV, GSVR, TWO_DGS
from stgvlib.config import PAPER, STGV, FieldConfig, FitConfig
from stgvlib.model.video_model import VideoModel

TINY = FieldConfig(levels=2, log2_table_size=4, width=8, base_resolution=4)
FIELDS = {  # every kind of deformation field
    "lattice, fade": replace(STGV, field=FieldConfig(lattice=(3, 4, 5), fade=True)),
    "lattice alone": replace(STGV, motion_steps=0, field=FieldConfig(encoding="none", lattice=(3, 4, 5))),
    "stgv": STGV,
    "paper": PAPER,
    "d2gv": D2GV,
    "gsvr": GSVR,
    "2dgs": TWO_DGS,
    "static": replace(PAPER, field=replace(PAPER.field, temporal=False)),
    "positional": replace(PAPER, field=FieldConfig(encoding="positional")),
}


def waves(frames: int = 8, size: tuple[int, int] = (48, 80)) -> np.ndarray:
    """Standing waves that drift, another in each channel: uint8 [T, H, W, 3]."""
    y, x = np.mgrid[: size[0], : size[1]]
    drawn = [np.sin(x / (3 + c) + t / 3) * np.cos(y / (4 + c)) * 90 + 128 for t in range(frames) for c in range(3)]
    return np.stack(drawn).reshape(frames, 3, *size).transpose(0, 2, 3, 1).astype(np.uint8)


def disc(frames: int = 9) -> np.ndarray:
    """A red disc that moves 3 px a frame over a gradient: uint8 [T, 24, 40, 3]."""
    y, x = np.mgrid[:24, :40]
    places = [((x - 8 - 3 * t) ** 2 + (y - 12) ** 2 < 30)[..., None] * np.array([200, 30, 60]) for t in range(frames)]
    return np.stack([(np.stack([x * 2, y * 4, x + y], -1) + place).clip(0, 255).astype(np.uint8) for place in places])


def blocks(frames: int, seed: int, step: int = 1) -> np.ndarray:
    """Blocks of 8 px of random colours that move `step` px a frame to the left: uint8 [T, 48, 80, 3]."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 60, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    return np.stack([noise[:, step * i : step * i + 80] for i in range(frames)])


def pan(
    frames: int = 8,
    size: tuple[int, int] = (64, 96),
    step: tuple[int, int] = (3, -1),  # px a frame that things move, x and y
) -> np.ndarray:
    """A window that moves over a large smooth picture: uint8 [T, H, W, 3]."""
    margin = frames * np.abs(step[::-1])  # [2] y, x
    noise = np.random.default_rng(0).random((*(np.array(size) + 2 * margin), 3), dtype=np.float32)
    large = cv2.GaussianBlur(noise, None, 3)
    large = ((large - large.min()) / (large.max() - large.min()) * 255).astype(np.uint8)
    starts = [margin - np.array(step[::-1]) * i for i in range(frames)]
    return np.stack([large[y : y + size[0], x : x + size[1]] for y, x in starts])


def weighted(frames: np.ndarray) -> np.ndarray:
    """Frames [T, H, W, 3] with the loss weight 255 for every pixel: uint8 [T, H, W, 4]."""
    return np.concatenate([frames, np.full((*frames.shape[:3], 1), 255, np.uint8)], 3)


def random_model(
    config: FitConfig = STGV,
    lengths: tuple[int, ...] = (2, 3),  # frames of each GoP
    count: int = 40,  # Gaussians a GoP
    size: tuple[int, int] = (24, 40),
    seed: int = 0,
    noise: float = 0.02,  # standard deviation that is added to the field and to the Gaussians' own motion
) -> VideoModel:
    """A model on the CPU with Gaussians anywhere in the frame, l1 and l3 from 0.5 to 3.5 px, colours up to 1/4."""
    generator = torch.Generator().manual_seed(seed)
    model = VideoModel(config, list(lengths), size, count, generator)
    for g in range(len(lengths)):
        mu = torch.rand(count, 2, generator=generator) * torch.tensor([size[1], size[0]])
        cholesky = torch.rand(count, 3, generator=generator) * 3 + 0.5
        model.gaussians.set_pixels(g, mu, cholesky, torch.rand(count, 3, generator=generator) / 4)
    own = [] if model.gaussians.motion is None else [model.gaussians.motion]
    with torch.no_grad():
        for p in [*model.field.parameters(), *own]:
            p += torch.randn(p.shape, generator=generator) * noise
    return model
