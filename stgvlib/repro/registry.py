"""Named runs: which configuration on which frames. `fits.run(name)` fits and judges them or loads their record.

bunny/...             every system of the paper and the variants of its ablations, on Bunny
bunny_720/...         HNeRV-Boost on Bunny's whole frames, at its authors' two sizes
davis/<sequence>/...  the systems on DAVIS
uvg/<sequence>/...    the systems on UVG, or on what stands in for it
.../same_...          one trainer, ours, for every representation
.../..._half, ..._quarter, ..._eighth   a system with part of its schedule
choices/...           what each choice is worth in which preset `paper` and the code of its parent, D2GV, differ
hard/..., levers/...  what each lever of our preset is worth
"""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from stgvlib.baselines import SYSTEMS, System, as_system
from stgvlib.baselines.gaussian import D2GV
from stgvlib.baselines.inr import HNERV_BOOST
from stgvlib.config import PAPER, STGV, FieldConfig, FitConfig, Profile
from stgvlib.errors import StgvError
from stgvlib.repro.controls import (
    CHOICES,
    FIRST_VERSIONS,
    PARENT,
    SAME_FIELDS,
    SAME_GOPS,
    SCHEDULES,
    TIMED,
    same_trainer,
)
from stgvlib.video.datasets import DATASETS


@dataclass(frozen=True)
class Run:
    """One configuration, or one system, on one dataset, or on a video of your own.

    Examples:
        >>> from dataclasses import replace
        >>> from stgvlib import STGV
        >>> from stgvlib.repro import Run
        >>> Run("clip.mp4", replace(STGV, gop_size=8), "GoPs of 8 frames").system.key
        'stgv'
    """

    dataset: str  # one of datasets.DATASETS, or a path that `open_video` takes
    config: Any  # of a registered system, such as a FitConfig; or a System
    about: str
    frames: int | None = None  # only the first frames; None: all that the profile takes
    published_gaussians: bool = False  # the budget follows from the dataset's own number (40,000), at any frame size
    # top, bottom, left, right of the pictures that figures need, which seed 0 keeps; None: none
    crop: tuple[float, ...] | None = (0.34, 0.70, 0.10, 0.42)

    @property
    def system(self) -> System:
        return as_system(self.config)


def _field(**changes) -> FitConfig:
    return replace(PAPER, field=replace(FieldConfig(), **changes))


# The levers of our preset. The sketch is what it starts from, at a fifth of its steps; "levers/" changes one thing of
# it on all of Bunny. With frames in order every change drowns in what the order costs, so "hard/" starts from golden
# order and a covering start, on Bunny's first 44 frames, which are the hardest.
SKETCH = FitConfig(
    preset="sketch",
    gop_size=22,
    steps=12_000,
    parametrization="pixel",
    placement="gradient",
    initial_scale=2.5,
    optimizer="adam",
    position_rate=0.5,
    cholesky_rate=0.03,
    color_rate=7e-3,
    gaussian_schedule="cosine",
    field_rate=4e-3,
    field_rate_last=2e-4,
    field=FieldConfig(position_scale=40.0),
)
HARD = replace(SKETCH, coarse_steps=4_000, order="golden", initial_scale="cover")
COARSE_TIME = (1, 2, 3, 4, 5, 6, 9, 9)


def _lever(about: str, field: dict | None = None, base: FitConfig = SKETCH, **changes) -> tuple[FitConfig, str]:
    return replace(base, field=replace(base.field, **(field or {})), **changes), about


