"""Raw yuv files: frames without a header, whose name says what they are (x_1920x1080_120fps_422_10bit.yuv).

8-bit 4:2:0, 25 frames/s where the name does not say otherwise; `notes` says so. A name's words are FFmpeg's pixel
formats and common spellings of them; a word for a format that is not known is refused. Colours are BT.601, limited
range (RGB and grey: full), which OpenCV and ffmpeg assume for untagged files, and peers did.
"""

import re
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.video.format import VideoFormat, names
from av.video.frame import VideoFrame

from stgvlib.errors import StgvError
from stgvlib.video.pixels import Converter, colour

NUMBER = r"((?:23|29|47|59)[._]9[0-9]{1,2}|119[._]88|[0-9]+(?:\.[0-9]+)?)"  # 59_94 is 59.94
RATE = rf"(?<![0-9]){NUMBER}[ _-]?(?:fps|hz)(?![a-z])|(?<![a-z])fps[ _-]?{NUMBER}"
CHROMA = "(?:400|410|411|420|422|440|444)"
BITS, ORDER = "(?:bits?|bp[cs])", "(?P<order>le|be)?"
WORDS = (  # of a name, that say a format; the first that matches counts
    rf"(?P<kind>i[024])(?P<bits>09|1[0246]){ORDER}",
    rf"(?:yuv|i|ycbcr)?(?P<kind>j?{CHROMA})p?(?P<bits>[0-9]{{1,2}})?(?:b|{BITS})?{ORDER}",
    rf"(?P<bits>[0-9]{{1,2}}){BITS}{ORDER}",
    rf"(?P<bits>8|9|1[0246])b{ORDER}|(?P<pixel>8|10)bpp",
    r"p?(?P<bits>[0-9]{2})(?P<order>le|be)",
    rf"(?P<kind>gr[ae]y|mono(?:chrome)?|luma)(?P<bits>[0-9]{{1,2}})?(?:{BITS})?{ORDER}",
    rf"(?P<kind>y)(?P<bits>8|1[0246])(?:00)?{ORDER}",
    r"(?P<kind>rgb|bgr|yuyv|yuy2|uyvy|yvyu|iyuv|(?:yuv)?420sp)",
)
KINDS = dict.fromkeys(("grey", "mono", "monochrome", "luma", "y", "400"), "gray")
KINDS |= {"i0": "420", "i2": "422", "i4": "444", "iyuv": "420", "420sp": "nv12", "yuv420sp": "nv12", "rgb": "rgb24"}
KINDS |= {"bgr": "bgr24", "yuyv": "yuyv422", "yuy2": "yuyv422", "uyvy": "uyvy422", "yvyu": "yvyu422"}
# FFmpeg's rgb8 has 3 + 3 + 2 bits, others' 3 x 8; pal8's palette is elsewhere. 12bpp: 12 bits a sample, or 8-bit 4:2:0.
FOREIGN = r"[a-z0]?(?:rgb|bgr|gbr)[a-z0]{0,2}[0-9]*(?:le|be)?|pal8|nv[0-9]{2}|yv(?:12|16|24|u9)|y4[12][bp]|raw[0-9]+"
FOREIGN += r"|v(?:210|216|308|408|410)|[ip][024][01][0-9]|[vyx][24]1[0-6]|bayer|[0-9]+bpp"
FASTEST = 1000  # frames a second that a model holds


class Layout(NamedTuple):
    """What a raw file's name says: size in px, FFmpeg's name of the format, and what was assumed, for the user."""

    width: int
    height: int
    format: str
    fps: float
    assumed: str


