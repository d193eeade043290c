"""How the header of a .stgv file says that frames are shown, read from docs/FORMAT.md alone (see format_decoder.py)."""

from dataclasses import dataclass
from fractions import Fraction


@dataclass
class Shown:
    """How frames are shown."""

    times: list[Fraction]  # s, of each frame and of the end
    sample_aspect: Fraction
    color: list[int]
    poster: int


def shown(header: dict) -> Shown:
    """What a header says of that. Raises ValueError where a number is out of range."""
    frames = sum(header["frames"])
    aspect = numbers(header, "sample_aspect", [1, 1], 1, 65_535)
    color = numbers(header, "color", [2, 2, 2, 0], 0, 255)
    poster = numbers({"poster": [header.get("poster", frames // 2)]}, "poster", [0], 0, frames - 1)
    times = [Fraction(k) / Fraction(header["fps"]) for k in range(frames + 1)]
    if "durations" in header:
        if not isinstance(header["durations"], dict) or header["durations"].keys() != {"tick", "runs"}:
            raise ValueError(f"durations: {header['durations']}")
        tick = numbers(header["durations"], "tick", [1, 1], 1, 2**31 - 1, "durations: ")
        runs = numbers(header["durations"], "runs", None, 1, 2**31 - 1, "durations: ")
        shown_for = [ticks for count, ticks in zip(runs[::2], runs[1::2]) for _ in range(min(count, frames + 1))]
        if len(runs) % 2 or len(shown_for) != frames or sum(shown_for) > 2**53:
            raise ValueError(f"durations are not of {frames} frames")
        times = [Fraction(*tick) * sum(shown_for[:k]) for k in range(frames + 1)]
    if color[3] > 1:
        raise ValueError(f"color: {color}")
    return Shown(times, Fraction(*aspect), color, poster[0])


def numbers(of: dict, name: str, default: list[int] | None, least: int, most: int, place: str = "") -> list[int]:
    values = of.get(name, default)
    fits = isinstance(values, list) and (default is None or len(values) == len(default))
    if not fits or not all(type(value) is int and least <= value <= most for value in values):
        raise ValueError(f"{place}{name}: {values}")
    return values