NO_FLOW = replace(
    STGV, keyframe="first", coarse_steps=10_000, motion_steps=0, field=replace(STGV.field, time_frequencies=6)
)
LEVERS = {
    "sketch": _lever("22-frame GoPs, gradient placement, Adam, cosine, frames in order"),
    "gop_10": _lever("GoPs of 10 frames", gop_size=10),
    "gop_16": _lever("GoPs of 16 frames", gop_size=16),
    "gop_33": _lever("GoPs of 33 frames", gop_size=33),
    "motion_cuts": _lever("GoPs cut where as much has changed", cuts="motion"),
    "additions": _lever("half the Gaussians added in 8 rounds where the error is", additions=8, initial_part=0.5),
    "middle": _lever("key frame in the middle of the GoP", keyframe="middle"),
    "shape": _lever("the Cholesky vector deformed too", {"deform_shape": True}),
    "time_cells": _lever("1 to 9 cells of time a level instead of 15 to 272", {"time_cells": COARSE_TIME}),
    "table_11": _lever("hash tables of 2^11 entries", {"log2_table_size": 11}),
    "table_12": _lever("hash tables of 2^12 entries", {"log2_table_size": 12}),
    "table_12_time_cells": _lever("both", {"log2_table_size": 12, "time_cells": COARSE_TIME}),
    "field_rate_high": _lever("field rate 1e-2", field_rate=1e-2, field_rate_last=5e-4),
}
HARD_LEVERS = {
    "cyclic": _lever("frames in order, round Gaussians of 2.5 px", base=HARD, order="cyclic", initial_scale=2.5),
    "golden": _lever("frames in golden-ratio strides", base=HARD, initial_scale=2.5),
    "base": _lever("and Gaussians that cover the frame once", base=HARD),
    "shape": _lever("base, and the Cholesky vector deformed too", {"deform_shape": True}, HARD),
    "table_12": _lever("base, and hash tables of 2^12 entries", {"log2_table_size": 12}, HARD),
    "time_cells": _lever("base, and 2 to 12 cells of time a level", {"time_cells": STGV.field.time_cells}, HARD),
    "frequencies": _lever("base, and 2 frequencies of time instead of 6", {"time_frequencies": 2}, HARD),
    "mlp_rate": _lever("base, and half the learning rate for the MLP", base=HARD, mlp_rate=0.5),
    "low_end": _lever("base, and Gaussians' rates down to 1 %", base=HARD, last_rate=0.01),
    "position_rate": _lever("base, and a position rate of 0.2 px", base=HARD, position_rate=0.2),
    "betas": _lever("base, and decay rates 0.95, 0.99 of Adam instead of 0.9, 0.999", base=HARD, betas=STGV.betas),
    "additions": _lever("base, and additions in 8 rounds", base=HARD, additions=8, initial_part=0.5),
    "middle": _lever("base, and the key frame in the middle of the GoP", base=HARD, keyframe="middle"),
    "flow": _lever("middle, and the field starts from optical flow", base=HARD, keyframe="middle", motion_steps=2_000),
    "flow_parts": _lever(
        "flow, by an eighth of the Gaussians a step", base=HARD, keyframe="middle", motion_steps=2_000, motion_parts=8
    ),
    "gop_11": _lever("base, and GoPs of 11 frames", base=HARD, gop_size=11),
    "uniform": _lever("base, but uniform placement", base=HARD, placement="uniform"),
    "stgv": (replace(STGV, gop_size=16, motion_steps=2_000, steps=12_000), "all that the preset takes"),
}


def in_part(dataset: str, key: str, part: str) -> Run:
    """A system on a dataset with part of its schedule (controls.SCHEDULES)."""
    whole, system = of_system(dataset, key), SYSTEMS[key]
    share = Profile(part, coarse_steps=SCHEDULES[part], steps=SCHEDULES[part])
    config = replace(system, config=system.configure(share, None))
    return replace(whole, config=config, about=f"{whole.about}, {part} of the schedule", crop=None)


def timed_runs() -> list[str]:
    """Names of the registered systems' runs with parts of their schedules, on controls.TIMED."""
    return [f"{dataset}/{key}_{part}" for dataset in TIMED for key in SYSTEMS for part in SCHEDULES]


def of_system(dataset: str, key: str) -> Run:
    """A registered system on a dataset, as the tables of systems compare it."""
    system, elsewhere = SYSTEMS[key], dataset != "bunny"
    run = Run(dataset, system, system.about, published_gaussians=elsewhere)
    return replace(run, crop=None) if key == "fast" else run  # its pictures are near our preset's


