"""Scene cuts: a new scene begins a new GoP (ours; none of the paper's videos has two scenes).

One set of Gaussians cannot be deformed into another picture.
"""

import cv2
import numpy as np

from stgvlib.video.video import Video

CUT = 2.0  # a scene's first frame changes so many times as much as any of the frames around it, ...
CUT_AROUND = 5  # ... so many before and after, since some videos show every picture three or four times, ...
CUT_LEAST = 8.0  # ... and at least so much, of 255


def with_scenes(video: Video) -> Video:
    """The same video with its cuts known, and in memory where it is not too long: what a fit reads more than once."""
    video = video.in_memory()
    return video.with_(cuts=scene_cuts(video))


def scene_cuts(video: Video) -> tuple[int, ...]:
    """Frames that begin a new scene: those the video names, or where much more has changed than in the frames around. A
    flash begins none, since it ends as abruptly."""
    if video.cuts is not None:
        return video.cuts
    change, cuts = changes_of(video), []
    for i in range(1, len(change)):
        around = [*change[max(1, i - CUT_AROUND) : i], *change[i + 1 : i + 1 + CUT_AROUND]]
        if around and change[i] > max(CUT_LEAST, CUT * max(around)):
            cuts.append(i)
    return tuple(cuts)


def changes_of(video: Video) -> np.ndarray:
    """Mean absolute difference of each frame to the one before, of 255, at an eighth of the size: [T], the first 0."""
    change, before = [], None
    for i in range(video.num_frames):
        frame = video.read(i, i + 1)[0]
        size = [max(1, round(side / 8)) for side in frame.shape[1::-1]]
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        change.append(0.0 if before is None else np.abs(small - before).mean())
        before = small
    return np.array(change)
