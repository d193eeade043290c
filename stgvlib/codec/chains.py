"""Fit a video for its file: key GoPs that are coded on their own, each followed by GoPs that are predicted one from
another (predict.py), all with what their bits cost in the loss.

    made = compress_video(open_video("clip.mp4"), bpp=0.08, device="cuda")
    Path("clip.stgv").write_bytes(made.data)

Only key GoPs are fitted as `fit` does. Then each chain goes on GoP by GoP, all chains side by side: a GoP starts from
where the file leaves the one before it, its lattice from optical flow, and learns differences (change_optimizer.py).
"""

import math
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from stgvlib.codec.bitstream import assembled, parse
from stgvlib.codec.change_optimizer import ChangeOptimizer
from stgvlib.codec.fine_tune import compress, frames_of
from stgvlib.codec.predict import CHANGED, SAME, Changes, Ends, follow, own_steps
from stgvlib.codec.quantize import dequantize, quantize
from stgvlib.codec.steps import LearnedSteps
from stgvlib.codec.units import KEY, PREDICTED, key_unit, predicted_unit, read_unit
from stgvlib.config import QUALITY, FitConfig
from stgvlib.device import fast_products
from stgvlib.errors import StgvError
from stgvlib.fitting.batches import fit_gops, gops_per_batch
from stgvlib.fitting.motion import start_lattice
from stgvlib.fitting.plan import FitPlan, plan_fits
from stgvlib.fitting.progress import Callback, Progress
from stgvlib.fitting.resume import Parts
from stgvlib.fitting.stage import Stage, segments
from stgvlib.metrics import evaluate
from stgvlib.model.decoder import Decoder
from stgvlib.model.gaussians import WAITING
from stgvlib.model.video_model import VideoModel
from stgvlib.video.flow import flow_of
from stgvlib.video.video import Video, video_of

KEYINT = 4  # GoPs of a chain at most (docs/LOG.md, 2026-11-28)
GOP_SIZE = 16
PIXELS_A_GAUSSIAN = 29  # before fine-tuning leaves some out
GAUSSIANS_A_POINT = 64.0  # of the lattice, which costs bits
FIT_STEPS = 14_000  # of the deformation stage of key GoPs
FINE_TUNING = 8_000  # steps of key GoPs
CHANGING = 12_000  # steps of a predicted GoP
SLOPE = 2e-3  # MSE that a bit per pixel is worth, without a target
MOST_UNCOVERED = 0.06  # part of a GoP's last frame that the frame before the GoP may lack, where it is predicted
FLAG = 4.0  # weight of the bits by which a Gaussian is told to change
ATTEMPTS = 4  # at a size or a quality
CLOSE_SIZE, CLOSE_QUALITY = 0.93, 0.1  # part of the size asked for, dB
DECADE = 12.0  # dB that ten times the bits are worth


@dataclass
class CompressedVideo:
    """A video fitted for its file."""

    data: bytes  # the .stgv file
    model: VideoModel  # as a reader has it, on the CPU
    psnr: float  # dB, mean of all frames
    slope: float  # MSE that a bit per pixel was worth
    gops: list[dict]  # of each: kind, bytes, part of its Gaussians that changed
    seconds: dict[str, float]


def setting_for(size: tuple[int, int], config: FitConfig = QUALITY) -> FitConfig:
    """A preset as files with predicted GoPs want it: no numbers of a Gaussian's own, a coarser lattice, GoPs of 16."""
    return replace(
        config,
        gop_size=GOP_SIZE,
        gaussians=max(1, round(size[0] * size[1] / PIXELS_A_GAUSSIAN)),
        gaussians_per_point=GAUSSIANS_A_POINT,
        field=replace(config.field, fade=False),
    )


