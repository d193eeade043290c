"""What is fitted and how: frozen dataclasses, presets stgv | quality | fast | paper, profiles smoke | quick | paper.

Defaults are the paper's (Sec. III and App. B). Values that the paper does not print are marked: [code] read in its
parent's code (D2GV, GaussianImage), [inferred] from its published numbers, [ours] chosen here.
"""

import sys
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Literal, get_args, get_origin, get_type_hints

from stgvlib.errors import StgvError

Encoding = Literal["hash", "positional", "planes", "none"]


@dataclass(frozen=True)
class FieldConfig:
    """The deformation field: encoding, MLP and heads (paper, Sec. II-B). The source has a comment for each setting.

    Examples:
        >>> from stgvlib import FieldConfig
        >>> FieldConfig(temporal=False).encoding  # only the 2D hash of (x, y)
        'hash'
    """

    encoding: Encoding = "hash"  # "none": no field at all, every frame is the canonical one
    spatial: bool = True  # the 2D hash of (x, y)
    temporal: bool = True  # the 3D hash of (x, y, t)
    levels: int = 8
    log2_table_size: int = 10
    base_resolution: int = 16
    growth: float = 1.5
    spatial_features: int = 2
    temporal_features: int = 4
    time_cells: tuple[float, ...] | None = None  # cells of the time axis a level; None: as many as in space
    time_frequencies: int = 6  # gamma(t); t itself is included [inferred]
    time_code: Literal["pi", "plain"] = "pi"  # sines of 2^k pi t [NeRV], or of 2^k t [code]
    position_frequencies: int = 10  # only for encoding="positional" [code]
    # of encoding="positional": sines of 2^k pi x with x in [0, 1], or of 2^k x with x in [-1, 1] [code]
    position_code: Literal["pi", "plain"] = "pi"
    width: int = 128
    slope: float = 0.0  # of the activation below zero: leaky ReLU, under which no unit dies [ours]
    # what the position head moves: the position in px, or atanh of the position in [-1, 1], that is inside tanh [code]
    position_space: Literal["pixels", "tanh"] = "pixels"
    position_scale: float | None = None  # px a unit of the position head; None: half the frame [inferred]
    zero_heads: bool = True  # heads start at zero, so fitting starts from the canonical frame [inferred]
    deform_shape: bool = False  # a third head for the Cholesky vector [ours]
    head_layers: int = 1  # 1 or 2: linear heads, or one more layer of `width` in each
    polynomial: int = 0  # degree of each Gaussian's own motion in t, added to the field's (GSVR)
    # points in t, y and x of a lattice of displacements, trilinear between them; (): none. A fit sets it from
    # `gaussians_per_point` [ours]
    lattice: tuple[int, ...] = ()
    fade: bool = False  # each Gaussian brightens or darkens with t by a number of its own [ours]

    @property
    def moves(self) -> bool:
        """Whether anything is deformed."""
        return self.encoding != "none" or self.own_numbers > 0 or bool(self.lattice)

    @property
    def own_numbers(self) -> int:
        """Numbers a Gaussian has beyond its eight."""
        return 2 * self.polynomial + self.fade


