"""Fit an implicit video network to a parameter budget: one trainer for SIREN, NeRV, E-NeRV, HNeRV and HNeRV-Boost.

Schedules are the published ones (300 epochs, Adam or Adan, warm-up, cosine). Widths follow from the budget,
which is what the paper's method has on the same video. On a GPU a step goes through torch.compile and is one CUDA
graph; convolutions run in the configuration's precision, weights, loss and optimiser are float32.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from stgvlib.baselines.e_nerv import ENerv
from stgvlib.baselines.hnerv import HNerv
from stgvlib.baselines.hnerv_boost import HNervBoost
from stgvlib.baselines.nerv import Nerv
from stgvlib.baselines.objective import Objective, pictures
from stgvlib.baselines.siren import Siren
from stgvlib.baselines.system import module_of
from stgvlib.config import Profile
from stgvlib.device import capturing, compiled, fast_products
from stgvlib.errors import StgvError
from stgvlib.fitting.batches import FitResult
from stgvlib.fitting.optimizer import BETAS, FlatOptimizer, Segment, captured
from stgvlib.fitting.plan import identity
from stgvlib.fitting.progress import Progress
from stgvlib.metrics import decibels, to_uint8
from stgvlib.model.budget import paper_budget
from stgvlib.video.video import Video

NETWORKS = {"siren": Siren, "nerv": Nerv, "e_nerv": ENerv, "hnerv": HNerv, "hnerv_boost": HNervBoost}
PUBLISHED = tuple(NETWORKS)
REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class InrConfig:
    """What decides the result of a fit, besides video and seed. The source has a comment for each setting.

    Examples:
        >>> from stgvlib.baselines import InrConfig
        >>> InrConfig(epochs=100, rate=2e-3).loss
        'l2'
    """

    preset: str = ""  # a name of NETWORKS
    epochs: int = 300
    batch: int = 1  # frames a step
    rate: float = 5e-4
    optimizer: Literal["adam", "adan"] = "adam"
    betas: tuple[float, ...] = (0.9, 0.999)  # decay rates: two of Adam, three of Adan
    warm_up: float = 0.2  # part of the epochs with a growing rate
    loss: Literal["l2", "l1_ssim", "l1_ms_ssim_fft"] = "l2"  # objective.py
    pixel_part: float = 1.0  # SIREN: pixels a step, of one frame's, drawn from all frames
    precision: Literal["tf32", "bf16"] = "bf16"  # of products and convolutions on a GPU
    pixels_per_gaussian: float = 40.96  # sets the budget, as for Gaussians
    checkpoint_epochs: int = 20


SIREN = InrConfig("siren", rate=1e-4, warm_up=0.0, pixel_part=0.08, precision="tf32")
NERV = InrConfig("nerv", batch=2, rate=1e-3, warm_up=0.1)
E_NERV = InrConfig("e_nerv", betas=(0.5, 0.999), loss="l1_ssim")
HNERV = InrConfig("hnerv", batch=2, rate=1e-3, warm_up=0.1)
HNERV_BOOST = InrConfig(
    "hnerv_boost",
    rate=3e-3,
    optimizer="adan",
    betas=BETAS["adan"],
    warm_up=0.1,
    loss="l1_ms_ssim_fft",
    precision="tf32",
)


class InrModel(nn.Module):
    """A network that renders a video's frames; the counterpart of `VideoModel`."""

    def __init__(self, config: InrConfig, width: int, size: tuple[int, int], frames: int):
        super().__init__()
        self.config, self.width, self.size, self.num_frames = config, width, size, [frames]
        self.network = NETWORKS[config.preset](width, size, frames)

    @torch.no_grad()
    def render(self, frame: Tensor) -> Tensor:
        """Frames by number, int64 [B] -> [B, H, W, 3], in [0, 1] but for SIREN, which is not clamped."""
        with fast_products(frame.device):
            return self.network(frame).movedim(1, -1).float()

    def num_parameters(self) -> int:
        """What has to be sent: all weights, or of HNeRV and HNeRV-Boost all but the encoder, and the embeddings."""
        count = getattr(self.network, "num_parameters", None)
        return count() if count else sum(p.numel() for p in self.network.parameters())


