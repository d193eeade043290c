"""Fine-tune a fitted model for its bitstream: pruning and rate control around `rate_optimizer.py`.

Where the file has too few bits a Gaussian, those of least energy are left out early. The slope, what a bit is worth,
follows the size of the real file for most of the steps; then all quantiser steps are scaled to what is missing, while
there is training left. A quality is met by finding its size.

Attributes and their steps are those of quantize.py, so `bitstream.encode` with the steps that come back writes exactly
what was trained.
"""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stgvlib.codec.bitstream import stream
from stgvlib.codec.rate_optimizer import SETTLED, RateOptimizer
from stgvlib.codec.steps import LearnedSteps
from stgvlib.config import FitConfig
from stgvlib.device import fast_products
from stgvlib.errors import StgvError, size_text
from stgvlib.fitting.batches import load_gops
from stgvlib.fitting.progress import Progress
from stgvlib.fitting.stage import EVERY, Stage, segments
from stgvlib.metrics import decibels, evaluate
from stgvlib.model.decoder import Decoder
from stgvlib.model.gaussians import WAITING
from stgvlib.model.video_model import VideoModel
from stgvlib.video.video import Video

FINE_TUNING = 22_000  # steps
SLOPE = 2e-3  # MSE a bit per pixel is worth where no target is given
FIRST_SLOPE = 2e-4  # where one is: from above the target, since what is left out stays out
LOOKS = 15  # at the file's size until then
AIM = 0.994  # part of the bits that looks aim at, since sizes still drift by as much after the last of them
LAST_LOOKS = (0.77, 0.82, 0.88)  # parts of the steps where all quantiser steps are scaled to what is missing
PRUNED_UNTIL = 0.3  # part of the steps after which no Gaussians are left out
UNAIMED = 5.5  # bits a parameter that are expected where no size is given
SOUGHT = (0.2, 12.0)  # bits a parameter between which the size of a given quality is sought, ...
FIRST_GUESS = 3.2  # ... beginning here ...
ATTEMPTS, CLOSE = 3, 0.3  # ... with so many fine-tunings, or until it is so close, dB
DECADE = 12.0  # dB that ten times the bits are worth, until two attempts say more


def least_bits(bpp: float, adaptive: bool) -> float:
    """Of the file a Gaussian, at a number of bits a pixel: where there are fewer, those of least energy are left out.
    Found on Bunny, with adaptive steps at four rates, with one step for all at three (docs/LOG.md)."""
    return min(48.0, 36.0 + 150.0 * bpp) if adaptive else min(60.0, 30.0 + 340.0 * bpp)


def rate_part(bits: float) -> float:
    """Part of the preset's learning rates, at a number of bits a parameter: near the fitted model little has to change,
    far from it more than in the fit."""
    return min(3.0, max(0.2, 1.5 * (3.2 / bits) ** (2.4 if bits > 3.2 else 0.7)))


@dataclass
class Compressed:
    """A model fine-tuned for its file: `bitstream.encode(model, path, steps)` writes it."""

    model: VideoModel
    steps: LearnedSteps
    slope: float
    kept: float  # part of the Gaussians
    seconds: float
    psnr: float  # dB, of the last frames seen