@dataclass(frozen=True)
class FitConfig:
    """Everything that decides the result of a fit, besides the video and the seed. The source has a comment for each
    setting. Defaults are the paper's; presets `PAPER`, `STGV`, `QUALITY` and `FAST` are instances. Change one by
    `dataclasses.replace`.

    Raises StgvError for settings out of range, and for settings that exclude each other.

    Examples:
        >>> from dataclasses import replace
        >>> from stgvlib import STGV
        >>> replace(STGV, gop_size=8, gaussians=2_000).gaussians
        2000
        >>> replace(STGV, gop_size=0)
        Traceback (most recent call last):
        stgvlib.errors.StgvError: gop_size must be at least 1, got 0
    """

    preset: str = "paper"
    gop_size: int | Literal["auto"] = 10  # frames of a GoP; "auto": one of plan.TRIED, by short trials [ours]
    # where GoPs are cut: after every `gop_size` frames, so that the last one is longer or shorter; "equal": lengths
    # differ by a frame at most [ours]; "motion": where as much has changed [ours]
    cuts: Literal["even", "equal", "motion"] = "even"
    # a GoP; None: one for every `pixels_per_gaussian`, or as many as the paper's method has parameters where GoPs are
    # longer or shorter than the paper's; "budget": as many as it has parameters, whatever the field
    gaussians: int | Literal["budget"] | None = None
    pixels_per_gaussian: float = 40.96  # 20,000 on Bunny
    # part of the Gaussians that are grey from the deformation stage on, one number of colour instead of three: where
    # colour shows least [ours]
    grey: float = 0.0
    # Gaussians of the paper's method for each point of the field's lattice, which has as many points in time as a GoP
    # has frames; None: no lattice [ours]
    gaussians_per_point: float | None = None
    keyframe: Literal["first", "middle", "all"] = "first"  # coarse stage on one frame (KFCI), or on all of them
    coarse_steps: int = 10_000
    steps: int = 60_000  # with gop_size="auto": for 16 frames; shorter GoPs take fewer in proportion
    motion_steps: int = 0  # between the stages, in which the field learns to follow optical flow (motion.py) [ours]
    motion_parts: int = 1  # of the Gaussians, which these steps take in turn [ours]
    order: Literal["cyclic", "golden"] = "cyclic"  # of a GoP's frames [code]; or in golden-ratio strides [ours]
    parametrization: Literal["tanh", "pixel"] = "tanh"  # mu = tanh(p), Cholesky = p + (0.5, 0, 0.5) [code]; or px
    # of Gaussians at the start: everywhere alike, where the key frame has edges [ours], or where frames change
    placement: Literal["uniform", "gradient", "temporal"] = "uniform"
    additions: int = 0  # rounds of the coarse stage in which Gaussians are added where the error is [ours]
    initial_part: float = 1.0  # of the Gaussians that are there before the first round
    # px, l1 and l3 at the start; None: U(0.5, 1.5) and l2 U(0, 1) [code]; "cover": they sum to one [ours]
    initial_scale: float | Literal["cover"] | None = None
    optimizer: Literal["adam", "adan"] = "adan"  # [code]
    betas: tuple[float, ...] | None = None  # its decay rates; None: Adam's 0.9, 0.999; Adan's 0.98, 0.92, 0.99 [code]
    field_optimizer: Literal["adam", "adan"] | None = None  # of the field, at its usual decay rates; None: the same
    position_rate: float = 7e-3
    cholesky_rate: float = 7e-3
    color_rate: float = 7e-3
    # halving: after each third of `steps`, 20,000 [code]
    gaussian_schedule: Literal["constant", "cosine", "halving"] = "halving"
    schedule_over: Literal["stage", "fit"] = "stage"  # starts again with each stage, or runs through both [code]
    last_rate: float = 0.05  # cosine: part of the rate that is left at the end
    field_rate: float = 1.6e-4
    field_rate_last: float = 1.6e-5
    field_rate_until: float = 1.0  # part of the deformation steps after which the field's rate stays at its last value
    mlp_rate: float = 1.0  # of the field's MLP, in units of its tables' [ours]
    lattice_rate: float = 0.02  # px, of the lattice's displacements: cosine
    fade_rate: float = 1.25e-3  # of a Gaussian's own brightening
    clamp: bool = False  # a frame to [0, 1] before it is compared [code]
    huber: float | None = None  # difference, of 0 to 1, beyond which the loss is linear; None: all is squared [ours]
    field_decay: float = 0.0  # of the field's parameters, times which joins their gradient: a smoother motion [ours]
    field: FieldConfig = field(default_factory=FieldConfig)

    def __post_init__(self):
        leasts = {"gop_size": 1, "coarse_steps": 0, "motion_steps": 0, "motion_parts": 1, "steps": 0}
        for name, least in leasts.items():
            if getattr(self, name) != "auto" and getattr(self, name) < least:
                raise StgvError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.additions and self.parametrization != "pixel":
            raise StgvError("additions need parametrization='pixel'")
        if self.motion_steps and (self.field.encoding == "none" or self.field.polynomial):
            raise StgvError("motion_steps need a field without polynomial")
        if self.field.position_space == "tanh" and (self.motion_steps or self.field.polynomial or self.field.lattice):
            raise StgvError("position_space='tanh' excludes motion_steps, polynomial and lattice, which move in px")
        if self.field.polynomial and self.field.fade:
            raise StgvError("fade excludes polynomial: a Gaussian has one kind of numbers of its own")
        if not 0 <= self.grey <= 1:
            raise StgvError(f"grey must be at least 0 and at most 1, got {self.grey}")
        if self.gaussians_per_point is not None and not self.gaussians_per_point > 0:
            raise StgvError(f"gaussians_per_point must be above 0, got {self.gaussians_per_point}")
        if not 0 <= self.field.slope < 1:
            raise StgvError(f"slope must be at least 0 and below 1, got {self.field.slope}")
        if not 0 < self.field_rate_until <= 1:
            raise StgvError(f"field_rate_until must be above 0 and at most 1, got {self.field_rate_until}")
        numbers = {"adam": 2, "adan": 3}[self.optimizer]
        if self.betas is not None and (len(self.betas) != numbers or not all(0 <= b < 1 for b in self.betas)):
            raise StgvError(f"betas of {self.optimizer} must be {numbers} numbers in [0, 1), got {self.betas}")
        if self.huber is not None and not 0 < self.huber <= 1:
            raise StgvError(f"huber must be above 0 and at most 1 (of the brightness range), got {self.huber}")
        if not 0 < self.initial_part <= 1:
            raise StgvError(f"initial_part must be above 0 and at most 1, got {self.initial_part}")
        if self.gaussians not in (None, "budget") and self.gaussians < 1:
            raise StgvError(f"gaussians must be at least 1, got {self.gaussians}")
        if self.steps and not self.field.moves and self.gaussians_per_point is None:
            raise StgvError(f"without a field there is nothing to deform: steps must be 0, got {self.steps}")


