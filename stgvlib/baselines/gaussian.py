"""The other 2D-Gaussian video systems, as settings of our model and trainer (paper, Sec. III and related work).

They share splatting, loss and parametrisation, so a comparison shows what representation and trainer are worth, not
whose kernels are better. N follows from the common parameter budget. What each choice is worth: docs/REPRODUCTION.md.

2DGS            GaussianImage (Zhang et al. 2024) on each frame alone: no field, no neighbours. 7,000 steps a frame, as
                many as a frame gets of STGV's 70,000 for ten; its own code runs 50,000.
D2GV            (Liu et al. 2025) as its public code has it (train_deform.py, train.sh): Gaussians first fitted to all
                frames of the GoP in order; sines of 2^k x and 2^k t without pi, 10 and 6 frequencies, x in [-1, 1]; MLP
                of two layers of 156 and two-layer heads for position and colour, not zero at the start; positions move
                inside tanh; frames are clamped before the loss; Adan at 5e-3, halved every 20,000 steps of both stages
                together; Adam for the MLP, 8e-4 to 1.6e-5 in 50,000 of the 60,000 steps, then constant. It also has a
                head for an opacity that is never used, which is left out. Three things differ: its optimiser's moments
                go on from stage to stage, ours start again; its kernels have defects (a pixel sums at most 256
                Gaussians of its tile, wrong gradients of the Cholesky vector), ours have not; it has 20,000 Gaussians
                on Bunny, which "bunny/d2gv_20000" has and the budget does not allow.
GaussianVideo   (Lee et al. 2025, arXiv 2503.04333; code not public) features from the planes xy, xt, yt; position,
                colour and shape are deformed; Gaussians start where frames change, as its abstract says. Plane sizes,
                schedule and the share of the start are not public: `encoding.Planes`, 70 %, rates as below.
GSVR            motion from planes plus a polynomial in t of each Gaussian; GoPs are cut where the content changes. Code
                and degree are not public: degree 2, GoPs by our `cuts="motion"`, the rest as GaussianVideo, but a
                uniform start.

The last two have rates and schedule of our first version of D2GV, D2GV_BEFORE: three heads, waves of 2^k pi x, motion
added in px, Adan at 7e-3 for all but the field's rate, schedules that start again with each stage.
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
    position_rate=5e-3,
    cholesky_rate=5e-3,
    color_rate=5e-3,
    schedule_over="fit",
    field_optimizer="adam",
    field_rate=8e-4,
    field_rate_last=1.6e-5,
    field_rate_until=5 / 6,
    clamp=True,
    field=FieldConfig(
        encoding="positional",
        time_code="plain",
        position_code="plain",
        position_space="tanh",
        width=156,
        zero_heads=False,
        head_layers=2,
    ),
)
D2GV_BEFORE = FitConfig(
    preset="d2gv",
    gaussians="budget",
    keyframe="all",
    field_rate=8e-4,
    field_rate_last=8e-5,
    field=FieldConfig(encoding="positional", width=156, deform_shape=True, head_layers=2),
)
GAUSSIAN_VIDEO = replace(
    D2GV_BEFORE,
    preset="gaussian_video",
    placement="temporal",
    field=FieldConfig(encoding="planes", deform_shape=True, head_layers=1),
)
GSVR = replace(
    GAUSSIAN_VIDEO,
    preset="gsvr",
    placement="uniform",
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
        >>> system.configure(PROFILES["smoke"], pixels_per_gaussian=None).steps  # 0.5 % of the preset's 60,000
        300
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
