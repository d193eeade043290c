"""The paper's compression recipe (App. C, eq. 10-13), as GaussianImage has it, written to a real file.

fp16 positions, 8-bit asymmetric Cholesky vectors with learned scale and offset, colours by residual VQ (two codebooks
of eight), an 8-bit field, and quantisation-aware fine-tuning. Peers count these bits by formula; here indices and
integers are entropy-coded as .stgv files are, which can only help the recipe.

Where the paper is silent: positions are rounded as the parameters that they are trained as (tanh); scales and offsets
are one a GoP and component; the field's scales are one a tensor, or one for each input of a layer, which costs little
and loses less (docs/REPRODUCTION.md); rates go on from where the fit's ended. Eq. 12 as printed stops the gradient at
the colours, which leaves codebooks that follow by averages nothing to learn from; here it pulls colours to their codes.
"""

import json
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stgvlib.baselines.residual_vq import ResidualVQ
from stgvlib.codec.entropy import decode_integers, encode_integers
from stgvlib.codec.rate_optimizer import StraightThrough
from stgvlib.config import FitConfig, changes, from_dict
from stgvlib.device import fast_products
from stgvlib.errors import StgvError
from stgvlib.fitting.batches import load_gops
from stgvlib.fitting.optimizer import Segment, schedule
from stgvlib.fitting.progress import Progress
from stgvlib.fitting.stage import Stage, segments
from stgvlib.model.video_model import VideoModel
from stgvlib.video.video import Video

LEVELS = 2**8 - 1  # of Cholesky vectors
FIELD_LEVELS = 2**7 - 1  # either side of zero
COMMITMENT = 0.1  # lambda of eq. 13
QUANTIZER_RATE = 1e-3  # of scale and offset, in units of the first scale
RATE_PART = 0.25  # of the Gaussians' rate: what the fit's last third had
HEAD = struct.Struct("<I")


@dataclass
class PaperCompressed:
    """A model whose parameters are what its file decodes to, and what the file holds besides them."""

    model: VideoModel
    cholesky: Tensor  # [G, 2, 3] scale and offset
    vq: ResidualVQ
    colors: Tensor  # int64 [G, N, stages]
    rows: bool  # a step of its own for each input of a layer
    seconds: float