def compress(
    video: Video,
    model: VideoModel,
    bpp: float | None = None,  # bits per pixel that the file may have
    psnr: float | None = None,  # dB that it shall reach: up to three fine-tunings find the size
    slope: float | None = None,  # MSE that a bit per pixel is worth, without a target
    fine_tuning: int = FINE_TUNING,
    prune: bool = True,  # leave Gaussians out where there are few bits for each
    learned: bool = True,  # steps of the quantisers; else all are scaled alike
    rate: bool = True,  # is part of the loss; else steps alone meet the target
    adaptive: bool = True,  # steps differ by Gaussian: `quantize.Steps.lowest`
    progress: Callable[[Progress], None] | None = None,
) -> Compressed:
    """Fine-tune `model` of `video` so that its file has a target size (`bpp`, bits a pixel) or quality (`psnr`, dB), or
    without a target minimises MSE + `slope` * bits a pixel. `encode` with the returned steps writes the file.

    The result's model is a copy in px parametrisation, on the model's device. Raises StgvError when video and model do
    not match, the loss is not finite, or the size is out of reach.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from stgvlib import STGV, compress, encode, fit, video_of
        >>> from dataclasses import replace
        >>> frames = np.random.default_rng(0).integers(0, 256, (4, 16, 24, 3), np.uint8)
        >>> short = replace(STGV, gop_size=4, coarse_steps=4, motion_steps=0, steps=4, gaussians=20)
        >>> video = video_of(frames)
        >>> small = compress(video, fit(video, short).model, bpp=12.0, fine_tuning=10)  # the default is 22,000 steps
        >>> pixels = 4 * 16 * 24
        >>> 8 * encode(small.model, tempfile.mkdtemp() + "/clip.stgv", small.steps) <= 12 * pixels
        True
    """
    if (video.num_frames, tuple(video.size)) != (sum(model.num_frames), tuple(model.size)):
        raise StgvError(
            f"the video has {video.num_frames} frames of {size_text(video.size)}, the model "
            f"{sum(model.num_frames)} of {size_text(model.size)}: give the video that was fitted"
        )
    began, parts = time.perf_counter(), {"prune": prune, "learned": learned, "rate": rate, "adaptive": adaptive}
    if psnr is None:
        return _fine_tune(video, model, bpp, slope, fine_tuning, progress or (lambda p: None), **parts)
    each = model.num_parameters() / (video.num_frames * math.prod(video.size))
    bits, tried, decade, newest = FIRST_GUESS, [], DECADE, None

    def report(p: Progress) -> None:
        nonlocal newest
        newest = replace(p, done=len(tried) * fine_tuning + p.done, total=ATTEMPTS * fine_tuning)
        if progress:
            progress(newest)

    for _ in range(ATTEMPTS):
        made = _fine_tune(video, model, bits * each, None, fine_tuning, report, **parts)
        tried.append((math.log10(bits), made))
        if abs(made.psnr - psnr) < CLOSE:
            break
        if len(tried) > 1:
            (x, one), (y, other) = tried[-2:]
            decade = min(2 * DECADE, max(DECADE / 3, (one.psnr - other.psnr) / (x - y or 1.0)))
        before, bits = bits, min(SOUGHT[1], max(SOUGHT[0], bits * 10 ** ((psnr - made.psnr) / decade)))
        if bits == before:
            break
    if progress:
        progress(replace(newest, done=newest.total))
    closest = min((made for _, made in tried), key=lambda made: abs(made.psnr - psnr))
    return replace(closest, seconds=time.perf_counter() - began)