class InrDecoder:
    """The interface of `decoder.Decoder` over an `InrModel`. On a GPU the network and the rounding are a CUDA graph for
    each number of frames a call; where a network cannot be captured, `way` says why and it runs as it is."""

    def __init__(self, model: InrModel, dtype: torch.dtype = torch.uint8, batch: int = 4):
        self.model, self.dtype, self.batch = model, dtype, batch
        self.device = next(model.parameters()).device
        self.way = "one CUDA graph a call" if self.device.type == "cuda" else "no CUDA graph"
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}  # graph, numbers, frames

    def __len__(self) -> int:
        return self.model.num_frames[0]

    def __getitem__(self, number: int) -> Tensor:
        return self.frames([number])[0]

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    @torch.no_grad()
    def frames(self, numbers: Sequence[int]) -> Tensor:
        """Frames by number, [B, H, W, 3]. Raises IndexError for one that is not there."""
        for number in numbers:
            if not 0 <= number < len(self):
                raise IndexError(f"frame {number} was asked for, the video has frames 0 to {len(self) - 1}")
        asked = torch.tensor(list(numbers))
        if self.way == "one CUDA graph a call" and len(numbers) not in self._graphs:
            with torch.cuda.device(self.device):
                self._capture(len(numbers))
        if len(numbers) not in self._graphs:
            return self._shown(asked.to(self.device))
        graph, static, out = self._graphs[len(numbers)]
        static.copy_(asked) if len(numbers) > 1 else static.fill_(numbers[0])
        graph.replay()
        return out.clone()

    def _shown(self, numbers: Tensor) -> Tensor:
        shown = self.model.render(numbers)
        return to_uint8(shown) if self.dtype == torch.uint8 else shown

    def _capture(self, count: int) -> None:
        static = torch.zeros(count, dtype=torch.int64, device=self.device)
        side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._shown(static)
        torch.cuda.current_stream().wait_stream(side)
        try:
            with capturing(graph):
                out = self._shown(static)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a network of one's own may wait for the GPU, which a graph cannot hold
            self.way = f"no CUDA graph ({str(error).partition(chr(10))[0]})"
        else:
            self._graphs[count] = graph, static, out


def sized(config: InrConfig, size: tuple[int, int], frames: int, budget: int) -> InrModel:
    """The widest network with at most `budget` parameters. Raises StgvError when even the narrowest has more."""

    def count(width: int) -> int:
        with torch.device("meta"):
            return InrModel(config, width, size, frames).num_parameters()

    if count(1) > budget:
        raise StgvError(
            f"{config.preset} needs at least {count(1):,} parameters on this video, the budget is {budget:,}"
        )
    low, high = 1, 2
    while count(high) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= budget else (low, middle)
    return InrModel(config, low, size, frames)


