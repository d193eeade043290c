"""Frames per second of a video file: from its time stamps where its header disagrees with them."""

from fractions import Fraction

import numpy as np

STANDARD = [Fraction(n) for n in (10, 12, 15, 24, 25, 30, 48, 50, 60, 100, 120)]
STANDARD += [Fraction(n * 1000, 1001) for n in (24, 30, 60, 120)]
CLOSE = 0.01  # of the time between frames, by which a header's rate may miss it
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