def layout_of(name: str) -> Layout:
    """What a raw file's name says. Raises StgvError where it says no size, or a format or rate that is not read.

    Examples:
        >>> from stgvlib.video.raw_source import layout_of
        >>> layout_of("Beauty_3840x2160_120fps_420_10bit_YUV.yuv")
        Layout(width=3840, height=2160, format='yuv420p10le', fps=120.0, assumed='')
        >>> layout_of("RaceHorses_832x480_30.yuv").assumed
        'its name has a 30 after the size: 30 frames/s; no format: 8-bit 4:2:0'
    """
    size = re.search(r"([0-9]+)x([0-9]+)", name)
    if not size:
        raise StgvError(f"{name}: a raw yuv file needs its size in its name, such as name_1920x1080.yuv")
    width, height = int(size[1]), int(size[2])
    if width < 1 or height < 1:
        raise StgvError(f"{name}: width and height in the name must be at least 1")
    text = f"{name[: size.start()]}@{name[size.end() :]}".lower().removesuffix(".yuv")  # @: the size
    text = re.sub(r"(?<![0-9])4([ _:.-])([0124])\1([0124])(?![0-9])", r"4\2\3", text)  # 4_2_2
    text = re.sub(rf"([0-9])[ _-]+({BITS}|bpp)", r"\1\2", text)
    fps, assumed = 25.0, []
    bare = rf"@(?:p|[ _-]+)(?!{CHROMA}(?![0-9])){NUMBER}(?![0-9a-z])"
    if found := re.search(RATE, text) or re.search(bare, text):
        number = next(filter(None, found.groups()))
        fps, text = float(number.replace("_", ".")), text.replace(found[0], "@_" if "@" in found[0] else "_", 1)
        assumed += [f"a {number} after the size: {fps:g} frames/s"] if "@" in found[0] else []
    else:
        assumed += ["no rate: 25 frames/s"]
    if not 0 < fps <= FASTEST:
        raise StgvError(
            f"{name} says {fps:g} frames/s, expected above 0 and at most {FASTEST}; rename it, such as "
            f"name_{width}x{height}_59.94fps.yuv"
        )
    text = re.sub(rf"(?<![0-9])({CHROMA})p?[ _-]([0-9]{{1,2}})(?![0-9a-z])", r"\1p\2", text)  # 420_10
    kinds, depths, orders, said = set(), set(), set(), []
    for i, word in enumerate(re.split(r"[^a-z0-9]+", text)):
        kind, bits, order = _meaning(word)
        if (kind, bits) == (None, None) or (i == 0 and kind == "gray" and bits is None):  # gray_64x48: what it shows
            continue
        said.append(word)
        for held, new in ((kinds, kind), (depths, bits), (orders, order)):
            held |= {new} - {None}
    form = _format(kinds or {"420"}, depths, orders)
    if form is None:
        raise StgvError(
            f"{name} says {' '.join(said)}, which is no pixel format that can be read; rename it, such as "
            f"name_{width}x{height}_50fps_422_10bit.yuv, or convert it: ffmpeg -f rawvideo -pixel_format FORMAT "
            f"-video_size {width}x{height} -framerate {fps:g} -i {name} -c:v ffv1 {Path(name).stem}.mkv"
        )
    if not said:
        assumed.append("no format: 8-bit 4:2:0")
    elif not kinds:
        assumed.append("no chroma format: 4:2:0")
    elif not depths and all(word.isdigit() for word in said):
        assumed.append("no bit depth: 8 bits")
    return Layout(width, height, form, fps, f"its name has {'; '.join(assumed)}" if assumed else "")


def _meaning(word: str) -> tuple[str | None, int | None, str | None]:
    """Kind (chroma format, "gray" or FFmpeg's name), bits and order of bytes that a word says. "unknown": a format,
    but none that is known."""
    found = next(filter(None, (re.fullmatch(pattern, word) for pattern in WORDS)), None)
    if found:
        parts = found.groupdict()
        kind, bits = parts.get("kind"), parts.get("bits") or parts.get("pixel")
        return KINDS.get(kind, kind), int(bits) if bits else None, parts.get("order")
    form = next((name for name in (word, word + "le") if name in names), None)
    parts = VideoFormat(form).components if form else ()  # none: in a GPU's memory, whose names are words as others are
    if not parts:
        return ("unknown" if re.fullmatch(FOREIGN, word) else None), None, None
    # swscale does not convert some of 32 bits and big-endian (y210be), and aborts at others (yaf32).
    readable = max(part.bits for part in parts) <= 16 and not re.fullmatch("(?:rgb|bgr)[48]|pal8|.*be", form)
    return form if readable else "unknown", None, None


def _format(kinds: set, depths: set, orders: set) -> str | None:
    """FFmpeg's name of the format; None where there is none, or where words contradict each other."""
    if max(len(kinds), len(depths), len(orders)) > 1:
        return None
    (kind,), bits = kinds, next(iter(depths), 8)
    if kind in names and kind != "gray":
        return kind if not orders and depths <= {part.bits for part in VideoFormat(kind).components} else None
    base = kind if kind == "gray" else f"yuv{kind}p"
    form = base if bits == 8 else f"{base}{bits}{next(iter(orders), 'le')}"
    return form if form in names and bits <= 16 else None


class RawSource:
    """Raw video, frame after frame, as `layout_of` reads its name. Raises StgvError where the length does not fit."""

    sample_aspect, clock, color, fault, on_black = Fraction(1), None, None, None, False

    def __init__(self, path: Path):
        self.path = path
        width, height, self.format, self.fps, assumed = layout_of(path.name)
        self.notes = (assumed,) if assumed else ()
        self.size, self._convert = (height, width), Converter()
        self.even = (height + height % 2, width + width % 2)
        blank, encoder = VideoFrame(width, height, self.format), av.CodecContext.create("rawvideo", "w")
        encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, self.format, Fraction(1, 25)
        self.bytes = encoder.encode(blank)[0].size
        length = path.stat().st_size
        if length == 0 or length % self.bytes:
            raise StgvError(
                f"{path.name} has {length} bytes, expected a multiple of {self.bytes} ({self.format} {width}x{height}, "
                "as its name says)"
            )
        self.num_frames = length // self.bytes
        self.facts = {
            "format": "raw video, described by its name",
            "codec": "none",
            "pixel_format": self.format,
            **colour(blank),
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
        return self._convert(decoder.decode(av.Packet(data))[0], self.on_black)
