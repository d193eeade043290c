"""Raw yuv files: frames without a header, whose name says what they are (x_1920x1080_120fps_422_10bit.yuv).

8-bit 4:2:0, 25 frames/s where the name does not say otherwise. Colours are BT.601, limited range, which OpenCV and
ffmpeg assume for untagged files, and peers did.
"""

import re
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from stgvlib.errors import StgvError
from stgvlib.video.pixels import Converter

SHAPES = {"420": (2, 2), "422": (2, 1), "444": (1, 1), "nv12": (2, 2), "gray": (1, 1)}  # luma samples a chroma sample
RATE = r"([0-9]+(?:\.[0-9]+)?)[ _-]?fps"
WORDS = (  # of a name, that say a format
    r"(?:yuvj?|i)?(?P<kind>400|410|411|420|422|440|444)p?(?P<bits>[0-9]{2})?(?P<order>le|be)?",
    r"(?P<bits>[0-9]{1,2})bits?",
    r"p?(?P<bits>[0-9]{2})(?P<order>le|be)",
    r"(?P<kind>gr[ae]y|nv[0-9]{2}|p[024]1[026]|yuyv|uyvy|yvyu|[vy][24]1[0-6]|yv12|yv16|rgb|bgr|gbrp|rgba|bgra)"
    r"(?:422|24|p)?(?P<bits>[0-9]{1,2})?(?P<order>le|be)?",
)


def layout_of(name: str) -> tuple[int, int, str, int, float]:
    """Width, height, chroma layout (of SHAPES), bits and frames a second that a raw file's name says.

    Raises StgvError where it says no size, or a format that is not read.

    Examples:
        >>> from stgvlib.video.raw_source import layout_of
        >>> layout_of("Beauty_3840x2160_120fps_420_10bit_YUV.yuv")
        (3840, 2160, '420', 10, 120.0)
    """
    size = re.search(r"([0-9]+)x([0-9]+)", name)
    if not size:
        raise StgvError(f"{name}: a raw yuv file needs its size in its name, such as name_1920x1080.yuv")
    width, height = int(size[1]), int(size[2])
    if width < 1 or height < 1:
        raise StgvError(f"{name}: width and height in the name must be at least 1")
    rest = (name[: size.start()] + "_" + name[size.end() :]).lower()
    rate = re.search(RATE, rest)
    fps = float(rate[1]) if rate else 25.0
    rest = re.sub(r"([0-9])[ _-]+bit", r"\1bit", re.sub(RATE, "_", rest))
    kinds, depths, big, said = set(), set(), False, []
    for i, word in enumerate(re.split(r"[^a-z0-9]+", rest)):
        found = next(filter(None, (re.fullmatch(pattern, word) for pattern in WORDS)), None)
        if found is None or (i == 0 and word in ("gray", "grey")):  # gray_64x48: what it shows
            continue
        parts = found.groupdict()
        kinds |= {{"grey": "gray", "400": "gray"}.get(kind, kind) for kind in [parts.get("kind")] if kind}
        depths |= {int(parts["bits"])} if parts["bits"] else set()
        big |= parts.get("order") == "be" or word.startswith("yuvj")
        said.append(word)
    kind, bits = (kinds or {"420"}), (depths or {8})
    readable = len(kind) == len(bits) == 1 and kind <= SHAPES.keys() and bits <= {8, 10} and kind | bits != {"nv12", 10}
    if not readable or big or fps == 0:
        raise StgvError(
            f"{name} says {' '.join(said)} at {fps:g} frames/s; raw files are read as 420, 422, 444, nv12, gray, 8 or "
            f"10 bits (le); convert it: ffmpeg -f rawvideo -pixel_format FORMAT -video_size {width}x{height} "
            f"-framerate {fps or 25:g} -i {name} -c:v ffv1 {Path(name).stem}.mkv"
        )
    return width, height, kind.pop(), bits.pop(), fps


class RawSource:
    """Raw video, frame after frame, as `layout_of` reads its name. Raises StgvError where the length does not fit."""

    sample_aspect, notes = Fraction(1), ()

    def __init__(self, path: Path):
        self.path = path
        width, height, self.layout, bits, self.fps = layout_of(path.name)
        self.size, self._convert = (height, width), Converter()
        self.even = (height + height % 2, width + width % 2)
        across, down = SHAPES[self.layout]
        planes = 0 if self.layout == "gray" else 2
        self.bytes = (height * width + planes * -(-height // down) * -(-width // across)) * (bits + 7 >> 3)
        name = self.layout if planes == 0 or self.layout == "nv12" else f"yuv{self.layout}p"
        self.format = name if bits == 8 else f"{name}{bits}le"
        length = path.stat().st_size
        if length == 0 or length % self.bytes:
            raise StgvError(
                f"{path.name} has {length} bytes, expected a multiple of {self.bytes} ({bits}-bit {name} "
                f"{width}x{height}, as its name says)"
            )
        self.num_frames = length // self.bytes
        self.facts = {
            "format": "raw video, described by its name",
            "codec": "none",
            "pixel_format": self.format,
            "matrix": "none (RGB or grey)" if planes == 0 else "BT.601 (not tagged)",
            "range": "full" if planes == 0 else "limited",
            "transfer": "not tagged",
            "rotation": "none",
            "interlaced": "no",
            "ignored": [],
        }

    def read(self, indices: list[int]) -> list[np.ndarray]:
        frames = []
        with open(self.path, "rb") as file:
            for index in indices:
                file.seek(index * self.bytes)
                data = file.read(self.bytes)
                if len(data) < self.bytes:
                    raise StgvError(f"{self.path}: frame {index} is missing; the file changed since it was opened")
                frames.append(self._planar(data) if self.format == "yuv420p" else self._other(data))
        return frames

    def _planar(self, data: bytes) -> np.ndarray:
        """8-bit 4:2:0, through OpenCV, whose pixels records hold."""
        (height, width), data = self.size, np.frombuffer(data, np.uint8)
        luma = data[: height * width].reshape(height, width)
        luma = np.pad(luma, ((0, self.even[0] - height), (0, self.even[1] - width)), mode="edge")
        planes = np.concatenate([luma.ravel(), data[height * width :]]).reshape(self.even[0] * 3 // 2, self.even[1])
        return cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420)[:height, :width]

    def _other(self, data: bytes) -> np.ndarray:
        decoder = av.CodecContext.create("rawvideo", "r")
        decoder.height, decoder.width = self.size
        decoder.pix_fmt = self.format
        return self._convert(decoder.decode(av.Packet(data))[0])
