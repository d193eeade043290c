"""A video as uint8 RGB frames [T, H, W, 3], seen through a lazy view: `open_video` of files, raw yuv and folders.

Frames are decoded, cropped and resized when sliced, so a long video never has to fit in memory. Where they come from:
file_source.py (video files), raw_source.py (yuv), picture_source.py (folders), an array. Writing is in write.py.

Conventions of all sources: frames are as players show them, upright (display matrix, EXIF), by the tagged colour matrix
and range (BT.601, limited, where nothing is tagged). HDR is not tone-mapped, interlaced frames are woven, the pixels'
shape (`sample_aspect`) is told but not applied. `notes` has a line for each such thing that a user should know.
"""

import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

try:
    import cv2  # noqa: F401  here, before files that use it
except ImportError as error:
    raise ImportError(
        f"{error}: where the system has no libGL, replace opencv-python by opencv-python-headless"
    ) from error
import numpy as np

from stgvlib.errors import StgvError
from stgvlib.video.file_source import EXPECTED, FileSource
from stgvlib.video.picture_source import FolderSource
from stgvlib.video.pixels import resize
from stgvlib.video.raw_source import RawSource
from stgvlib.video.timing import is_even, packed

SHAPE_KEPT = 0.01  # change of a frame's shape up to which a resize is taken to keep it: sides are rounded
POSTERS, POSTER_GAIN = 8, 1.25  # frames tried; contrast of one that is taken instead of the middle one, over its own
HELD, AT_ONCE = 2**31, 16  # bytes of frames that `Video.in_memory` keeps at most; frames that it decodes at once


class ArraySource:
    """Frames in memory, uint8 [T, H, W, 3]."""

    facts = {"format": "array"}
    clock = color = None

    def __init__(self, frames: np.ndarray, fps: float, sample_aspect: Fraction = Fraction(1), notes: tuple = ()):
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
            raise StgvError(f"frames must be uint8 [T, H, W, 3], got {frames.dtype} {frames.shape}")
        self.frames, self.fps, self.sample_aspect, self.notes = frames, fps, sample_aspect, notes
        self.num_frames, self.size = len(frames), frames.shape[1:3]

    def read(self, indices: list[int]) -> list[np.ndarray]:
        return [self.frames[index] for index in indices]


