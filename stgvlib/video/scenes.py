"""Groups of pictures: how long they are, where they are cut, and their frames as the trainer wants them.

The paper's GoPs have 10 frames (Sec. II); preset `stgv` lets the video decide (gop_length.py). A new scene begins a new
GoP (ours; none of the paper's videos has two), since one set of Gaussians cannot be deformed into another picture.
"""

import math

import cv2
import numpy as np
import torch
from torch import Tensor

from stgvlib.config import FitConfig
from stgvlib.errors import StgvError
from stgvlib.video.video import Video

CUT = 2.0  # a scene's first frame changes so many times as much as any of the frames around it, ...
CUT_AROUND = 5  # ... so many before and after, since some videos show every picture three or four times, ...
CUT_LEAST = 8.0  # ... and at least so much, of 255


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


def cut_gops(video: Video, config: FitConfig) -> list[tuple[int, int]]:
    """[start, stop) of each GoP: `split_gops` of every scene, or as many GoPs of the video as that would give without
    scenes, cut where as much has changed in each (cuts="motion").

    Change is that of `_changes`, plus its mean over the video: half of the measure is length. A scene of less than a
    third of a GoP joins the one before.
    """
    if config.cuts == "even":
        starts = [0]
        for cut in scene_cuts(video):
            if 3 * min(cut - starts[-1], video.num_frames - cut) >= config.gop_size:
                starts.append(cut)
        scenes = zip(starts, [*starts[1:], video.num_frames])
        return [(start + a, start + b) for start, stop in scenes for a, b in split_gops(stop - start, config.gop_size)]
    even = split_gops(video.num_frames, config.gop_size)
    if len(even) == 1:
        return even
    change = _changes(video)
    total = np.cumsum(change + change.mean() + 1e-6)
    starts = [0, *np.searchsorted(total, total[-1] * np.arange(1, len(even)) / len(even)).tolist()]
    starts = [max(s, i) for i, s in enumerate(starts)]
    return list(zip(starts, [*starts[1:], video.num_frames]))


def with_scenes(video: Video) -> Video:
    """The same video with its cuts known, and in memory where it is not too long: what a fit reads more than once."""
    video = video.in_memory()
    return video.with_(cuts=scene_cuts(video))


def scene_cuts(video: Video) -> tuple[int, ...]:
    """Frames that begin a new scene: those the video names, or where much more has changed than in the frames around. A
    flash begins none, since it ends as abruptly."""
    if video.cuts is not None:
        return video.cuts
    change, cuts = _changes(video), []
    for i in range(1, len(change)):
        around = [*change[max(1, i - CUT_AROUND) : i], *change[i + 1 : i + 1 + CUT_AROUND]]
        if around and change[i] > max(CUT_LEAST, CUT * max(around)):
            cuts.append(i)
    return tuple(cuts)


def _changes(video: Video) -> np.ndarray:
    """Mean absolute difference of each frame to the one before, of 255, at an eighth of the size: [T], the first 0."""
    change, before = [], None
    for i in range(video.num_frames):
        frame = video.read(i, i + 1)[0]
        size = [max(1, round(side / 8)) for side in frame.shape[1::-1]]
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        change.append(0.0 if before is None else np.abs(small - before).mean())
        before = small
    return np.array(change)


def load_gops(video: Video, gops: list[tuple[int, int]], device: torch.device) -> tuple[Tensor, list[int]]:
    """Frames of some GoPs as uint8 [G, T, H, W, 4], RGB and loss weight 255; shorter GoPs are padded with weight 0."""
    lengths = [stop - start for start, stop in gops]
    frames = torch.zeros(len(gops), max(lengths), *video.size, 4, dtype=torch.uint8, device=device)
    for g, (start, stop) in enumerate(gops):
        frames[g, : stop - start, ..., :3] = torch.from_numpy(video.read(start, stop)).to(device)
        frames[g, : stop - start, ..., 3] = torch.from_numpy(video.weights(start, stop)).to(device)
    return frames, lengths


def frame_stride(frames: int, order: str) -> int:
    """How far apart in a GoP two frames lie that are visited one after the other.

    Neighbouring frames in turn let the optimiser's momentum follow the time; about 0.618 of the GoP, with no common
    divisor, spreads any few steps evenly over it.
    """
    if order == "cyclic":
        return 1
    return min((s for s in range(1, frames + 1) if math.gcd(s, frames) == 1), key=lambda s: abs(s - 0.618 * frames))


def keyframe_of(config: FitConfig, length: int) -> int:
    """The key frame of a GoP of `length` frames; the first where all of them are one."""
    return length // 2 if config.keyframe == "middle" else 0