class PaperOptimizer(StraightThrough):
    """Rounds as the recipe says. Scale and offset of the Cholesky vectors are two more parameters."""

    def __init__(self, segments, kind, betas, model: VideoModel, codebooks: tuple[int, int], rows: bool):
        gaussians = model.gaussians
        least, most = (getattr(gaussians.cholesky.data, f"a{end}")(1) for end in ("min", "max"))
        scale = (most - least).clamp(min=1e-6) / LEVELS
        self.first_scale = scale  # [G, 3]
        self.quantizer = torch.nn.Parameter(torch.stack([torch.ones_like(scale), least / scale], 1))  # [G, 2, 3]
        rates = schedule("cosine", QUANTIZER_RATE, 0.0, len(segments[0].rates))
        super().__init__([*segments, Segment("quantizer", [self.quantizer], rates)], kind, betas)
        self.model, self.rows = model, rows
        generator = torch.Generator().manual_seed(0)
        self.vq = ResidualVQ(gaussians.rgb.detach(), *codebooks, generator=generator)
        self._round()

    @property
    def state(self) -> list[Tensor]:
        return [*super().state, self.vq.codebooks, self.vq.counts, self.vq.sums]

    def scale_offset(self) -> tuple[Tensor, Tensor]:
        """Of the Cholesky vectors, [G, 1, 3] each."""
        quantizer = self.unrounded(self.quantizer)
        return (quantizer[:, :1] * self.first_scale[:, None]).clamp(min=1e-9), quantizer[:, 1:] * self.first_scale[
            :, None
        ]

    def levels(self) -> tuple[Tensor, Tensor]:
        """(level of each Cholesky number before clamping and flooring, scale), eq. 10."""
        scale, offset = self.scale_offset()
        return (self.unrounded(self.model.gaussians.cholesky) - offset) / scale, scale

    def _round(self) -> None:
        gaussians = self.model.gaussians
        self.quantizer.data.copy_(self.unrounded(self.quantizer))
        gaussians.mu.data.copy_(self.unrounded(gaussians.mu).half())
        level, scale = self.levels()
        gaussians.cholesky.data.copy_(level.clamp(0, LEVELS).floor() * scale + self.scale_offset()[1])
        gaussians.rgb.data.copy_(self.vq(self.unrounded(gaussians.rgb))[0])
        for name, p in self.model.field.named_parameters():
            step = field_step(name, self.unrounded(p), self.rows)
            p.data.copy_((self.unrounded(p) / step).round() * step)

    def _learn(self) -> None:
        """Gradients of scale and offset (learned step sizes, Esser et al. 2020), of the commitment; codebooks."""
        gaussians = self.model.gaussians
        grad, level = gaussians.cholesky.grad, self.levels()[0]
        inside = (level >= 0) & (level <= LEVELS)
        by_scale = torch.where(inside, level.floor() - level, level.clamp(0, LEVELS))
        self.quantizer.grad[:, 0] = (grad * by_scale).sum(1) * self.first_scale
        self.quantizer.grad[:, 1] = (grad * ~inside).sum(1) * self.first_scale
        grad.mul_(inside)
        colors = self.unrounded(gaussians.rgb)
        quantized, _ = self.vq(colors, learn=True)
        entries = self.vq.codebooks.shape[2]
        gaussians.rgb.grad += 2 * COMMITMENT / (colors.shape[1] * entries) * (colors - quantized)


def field_step(name: str, values: Tensor, rows: bool) -> Tensor:
    """Steps of a field's tensor [G, ...], broadcastable: one a GoP, or with `rows` one for each input of a layer."""
    over = -1 if rows and name.endswith("weight") else tuple(range(1, values.dim()))
    return values.abs().amax(over, keepdim=True) / FIELD_LEVELS + 1e-12


@torch.no_grad()
def round_field(model: VideoModel, rows: bool) -> VideoModel:
    """A copy of which the field alone has the recipe's 8 bits: what these cost before any fine-tuning."""
    copy = VideoModel.join([model])
    for name, p in copy.field.named_parameters():
        step = field_step(name, p, rows)
        p.copy_((p / step).round() * step)
    return copy


def compress_paper(
    video: Video,
    model: VideoModel,
    fine_tuning: int,  # steps
    codebooks: tuple[int, int] = (2, 8),  # stages and entries of each, as GaussianImage has them
    rows: bool = False,  # a step for each input of a layer instead of one for all its weights
    progress: Callable[[Progress], None] | None = None,
) -> PaperCompressed:
    """Fine-tune a copy of `model` of `video` under the recipe. Raises StgvError when the loss is not finite."""
    began, device, config = time.perf_counter(), model.gaussians.mu.device, model.config
    config = replace(
        config,
        coarse_steps=0,
        steps=fine_tuning,
        gaussian_schedule="cosine",
        position_rate=config.position_rate * RATE_PART,
        cholesky_rate=config.cholesky_rate * RATE_PART,
        color_rate=config.color_rate * RATE_PART,
        field_rate=config.field_rate_last,
    )
    copy = VideoModel(config, model.num_frames, model.size, model.count).to(device)
    copy.load_state_dict(model.state_dict())
    frames, _ = load_gops(video, copy.spans, device)
    trained = segments(copy, "deformation")
    optimizer = PaperOptimizer(trained, config.optimizer, config.betas, copy, codebooks, rows)
    stage = Stage(copy, frames, "deformation", optimizer)
    with fast_products(device):
        for look in stage.run():
            if progress and len(look.losses):
                progress(Progress((0, len(frames)), len(frames), "fine-tuning", look.done, fine_tuning, look.psnr))
        colors = optimizer.vq(optimizer.unrounded(copy.gaussians.rgb))[1]
    if stage.diverged:
        raise StgvError(f"GoP {stage.diverged[0].place}: the loss is not finite while fine-tuning")
    quantizer = torch.cat(optimizer.scale_offset(), 1)
    return PaperCompressed(copy, quantizer, optimizer.vq, colors, rows, time.perf_counter() - began)


