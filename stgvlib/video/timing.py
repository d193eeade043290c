"""Frames per second of a video file: from its time stamps where its header disagrees with them."""

from fractions import Fraction

import numpy as np

STANDARD = [Fraction(n) for n in (10, 12, 15, 24, 25, 30, 48, 50, 60, 100, 120)]
STANDARD += [Fraction(n * 1000, 1001) for n in (24, 30, 60, 120)]
CLOSE = 0.01  # of the time of a whole video, by which a header's rate may miss it


def frame_rate(header: Fraction | None, stamps: list, tick: Fraction) -> tuple[float, list[str]]:
    """Frames per second and notes, from the header's rate and the frames' time stamps in units of `tick` seconds.

    The header is right where it gives the time from the first to the last frame within 1 %, or one tick (Matroska
    rounds to 1 ms). Otherwise the mean distance of frames counts, as the standard rate nearest to it where rounding
    explains the difference.
    """
    known = len(stamps) > 1 and None not in stamps and all(a < b for a, b in zip(stamps, stamps[1:]))
    if not known:
        return float(header or 25), []
    steps = len(stamps) - 1
    seconds, notes = (stamps[-1] - stamps[0]) * tick, []
    if header and abs(steps / header - seconds) <= tick + CLOSE * seconds:
        rate = header
    else:
        near = min(STANDARD, key=lambda rate: abs(steps / rate - seconds))
        rate = near if abs(steps / near - seconds) <= tick else steps / seconds
        if header:
            notes.append(f"the header says {float(header):.6g} frames/s, the time stamps {float(rate):.6g}")
    distances = np.diff(stamps)
    if distances.max() - distances.min() > max(2, 0.1 * np.median(distances)):
        low, high = (float(d * tick) for d in (distances.min(), distances.max()))
        notes = [
            f"variable frame rate ({low:.3g} to {high:.3g} s a frame): read as {float(rate):.6g} frames/s, the mean"
        ]
    return float(rate), notes
