"""Folders of PNG or JPEG pictures as videos, and whole pictures from files.

Pictures come through OpenCV as 8-bit RGB: EXIF orientation applied, 16-bit and grey and palette converted, alpha
dropped. OpenCV fills what a truncated picture lacks with grey; here the end of the file is checked first.
"""

import re
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from stgvlib.errors import StgvError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")  # of a JPEG, in coded data: not stuffing, not a restart


def damage(data: bytes) -> str | None:
    """What is wrong with a PNG's or JPEG's bytes, up to its end marker; None where nothing is."""
    at = 8
    while data.startswith(PNG):
        size, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if at + 12 + size > len(data):
            return "the file is cut off"
        if zlib.crc32(data[at + 4 : at + 8 + size]) != int.from_bytes(data[at + 8 + size : at + 12 + size]):
            return f"the checksum of its part {kind!r} is wrong"
        if kind == b"IEND":
            return None
        at += 12 + size
    at = 2
    while data.startswith(JPEG):
        found = MARKER.search(data, at)  # of coded data; a header begins with one at once
        if not found:
            return "the file is cut off"
        if found[1] == b"\xd9":
            return None
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    return None


def read_picture(file: Path, on_black: bool = False) -> np.ndarray:
    """A PNG or JPEG file as uint8 RGB [H, W, 3]; with `on_black`, a pixel is at most as bright as it is opaque. Raises
    StgvError where it is no picture, or cut off."""
    try:
        data = file.read_bytes()  # OpenCV takes names in UTF-8 only
    except OSError as error:
        raise StgvError(f"{file} cannot be read: {error.strerror}") from error
    if fault := damage(data):
        raise StgvError(f"{file} is damaged: {fault}; copy or make it again")
    frame = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if frame is None:
        raise StgvError(f"{file} is not an image that OpenCV can decode")
    whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if on_black else frame
    if whole.shape == (*frame.shape[:2], 4):
        alpha = whole[..., 3:] if whole.dtype == np.uint8 else (whole[..., 3:] >> 8).astype(np.uint8)
        frame = np.minimum(frame, alpha)
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def natural(file: Path) -> list:
    """A name with its numbers as numbers: frame_2 comes before frame_10."""
    parts = re.split(r"([0-9]+)", file.name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


class FolderSource:
    """PNG or JPEG frames in the order of their names; numbers count as numbers. Names that begin with a dot are not
    frames. Raises StgvError for a folder without pictures, and for two pictures of one name (1.png, 1.jpg)."""

    fps, sample_aspect, notes, fault, on_black = 25.0, Fraction(1), (), None, False
    clock = color = None

    def __init__(self, path: Path):
        try:
            visible = [file for file in path.iterdir() if not file.name.startswith(".")]
        except OSError as error:
            raise StgvError(f"{path} cannot be read: {error.strerror}") from error
        self.files = sorted((f for f in visible if f.suffix.lower() in IMAGE_SUFFIXES), key=natural)
        if not self.files:
            kinds = Counter(file.suffix.lower() or "without suffix" for file in visible).most_common(3)
            holds = ", ".join(f"{count} {kind}" for kind, count in kinds) or "nothing"
            raise StgvError(f"{path} holds no PNG or JPEG frames but {holds}; expected 00000.png, 00001.png ...")
        names = {}
        for file in self.files:
            if (other := names.setdefault(file.stem, file.name)) != file.name:
                raise StgvError(f"{path} holds {other} and {file.name}: a frame may be there once; move one away")
        self.num_frames = len(self.files)
        self.size = read_picture(self.files[0]).shape[:2]
        self.facts = {
            "format": "folder of pictures",
            "codec": ", ".join(sorted({file.suffix.lower()[1:] for file in self.files})),
            "pixel_format": "rgb24",
            "matrix": "none (RGB or grey)",
            "range": "full",
            "transfer": "not tagged",
            "rotation": "as EXIF says",
            "interlaced": "no",
            "ignored": sorted({file.name for file in visible} - {file.name for file in self.files}),
        }

    def read(self, indices: list[int]) -> list[np.ndarray]:
        frames = []
        with ThreadPoolExecutor() as pool:
            decoded = pool.map(lambda index: read_picture(self.files[index], self.on_black), indices)
        for index, frame in zip(indices, decoded):
            if frame.shape[:2] != self.size:
                (h, w), (h0, w0) = frame.shape[:2], self.size
                name = self.files[index].name
                raise StgvError(f"frames must all have one size: {name} is {w}x{h}, {self.files[0].name} {w0}x{h0}")
            frames.append(frame)
        return frames
