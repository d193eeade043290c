"""Fill missing pixels of a video along optical flow (ours), or from around them (Telea 2004).

A GoP's Gaussians are fitted to its frames alone. What none of them shows, behind a mark that stays or a large object,
no loss can tell them, and they swing there. So a fit that starts from optical flow first follows each missing pixel to
the nearest frames, forward and back, in which it is seen (as flow-guided inpainting does, Xu et al. 2019).
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
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
WINDOW = 16  # frames that are filled at once; what they reach is in memory


def telea(frames: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """OpenCV's inpainting (radius 3 px) of each frame alone: uint8 [T, H, W, 3], bool [T, H, W] -> [T, H, W, 3]."""
    return np.stack([cv2.inpaint(f, m.astype(np.uint8), 3, cv2.INPAINT_TELEA) for f, m in zip(frames, missing)])


class Stored:
    """Arrays in a temporary file without a name, read when they are asked for: a sequence that needs no memory."""

    def __init__(self, arrays: Iterable[np.ndarray]):
        self._file, self._places = tempfile.TemporaryFile(), []
        for array in arrays:
            self._places.append((self._file.tell(), array.shape, array.dtype, array.nbytes))
            self._file.write(array.tobytes())
        self._file.flush()

    def __del__(self):
        self._file.close()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int | slice):
        if isinstance(number, slice):
            return [self[i] for i in range(len(self))[number]]
        at, shape, kind, size = self._places[number]
        return np.frombuffer(os.pread(self._file.fileno(), size, at), kind).reshape(shape)


class Mask:
    """Where pixels are missing: as an array bool [T, H, W], but a bit a pixel in a file. An item is an array."""

    def __init__(self, frames: Iterable[np.ndarray], size: tuple[int, int]):  # bool [H, W] each
        self._bits = Stored(map(np.packbits, frames))
        self.shape = (len(self._bits), *size)

    def __len__(self) -> int:
        return len(self._bits)

    def __getitem__(self, number: int | slice | Sequence[int]) -> np.ndarray:
        _, height, width = self.shape
        if isinstance(number, slice):
            number = range(len(self))[number]
        if isinstance(number, Iterable):
            return np.array([self[i] for i in number], bool).reshape(-1, height, width)
        return np.unpackbits(self._bits[number], count=height * width).reshape(height, width).view(bool)

    def sum(self) -> int:
        """How many pixels are missing."""
        return sum(int(frame.sum()) for frame in self)


def along_flow(video: Video) -> Video:
    """A video with `missing` pixels, filled from the nearest frames of the same scene (`cuts`) that show them.

    Flow of the frames (dense inverse search), filled in inside the holes, leads from frame to frame. What is found
    after k frames and a path of d px has a say of 1 / (k (1 + d / 1/32 of the height)), what `telea` makes 0.06.
    """
    bounds = [0, *(video.cuts or ()), video.num_frames]
    with ThreadPoolExecutor() as pool:
        scenes = zip(bounds, bounds[1:])
        return video.with_(filling=Stored(colours for scene in scenes for colours in _fill(video, *scene, pool)))