@torch.no_grad()
def encode_paper(made: PaperCompressed) -> bytes:
    """The file's bytes. They decode to exactly `made.model`."""
    model, gaussians = made.model, made.model.gaussians
    config = replace(model.config, coarse_steps=0, steps=1)
    about = {"config": changes(config), "size": model.size, "frames": model.num_frames, "count": model.count}
    about |= {"codebooks": list(made.vq.codebooks.shape[1:3]), "rows": made.rows}
    text = json.dumps(about).encode()
    parts = [HEAD.pack(len(text)), text]
    scale, offset = made.cholesky[:, :1], made.cholesky[:, 1:]
    levels = ((gaussians.cholesky - offset) / scale).round().long().clamp(0, LEVELS).cpu().numpy()
    for g in range(len(model.num_frames)):
        parts += [made.cholesky[g].cpu().numpy().astype("<f4").tobytes()]
        parts += [made.vq.codebooks[g].cpu().numpy().astype("<f4").tobytes()]
        positions = gaussians.mu[g].half().cpu().numpy().view(np.int16)
        for rows in (positions, levels[g], made.colors[g].cpu().numpy()):
            parts += [encode_integers(row) for row in rows.T]
        for name, p in model.field.named_parameters():
            step = field_step(name, p[g : g + 1], made.rows)[0]
            integers = (p[g] / step).round().cpu().numpy().astype(np.int64)
            parts += [step.cpu().numpy().astype("<f4").tobytes(), encode_integers(integers)]
    return b"".join(parts)


@torch.no_grad()
def decode_paper(data: bytes) -> VideoModel:
    """The model that `encode_paper` wrote, on the CPU. Raises StgvError for other bytes."""
    try:
        (length,) = HEAD.unpack_from(data)
        about = json.loads(data[HEAD.size : HEAD.size + length])
        config = from_dict(FitConfig, about["config"])
        model = VideoModel(config, about["frames"], tuple(about["size"]), about["count"])
        stages, entries = about["codebooks"]
        rows = about["rows"]
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise StgvError("these bytes hold no model that encode_paper wrote") from error
    view, at, gaussians = memoryview(data), HEAD.size + length, model.gaussians

    def floats(*shape: int) -> Tensor:
        nonlocal at
        size = 4 * int(np.prod(shape))
        if size > len(view) - at:
            raise StgvError("these bytes are cut off")
        at += size
        return torch.from_numpy(np.frombuffer(view[at - size : at], "<f4").astype(np.float32).reshape(shape))

    def integers(rows: int, count: int) -> np.ndarray:
        nonlocal at
        out = []
        for _ in range(rows):
            values, at = decode_integers(view, at, count)
            out.append(values)
        return np.stack(out, -1)

    for g in range(len(model.num_frames)):
        scale, offset = floats(2, 3)
        books = floats(stages, entries, 3)
        gaussians.mu[g] = torch.from_numpy(
            integers(2, model.count).astype(np.int16).view(np.float16).astype(np.float32)
        )
        gaussians.cholesky[g] = torch.from_numpy(integers(3, model.count)).float() * scale + offset
        chosen = torch.from_numpy(integers(stages, model.count))
        gaussians.rgb[g] = sum(books[k][chosen[:, k]] for k in range(stages))
        for name, p in model.field.named_parameters():
            step = floats(p.shape[1] if rows and name.endswith("weight") else 1, 1)
            p[g] = torch.from_numpy(integers(1, p[g].numel())[:, 0]).float().view(p[g].shape) * step
    return model
