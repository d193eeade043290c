"""Read and write videos as uint8 RGB frames [T, H, W, 3]: files that OpenCV decodes (mp4, mkv, y4m ...), raw 8-bit
yuv420p with its size in the name (x_1920x1080_y.yuv), and folders of PNG or JPEG frames.

A Video is lazy: frames are decoded, cropped and resized when sliced, so a long one never has to fit in memory. Raw YUV
is converted with BT.601 limited range, which is what OpenCV and ffmpeg assume for untagged files and what peers did.
"""

import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # our own error says what is wrong, once
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
try:
    import cv2
except ImportError as error:
    raise ImportError(
        f"{error}: where the system has no libGL, replace opencv-python by opencv-python-headless"
    ) from error
import numpy as np

from stgvlib.errors import StgvError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
HELD, AT_ONCE = 2**31, 16  # bytes of frames that `Video.in_memory` keeps at most; frames that it decodes at once


class _FileSource:
    """Anything that OpenCV decodes. Frames are counted by decoding: headers lie."""

    def __init__(self, path: Path):
        self.path = path
        capture = cv2.VideoCapture(str(path))
        if not capture.isOpened():
            raise StgvError(f"{path} is not a video that OpenCV can decode; expected mp4, mkv, y4m, .yuv or a folder")
        self.fps = capture.get(cv2.CAP_PROP_FPS) or 25.0
        self.size = (int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)))
        self.num_frames = 0
        while capture.grab():
            self.num_frames += 1
        if self.num_frames == 0:
            raise StgvError(f"{path} has no frame that can be decoded: is the file complete?")
        self._capture, self._next = None, 0

    def read(self, indices: list[int]) -> list[np.ndarray]:
        frames = []
        for index in indices:
            if self._capture is None or index < self._next:
                self._capture, self._next = cv2.VideoCapture(str(self.path)), 0
            while self._next < index:
                self._capture.grab()
                self._next += 1
            ok, frame = self._capture.read()
            if not ok:
                raise StgvError(f"{self.path}: frame {index} cannot be decoded; the file changed or is damaged")
            self._next += 1
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        return frames


class _YuvSource:
    """Raw planar 8-bit 4:2:0, frame after frame."""

    fps = 25.0

    def __init__(self, path: Path):
        self.path = path
        found = re.findall(r"(\d+)x(\d+)", path.name)
        if not found:
            raise StgvError(f"{path.name}: a raw yuv file needs its size in its name, such as name_1920x1080.yuv")
        width, height = map(int, found[0])
        if width < 1 or height < 1:
            raise StgvError(f"{path.name}: width and height in the name must be at least 1")
        self.size = (height, width)
        self.even = (height + height % 2, width + width % 2)
        self.chroma = (self.even[0] // 2) * (self.even[1] // 2)
        self.bytes = height * width + 2 * self.chroma
        length = path.stat().st_size
        if length == 0 or length % self.bytes:
            raise StgvError(
                f"{path.name} has {length} bytes, expected a multiple of {self.bytes} (8-bit yuv420p {width}x{height})"
            )
        self.num_frames = length // self.bytes

    def read(self, indices: list[int]) -> list[np.ndarray]:
        (height, width), frames = self.size, []
        with open(self.path, "rb") as file:
            for index in indices:
                file.seek(index * self.bytes)
                data = np.frombuffer(file.read(self.bytes), np.uint8)
                luma = data[: height * width].reshape(height, width)
                luma = np.pad(luma, ((0, self.even[0] - height), (0, self.even[1] - width)), mode="edge")
                planes = np.concatenate([luma.ravel(), data[height * width :]])
                planes = planes.reshape(self.even[0] * 3 // 2, self.even[1])
                frames.append(cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420)[:height, :width])
        return frames


class _FolderSource:
    """PNG or JPEG frames in the order of their names; numbers count as numbers."""

    fps = 25.0

    def __init__(self, path: Path):
        def natural(file: Path) -> list:
            return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)]

        self.files = sorted((f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES), key=natural)
        if not self.files:
            raise StgvError(f"{path} holds no PNG or JPEG frames")
        self.num_frames = len(self.files)
        self.size = self._decode(self.files[0]).shape[:2]

    def _decode(self, file: Path) -> np.ndarray:
        frame = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if frame is None:
            raise StgvError(f"{file} is not an image that OpenCV can decode")
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def read(self, indices: list[int]) -> list[np.ndarray]:
        frames = []
        with ThreadPoolExecutor() as pool:
            decoded = pool.map(self._decode, [self.files[index] for index in indices])
        for index, frame in zip(indices, decoded):
            if frame.shape[:2] != self.size:
                (h, w), (h0, w0) = frame.shape[:2], self.size
                name = self.files[index].name
                raise StgvError(f"frames must all have one size: {name} is {w}x{h}, {self.files[0].name} {w0}x{h0}")
            frames.append(frame)
        return frames


