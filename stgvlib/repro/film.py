"""The README's moving picture, docs/bunny.gif: Bunny, presets `paper` and `quality`, and their errors, side by side.

`python -m stgvlib.repro film` fits both presets to the same frames on any machine, with as many parameters and steps a
group (of ours: at most, and without the trials that choose the length of groups). On a CPU that is a small part of
their schedules, which the picture says; on a GPU ask for whole ones with `--coarse-steps 10000 --steps 60000`.
docs/bunny.txt has the picture's alternative text.
"""

import textwrap
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from stgvlib.baselines import SYSTEMS
from stgvlib.config import Profile
from stgvlib.files import repository
from stgvlib.fitting.progress import ProgressBar
from stgvlib.metrics import evaluate
from stgvlib.repro.crops import ERROR_RANGE
from stgvlib.repro.looks import SHOWN
from stgvlib.video.datasets import load_dataset
from stgvlib.video.video import Video

SCALE, FRAMES = 0.21875, 24  # 280x140: three of them and two gaps are 858 px
GAP, LINE, DELAY = 9, 18, 100  # px, px, ms a frame
COMPARED = {"paper": "the paper's method", "quality": "ours (quality)"}


def film(coarse_steps: int, steps: int, device: torch.device) -> tuple[Path, str]:
    """Fit both presets, write the picture, and return its path and its text.

    Args:
        coarse_steps: of the first frame of each group.
        steps: of deformation, of each group.
    """
    video, fitted = load_dataset("bunny").scaled(SCALE).with_(limit=FRAMES), {}
    for key, name in COMPARED.items():
        system = SYSTEMS[key]
        config = system.configure(Profile("film", scale=SCALE, frames=FRAMES), None)
        motion = coarse_steps // 4 if config.motion_steps else 0  # out of the same number of steps
        config = replace(config, coarse_steps=coarse_steps - motion, motion_steps=motion, steps=steps)
        with ProgressBar(name, True) as bar:
            model = system.fit(video, config, device, 0, bar).model
        quality = evaluate(system.decoder(model, torch.float32), video, similarity=False)["psnr"]
        frames = [system.decoder(model)[number].cpu().numpy() for number in range(FRAMES)]
        fitted[f"{name}, {quality:.1f} dB"] = frames, model.num_parameters()
    height, width = video.size
    sizes = dict.fromkeys(f"{parameters / 1e3:,.0f}k" for _, parameters in fitted.values())
    about = f"Bunny, {FRAMES} frames at {width}x{height}. Fits of {' and '.join(sizes)} parameters, {coarse_steps:,} + "
    about += f"{steps:,} steps a group: {(coarse_steps + steps) / 70_000:.0%} of the paper's schedule. "
    about += f"Below: error, black: 0, white: {ERROR_RANGE} of 255 or more."
    folder = repository() / "docs"
    _write(folder / "bunny.gif", video, {title: frames for title, (frames, _) in fitted.items()}, about)
    alt = f"Moving picture. Left to right: source; {'; '.join(fitted)}. {about}"
    (folder / "bunny.txt").write_text(f"{alt}\n")
    return folder / "bunny.gif", alt


def _write(path: Path, video: Video, fitted: dict[str, list[np.ndarray]], about: str) -> None:
    """A row of the source and the fits, and below it `about` and their errors."""
    height, width = video.size
    normal, bold = (ImageFont.truetype(findfont(f"DejaVu Sans:{weight}"), 12) for weight in ("normal", "bold"))
    pages = []
    for number, truth in enumerate(video.read()):
        page = Image.new("RGB", (SHOWN, 2 * (LINE + height)), "white")
        draw = ImageDraw.Draw(page)
        draw.text((0, 2), "source", "black", bold)
        page.paste(Image.fromarray(truth), (0, LINE))
        draw.multiline_text((0, 2 * LINE + height), textwrap.fill(about, 40), "black", normal)
        for place, (title, frames) in enumerate(fitted.items(), 1):
            error = cv2.absdiff(frames[number], truth).max(2) / ERROR_RANGE
            shown = np.round(15 * np.minimum(error, 1)).astype(np.uint8) * 17  # 16 greys leave colours to the rest
            draw.text((place * (width + GAP), 2), title, "black", bold)
            page.paste(Image.fromarray(frames[number]), (place * (width + GAP), LINE))
            page.paste(Image.fromarray(shown), (place * (width + GAP), 2 * LINE + height))
        pages.append(page.quantize(192, dither=Image.Dither.NONE))
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=DELAY, loop=0, optimize=True)
