"""Frames per second of a video file, from its time stamps where its header disagrees with them; and the time stamps
themselves, where they are not even, as a model's files hold them (docs/FORMAT.md, "Header")."""

import json
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

STANDARD = [Fraction(n) for n in (10, 12, 15, 24, 25, 30, 48, 50, 60, 100, 120)]
STANDARD += [Fraction(n * 1000, 1001) for n in (24, 30, 60, 120)]
CLOSE = 0.01  # of the time between frames, by which a header's rate may miss it
EVEN = 0.1  # of the mean time between frames, by which frames may miss even times
LONGEST = 1 << 15  # bytes of `durations` as JSON
MOST = 2**31 - 1  # of a number in `durations`
REGULAR = 0.9  # of the distances between frames are alike where the others are gaps, not a variable rate


def frame_rate(header: Fraction | None, stamps: list, tick: Fraction) -> tuple[float, list[str]]:
    """Frames per second and notes, from the header's rate and the frames' time stamps in units of `tick` seconds.

    The header is right where it gives the time between frames within 1 %, or within one tick over the whole video
    (Matroska rounds to 1 ms). Otherwise the mean distance of frames counts, as the standard rate nearest to it where
    rounding explains the difference. A few gaps (frames that were lost) do not change the rate.
    """
    known = len(stamps) > 1 and None not in stamps and all(a < b for a, b in zip(stamps, stamps[1:]))
    if not known:
        return float(header or 25), []
    distances = np.diff(stamps)
    alike = np.abs(distances - np.median(distances)) <= max(1, 0.1 * np.median(distances))
    used = distances[alike] if alike.mean() >= REGULAR else distances
    steps, seconds, notes = len(used), int(used.sum()) * tick, []
    if header and abs(steps / header - seconds) <= tick + CLOSE * seconds:
        rate = header
    else:
        near = min(STANDARD, key=lambda rate: abs(steps / rate - seconds))
        rate = near if abs(steps / near - seconds) <= tick else steps / seconds
        if header:
            notes.append(f"the header says {float(header):.6g} frames/s, the time stamps {float(rate):.6g}")
    if not alike.all():
        low, high = (float(distance * tick) for distance in (int(distances.min()), int(distances.max())))
        notes = [f"variable frame rate ({low:.3g} to {high:.3g} s a frame): read as {float(rate):.6g} frames/s"]
    return float(rate), notes


def clock_of(tick: Fraction, stamps: list, shown: int | None) -> tuple[Fraction, list[int]] | None:
    """`tick`, and the time of each frame and of the end. `shown`: ticks of the last frame, if known. None where stamps
    are unknown or do not rise."""
    if len(stamps) < 2 or None in stamps or any(a >= b for a, b in zip(stamps, stamps[1:])):
        return None
    return tick, [*stamps, stamps[-1] + (shown or stamps[-1] - stamps[-2])]


def is_even(tick: Fraction, times: Sequence[int]) -> bool:
    """Whether frames come at even times, but for a tick, at most half the time between them, or a tenth of it. `times`:
    of each frame, and of the end, in units of `tick` seconds."""
    begun = np.array(times[:-1], np.float64) - times[0]
    even, mean = np.linspace(0, begun[-1], len(begun)), begun[-1] / max(1, len(begun) - 1)
    held = len(begun) > 1 and times[-1] - times[-2] > 2 * mean  # the last frame, of which files often say too little
    return not held and bool(np.abs(begun - even).max() <= max(min(1, mean / 2), EVEN * mean))


def packed(tick: Fraction, times: Sequence[int]) -> dict | None:
    """`durations` of a model's file: runs of frames and how long each of them is shown. Where they would take more than
    LONGEST bytes, times are rounded to 1 ms; None where they still do.

    Examples:
        >>> from fractions import Fraction
        >>> from stgvlib.video.timing import packed
        >>> packed(Fraction(1, 1000), [0, 40, 80, 120, 320])  # three frames of 40 ms, one of 200 ms
        {'tick': [1, 25], 'runs': [3, 1, 1, 5]}
    """
    rounded = np.rint(np.array(times, np.float64) * float(1000 * tick)).astype(np.int64)
    for unit, stamps in ((tick, np.array(times)), (Fraction(1, 1000), rounded)):
        ticks = np.diff(stamps)
        common = int(np.gcd.reduce(ticks))
        if ticks.min() < 1 or ticks.max() > MOST * common:
            continue
        ticks, unit = ticks // common, unit * common
        starts = np.flatnonzero(np.diff(ticks, prepend=0))
        runs = np.stack([np.diff(starts, append=len(ticks)), ticks[starts]], 1).ravel().tolist()
        found = {"tick": list(unit.as_integer_ratio()), "runs": runs}
        if max(found["tick"]) <= MOST and len(json.dumps(found, separators=(",", ":"))) <= LONGEST:
            return found
    return None


def unpacked(durations: dict) -> tuple[Fraction, np.ndarray]:
    """Of `durations`: tick in seconds, and the time of each frame and of the end in ticks, int64 [frames + 1].

    Examples:
        >>> from stgvlib.video.timing import unpacked
        >>> tick, times = unpacked({"tick": [1, 25], "runs": [3, 1, 1, 5]})
        >>> times.tolist(), float(tick * int(times[-1]))  # the end, s
        ([0, 1, 2, 3, 8], 0.32)
    """
    runs = np.array(durations["runs"], np.int64).reshape(-1, 2)
    times = np.concatenate([[0], np.cumsum(np.repeat(runs[:, 1], runs[:, 0]))])
    return Fraction(*durations["tick"]), times