POSITIONAL = _field(encoding="positional")
VARIANTS = {  # Tables IV and V; the full method is "paper"
    "multi_frame": (replace(POSITIONAL, keyframe="all"), "V1: all frames, positional encoding"),
    "key_frame": (POSITIONAL, "V2: key frame, positional encoding"),
    "static": (_field(temporal=False), "V3: key frame, 2D hash"),
    "dynamic": (_field(spatial=False), "V4: key frame, 3D hash"),
    "planes": (_field(encoding="planes"), "key frame, three planes"),
}
ABLATED = ("blackswan", "bmx-trees")  # sequences of DAVIS on which the ablations run too, beside all of UVG
COUNTS = (5_000, 10_000, 40_000)  # Gaussians a GoP of Fig. 9, beside the method's own 20,000
RUNS = {  # beside every system on every dataset
    **{f"bunny/{name}": Run("bunny", config, about) for name, (config, about) in VARIANTS.items()},
    **{
        f"{dataset}/{name}": Run(dataset, config, about, published_gaussians=True, crop=None)
        for dataset in (*(f"davis/{sequence}" for sequence in ABLATED), *(d for d in DATASETS if d.startswith("uvg/")))
        for name, (config, about) in VARIANTS.items()
    },
    "bunny/no_flow": Run(
        "bunny", replace(NO_FLOW, gop_size=16), "without flow, 6 frequencies, first key frames", crop=None
    ),
    **{
        f"bunny/gop_{n}": Run("bunny", replace(STGV, gop_size=n), f"our preset, GoPs of {n}", crop=None)
        for n in (5, 10, 20, 33)
    },
    "bunny/gop_all": Run("bunny", replace(STGV, gop_size=10_000), "our preset, one GoP", crop=None),
    **{
        f"bunny/n_{n}": Run(
            "bunny", replace(PAPER, pixels_per_gaussian=640 * 1280 / n), f"the paper's method, N = {n}", crop=None
        )
        for n in COUNTS
    },
    "bunny/d2gv_20000": Run(
        "bunny",
        replace(D2GV, gaussians=20_000),
        "D2GV with as many Gaussians as its authors, over budget",
        crop=None,
    ),
    "bunny/parent": Run("bunny", PARENT, "the paper's method, its parent's conventions", crop=None),
    **{
        f"{dataset}/{name}_before": Run(dataset, config, about, None, dataset != "bunny", crop=None)
        for dataset in ("bunny", *(name for name in DATASETS if name.startswith("davis/")))
        for name, (config, about) in FIRST_VERSIONS.items()
    },
    **{
        f"{dataset}/same_{field}": Run(dataset, same_trainer(field, length), about, None, dataset != "bunny", crop=None)
        for dataset, length in SAME_GOPS.items()
        for field, (_, about) in SAME_FIELDS.items()
    },
    "bunny/middle": Run(
        "bunny", replace(PAPER, keyframe="middle"), "the paper's method, key frame in the middle", crop=None
    ),
    **{  # of so many Gaussians a GoP the budget holds the network of the authors' 1.51M and 3.08M, to a number
        f"bunny_720/{name}": Run(
            "bunny_720",
            replace(HNERV_BOOST, pixels_per_gaussian=720 * 1280 / n),
            f"HNeRV-Boost at its authors' size, {size} parameters",
            crop=None,
        )
        for name, n, size in (("hnerv_boost_small", 5_523, "1.51M"), ("hnerv_boost", 20_646, "3.08M"))
    },
    **{f"levers/{name}": Run("bunny", config, about, crop=None) for name, (config, about) in LEVERS.items()},
    **{f"hard/{name}": Run("bunny", config, about, 44, crop=None) for name, (config, about) in HARD_LEVERS.items()},
    **{f"choices/{name}": Run("bunny", config, about, 44, crop=None) for name, (config, about) in CHOICES.items()},
    **{
        f"davis/{sequence}/no_flow": Run(
            f"davis/{sequence}", NO_FLOW, "without flow, 6 frequencies, first key frames", None, True, crop=None
        )
        for sequence in (*ABLATED, "camel")
    },
    "bunny_gop/paper": Run("bunny", PAPER, "the paper's full method on the first GoP alone", frames=10),
}


def named(name: str) -> Run:
    """The run of a name. Raises StgvError where there is none, and where a system's key names one of RUNS too."""
    dataset, _, key = name.rpartition("/")
    if name in system_runs():
        if name in RUNS:
            raise StgvError(f"system {key!r} has the name of another run, {name}: register it under another key")
        return of_system(dataset, key)
    if name in RUNS:
        return RUNS[name]
    if name in timed_runs():
        system, _, part = key.rpartition("_")
        return in_part(dataset, system, part)
    near = ", ".join(get_close_matches(name, names(), 3)) or "bunny/stgv, davis/cows/paper"
    raise StgvError(f"no run is named {name!r}; near it: {near}; registry.names() lists all")


def system_runs() -> list[str]:
    """Names of the registered systems' runs: each on every dataset but bunny_720, which is HNeRV-Boost's own."""
    return [f"{dataset}/{key}" for dataset in DATASETS if dataset != "bunny_720" for key in SYSTEMS]


def names() -> list[str]:
    """Every named run."""
    return list(dict.fromkeys([*system_runs(), *RUNS, *timed_runs()]))