class _ArraySource:
    """Frames in memory, uint8 [T, H, W, 3]."""

    def __init__(self, frames: np.ndarray, fps: float):
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
            raise StgvError(f"frames must be uint8 [T, H, W, 3], got {frames.dtype} {frames.shape}")
        self.frames, self.fps = frames, fps
        self.num_frames, self.size = len(frames), frames.shape[1:3]

    def read(self, indices: list[int]) -> list[np.ndarray]:
        return [self.frames[index] for index in indices]


@dataclass(frozen=True)
class Video:
    """A view of a source: rows `crop`, every `stride`-th frame, at most `limit` frames, resized to `resize`.

    `missing` (bool [T, H, W] of the frames that come out) marks pixels that a fit leaves out of its loss, or that have
    been filled (inpainting.py): `filling` has their colours. A GoP begins at each of `cuts`, the frames that begin a
    new scene; None: a fit looks for them (gops.scene_cuts).
    """

    source: "_FileSource | _YuvSource | _FolderSource | _ArraySource"
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
        if self.resize:
            return self.resize
        rows = self.source.size[0] if self.crop is None else self.crop[1] - self.crop[0]
        return rows, self.source.size[1]

    @property
    def fps(self) -> float:
        return self.source.fps / self.stride

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Frames start .. stop - 1 as uint8 [T, H, W, 3] RGB. Raises StgvError where one cannot be decoded."""
        stop = self.num_frames if stop is None else min(stop, self.num_frames)
        frames = self.source.read([i * self.stride for i in range(start, stop)])
        if self.crop:
            frames = [f[self.crop[0] : self.crop[1]] for f in frames]
        if self.resize and frames and frames[0].shape[:2] != self.resize:
            shrink = self.resize[0] * self.resize[1] < frames[0].shape[0] * frames[0].shape[1]
            how = cv2.INTER_AREA if shrink else cv2.INTER_CUBIC
            frames = [cv2.resize(f, self.resize[::-1], interpolation=how) for f in frames]
        frames = np.stack(frames)
        if self.filling is not None:
            for frame, missing, colours in zip(frames, self.missing[start:stop], self.filling[start:stop]):
                frame[missing] = colours
        return frames

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
        if isinstance(self.source, _ArraySource) or 3 * self.num_frames * math.prod(self.size) > HELD:
            return self
        frames = np.empty((self.num_frames, *self.size, 3), np.uint8)
        for start in range(0, len(frames), AT_ONCE):  # the source's frames may be much larger
            frames[start : start + AT_ONCE] = self.read(start, start + AT_ONCE)
        return video_of(frames, self.fps).with_(missing=self.missing, filling=self.filling, cuts=self.cuts)

    def scaled(self, scale: float) -> "Video":
        """Both sides times `scale`, rounded."""
        return self if scale == 1 else self.with_(resize=tuple(max(1, round(s * scale)) for s in self.size))


def video_of(frames: np.ndarray, fps: float = 25.0) -> Video:
    """Frames in memory, uint8 [T, H, W, 3], as a video. Raises StgvError for anything else."""
    return Video(_ArraySource(frames, fps))


def open_video(path: str | Path) -> Video:
    """Open a video file, a raw .yuv file or a folder of frames. Raises StgvError that says what is wrong."""
    path = Path(path)
    if not path.exists():
        raise StgvError(f"{path} does not exist; expected a video file or a folder of PNG or JPEG frames")
    if path.is_dir():
        return Video(_FolderSource(path))
    return Video(_YuvSource(path) if path.suffix.lower() == ".yuv" else _FileSource(path))


def write_video(path: str | Path, frames, fps: float = 25.0) -> int:
    """Write an iterable of uint8 [H, W, 3] frames as H.264 mp4 (crf 12), as raw y4m (4:4:4) or, where the name
    has no suffix, as PNGs.

    Returns the number of frames. A file appears only when it is complete. Raises StgvError for another suffix.
    """
    path = Path(path)
    if path.suffix.lower() in (".mp4", ".y4m"):
        return _write_file(path, frames, fps)
    if path.suffix:
        raise StgvError(f"{path.name}: output must end in .mp4 or .y4m, or be a folder for PNG frames")
    path.mkdir(parents=True, exist_ok=True)
    count = 0
    for count, frame in enumerate(frames, 1):
        _, data = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        (path / f"{count - 1:05d}.png").write_bytes(data)
    return count


def _write_file(path: Path, frames, fps: float) -> int:
    from fractions import Fraction

    import av

    raw = path.suffix.lower() == ".y4m"
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    count = 0
    try:
        with av.open(str(partial), "w", options={} if raw else {"movflags": "+faststart"}) as file:
            stream = None
            for frame in frames:
                if stream is None:
                    codec = "wrapped_avframe" if raw else "libx264"
                    stream = file.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
                    stream.height, stream.width = frame.shape[:2]
                    odd = frame.shape[0] % 2 or frame.shape[1] % 2
                    stream.pix_fmt = "yuv444p" if raw or odd else "yuv420p"
                    stream.options = {} if raw else {"crf": "12", "preset": "medium"}
                file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
                count += 1
            if stream is not None:
                file.mux(stream.encode())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return count