def _fill(video: Video, start: int, stop: int, pool: ThreadPoolExecutor) -> Iterator[np.ndarray]:
    """What belongs in the missing pixels of each frame of a scene, uint8 [number of them, 3]. Frames that can be
    reached from those which are filled at once are in memory, by their numbers."""
    scale = min(1.0, SIDE / max(video.size))
    frames, known, pictures, holes = {}, {}, {}, {}
    flows = {1: {}, -1: {}}  # by the earlier frame

    def motion(there: int, back: int) -> np.ndarray:
        flow = dense_flow(pictures[there], pictures[back])
        hidden = cv2.dilate(holes[there] | holes[back], np.ones((MARGIN, MARGIN), np.uint8))
        if not hidden.any() or hidden.all():
            return flow
        parts = [np.ascontiguousarray(part) for part in np.moveaxis(flow, -1, 0)]
        return np.stack([cv2.inpaint(part, hidden, 3, cv2.INPAINT_NS) for part in parts], -1)

    def one(number: int) -> np.ndarray:
        missing = known[number] == 0
        rows, columns = np.nonzero(missing)
        if len(rows) == 0:
            return np.empty((0, 3), np.uint8)
        around = telea(frames[number][None], missing[None])[0, rows, columns]
        value, say = AROUND * around, np.full((len(rows), 1), AROUND)
        for way, steps in flows.items():
            found, its = _follow(np.stack([columns, rows], 1) + 0.5, number, way, steps, scale, frames, known)
            value, say = value + its * found, say + its
        return np.rint(value / say).astype(np.uint8)

    for first in range(start, stop, WINDOW):
        last = min(first + WINDOW, stop)
        if not video.missing[first:last].any():
            yield from [np.empty((0, 3), np.uint8)] * (last - first)
            continue
        reached = range(max(start, first - REACH), min(stop, last + REACH))
        for held in (frames, known, pictures, holes, *flows.values()):
            for number in [n for n in held if n < reached.start]:
                del held[number]
        new = [n for n in reached if n not in frames]
        for at in range(0, len(new), 4):
            some = new[at : at + 4]
            frames.update(zip(some, video.read(some[0], some[-1] + 1)))
            known.update(zip(some, np.where(video.missing[some[0] : some[-1] + 1], 0, 255).astype(np.uint8)))
        for n, (picture, hole) in zip(new, pool.map(lambda n: grey(frames[n], known[n], scale), new)):
            pictures[n], holes[n] = picture, hole
        pairs = [n for n in reached[:-1] if n not in flows[1]]
        for way, there, back in ((1, 0, 1), (-1, 1, 0)):
            flows[way] |= zip(pairs, pool.map(motion, [n + there for n in pairs], [n + back for n in pairs]))
        yield from pool.map(one, range(first, last))


def _follow(at, number, way, flows, scale, frames, known) -> tuple[np.ndarray, np.ndarray]:
    """Colours [N, 3] of points `at` [N, 2] px of frame `number` where they are first seen, and their say [N, 1]."""
    height, width = frames[number].shape[:2]
    colours, say = np.zeros((len(at), 3)), np.zeros((len(at), 1))
    hidden, gone = np.arange(len(at)), np.zeros((len(at), 1))
    for k in range(1, REACH + 1):
        to = number + way * k
        if to not in frames or len(hidden) == 0:
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
    return np.stack([_checked(frame.astype(bool), number) for number, frame in enumerate(missing)])


def _checked(missing: np.ndarray, number: int) -> np.ndarray:
    if missing.all():
        raise StgvError(f"the mask hides all of frame {number}: leave some pixels to fit")
    return missing


def read_mask(name: str, video: Video, frames: int | None = None) -> Mask:
    """The mask in a folder of pictures or a video, its first `frames` frames, as `video` is seen: True where pixels are
    missing, which are white and opaque there. Raises StgvError where it does not match or is damaged, and where nothing
    is white."""
    given = open_video(name)
    given.source.on_black = True
    if given.source.fault:
        raise StgvError(f"the mask {name} is not whole: {given.source.fault}; copy or make it again")
    if frames is not None:
        given = given.with_(limit=frames)
    if given.size != video.source.size and given.size != video.size:
        raise StgvError(
            f"the mask is {given.size[1]}x{given.size[0]}, expected {video.source.size[1]}x{video.source.size[0]}: "
            "one picture a frame as large as the video's, white where pixels are missing"
        )
    if given.num_frames != video.num_frames:
        raise StgvError(f"the mask has {given.num_frames} frames, expected {video.num_frames}: one picture a frame")
    brightest = 0

    def shown() -> Iterator[np.ndarray]:
        nonlocal brightest
        for number in range(given.num_frames):
            frame = given.read(number, number + 1)[0].max(-1)
            brightest = max(brightest, int(frame.max()))
            white = (frame > 127).astype(np.uint8)
            yield _checked(cv2.resize(white, video.size[::-1], interpolation=cv2.INTER_AREA) > 0, number)

    missing = Mask(shown(), video.size)
    if brightest <= 127:
        raise StgvError(f"no pixel of the mask is white: the brightest is {brightest} of 255")
    return missing


def composited(restored: np.ndarray, given: np.ndarray, missing: np.ndarray | None = None) -> np.ndarray:
    """Given frames in which only what is missing is replaced by the restored, uint8 [..., H, W, 3] both: the pixels of
    `missing` [..., H, W], or without it the values that differ by more than OUTLIER."""
    if missing is None:
        return np.where(np.abs(restored.astype(np.int16) - given) > 255 * OUTLIER, restored, given)
    return np.where(missing[..., None], restored, given)
