"""The "Try it" part of notebooks: sliders and a button that fit a small crop of Bunny in seconds on two CPU cores."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from stgvlib.codec.bitstream import parse, stream
from stgvlib.codec.steps import Steps
from stgvlib.config import FitConfig
from stgvlib.errors import StgvError
from stgvlib.fitting.fit import fit
from stgvlib.fitting.progress import Progress
from stgvlib.model.decoder import Decoder
from stgvlib.repro.classical import psnr_of
from stgvlib.repro.registry import Run
from stgvlib.video.datasets import load_dataset
from stgvlib.video.video import video_of

FRAMES, WIDTH, ENLARGED = 8, 168, 2  # of the crop; px; times that, as it is shown
SLIDERS = {  # what is shown, least, most, at first, step
    "gaussians": ("Gaussians", 100, 1_200, 500, 50),
    "steps": ("steps", 20, 300, 200, 20),
    "gop_size": ("GoP length", 2, FRAMES, FRAMES, 1),
    "coarser": ("rounding, 2^", 0, 7, 2, 1),
    "hole": ("hole, px", 4, 40, 16, 4),
}


@dataclass(frozen=True)
class Tried:
    """Frames of one fit, uint8 [T, H, W, 3], and how good they are."""

    frames: np.ndarray
    words: str


@lru_cache(maxsize=1)
def crop() -> np.ndarray:
    """The rabbit in Bunny's first frames, made small: uint8 [8, 94, 168, 3] RGB."""
    frames = load_dataset("bunny").read(0, FRAMES)
    top, bottom, left, right = Run.crop
    height, width = frames.shape[1:3]
    cut = frames[:, round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
    size = (WIDTH, round(WIDTH * cut.shape[1] / cut.shape[2]))
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in cut])


def attempt(config: FitConfig, values: dict[str, int], progress: Callable[[Progress], None] | None = None) -> Tried:
    """Fit the crop on the CPU with a configuration whose numbers are those of the sliders, and judge it.

    Args:
        config: What is fitted; its steps and Gaussians are replaced.
        values: Of SLIDERS, by name. "coarser" writes a file with the codec's usual quantiser steps times that power of
            two, and reads it; "hole" leaves a square that crosses the crop out of the loss.
    """
    clean, missing, steps = crop(), None, values.get("steps", SLIDERS["steps"][3])
    video = video_of(clean)
    if "hole" in values:
        missing = np.zeros(clean.shape[:3], bool)
        for number, place in enumerate(np.linspace(0.2, 0.7, FRAMES)):
            row, column = clean.shape[1] // 3, round(place * WIDTH)
            missing[number, row : row + values["hole"], column : column + values["hole"]] = True
        video = video.with_(missing=missing)
    small = {
        "gop_size": values.get("gop_size", FRAMES),
        "gaussians": values.get("gaussians", SLIDERS["gaussians"][3]),
        "steps": steps,
    }
    small |= {"coarse_steps": max(1, steps // 2), "motion_steps": steps // 4 if config.motion_steps else 0}
    model, more = fit(video, replace(config, **small), progress=progress).model, ""
    if "coarser" in values:
        data = stream(model, Steps().scaled(2.0 ** values["coarser"]))
        model, more = parse(data).model, f" at {8 * len(data) / (clean.size / 3):.2f} bits a pixel"
    frames = Decoder(model).frames(range(FRAMES)).cpu().numpy()
    if missing is not None:
        error = (frames[missing].astype(float) - clean[missing]) / 255
        return Tried(frames, f"{-10 * np.log10(np.mean(error**2)):.2f} dB inside the hole")
    return Tried(frames, f"{psnr_of(frames, clean):.2f} dB{more}")


def panels(tried: dict[str, Tried], number: int) -> bytes:
    """A JPEG of a frame: the ground truth, then each of `tried`, its title above."""
    shown = {"Ground truth": crop()[number]} | {f"{t}, {made.words}": made.frames[number] for t, made in tried.items()}
    row = []
    for title, frame in shown.items():
        large = cv2.resize(frame, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC)
        head = np.full((22, large.shape[1], 3), 255, np.uint8)
        cv2.putText(head, title, (2, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        row += [np.vstack([head, large]), np.full((22 + len(large), 6, 3), 255, np.uint8)]
    return cv2.imencode(".jpg", np.hstack(row[:-1])[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


def try_it(variants: dict[str, FitConfig], *sliders: str):
    """A widget with sliders (names of SLIDERS, and the frame), a button, and the crop as each variant fits it, beside
    the ground truth. It fits once with the sliders as they stand; a saved notebook shows that picture.

    Raises StgvError where ipywidgets is missing, and for an unknown slider.
    """
    try:
        import ipywidgets as widgets
    except ImportError as error:
        raise StgvError("try_it needs ipywidgets: pip install 'stgvlib[notebooks]'") from error
    if unknown := set(sliders) - set(SLIDERS):
        raise StgvError(f"sliders must be of {', '.join(SLIDERS)}, got {', '.join(sorted(unknown))}")
    tried: dict[str, Tried] = {}
    knobs = {}
    for name in sliders:
        title, least, most, start, step = SLIDERS[name]
        knobs[name] = widgets.IntSlider(start, least, most, step, description=title, continuous_update=False)
    frame = widgets.IntSlider(FRAMES - 1, 0, FRAMES - 1, description="frame")
    button = widgets.Button(description="Fit", button_style="primary")
    bar, told = widgets.FloatProgress(max=1.0), widgets.Label()
    image = widgets.Image(format="jpeg")

    def show(*_) -> None:
        image.value = panels(tried, frame.value)

    def run(*_) -> None:
        button.disabled, told.value = True, ""
        try:
            for place, (title, config) in enumerate(variants.items()):

                def step(p: Progress, place: int = place) -> None:
                    bar.value = (place + p.done / p.total) / len(variants)

                tried[title] = attempt(config, {name: knob.value for name, knob in knobs.items()}, step)
            show()
        except StgvError as error:
            told.value = str(error)
        finally:
            button.disabled, bar.value = False, 0.0

    class TryIt(widgets.VBox):
        def _repr_mimebundle_(self, **kwargs):
            import base64

            still = base64.b64encode(image.value).decode()
            return super()._repr_mimebundle_(**kwargs) | {"text/plain": "Sliders of a small fit", "image/jpeg": still}

    run()
    button.on_click(run)
    frame.observe(show, "value")
    return TryIt([*knobs.values(), frame, widgets.HBox([button, bar, told]), image])
