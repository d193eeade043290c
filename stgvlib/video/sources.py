"""Where frames come from: files that OpenCV decodes, raw 8-bit yuv420p with its size in the name
(x_1920x1080_y.yuv), folders of PNG or JPEG pictures, arrays.

A source reads whole frames by number; what is cropped, resized or skipped of them is a `video.Video`. Raw yuv is
converted with BT.601 limited range, which OpenCV and ffmpeg assume for untagged files, and peers did.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

try:
    import cv2
except ImportError as error:
    raise ImportError(
        f"{error}: where the system has no libGL, replace opencv-python by opencv-python-headless"
    ) from error
import numpy as np

from stgvlib.errors import StgvError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


class FileSource:
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


class YuvSource:
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


class FolderSource:
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


class ArraySource:
    """Frames in memory, uint8 [T, H, W, 3]."""

    def __init__(self, frames: np.ndarray, fps: float):
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
            raise StgvError(f"frames must be uint8 [T, H, W, 3], got {frames.dtype} {frames.shape}")
        self.frames, self.fps = frames, fps
        self.num_frames, self.size = len(frames), frames.shape[1:3]

    def read(self, indices: list[int]) -> list[np.ndarray]:
        return [self.frames[index] for index in indices]