def fit_inr(
    video: Video,
    config: InrConfig,
    device: torch.device | str = "cpu",
    seed: int = 0,
    checkpoint: Path | None = None,  # file that an interrupted fit goes on from
    progress: Callable[[Progress], None] | None = None,
) -> FitResult:
    """Fit one network to all frames. The result's model has `render(frame)` and `num_parameters()`.

    With `checkpoint`, the state is written there every few epochs, and a fit of the same video, configuration and seed
    goes on from it. Raises StgvError when the loss is not finite (a lower rate helps) or the budget is too small.
    """
    device = torch.device(device)
    frames, size = video.num_frames, video.size
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = sized(config, size, frames, paper_budget(config, size, frames)).to(device)
    network = model.network
    images = torch.from_numpy(video.read(0, frames)).to(device)  # uint8 [T, H, W, 3]
    per_epoch = -(-frames // config.batch)
    total = config.epochs * per_epoch
    rates = torch.tensor([config.rate * _rate(step / total, config.warm_up) for step in range(total)])
    segments = [Segment("network", list(network.parameters()), rates)]
    optimizer = FlatOptimizer(segments, config.optimizer, config.betas, eps=1e-8)
    generator = torch.Generator(device).manual_seed(seed)
    errors = torch.zeros(total, 1, device=device)  # MSE of each step
    weights = None
    if video.missing is not None:
        if config.loss != "l2" or config.preset == "siren":
            raise StgvError(f"{config.preset} cannot leave pixels out of its loss; NeRV and HNeRV can")
        weights = torch.from_numpy(video.weights(0, frames)).to(device)
    objective = Objective(network, config.loss, config.precision == "bf16", weights).to(device)
    compiled(objective, device)
    chosen = _draws(config, images, per_epoch, generator.clone_state())[0]

    def step() -> None:
        optimizer.grad.zero_()
        loss, mse = objective(images, chosen)
        loss.backward()
        errors.index_copy_(0, optimizer.step_number[None], mse.view(1, 1))
        optimizer.step()

    about = identity(video, config, seed)
    first, spent = _restore(checkpoint, about, optimizer, generator, errors)
    done = first * per_epoch
    told = time.perf_counter()
    began = told - spent
    with fast_products(device):
        advance = captured(step, optimizer, errors) if device.type == "cuda" and done < total else step
        for epoch in range(first, config.epochs):
            for drawn in _draws(config, images, per_epoch, generator):
                chosen.copy_(drawn)
                advance()
                done += 1
                if progress and time.perf_counter() - told > REPORT_SECONDS:
                    told = time.perf_counter()
                    progress(_progress(errors, done, total))
            if not torch.isfinite(errors[done - per_epoch : done]).all():
                raise StgvError(
                    f"{config.preset}, seed {seed}: the loss is not finite in epoch {epoch}; lower its rate"
                )
            if checkpoint and (epoch + 1) % config.checkpoint_epochs == 0:
                spent = time.perf_counter() - began
                _keep(checkpoint, about, optimizer, generator, errors, epoch + 1, spent)
    if isinstance(network, HNerv):
        for start in range(0, frames, 4):
            numbers = torch.arange(start, min(start + 4, frames), device=device)
            network.embed(numbers, pictures(images, numbers))
    if progress and done:
        progress(_progress(errors, done, total))
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    seconds = {"training": time.perf_counter() - began}
    return FitResult(model.eval(), None, {"training": errors.cpu()}, seconds)


def _draws(config: InrConfig, images: Tensor, per_epoch: int, generator: torch.Generator) -> list[Tensor]:
    """What each step of an epoch looks at, int64: numbers of frames [batch], or of pixels among all frames."""
    device, frames, pixels = images.device, len(images), images[0, ..., 0].numel()
    if config.pixel_part < 1:
        count = (max(1, round(config.pixel_part * pixels)),)
        return [torch.randint(frames * pixels, count, generator=generator, device=device) for _ in range(per_epoch)]
    order = torch.randperm(frames, generator=generator, device=device)
    filled = order[torch.arange(per_epoch * config.batch, device=device) % frames]  # the last step has a batch too
    return list(filled.split(config.batch))


def _rate(progress: float, warm_up: float) -> float:
    """Part of the rate: from a tenth up during the warm-up, then a cosine down to zero."""
    if progress < warm_up:
        return 0.1 + 0.9 * progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def _progress(errors: Tensor, done: int, total: int) -> Progress:
    recent = errors[max(0, done - 20) : done].mean()
    return Progress((0, 1), 1, "training", done, total, decibels(recent).item())


def _state(optimizer: FlatOptimizer, errors: Tensor) -> dict[str, Tensor]:
    moments = {f"moment_{k}": moment for k, moment in enumerate(optimizer.moments)}
    return {"flat": optimizer.flat, "step_number": optimizer.step_number, "errors": errors, **moments}


def _keep(path: Path, about: dict, optimizer, generator, errors: Tensor, epoch: int, spent: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {"about": about, "epoch": epoch, "spent": spent, "generator": generator.get_state()}
    partial = path.with_name(path.name + ".partial")
    torch.save(kept | _state(optimizer, errors), partial)
    partial.replace(path)


def _restore(path: Path | None, about: dict, optimizer, generator, errors: Tensor) -> tuple[int, float]:
    """Epochs that a checkpoint of the same fit has done, and their seconds; a foreign or damaged one starts over."""
    if path is None or not path.is_file():
        return 0, 0.0
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        if kept["about"] != about:
            return 0, 0.0
        generator.set_state(kept["generator"])
        for name, tensor in _state(optimizer, errors).items():
            tensor.copy_(kept[name])
        return kept["epoch"], kept["spent"]
    except Exception:  # torch.load raises what it likes for a damaged file
        return 0, 0.0


@dataclass(frozen=True)
class NetworkSystem:
    """An implicit network under our trainer as a `System` (docs/EXTENDING.md, recipe 2).

    `network(width, size, frames)` makes a module that maps frame numbers, int64 [B], to frames [B, 3, H, W] in [0, 1];
    `size` is (height, width) in px, `width` is as large as the parameter budget allows. The configuration's preset
    becomes the system's key. Without `network` the preset names a published one.

    Raises StgvError for an unknown network, and for the key of a published one.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from stgvlib.baselines import InrConfig, NetworkSystem
        >>> class Means(nn.Module):
        ...     def __init__(self, width, size, frames):
        ...         super().__init__()
        ...         self.size, self.rgb = size, nn.Parameter(torch.rand(frames, 3))
        ...     def forward(self, frame):
        ...         return self.rgb[frame][:, :, None, None].expand(-1, -1, *self.size)
        >>> NetworkSystem("means", "Means", "a colour a frame", InrConfig(rate=1e-2), Means).config.preset
        'means'
    """

    key: str
    label: str
    about: str
    config: InrConfig
    network: Callable[[int, tuple[int, int], int], nn.Module] | None = None  # None: NETWORKS knows it

    def __post_init__(self):
        if self.network is not None:
            if self.key in PUBLISHED:
                raise StgvError(f"the network {self.key!r} is a published one: take another key")
            NETWORKS[self.key] = self.network
            object.__setattr__(self, "config", replace(self.config, preset=self.key))
        if self.config.preset not in NETWORKS:
            known = ", ".join(NETWORKS)
            raise StgvError(f"network {self.config.preset!r} is unknown: expected {known}, or give `network`")

    @property
    def sources(self) -> tuple[str, ...]:
        """Modules that decide the result of a fit."""
        return ("stgvlib.baselines.inr", *([module_of(self.network)] if self.network else []))

    def configure(self, profile: Profile, pixels_per_gaussian: float | None) -> InrConfig:
        config = replace(self.config, epochs=max(1, round(self.config.epochs * profile.coarse_steps)))
        return config if pixels_per_gaussian is None else replace(config, pixels_per_gaussian=pixels_per_gaussian)

    def fit(
        self,
        video: Video,
        config: InrConfig,
        device: torch.device,
        seed: int = 0,
        progress: Callable[[Progress], None] | None = None,
        checkpoint: Path | None = None,
    ) -> FitResult:
        return fit_inr(video, config, device, seed, checkpoint, progress)

    def save(self, model: InrModel, path: Path, **about) -> None:
        kept = {"width": model.width, "size": model.size, "frames": model.num_frames[0]}
        torch.save({"about": about, **kept, "state": model.state_dict()}, path.with_suffix(".pt"))

    def load(self, path: Path, device: torch.device) -> tuple[InrModel, dict]:
        try:
            kept = torch.load(path.with_suffix(".pt"), map_location=device, weights_only=True)
            model = InrModel(self.config, kept["width"], tuple(kept["size"]), kept["frames"])
            model.load_state_dict(kept["state"])
        except Exception as error:  # torch.load raises what it likes for a damaged file
            raise StgvError(f"{path.with_suffix('.pt')} is missing or damaged; fit it again") from error
        return model.to(device).eval(), kept["about"]

    def decoder(self, model: InrModel, dtype: torch.dtype = torch.uint8) -> InrDecoder:
        return InrDecoder(model, dtype)
