"""The paper's parameter budget: how many GoPs and Gaussians its method has on a video, which every system gets."""

import math

from stgvlib.config import FieldConfig, FitConfig
from stgvlib.errors import StgvError
from stgvlib.model.field import DeformationField


def split_gops(frames: int, gop_size: int) -> list[tuple[int, int]]:
    """[start, stop) of each GoP. A rest shorter than a third of a GoP joins the GoP before it.

    That gives the paper's parameter counts: Bunny's 132 frames are 13 GoPs (3.01M, the last one 12 frames long, as in
    D2GV's folders), and the six DAVIS sequences, with rests of 4 and 5 frames, 50 GoPs (3.3M a video).
    """
    if frames < 1:
        raise StgvError("a video needs at least one frame")
    gops, rest = divmod(frames, gop_size)
    if rest and (gops == 0 or rest * 3 >= gop_size):
        gops += 1
    starts = [g * gop_size for g in range(gops)]
    return list(zip(starts, [*starts[1:], frames]))


def gaussian_count(config: FitConfig, size: tuple[int, int], frames: int, gops: int | None = None) -> int:
    """Gaussians a GoP. Unset: what the paper (10-frame GoPs, a Gaussian every `pixels_per_gaussian`) would spend on
    this video. `gops` is how many it is cut into; None: as many as one without scene cuts."""
    if config.gaussians not in (None, "budget"):
        return config.gaussians
    gops, paper_gops = gops or len(split_gops(frames, config.gop_size)), len(split_gops(frames, FitConfig.gop_size))
    if config.gaussians is None and gops == paper_gops:
        return published_gaussians(config, size)
    left = paper_budget(config, size, frames) // gops - field_parameters(config.field)
    left_each = 8 + config.field.own_numbers - 2 * config.grey
    # At most one Gaussian for two pixels: tiny frames would get more, whose sum diverges (docs/LOG.md, 2026-11-28).
    count = min(math.floor(left / left_each), size[0] * size[1] // 2)
    # A field that exceeds the budget of a tiny video still gets something to deform.
    return count if count > 0 else max(1, published_gaussians(config, size) // 2)


def published_gaussians(config: FitConfig, size: tuple[int, int]) -> int:
    """Gaussians of a 10-frame GoP of the paper's method."""
    return max(1, round(size[0] * size[1] / config.pixels_per_gaussian))


def grey_count(config: FitConfig, count: int) -> int:
    """How many of so many Gaussians are grey."""
    return math.ceil(config.grey * count)


def paper_budget(config, size: tuple[int, int], frames: int) -> int:
    """Parameters that the paper's method has on a video of this size and length: the budget of every system."""
    gops = len(split_gops(frames, FitConfig.gop_size))
    return (8 * published_gaussians(config, size) + field_parameters(FieldConfig())) * gops


def field_parameters(config: FieldConfig) -> int:
    """Numbers in one GoP's deformation field."""
    return sum(p.numel() for p in DeformationField(config, 1, (1, 1)).parameters())