PAPER = FitConfig()
# What each of these is worth: docs/REPRODUCTION.md.
STGV = FitConfig(
    preset="stgv",
    gop_size="auto",
    keyframe="middle",
    coarse_steps=4_000,
    motion_steps=6_000,
    order="golden",
    parametrization="pixel",
    placement="gradient",
    additions=8,
    initial_part=0.5,
    initial_scale="cover",
    optimizer="adam",
    betas=(0.95, 0.99),  # a mean over about 20 steps: every frame of the GoP has its say
    position_rate=0.2,
    cholesky_rate=0.06,
    color_rate=4e-3,
    gaussian_schedule="cosine",
    last_rate=0.01,
    field_rate=4e-3,
    field_rate_last=2e-4,
    field=FieldConfig(
        position_scale=40.0, deform_shape=True, time_cells=(2, 3, 4, 5, 6, 8, 10, 12), time_frequencies=2
    ),
)
# A lattice of displacements, a number for each Gaussian's brightening, and half of them grey, beside a narrower and
# leaky field (docs/LOG.md, 2026-11-28).
QUALITY = replace(
    STGV,
    preset="quality",
    cuts="equal",
    gaussians="budget",
    grey=0.5,
    gaussians_per_point=16.0,
    motion_steps=1_500,
    steps=48_000,
    field=replace(STGV.field, width=64, slope=0.1, fade=True),
)
FAST = replace(
    QUALITY,
    preset="fast",
    coarse_steps=2_000,
    motion_steps=0,
    steps=14_000,
    position_rate=0.3,
    cholesky_rate=0.09,
    color_rate=6e-3,
    field_rate=6e-3,
)
# Preset `fast`, shortened to minutes on two cores: the default of `stgv fit` on a CPU
# (docs/LOG.md, 2026-11-28). A narrow field makes a step cheaper, and with a lattice has less to learn. GoPs have 16
# frames, because trials of so few steps choose worse lengths.
ON_CPU = replace(
    FAST,
    gop_size=16,
    coarse_steps=800,
    motion_steps=600,
    motion_parts=8,
    steps=1_400,
    field_rate=QUALITY.field_rate,
    field=replace(QUALITY.field, width=32),
)
ON_CPU_SCALE = 0.35  # of height and width
PRESETS = {"stgv": STGV, "quality": QUALITY, "fast": FAST, "paper": PAPER}


