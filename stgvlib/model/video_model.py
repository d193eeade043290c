"""A video's model: canonical Gaussians and the field that deforms them, batched over GoPs (paper, Sec. II, eq. 6-9).

Every parameter has a leading GoP axis, so a batch of GoPs trains in one pass. `paper_budget` is the count that the
paper reports: 8 numbers a Gaussian, the hash tables, and the MLP.
"""

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from stgvlib.config import FieldConfig, FitConfig, from_dict
from stgvlib.device import kernels_for
from stgvlib.errors import StgvError
from stgvlib.model.field import DeformationField, field_parameters
from stgvlib.ops.splat import MIN_SCALE, splat
from stgvlib.video.scenes import split_gops

CHOLESKY_OFFSET = (0.5, 0.0, 0.5)  # px, added to the raw Cholesky vector of the tanh parametrisation


class CanonicalGaussians(nn.Module):
    """N Gaussians a GoP, 8 parameters each: position, Cholesky vector, colour; no opacity. With `degree`, 2 * degree
    more: the coefficients of each Gaussian's own motion."""

    def __init__(self, gops: int, count: int, size: tuple[int, int], parametrization: str, degree: int = 0):
        super().__init__()
        self.size = size
        self.tanh = parametrization == "tanh"
        self.mu = nn.Parameter(torch.zeros(gops, count, 2))
        self.cholesky = nn.Parameter(torch.zeros(gops, count, 3))
        self.rgb = nn.Parameter(torch.zeros(gops, count, 3))
        self.motion = nn.Parameter(torch.zeros(gops, count, 2 * degree)) if degree else None
        self.register_buffer("extent", torch.tensor([size[1], size[0]], dtype=torch.float32), persistent=False)
        self.register_buffer("offset", torch.tensor(CHOLESKY_OFFSET), persistent=False)

    @property
    def cholesky_offset(self) -> float:
        """What l1 and l3 are above their parameters, px."""
        return CHOLESKY_OFFSET[0] if self.tanh else 0.0

    @property
    def extent_px(self) -> tuple[float, float]:
        """Width and height."""
        return float(self.size[1]), float(self.size[0])

    @property
    def cholesky_floor(self) -> float:
        """Lower bound of the raw l1 and l3, which the optimiser keeps."""
        return MIN_SCALE - self.cholesky_offset

    def pixels(self, gops: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """(mu [G, N, 2], cholesky [G, N, 3]) in px, of some GoPs."""
        mu, cholesky = self.mu[gops], self.cholesky[gops]
        if not self.tanh:
            return mu, cholesky
        return (mu.tanh() + 1) / 2 * self.extent, cholesky + self.offset

    @torch.no_grad()
    def set_pixels(self, gop: int, mu: Tensor, cholesky: Tensor, rgb: Tensor) -> None:
        """Set one GoP's Gaussians from px values."""
        if self.tanh:
            mu = torch.atanh((mu / self.extent * 2 - 1).clamp(-0.999999, 0.999999))
            cholesky = cholesky - self.offset
        self.mu[gop], self.cholesky[gop], self.rgb[gop] = mu, cholesky, rgb


class VideoModel(nn.Module):
    """G GoPs of one video: canonical Gaussians, field, and the number of frames of each GoP."""

    def __init__(
        self,
        config: FitConfig,
        num_frames: list[int],  # of each GoP
        size: tuple[int, int],  # height, width
        count: int,  # Gaussians a GoP
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config, self.size, self.num_frames = config, size, list(num_frames)
        gops = len(num_frames)
        self.count = count
        self.gaussians = CanonicalGaussians(gops, self.count, size, config.parametrization, config.field.polynomial)
        self.field = DeformationField(config.field, gops, size, generator)
        self._fused = None  # buffers of `deform` on a GPU

    def deform(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(mu', cholesky', rgb') at times t [G]: eq. 9. The shape stays, but with `deform_shape`.

        On a GPU without gradients this runs the fused kernels; training has its own step (cuda/step.py).
        """
        if kernels_for(self.gaussians.mu) == "cuda" and not torch.is_grad_enabled():
            from stgvlib.model.field_cuda import FusedField, supported

            if supported(self.field):
                if self._fused is None or self._fused.batch != len(t) or self._fused.x.device != t.device:
                    self._fused = FusedField(self, len(t))
                self._fused.t.copy_(t)
                mu, cholesky, rgb = (v.clone() for v in self._fused.forward())
                return mu, cholesky + self.gaussians.offset if self.gaussians.tanh else cholesky, rgb
        mu, cholesky = self.gaussians.pixels()
        d_mu, d_rgb, d_cholesky = self.field(mu, t)
        if self.gaussians.motion is not None:
            d_mu = d_mu + (self.gaussians.motion.unflatten(-1, (-1, 2)) * self.field.motion_powers(t)).sum(2)
        return mu + d_mu, cholesky if d_cholesky is None else cholesky + d_cholesky, self.gaussians.rgb + d_rgb

    def times(self, frame: Tensor) -> Tensor:
        """t of frame i of a GoP of n frames: (i + 1) / n, as in the parent code. frame [G] -> [G]."""
        counts = torch.tensor(self.num_frames, device=frame.device)
        return (frame + 1) / counts

    @torch.no_grad()
    def render(self, frame: Tensor, scale: float = 1.0, canonical: bool = False) -> Tensor:
        """Frame `frame[g]` of every GoP, [G, H, W, 3] not clamped, at `scale` times the size."""
        if canonical:
            mu, cholesky = self.gaussians.pixels()
            rgb = self.gaussians.rgb
        else:
            mu, cholesky, rgb = self.deform(self.times(frame))
        size = self.scaled_size(scale)
        if scale != 1:
            ratio = self.size_ratio(size)
            mu, cholesky = mu * ratio, cholesky * ratio[[0, 1, 1]]  # l1 follows x; l2, l3 follow y
        return splat(mu, cholesky, rgb, size)

    def scaled_size(self, scale: float) -> tuple[int, int]:
        """Height and width at `scale` times the fitted size."""
        return tuple(max(1, round(side * scale)) for side in self.size)

    def size_ratio(self, size: tuple[int, int]) -> Tensor:
        """Of x and y, [2], from the fitted size to another."""
        return self.gaussians.mu.new_tensor([size[1] / self.size[1], size[0] / self.size[0]])

    def gop(self, g: int) -> "VideoModel":
        """GoP g alone, as a copy."""
        alone = VideoModel(self.config, self.num_frames[g : g + 1], self.size, self.count)
        alone.load_state_dict({name: value[g : g + 1] for name, value in self.state_dict().items()})
        return alone.to(self.gaussians.mu.device)

    @staticmethod
    def join(models: list["VideoModel"]) -> "VideoModel":
        """The GoPs of several models, in order, as one model."""
        first = models[0]
        lengths = [n for m in models for n in m.num_frames]
        joined = VideoModel(first.config, lengths, first.size, first.count)
        states = [m.state_dict() for m in models]
        joined.load_state_dict({name: torch.cat([s[name] for s in states]) for name in states[0]})
        return joined.to(first.gaussians.mu.device)

    def num_parameters(self) -> int:
        """8 a Gaussian (more with a polynomial), hash tables, MLP: what the paper counts, over all GoPs."""
        return sum(p.numel() for p in self.parameters())


def gaussian_count(config: FitConfig, size: tuple[int, int], frames: int, gops: int | None = None) -> int:
    """Gaussians a GoP. Unset: what the paper (10-frame GoPs, a Gaussian every `pixels_per_gaussian`) would spend on
    this video. `gops` is how many it is cut into; None: as many as one without scene cuts."""
    if config.gaussians not in (None, "budget"):
        return config.gaussians
    gops, paper_gops = gops or len(split_gops(frames, config.gop_size)), len(split_gops(frames, FitConfig.gop_size))
    if config.gaussians is None and gops == paper_gops:
        return published_gaussians(config, size)
    left = paper_budget(config, size, frames) // gops - field_parameters(config.field)
    count = left // (8 + 2 * config.field.polynomial)
    # A field that exceeds the budget of a tiny video still gets something to deform.
    return count if count > 0 else max(1, published_gaussians(config, size) // 2)


def published_gaussians(config: FitConfig, size: tuple[int, int]) -> int:
    """Gaussians of a 10-frame GoP of the paper's method."""
    return max(1, round(size[0] * size[1] / config.pixels_per_gaussian))


def paper_budget(config, size: tuple[int, int], frames: int) -> int:
    """Parameters that the paper's method has on a video of this size and length: the budget of every system."""
    gops = len(split_gops(frames, FitConfig.gop_size))
    return (8 * published_gaussians(config, size) + field_parameters(FieldConfig())) * gops


def save_model(model: VideoModel, path: str | Path, **extra) -> None:
    """Write a model as safetensors with its configuration (and `extra`, JSON-able) as metadata; atomic.

    Raises StgvError when the file cannot be written; whatever lay at `path` is then untouched.
    """
    from safetensors.torch import save

    about = {"config": asdict(model.config), "size": model.size, "num_frames": model.num_frames, "count": model.count}
    metadata = {"format": "stgv-model", "version": "1", "about": json.dumps(about | extra)}
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomically(path, save(tensors, metadata))


def load_model(path: str | Path, device: torch.device | str = "cpu") -> tuple[VideoModel, dict]:
    """Read a model and its metadata. Raises StgvError for a missing, truncated or foreign file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise StgvError(f"{path} does not exist; expected a model that `stgv fit` wrote")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != "stgv-model":
                raise StgvError(f"{path} is a safetensors file, but no model that `stgv fit` wrote")
            if metadata.get("version") != "1":
                raise StgvError(f"{path} has model format {metadata.get('version')}, this stgvlib reads 1: update it")
            state = {name: file.get_tensor(name) for name in file.keys()}
        about = json.loads(metadata["about"])
        config = from_dict(FitConfig, about["config"])
        model = VideoModel(config, about["num_frames"], tuple(about["size"]), about["count"])
        model.load_state_dict(state)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise StgvError(f"{path} is damaged or no model that `stgv fit` wrote ({reason}); fit it again") from error
    return model.to(device), about


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write beside `path`, then rename. Raises StgvError (unwritable, full disk ...) and leaves nothing behind."""
    path = Path(path)
    partial = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            partial = file.name
            file.write(data)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except OSError as error:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)
        raise StgvError(f"cannot write {path}: {error.strerror or error}") from error
