"""Fill missing pixels of a video along optical flow (ours), or from around them (Telea 2004).

A GoP's Gaussians are fitted to its frames alone. What none of them shows, behind a mark that stays or a large object,
no loss can tell them, and they swing there. So a fit that starts from optical flow first follows each missing pixel to
the nearest frames, forward and back, in which it is seen (as flow-guided inpainting does, Xu et al. 2019).
"""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from stgvlib.errors import StgvError
from stgvlib.video.flow import SIDE, dense_flow, grey, sample
from stgvlib.video.video import Video, open_video

OUTLIER = 0.1  # difference from a fit, of 0 to 1, beyond which a given value is taken for an outlier

REACH = 40  # frames, how far a pixel is followed
FAR = 1 / 32  # of the frame's height: a path so long halves the say of what lies at its end
AROUND = 0.06  # say of what is filled in from around; the next frame's has 1, without motion
MARGIN = 11  # px of the flow's frames, side of the square by which holes grow before flow is filled in there
WINDOW = 160  # frames that are filled at once, so that a long video need not be in memory


def telea(frames: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """OpenCV's inpainting (radius 3 px) of each frame alone: uint8 [T, H, W, 3], bool [T, H, W] -> [T, H, W, 3]."""
    return np.stack([cv2.inpaint(f, m.astype(np.uint8), 3, cv2.INPAINT_TELEA) for f, m in zip(frames, missing)])


def along_flow(video: Video) -> Video:
    """A video with `missing` pixels, filled from the nearest frames of the same scene (`cuts`) that show them.

    Flow of the frames (dense inverse search), filled in inside the holes, leads from frame to frame. What is found
    after k frames and a path of d px has a say of 1 / (k (1 + d / 1/32 of the height)), what `telea` makes 0.06.
    """
    bounds, filling = [0, *(video.cuts or ()), video.num_frames], []
    with ThreadPoolExecutor() as pool:
        for start, stop in zip(bounds, bounds[1:]):
            for first in range(start, stop, WINDOW):
                last = min(first + WINDOW, stop)
                if not video.missing[first:last].any():
                    filling += [np.empty((0, 3), np.uint8)] * (last - first)
                    continue
                a, b = max(start, first - REACH), min(stop, last + REACH)
                filling += _fill(video.read(a, b), video.missing[a:b], range(first - a, last - a), pool)
    return video.with_(filling=tuple(filling))


def _fill(frames: np.ndarray, missing: np.ndarray, numbers: range, pool: ThreadPoolExecutor) -> list[np.ndarray]:
    """What belongs in the missing pixels of the frames `numbers`, uint8 [number of them, 3] each."""
    scale = min(1.0, SIDE / max(frames.shape[1:3]))
    known = np.where(missing, 0, 255).astype(np.uint8)
    pictures, holes = zip(*pool.map(lambda frame, seen: grey(frame, seen, scale), frames, known))

    def motion(there: int, back: int) -> np.ndarray:
        flow = dense_flow(pictures[there], pictures[back])
        hidden = cv2.dilate(holes[there] | holes[back], np.ones((MARGIN, MARGIN), np.uint8))
        if not hidden.any() or hidden.all():
            return flow
        parts = [np.ascontiguousarray(part) for part in np.moveaxis(flow, -1, 0)]
        return np.stack([cv2.inpaint(part, hidden, 3, cv2.INPAINT_NS) for part in parts], -1)

    these, those = range(len(frames) - 1), range(1, len(frames))
    steps = {1: list(pool.map(motion, these, those)), -1: list(pool.map(motion, those, these))}

    def one(number: int) -> np.ndarray:
        rows, columns = np.nonzero(missing[number])
        if len(rows) == 0:
            return np.empty((0, 3), np.uint8)
        around = telea(frames[number : number + 1], missing[number : number + 1])[0, rows, columns]
        value, say = AROUND * around, np.full((len(rows), 1), AROUND)
        for way, flows in steps.items():
            found, its = _follow(np.stack([columns, rows], 1) + 0.5, number, way, flows, scale, frames, known)
            value, say = value + its * found, say + its
        return np.rint(value / say).astype(np.uint8)

    return list(pool.map(one, numbers))


def _follow(at, number, way, flows, scale, frames, known) -> tuple[np.ndarray, np.ndarray]:
    """Colours [N, 3] of points `at` [N, 2] px of frame `number` where they are first seen, and their say [N, 1]."""
    height, width = frames.shape[1:3]
    colours, say = np.zeros((len(at), 3)), np.zeros((len(at), 1))
    hidden, gone = np.arange(len(at)), np.zeros((len(at), 1))
    for k in range(1, REACH + 1):
        to = number + way * k
        if not 0 <= to < len(frames) or len(hidden) == 0:
            break
        step = sample(flows[to - 1 if way > 0 else to], at * scale - 0.5) / scale
        at, gone = at + step, gone + np.linalg.norm(step, axis=1, keepdims=True)
        inside = ((at > 0) & (at < (width, height))).all(1)
        at, gone, hidden = at[inside], gone[inside], hidden[inside]
        seen = sample(known[to], at - 0.5)[:, 0] == 255
        colours[hidden[seen]] = sample(frames[to], at[seen] - 0.5)
        say[hidden[seen]] = 1 / (k * (1 + gone[seen] / (FAR * height)))
        at, gone, hidden = at[~seen], gone[~seen], hidden[~seen]
    return colours, say


def check_mask(missing: np.ndarray, frames: int, size: tuple[int, int]) -> np.ndarray:
    """A mask as bool [T, H, W]. Raises StgvError where it does not match the video, or leaves nothing to fit."""
    if missing.shape != (frames, *size):
        raise StgvError(
            f"the mask is {'x'.join(map(str, missing.shape))}, expected {frames} frames of {size[0]}x{size[1]}: "
            "one picture a frame, white where pixels are missing"
        )
    if missing.reshape(frames, -1).all(1).any():
        whole = int(missing.reshape(frames, -1).all(1).argmax())
        raise StgvError(f"the mask hides all of frame {whole}: leave some pixels to fit")
    return missing.astype(bool)


def read_mask(name: str, video: Video, frames: int | None = None) -> np.ndarray:
    """The mask in a folder of pictures or a video, its first `frames` frames, as `video` is seen: bool [T, H, W], True
    where pixels are missing. Raises StgvError where it does not match."""
    given = open_video(name)
    if frames is not None:
        given = given.with_(limit=frames)
    if given.size != video.source.size and given.size != video.size:
        raise StgvError(
            f"the mask is {given.size[1]}x{given.size[0]}, expected {video.source.size[1]}x{video.source.size[0]}: "
            "one picture a frame as large as the video's, white where pixels are missing"
        )
    white = [(frame.max(-1) > 127).astype(np.uint8) for frame in given.read()]
    shown = [cv2.resize(frame, video.size[::-1], interpolation=cv2.INTER_AREA) > 0 for frame in white]
    return check_mask(np.stack(shown), video.num_frames, video.size)


def composited(restored: np.ndarray, given: np.ndarray, missing: np.ndarray | None = None) -> np.ndarray:
    """Given frames in which only what is missing is replaced by the restored, uint8 [..., H, W, 3] both: the pixels of
    `missing` [..., H, W], or without it the values that differ by more than OUTLIER."""
    if missing is None:
        return np.where(np.abs(restored.astype(np.int16) - given) > 255 * OUTLIER, restored, given)
    return np.where(missing[..., None], restored, given)