def chains_of(gops: list[tuple[int, int]], cuts: tuple[int, ...], keyint: int) -> list[list[int]]:
    """Numbers of the GoPs of each chain, at most `keyint`; a GoP that begins at one of `cuts` begins a new chain."""
    chains: list[list[int]] = []
    for g, (start, _) in enumerate(gops):
        if not chains or start in cuts or len(chains[-1]) == keyint:
            chains.append([])
        chains[-1].append(g)
    return chains


@dataclass
class Chains:
    """A video cut into chains, and its key GoPs, fitted."""

    video: Video
    gops: list[tuple[int, int]]
    chains: list[list[int]]
    keys: VideoModel
    seconds: float

    @property
    def key_video(self) -> Video:
        """The frames of key GoPs, one GoP after the other."""
        spans = [self.gops[chain[0]] for chain in self.chains]
        return video_of(np.concatenate([self.video.read(*span) for span in spans]))

    @property
    def parameters(self) -> int:
        """Of all GoPs, key and predicted."""
        return self.keys.num_parameters() // len(self.chains) * len(self.gops)

    @property
    def longest(self) -> int:
        return max(map(len, self.chains))

    @property
    def pixels(self) -> int:
        return self.video.num_frames * math.prod(self.video.size)


def plan_chains(video: Video, config: FitConfig, keyint: int = KEYINT, seed: int = 0) -> tuple[FitPlan, list]:
    """The plan of the fit of key GoPs, and the GoPs of each chain as frames (start, stop)."""
    if keyint < 1:
        raise StgvError(f"keyint must be at least 1, got {keyint}")
    if config.gop_size == "auto":
        raise StgvError("chains need a gop_size, got auto: setting_for gives one")
    if config.field.own_numbers:
        raise StgvError("predicted GoPs need a field without fade and polynomial: setting_for gives one")
    if video.missing is not None:
        raise StgvError("a mask needs two steps: fit to a .safetensors file, then encode it")
    (whole,) = plan_fits(video, config, seed)
    begin = list(whole.video.cuts or ())
    for start, stop in whole.gops[1:] if keyint > 1 else ():  # a prediction has no Gaussians for what is uncovered
        if start not in begin and flow_of(whole.video.read(start - 1, stop), 0).uncovered(video.size) > MOST_UNCOVERED:
            begin.append(start)
    chains = chains_of(list(whole.gops), tuple(begin), keyint)
    spans = [[whole.gops[g] for g in chain] for chain in chains]
    return replace(whole, gops=tuple(chain[0] for chain in spans)), spans


def fit_keys(
    planned: tuple[FitPlan, list],
    device: torch.device | str = "cpu",
    parts: Parts | None = None,
    progress: Callback = None,
) -> Chains:
    """Fit the key GoPs of `plan_chains`; finished ones are kept in `parts`."""
    keys, spans = planned
    began = time.perf_counter()
    model = fit_gops(keys, torch.device(device), parts, progress).model
    gops = [gop for chain in spans for gop in chain]
    numbers = iter(range(len(gops)))
    chains = [[next(numbers) for _ in chain] for chain in spans]
    return Chains(keys.video, gops, chains, model, time.perf_counter() - began)


def compress_video(
    video: Video,
    config: FitConfig | None = None,  # None: `setting_for` the video's size
    bpp: float | None = None,  # bits per pixel that the file may have
    psnr: float | None = None,  # dB that it shall reach
    slope: float | None = None,  # MSE that a bit per pixel is worth, without a target
    keyint: int = KEYINT,  # GoPs of a chain: the first is coded on its own
    device: torch.device | str = "cpu",
    seed: int = 0,
    fine_tuning: int = FINE_TUNING,
    changing: int = CHANGING,
    parts: Parts | None = None,
    progress: Callback | None = None,
) -> CompressedVideo:
    """Fit a video into a .stgv file of a size (`bpp`) or quality (`psnr`), or minimise MSE + `slope` * bits a pixel.

    Raises StgvError for settings out of range, a loss that is not finite, and a size out of reach.

    Examples:
        >>> import numpy as np
        >>> from dataclasses import replace
        >>> from stgvlib import compress_video, video_of
        >>> from stgvlib.codec.chains import setting_for
        >>> video = video_of(np.random.default_rng(0).integers(0, 256, (8, 16, 24, 3), np.uint8))
        >>> short = replace(setting_for(video.size), gop_size=4, coarse_steps=4, motion_steps=0, steps=4)
        >>> made = compress_video(video, short, keyint=2, fine_tuning=10, changing=10)
        >>> [gop["kind"] for gop in made.gops]
        ['key', 'predicted']
    """
    planned = plan_chains(video, config or setting_for(video.size), keyint, seed)
    keys = fit_keys(planned, device, parts, progress)
    return code_chains(keys, bpp, psnr, slope, fine_tuning, changing, progress)