@dataclass(frozen=True)
class Video:
    """A view of a source: rows `crop`, every `stride`-th frame, at most `limit` frames, resized to `resize`. Made by
    `open_video` or `video_of`; `read` decodes frames, iteration decodes one at a time.

    `missing` (bool [T, H, W] of the output frames) marks pixels that a fit leaves out of its loss, or that have been
    filled (video/holes.py): `filling` has their colours. Every scene cut, a frame number in `cuts`, starts a new GoP;
    None: a fit detects scene cuts (video/scenes.py).

    Examples:
        >>> import numpy as np
        >>> from stgvlib import video_of
        >>> video = video_of(np.zeros((10, 36, 64, 3), np.uint8), fps=30)
        >>> half = video.with_(stride=2, resize=(18, 32))
        >>> half.num_frames, half.size, half.fps  # size: height, width in px
        (5, (18, 32), 15.0)
        >>> half.read(1, 3).shape  # frames 1 and 2, uint8 [T, H, W, 3] RGB
        (2, 18, 32, 3)
    """

    source: FileSource | RawSource | FolderSource | ArraySource
    crop: tuple[int, int] | None = None  # first row, one past the last row
    resize: tuple[int, int] | None = None  # height, width
    stride: int = 1
    limit: int | None = None
    missing: np.ndarray | None = None
    filling: tuple[np.ndarray, ...] | None = None  # of each frame, uint8 [missing pixels, 3]
    cuts: tuple[int, ...] | None = None

    @property
    def num_frames(self) -> int:
        total = -(-self.source.num_frames // self.stride)
        return total if self.limit is None else min(total, self.limit)

    @property
    def size(self) -> tuple[int, int]:
        """Height, width of the frames that come out."""
        return self.resize or self._cropped

    @property
    def _cropped(self) -> tuple[int, int]:
        rows = self.source.size[0] if self.crop is None else self.crop[1] - self.crop[0]
        return rows, self.source.size[1]

    @property
    def fps(self) -> float:
        """Frames a second: of a file, what its time stamps say where its header says otherwise."""
        return self.source.fps / self.stride

    @property
    def sample_aspect(self) -> Fraction:
        """Width to height of a pixel that comes out, as it is to be shown; 1: square. A resize keeps the picture's
        shape on the screen."""
        (rows, columns), (height, width) = self._cropped, self.size
        change = Fraction(columns * height, rows * width)
        return self.source.sample_aspect * (1 if abs(change - 1) <= SHAPE_KEPT else change)

    @property
    def clock(self) -> tuple[Fraction, list[int]] | None:
        """Seconds a tick, and the times of each frame and of the end in ticks; None where only `fps` is known."""
        if self.source.clock is None:
            return None
        tick, times = self.source.clock
        starts = range(0, len(times) - 1, self.stride)[: self.num_frames]
        return tick, [*(times[i] for i in starts), times[min(starts[-1] + self.stride, len(times) - 1)]]

    def hints(self) -> dict:
        """What a model's file says of how frames are shown, beside `fps` (docs/FORMAT.md, "Header"): `sample_aspect`,
        `durations`, `color`, `poster`, each where it is not the default. Reads some frames, for the poster.

        Examples:
            >>> import numpy as np
            >>> from stgvlib import video_of
            >>> frames = np.zeros((10, 36, 64, 3), np.uint8)
            >>> frames[8, :18] = 255  # the only frame that shows something
            >>> video_of(frames).with_(resize=(36, 32)).hints()
            {'sample_aspect': [2, 1], 'poster': 8}
        """
        aspect, clock = self.sample_aspect.limit_denominator(1000), self.clock
        found = {
            "sample_aspect": None if aspect == 1 else list(aspect.as_integer_ratio()),
            "durations": None if clock is None or is_even(*clock) else packed(*clock),
            "color": self.source.color,
            "poster": self._poster(),
        }
        return {name: value for name, value in found.items() if value is not None}

    def _poster(self) -> int | None:
        """The frame of most contrast of POSTERS at even distances; None: the middle one, or as good as it."""
        middle = self.num_frames // 2
        tried = {round((k + 0.5) * self.num_frames / POSTERS - 0.5) for k in range(POSTERS)} - {middle}
        contrast = {i: float(self.read(i, i + 1).std()) for i in [middle, *sorted(tried)]}
        best = max(contrast, key=contrast.get)
        return best if contrast[best] > POSTER_GAIN * contrast[middle] else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should be told about the source, a line each: truncated, HDR, interlaced, a doubtful header."""
        return tuple(self.source.notes)

    def about(self) -> dict:
        """What was understood of the source, and what comes out of it: text, numbers, lists of text.

        Examples:
            >>> import numpy as np
            >>> from stgvlib import video_of
            >>> about = video_of(np.zeros((10, 36, 64, 3), np.uint8), fps=4).about()
            >>> about["width"], about["frames"], about["seconds"], about["sample_aspect"]
            (64, 10, 2.5, '1:1')
        """
        aspect = self.sample_aspect.limit_denominator(1000)
        return {
            **self.source.facts,
            "width": self.size[1],
            "height": self.size[0],
            "sample_aspect": f"{aspect.numerator}:{aspect.denominator}",
            "frames": self.num_frames,
            "fps": self.fps,
            "seconds": self.num_frames / self.fps,
            "notes": list(self.notes),
        }

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Frames start .. stop - 1 as uint8 [T, H, W, 3] RGB. Raises StgvError where one cannot be decoded."""
        stop = self.num_frames if stop is None else min(stop, self.num_frames)
        frames = self.source.read([i * self.stride for i in range(start, stop)])
        if self.crop:
            frames = [f[self.crop[0] : self.crop[1]] for f in frames]
        if self.resize and frames and frames[0].shape[:2] != self.resize:
            frames = [resize(f, self.resize) for f in frames]
        frames = np.stack(frames)
        if self.filling is not None:
            for frame, missing, colours in zip(frames, self.missing[start:stop], self.filling[start:stop]):
                frame[missing] = colours
        return frames

    def __iter__(self) -> Iterator[np.ndarray]:
        """Its frames in order, uint8 [H, W, 3], one in memory at a time."""
        return (self.read(i, i + 1)[0] for i in range(self.num_frames))

    def weights(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Of frames start .. stop - 1 in the loss: uint8 [T, H, W], 255 where a pixel counts, 0 where it is missing
        and not filled."""
        stop = self.num_frames if stop is None else min(stop, self.num_frames)
        if self.missing is None or self.filling is not None:
            return np.full((stop - start, *self.size), 255, np.uint8)
        return np.where(self.missing[start:stop], 0, 255).astype(np.uint8)

    def with_(self, **changes) -> "Video":
        """The same source seen otherwise: with_(resize=(360, 640), limit=10)."""
        if (limit := changes.get("limit")) is not None and limit < 1:
            raise StgvError(f"frames must be at least 1, got {limit}")
        if (size := changes.get("resize")) is not None and min(size) < 1:
            raise StgvError(f"size must be at least 1x1, got {size[0]}x{size[1]}")
        return replace(self, **changes)

    def in_memory(self) -> "Video":
        """The same frames, decoded once; itself where they would take more than HELD bytes."""
        if isinstance(self.source, ArraySource) or 3 * self.num_frames * math.prod(self.size) > HELD:
            return self
        frames = np.empty((self.num_frames, *self.size, 3), np.uint8)
        for start in range(0, len(frames), AT_ONCE):  # the source's frames may be much larger
            frames[start : start + AT_ONCE] = self.read(start, start + AT_ONCE)
        source = ArraySource(frames, self.fps, self.sample_aspect, self.notes)
        source.clock, source.color = self.clock, self.source.color
        return Video(source, missing=self.missing, filling=self.filling, cuts=self.cuts)

    def scaled(self, scale: float) -> "Video":
        """Both sides times `scale`, rounded."""
        return self if scale == 1 else self.with_(resize=tuple(max(1, round(s * scale)) for s in self.size))


def video_of(frames: np.ndarray, fps: float = 25.0) -> Video:
    """Frames in memory, uint8 [T, H, W, 3] RGB, as a video of `fps` frames a second.

    Raises StgvError for another type or shape.

    Examples:
        >>> import numpy as np
        >>> from stgvlib import video_of
        >>> video_of(np.zeros((4, 16, 24, 3), np.uint8)).num_frames
        4
        >>> video_of(np.zeros((4, 3, 16, 24), np.float32))
        Traceback (most recent call last):
        stgvlib.errors.StgvError: frames must be uint8 [T, H, W, 3], got float32 (4, 3, 16, 24)
    """
    return Video(ArraySource(frames, fps))


def open_video(path: str | bytes | Path) -> Video:
    """Open a video file (all that FFmpeg decodes), a raw .yuv file that says in its name what it holds
    (clip_1920x1080_50fps_422_10bit.yuv; 8-bit 4:2:0 at 25 frames/s otherwise), or a folder of PNG or JPEG frames in the
    order of their names. Frames are decoded when they are read.

    Of several video tracks the largest is read. Raises StgvError, one line, for a missing, foreign or encrypted file,
    for a pipe, and for pictures of different sizes; what else a user should know is in `Video.notes`.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from stgvlib import open_video, write_video
        >>> folder = tempfile.mkdtemp()
        >>> write_video(folder, np.zeros((3, 16, 24, 3), np.uint8))
        3
        >>> video = open_video(folder)
        >>> video.num_frames, video.size  # height, width in px
        (3, (16, 24))
        >>> video.about()["format"], video.notes
        ('folder of pictures', ())
    """
    path = Path(os.fsdecode(path))
    try:
        info = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise StgvError(f"{path} does not exist; {EXPECTED}") from error
    except OSError as error:
        raise StgvError(f"{path} cannot be opened: {error.strerror}; {EXPECTED}") from error
    if stat.S_ISDIR(info.st_mode):
        return Video(FolderSource(path))
    if not stat.S_ISREG(info.st_mode):
        raise StgvError(f"{path} is a pipe or device; expected a file, which can be read twice: save it to one first")
    if info.st_size == 0:
        raise StgvError(f"{path} is empty (0 bytes); {EXPECTED}")
    return Video(RawSource(path) if path.suffix.lower() == ".yuv" else FileSource(path))