@dataclass(frozen=True)
class Profile:
    """How large an experiment is. A profile shrinks numbers; it never changes what runs."""

    name: str
    scale: float = 1.0  # of height and width
    frames: int | None = None  # of an experiment's video; `stgv fit` has its own --frames
    coarse_steps: float = 1.0  # part of the preset's coarse and motion steps, or of an implicit network's epochs
    steps: float = 1.0  # part of the preset's deformation steps
    rows: int | None = None  # of long tables (videos of DAVIS and UVG, levers, seeds): how many are run


PROFILES = {
    "smoke": Profile("smoke", scale=0.3, frames=10, coarse_steps=0.05, steps=0.005, rows=1),
    "quick": Profile("quick", scale=0.5, frames=20, coarse_steps=0.2, steps=0.1, rows=2),
    "paper": Profile("paper"),
}


def preset(name: str) -> FitConfig:
    if name not in PRESETS:
        raise StgvError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]


def profile(name: str) -> Profile:
    if name not in PROFILES:
        raise StgvError(f"profile must be one of {', '.join(PROFILES)}, got {name!r}")
    return PROFILES[name]


def scaled_steps(config: FitConfig, to: Profile) -> FitConfig:
    """The configuration with its step counts shrunk to a profile."""
    before = {name: round(getattr(config, name) * to.coarse_steps) for name in ("coarse_steps", "motion_steps")}
    return replace(config, **before, steps=round(config.steps * to.steps))


def changes(config) -> dict:
    """The settings that differ from the defaults, nested: what identifies a run, also when new settings are added."""
    default, differing = type(config)(), {}
    for f in fields(config):
        value, usual = getattr(config, f.name), getattr(default, f.name)
        if is_dataclass(value):
            value, usual = changes(value), {}
        if value != usual:
            differing[f.name] = value
    return differing


def from_dict(kind, values: dict):
    """Rebuild a (nested) frozen dataclass from `asdict` output that went through JSON. Raises StgvError for settings
    that are unknown or of another type."""
    if not isinstance(values, dict):
        raise StgvError(f"settings of {kind.__name__} must be an object, got {values!r:.40}")
    known, built = get_type_hints(kind), {}
    if unknown := set(values) - set(known):
        listed = f"{sorted(unknown)!r:.100}"
        raise StgvError(f"unknown settings {listed} for {kind.__name__}: written by another version?")
    for name, value in values.items():
        if is_dataclass(known[name]):
            built[name] = from_dict(known[name], value)
            continue
        built[name] = tuple(value) if isinstance(value, list) else value
        if not _is(built[name], known[name]):
            wanted = known[name].__name__ if isinstance(known[name], type) else known[name]
            raise StgvError(f"{name} must be {str(wanted).replace('typing.', '')}, got {value!r:.40}")
    return kind(**built)


def _is(value, kind) -> bool:
    """Whether a value is of an annotated type. Numbers are finite, and true and false are none."""
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is(v, get_args(kind)[0]) for v in value)
    if get_origin(kind) is not None:  # a union
        return any(_is(value, one) for one in get_args(kind))
    if kind in (int, float):
        numbers = (int, float) if kind is float else int
        return isinstance(value, numbers) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, kind)