def code_chains(
    keys: Chains,
    bpp: float | None = None,
    psnr: float | None = None,
    slope: float | None = None,
    fine_tuning: int = FINE_TUNING,
    changing: int = CHANGING,
    progress: Callback | None = None,
) -> CompressedVideo:
    """`compress_video` with key GoPs that are fitted."""
    given = {name: value for name, value in (("bpp", bpp), ("psnr", psnr), ("slope", slope)) if value is not None}
    if len(given) > 1:
        raise StgvError("give one of bpp, psnr and slope")
    for name, value in given.items():
        if not 0 < value < math.inf:
            raise StgvError(f"{name} must be a number above 0, got {value}")
    steps = fine_tuning + changing * (keys.longest - 1)
    if bpp is None and psnr is None:
        report = _counted(progress, 0, steps, steps)
        return _Coder(keys, SLOPE if slope is None else slope, None, fine_tuning, changing, report).run()
    # Key GoPs are aimed at a number of bits; what a bit is worth to them it is worth to those predicted from them.
    bits = _key_part(keys) * (bpp if bpp is not None else 0.1) * keys.pixels
    tried: list[CompressedVideo] = []
    for attempt in range(ATTEMPTS):
        report = _counted(progress, attempt * steps, steps, ATTEMPTS * steps)
        try:
            made = _Coder(keys, None, bits, fine_tuning, changing, report).run()
        except StgvError as error:  # so few bits are out of reach, or learned steps are
            if not tried and attempt + 1 == ATTEMPTS:
                raise StgvError(f"no file was made in {ATTEMPTS} attempts, the last one: {error}") from error
            bits *= 2
            continue
        tried.append(made)
        if bpp is not None:
            reached = 8 * len(made.data) / keys.pixels / bpp
            if CLOSE_SIZE <= reached <= 1:
                break
            bits *= (1 + CLOSE_SIZE) / 2 / reached
        else:
            if abs(made.psnr - psnr) < CLOSE_QUALITY:
                break
            bits *= 10 ** (min(6.0, max(-6.0, psnr - made.psnr)) / DECADE)
    if bpp is None:
        return min(tried, key=lambda made: abs(made.psnr - psnr))
    small = [made for made in tried if 8 * len(made.data) <= bpp * keys.pixels]
    if not small:
        least = min(len(made.data) for made in tried)
        raise StgvError(f"{bpp:g} bits a pixel are too few: the smallest file had {8 * least / keys.pixels:.4f}")
    return max(small, key=lambda made: len(made.data))


def _key_part(keys: Chains) -> float:
    """Of a file's bits, at first: a predicted GoP has about half of a key GoP's."""
    return len(keys.chains) / (len(keys.chains) + 0.5 * (len(keys.gops) - len(keys.chains)))


def worth_of_keys(length: int) -> float:
    """How much less a bit of a key GoP costs than one of a predicted one: other GoPs gain by its quality too."""
    return (length + 2) / 2 if length > 1 else 1.0


def _counted(progress: Callback | None, done: int, steps: int, total: int) -> Callback:
    def report(p: Progress) -> None:
        if progress:
            progress(replace(p, done=done + min(p.done, steps), total=total))

    return report