def _fine_tune(
    video: Video,
    model: VideoModel,
    bpp: float | None,
    slope: float | None,
    fine_tuning: int,
    progress: Callable[[Progress], None],
    prune: bool,
    learned: bool,
    rate: bool,
    adaptive: bool,
) -> Compressed:
    began = time.perf_counter()
    device, original = model.gaussians.mu.device, model
    bits = UNAIMED if bpp is None else bpp * video.num_frames * math.prod(video.size) / max(1, model.num_parameters())
    model = to_pixels(model, fine_tuning, rate_part(bits))
    frames = frames_of(video, model.spans, device)
    pixels = video.num_frames * video.size[0] * video.size[1]
    name = "deformation" if model.config.field.moves else "coarse"
    trained, kind, betas = segments(model, name), model.config.optimizer, model.config.betas
    first = slope or (SLOPE if bpp is None else FIRST_SLOPE)
    optimizer = RateOptimizer(trained, kind, betas, model, first, learned, rate, adaptive)
    looks = [*(SETTLED * (k + 1) / LOOKS for k in range(LOOKS)), *LAST_LOOKS]
    before = int((original.gaussians.mu[..., 0] != WAITING).sum())

    def control(part: float) -> None:
        """Look at the file after a part of the steps."""
        optimizer.place_bits()
        size = 8 * len(stream(model, optimizer.steps())) / pixels
        pruning, off = prune and part <= PRUNED_UNTIL, size / (AIM * bpp if bpp else size)
        if pruning:  # what is left out makes the file smaller at first, until the rest has settled
            off = max(1.0, off)
        if part <= SETTLED:
            # A file shrinks with about the root of the slope, at high rates less; what prunes has yet to settle.
            gain = min(4.0, max(1.0 if pruning else 2.0, 0.6 * bits))
            optimizer.slope *= min(4.0, max(0.25, off**gain))
            if not learned:
                optimizer.coarsen(min(2.0, max(0.5, off)))
        else:
            optimizer.coarsen(min(1.3, max(0.8, off**1.5)))
        if pruning:
            left, wanted = int(optimizer.alive.sum()), bpp or size
            most = wanted * pixels / least_bits(wanted, adaptive)
            to_come = sum(part < look <= PRUNED_UNTIL for look in looks) + 1
            if most < left:
                optimizer.keep(round(left * (most / left) ** (1 / to_come)))

    def reached() -> float:
        return evaluate(Decoder(model, dtype=torch.float32), video, similarity=False)["psnr"]

    stage, quality = Stage(model, frames, name, optimizer), 0.0
    often = min(EVERY, max(1, fine_tuning // 50))  # so that short fine-tunings look as often as long ones
    try:
        with fast_products(device):
            for look in stage.run(every=often):
                quality = decibels(look.losses.mean()).item() if len(look.losses) else 0.0
                due = [part for part in looks if round(part * fine_tuning) <= look.done < fine_tuning]
                if due:
                    del looks[: len(due)]
                    control(due[-1])
                progress(Progress((0, len(frames)), len(frames), "fine-tuning", look.done, fine_tuning, quality))
    except torch.OutOfMemoryError as error:
        text = "all groups at once do not fit in the GPU's memory: fine-tune on --device cpu, or encode without it"
        raise StgvError(text) from error
    if stage.diverged:
        place = stage.diverged[0].place
        raise StgvError(f"GoP {place}: the loss is not finite while fine-tuning; take a smaller target")
    steps = optimizer.steps() if bpp is None else optimizer.fit_into(int(bpp * pixels / 8), reached if prune else None)
    kept = optimizer.alive.sum().item() / max(before, 1)
    return Compressed(model, steps, optimizer.slope.item(), kept, time.perf_counter() - began, quality)


def frames_of(video: Video, gops: list[tuple[int, int]], device: torch.device) -> Tensor:
    """Frames of all GoPs as `load_gops` gives them. All GoPs share the steps that are learned, so each is seen at every
    step; on a CPU their frames lie in a temporary file, of which the system keeps in memory what there is room for."""
    if device.type != "cpu":
        return load_gops(video, gops, device)[0]
    shape = (len(gops), max(stop - start for start, stop in gops), *video.size, 4)
    with tempfile.TemporaryFile() as file:
        for g, gop in enumerate(gops):
            file.seek(g * math.prod(shape[1:]))
            file.write(load_gops(video, [gop], device)[0].numpy())
        file.truncate(math.prod(shape))  # a last GoP that is shorter is padded with zeros
        return torch.from_numpy(np.memmap(file, np.uint8, "c", shape=shape))


@torch.no_grad()
def to_pixels(model: VideoModel, steps: int, part: float) -> VideoModel:
    """A copy in px parametrisation with the settings for fine-tuning: Adam, part of our preset's rates, or for the
    field of the fit's own where those are lower."""
    config = model.config
    ours = FitConfig(
        preset=config.preset,
        gop_size=config.gop_size,
        coarse_steps=0 if config.field.moves else steps,
        steps=steps if config.field.moves else 0,
        keyframe="all",
        order="golden",
        parametrization="pixel",
        optimizer="adam",
        betas=(0.95, 0.99),
        position_rate=0.2 * part,
        cholesky_rate=0.06 * part,
        color_rate=4e-3 * part,
        gaussian_schedule="cosine",
        last_rate=0.01,
        clamp=config.clamp,
        huber=config.huber,
        field_rate=min(4e-3, config.field_rate) * part,  # more than in the fit breaks MLPs without a hash
        field_rate_last=min(2e-4, config.field_rate_last) * part,
        lattice_rate=config.lattice_rate * part,
        fade_rate=config.fade_rate * part,
        grey=config.grey,
        field=config.field,
    )
    copy = VideoModel(ours, model.num_frames, model.size, model.count).to(model.gaussians.mu.device)
    copy.load_state_dict({name: value for name, value in model.state_dict().items()})
    mu, cholesky = model.gaussians.pixels()
    waiting = model.gaussians.mu[..., :1] == WAITING
    copy.gaussians.mu.data = torch.where(waiting, torch.full_like(mu, WAITING), mu).clone()
    copy.gaussians.cholesky.data = cholesky.clone()
    return copy
