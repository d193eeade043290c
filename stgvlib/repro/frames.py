"""How the frames of a record compare with those of the paper, and what its tables say of them."""

import math
from collections.abc import Iterable

from stgvlib.config import profile
from stgvlib.repro.records import Record
from stgvlib.video.datasets import DATASETS

SAME, STAND_IN, OTHER = "same frames", "stand-in", "other frames"  # from like to unlike
FILES = {  # what to know of the files that the committed records of DAVIS come from
    "bmx-trees": "854x480 JPEG of about quality 92, not 720p",
    **dict.fromkeys(
        ("camel", "cows", "dance-twirl"),
        "854x480 JPEG saved again at quality 75 (36.5 dB from the official files): softer, easier targets, not 720p",
    ),
}


def density(record: Record) -> float:
    """How many times as dense as the paper's a record's budget is, in parameters or Gaussians a pixel, because its
    frames are smaller than the paper's before its profile scales them."""
    dataset, scale = DATASETS.get(record["dataset"]["name"]), profile(record["profile"]).scale
    if dataset is None or dataset.target is None or "source" in record["dataset"]:
        return 1.0
    return math.prod(dataset.target) * scale**2 / math.prod(record["dataset"]["size"])


def kind(record: Record) -> str:
    """SAME, STAND_IN or OTHER; the profile does not count."""
    if "source" in record["dataset"]:
        return STAND_IN
    return OTHER if density(record) > 1.01 else SAME  # sides are rounded in small profiles


def mark(record: Record) -> str:
    """What a table says beside a number of other frames than the paper's; empty for the same ones."""
    if kind(record) == OTHER:
        height, width = record["dataset"]["size"]
        return f"{width}x{height} with the paper's budget, {density(record):.2f} times as dense"
    return record["dataset"].get("source", "")


def marks(records: Iterable[Record]) -> list[str]:
    """Each mark once, behind the names of its videos: "camel, cows: 854x480 ..."."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        if record and (text := mark(record)):
            found.setdefault(text, {})[record["dataset"]["name"].rsplit("/", 1)[-1]] = None
    return [f"{', '.join(names)}: {text}" for text, names in found.items()]