class _Coder:
    """One pass over all GoPs: key GoPs are fine-tuned, then all chains go on side by side."""

    def __init__(
        self,
        keys: Chains,
        slope: float | None,  # MSE that a bit per pixel of a predicted GoP is worth, or
        bits: float | None,  # of all key GoPs
        fine_tuning: int,
        changing: int,
        progress: Callback,
    ):
        self.keys, self.changing, self.fine_tuning, self.progress = keys, changing, fine_tuning, progress
        worths = [worth_of_keys(len(chain)) for chain in keys.chains]  # all key GoPs are fine-tuned at one slope
        self.worth, self.slope, self.bits = sum(worths) / len(worths), slope, bits
        self.lengths = [stop - start for start, stop in keys.gops]
        self.units: dict[int, tuple[int, bytes]] = {}
        self.own: dict[int, Tensor] = {}  # steps of each GoP's Gaussians
        self.steps: LearnedSteps = None
        self.model: VideoModel = None  # as a reader has it

    def run(self) -> CompressedVideo:
        began, keys = time.perf_counter(), self.keys
        self._code_keys()
        seconds = {"fit": round(keys.seconds, 2), "fine-tuning": round(time.perf_counter() - began, 2)}
        began = time.perf_counter()
        device = keys.keys.gaussians.mu.device
        for place in range(1, keys.longest):
            now = [chain[place] for chain in keys.chains if len(chain) > place]
            together = self._together(device)
            for first in range(0, len(now), together):
                self._code_predicted(now[first : first + together], place, device)
        seconds["changes"] = round(time.perf_counter() - began, 2)
        units = [self.units[g] for g in range(len(keys.gops))]
        video = keys.video
        data = assembled(self.model, self.model.count, self.steps, units, video.fps, **video.hints())
        content = parse(data, device=device)
        shown = Decoder(content.model, dtype=torch.float32)
        psnr = evaluate(shown, video, similarity=False)["psnr"]
        return CompressedVideo(data, content.model.cpu(), psnr, self.slope, content.gops, seconds)

    def _code_keys(self) -> None:
        keys, video = self.keys, self.keys.key_video
        pixels = video.num_frames * math.prod(video.size)
        target = {"slope": self.slope / self.worth} if self.bits is None else {"bpp": self.bits / pixels}
        made = compress(video, keys.keys, **target, fine_tuning=self.fine_tuning, progress=self.progress)
        self.slope, self.steps, tuned = made.slope * self.worth, made.steps, made.model.cpu()
        groups = [quantize(tuned, c, self.steps) for c in range(len(keys.chains))]
        self.model = VideoModel(tuned.config, self.lengths, tuned.size, max(len(group.gaps) for group in groups))
        self.ends = Ends(self.model)
        for chain, group in zip(keys.chains, groups, strict=True):
            g, unit = chain[0], key_unit(group)
            self.units[g] = KEY, unit
            read_unit(KEY, memoryview(unit), self.model, g, self.steps)
            dequantize(group, self.model, g, self.steps)
            self.own[g] = own_steps(group, self.steps)

    def _together(self, device: torch.device) -> int:
        """How many GoPs are trained at once."""
        gops = tuple(self.keys.gops)
        return gops_per_batch(FitPlan(self.keys.video, self.model.config, gops, self.model.count), device)

    def _code_predicted(self, now: list[int], place: int, device: torch.device) -> None:
        """Train GoPs that are each predicted from the one before, and read back what the file has of them."""
        group, bases, from_before = self._predictions(now)
        group = group.to(device)
        frames = frames_of(self.keys.video, [self.keys.gops[g] for g in now], device)
        own = torch.ones(3, len(now), self.model.count, 1)
        for c, g in enumerate(now):
            own[:, c, : self.own[g - 1].shape[1], 0] = self.own[g - 1]
        kind, betas = group.config.optimizer, group.config.betas
        bases = [base.to(device) for base in bases]
        optimizer = ChangeOptimizer(
            segments(group, "deformation"), kind, betas, group, own, self.steps.field, bases, self.slope, FLAG
        )
        stage, before = Stage(group, frames, "deformation", optimizer), self.fine_tuning + (place - 1) * self.changing
        with fast_products(device):
            for look in stage.run():
                span, done = (now[0], now[-1] + 1), before + look.done
                self.progress(Progress(span, len(self.lengths), "changes", done, done, look.psnr))
        if stage.diverged:
            raise StgvError(f"GoP {now[stage.diverged[0].place]}: the loss is not finite while learning its changes")
        for g, changes in zip(now, self._changes(now, optimizer, from_before), strict=True):
            unit = predicted_unit(changes)
            self.units[g] = PREDICTED, unit
            read, _ = read_unit(PREDICTED, memoryview(unit), self.model, g, self.steps)
            self.own[g] = self.own[g - 1]
            follow(self.model, g, read, self.own[g], self.ends)

    def _predictions(self, now: list[int]) -> tuple[VideoModel, list[Tensor], list[bool]]:
        """GoPs as predicted; what the tensors of their fields are predicted from; which of those are so.

        The heads start at zero, so that a GoP begins with the last frame before it, and the lattice follows the flow
        from there: both are coded as they are."""
        model, before = self.model, [g - 1 for g in now]
        group = VideoModel(self._config(), [self.lengths[g] for g in now], model.size, model.count)
        bases, from_before = [], []
        whole = dict(model.field.named_parameters())
        for name, p in group.field.named_parameters():
            from_before.append(name != "lattice" and "head" not in name)
            p.data = whole[name].data[before] if from_before[-1] else torch.zeros_like(p)
            bases.append(p.data.clone())
        group.gaussians.mu.data.fill_(WAITING)
        group.gaussians.cholesky.data.copy_(torch.tensor([1.0, 0.0, 1.0]))
        for c, g in enumerate(before):
            count = self.own[g].shape[1]
            values = self.ends(g, count)
            for p, value in zip((group.gaussians.mu, group.gaussians.cholesky, group.gaussians.rgb), values):
                p.data[c, :count] = value
        if group.field.lattice is not None:
            start_lattice(group, [self._tracks_into(g) for g in now])
        return group, bases, from_before

    def _config(self) -> FitConfig:
        """Rates of the fit for what is trained here."""
        rates = ("position_rate", "cholesky_rate", "color_rate", "field_rate", "field_rate_last", "lattice_rate")
        rates = {name: getattr(self.keys.keys.config, name) for name in rates}
        return replace(self.model.config, steps=self.changing, coarse_steps=0, grey=0.0, **rates)

    def _tracks_into(self, g: int) -> SimpleNamespace:
        """From the frame before a GoP to the GoP's own."""
        start, stop = self.keys.gops[g]
        flow = flow_of(self.keys.video.read(start - 1, stop), 0)
        return SimpleNamespace(tracks=lambda points: flow.tracks(points)[1:])

    def _changes(self, now: list[int], optimizer: ChangeOptimizer, from_before: list[bool]) -> list[Changes]:
        numbers = [values.cpu().numpy().astype(np.int64) for values in optimizer.integers()]
        made = []
        for c, g in enumerate(now):
            mu, shape, rgb = (values[c, : self.own[g - 1].shape[1]] for values in numbers[:3])
            differs = (mu != 0).any(1) | (shape != 0).any(1) | (rgb != 0).any(1)
            rows = (values[differs].T for values in (mu, shape, rgb))
            tensors = [
                (float(np.float32(step)), values[c].ravel())
                for step, values in zip(self.steps.field, numbers[3:], strict=True)
            ]
            flags = np.where(differs, CHANGED, SAME)
            made.append(Changes(self.lengths[g], flags, *rows, from_before, tensors))
        return made
