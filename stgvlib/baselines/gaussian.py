"""The other 2D-Gaussian video systems, as settings of our model and trainer (paper, Sec. III and related work).

They share splatting, loss, parametrisation and optimiser with preset `paper`, so a comparison shows what representation
and initialisation are worth, not whose kernels are better. N follows from the common parameter budget.

2DGS            GaussianImage (Zhang et al. 2024) on each frame alone: no field, no neighbours. 7,000 steps a frame, as
                many as a frame gets of STGV's 70,000 for ten; its own code runs 50,000.
D2GV            (Liu et al. 2025) canonical Gaussians fitted to all frames of the GoP, positional encoding, MLP of two
                layers of 156 and three two-layer heads (position, colour, shape); MLP rate 8e-4 [code]. Its end is not
                published: a tenth, as in STGV.
GaussianVideo   (Lee et al. 2025) features from the planes xy, xt, yt; position, colour and shape are deformed. Plane
                sizes and schedule are not public: planes as in `encoding.Planes`, schedule and rates of D2GV.
GSVR            motion from planes plus a polynomial in t of each Gaussian; GoPs are cut where the content changes. Code
                and degree are not public: degree 2, GoPs by our `cuts="motion"`, the rest as GaussianVideo.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from stgvlib.baselines.system import module_of
from stgvlib.config import FieldConfig, FitConfig, Profile, scaled_steps
from stgvlib.fitting.batches import FitResult
from stgvlib.fitting.fit import fit
from stgvlib.fitting.progress import Callback
from stgvlib.model.decoder import Decoder
from stgvlib.model.model_file import read_model, save_model
from stgvlib.model.video_model import VideoModel
from stgvlib.video.video import Video

TWO_DGS = FitConfig(
    preset="2dgs", gop_size=1, gaussians="budget", coarse_steps=7_000, steps=0, field=FieldConfig(encoding="none")
)
D2GV = FitConfig(
    preset="d2gv",
    gaussians="budget",
    keyframe="all",
    field_rate=8e-4,
    field_rate_last=8e-5,
    field=FieldConfig(encoding="positional", width=156, deform_shape=True, head_layers=2),
)
GAUSSIAN_VIDEO = replace(
    D2GV, preset="gaussian_video", field=FieldConfig(encoding="planes", deform_shape=True, head_layers=1)
)
GSVR = replace(
    GAUSSIAN_VIDEO,
    preset="gsvr",
    cuts="motion",
    field=FieldConfig(encoding="planes", deform_shape=True, polynomial=2),
)


@dataclass(frozen=True)
class GaussianSystem:
    """A setting of our model and trainer as a `System` (docs/EXTENDING.md, recipe 1). A subclass may override `fit`.

    Examples:
        >>> from dataclasses import replace
        >>> from stgvlib import PROFILES, STGV
        >>> from stgvlib.baselines import GaussianSystem
        >>> system = GaussianSystem("wide", "STGV, wide", "other rates", replace(STGV, position_rate=0.4))
        >>> system.configure(PROFILES["smoke"], pixels_per_gaussian=None).steps  # 1 % of the preset's 60,000
        600
    """

    key: str
    label: str
    about: str
    config: FitConfig

    @property
    def sources(self) -> tuple[str, ...]:
        """Modules that decide the result of a fit."""
        own = () if type(self) is GaussianSystem else (module_of(type(self)),)
        return ("stgvlib.fitting.fit", "stgvlib.model.decoder", *own)

    def configure(self, profile: Profile, pixels_per_gaussian: float | None) -> FitConfig:
        config = scaled_steps(self.config, profile)
        return config if pixels_per_gaussian is None else replace(config, pixels_per_gaussian=pixels_per_gaussian)

    def fit(
        self,
        video: Video,
        config: FitConfig,
        device: torch.device,
        seed: int = 0,
        progress: Callback | None = None,
        checkpoint: Path | None = None,
    ) -> FitResult:
        return fit(video, config, device, seed, progress=progress)

    def save(self, model: VideoModel, path: Path, **about) -> None:
        save_model(model, path.with_suffix(".safetensors"), **about)

    def load(self, path: Path, device: torch.device) -> tuple[VideoModel, dict]:
        return read_model(path.with_suffix(".safetensors"), device)

    def decoder(self, model: VideoModel, dtype: torch.dtype = torch.uint8) -> Decoder:
        return Decoder(model, dtype=dtype)
