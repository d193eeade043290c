"""Controls of the comparison, as settings: what each choice that the paper leaves open is worth, one trainer for every
representation, and parts of the schedules (tables in notebook 04, docs/REPRODUCTION.md).
"""

from dataclasses import replace

from stgvlib.baselines.gaussian import D2GV, D2GV_BEFORE, GAUSSIAN_VIDEO
from stgvlib.config import PAPER, STGV, FieldConfig, FitConfig
from stgvlib.fitting.plan import with_gop_size

# Where preset `paper` and D2GV's public code differ, one thing at a time, on Bunny's first 44 frames.
PARENT = replace(
    PAPER,
    field_optimizer="adam",
    schedule_over="fit",
    clamp=True,
    field=FieldConfig(time_code="plain", position_space="tanh", zero_heads=False),
)
CHOICES = {
    "paper": (PAPER, "preset `paper`"),
    "plain": (replace(PAPER, field=FieldConfig(time_code="plain")), "gamma(t) without pi"),
    "adam": (replace(PAPER, field_optimizer="adam"), "Adam for hash and MLP"),
    "fit": (replace(PAPER, schedule_over="fit"), "one halving schedule through both stages"),
    "clamp": (replace(PAPER, clamp=True), "frames clamped to [0, 1] before the loss"),
    "heads": (replace(PAPER, field=FieldConfig(zero_heads=False)), "heads that do not start at zero"),
    "tanh": (replace(PAPER, field=FieldConfig(position_space="tanh")), "positions deformed inside tanh"),
    "parent": (PARENT, "all of these: the parent's conventions"),
    "rate": (replace(PAPER, field_rate=8e-4), "the field's rate from 8e-4, as D2GV's code has it, instead of 1.6e-4"),
    "d2gv": (D2GV, "D2GV as its code has it"),
    "d2gv_before": (D2GV_BEFORE, "D2GV as we had it first"),
}

# One trainer, our preset's, for every representation: at the full schedule, the common budget, and the GoP lengths that
# `stgv` chose on these videos.
SAME_GOPS = {"bunny": 16, "davis/blackswan": 5, "davis/bmx-trees": 8, "davis/camel": 8}
_D2GV_FIELD = replace(D2GV.field, position_space="pixels", position_scale=40.0, zero_heads=True)
_PAPER_FIELD = replace(STGV.field, time_cells=None, time_frequencies=6, deform_shape=False)
SAME_FIELDS = {
    "both": (STGV.field, "2D and 3D hash with 2 to 12 time cells (`stgv`)"),
    "paper": (_PAPER_FIELD, "the paper's hashes, no shape head"),
    "static": (replace(STGV.field, temporal=False), "2D hash alone"),
    "dynamic": (replace(STGV.field, spatial=False), "3D hash alone"),
    "planes": (replace(STGV.field, encoding="planes"), "planes xy, xt, yt"),
    "positional": (replace(STGV.field, encoding="positional"), "positional encoding, linear heads"),
    "d2gv": (_D2GV_FIELD, "D2GV's field: positional, 156 wide, two-layer heads"),
    "polynomial": (
        FieldConfig(encoding="none", polynomial=2, position_scale=1.0),
        "a polynomial of degree 2 for each Gaussian, no field; no start from flow",
    ),
    "none": (FieldConfig(encoding="none"), "nothing moves: all frames in one stage"),
}
SAME_ROWS = {"paper": "STGV's field, our trainer", "d2gv": "D2GV's field, our trainer"}  # in the tables of systems


def same_trainer(field: str, gop_size: int) -> FitConfig:
    """Our preset with one of SAME_FIELDS, a fixed GoP length, and as many Gaussians as the budget leaves."""
    config = replace(with_gop_size(STGV, gop_size), gaussians="budget")
    shape = SAME_FIELDS[field][0]
    if shape.encoding != "none":
        return replace(config, field=shape)
    coarse, config = config.coarse_steps + config.motion_steps, replace(config, motion_steps=0)
    if shape.polynomial:
        return replace(config, field=shape)
    return replace(config, keyframe="all", coarse_steps=coarse + config.steps, steps=0, field=shape)


# Peers as we had them before we read their code and abstracts again.
FIRST_VERSIONS = {
    "d2gv": (D2GV_BEFORE, "D2GV as we had it first"),
    "gaussian_video": (replace(GAUSSIAN_VIDEO, placement="uniform"), "GaussianVideo, uniform start"),
}

# Quality over time: every system with parts of its schedule, beside the whole, which is the system's own run.
SCHEDULES = {"eighth": 0.125, "quarter": 0.25, "half": 0.5}
TIMED = ("bunny", "davis/blackswan")
