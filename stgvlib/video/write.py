"""Write frames as H.264 mp4, as raw y4m, or as a folder of PNGs.

An mp4 has BT.709's matrix and limited range, and is tagged so: players assume BT.709 for untagged files of 720 rows and
more, BT.601 for smaller ones. Primaries and transfer are no matter of that conversion: those of the frames are tagged,
BT.709 where they are not known. A y4m file has no tags and is BT.601 in 4:4:4, which its readers assume.
"""

import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from stgvlib.errors import StgvError
from stgvlib.files import PARTIAL, partial_file
from stgvlib.video.timing import unpacked

if TYPE_CHECKING:
    import av

FILES = (".mp4", ".y4m")
OTHERS = tuple(  # suffixes of files that are not written here; any other name is a folder's
    ".avi .mov .mkv .webm .m4v .mpg .mpeg .ts .m2ts .wmv .flv .gif .webp .apng .png .jpg .jpeg .bmp .tif .tiff .exr "
    ".yuv .264 .h264 .265 .hevc .ivf .av1 .safetensors .stgv .zip .npy .npz".split()
)
LONGEST_SIDE = 16_384  # px, of H.264
PICTURES = (".png", ".jpg", ".jpeg")
SIGNATURE = b"tEXtSoftware\0stgvlib"  # a chunk of every PNG written here
BT709, BT601, LIMITED = 1, 5, 1  # as ffmpeg numbers them
UNTAGGED = (0, 2)  # of primaries and transfer; what else H.264 does not know is written as 2


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray],  # uint8 [H, W, 3] RGB each
    fps: float = 25.0,
    sample_aspect: Fraction | float = 1,  # width of a pixel over its height
    chroma: Literal["420", "444"] = "420",
    durations: dict | None = None,  # of each frame, as `Video.hints` gives them; None: even, by `fps`
    color: Sequence[int] | None = None,  # primaries, transfer, ... of the frames, as ITU-T H.273 numbers them
) -> int:
    """Write frames, uint8 [H, W, 3] RGB each, as H.264 mp4 (crf 12), as raw y4m (4:4:4) or as a folder of PNGs.

    `fps` is in frames a second. `durations` and `color` are written to an mp4 alone: other outputs have neither time
    stamps nor tags. Returns the number of frames. An odd width or height gets one more column or row in an mp4, a copy
    of the last, because most players show 4:2:0 alone; `chroma="444"` keeps the size. A file or folder appears when it
    is complete. In a folder, only frames that were written here before are replaced.

    Raises StgvError for another suffix, for no frames, for more or fewer than `durations` has, for frames that H.264
    cannot hold, for a folder that holds other pictures, and when the disk is full.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from stgvlib import open_video, write_video
        >>> path = tempfile.mkdtemp() + "/clip.mp4"
        >>> write_video(path, np.zeros((3, 16, 24, 3), np.uint8), fps=30)
        3
        >>> open_video(path).fps
        30.0
    """
    path = Path(path)
    try:
        if is_folder(path):
            return _write_folder(path, frames)
        aspect = Fraction(sample_aspect).limit_denominator(1000)
        if path.suffix.lower() == ".y4m":
            return _write_y4m(path, frames, _rate(fps), aspect)
        return _write_mp4(path, frames, _rate(fps), aspect, chroma, durations, color or UNTAGGED)
    except OSError as error:
        raise StgvError(f"cannot write {path}: {error.strerror or error}") from error


def is_folder(path: Path) -> bool:
    """Whether an output's name means a folder of PNGs. Raises StgvError for the suffix of another kind of file."""
    suffix = path.suffix.lower()
    if suffix in FILES:
        return False
    if suffix in OTHERS and not path.is_dir():
        raise StgvError(f"{path.name}: output must end in .mp4 or .y4m, or be a folder for PNG frames")
    return True


def _rate(fps: float) -> Fraction:
    """23.976 is 24000 / 1001; less than a frame a second takes a larger denominator."""
    return Fraction(fps).limit_denominator(1001 if fps >= 1 else 10**6)


def _first(path: Path, frames: Iterable[np.ndarray]) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """The first frame, and all of them."""
    frames = iter(frames)
    try:
        first = next(frames)
    except StopIteration:
        raise StgvError(f"cannot write {path}: there are no frames") from None
    return first, chain([first], frames)


def _planes(frame: np.ndarray, layout: str, matrix: int) -> "av.VideoFrame":
    import av

    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    return picture.reformat(format=layout, dst_colorspace=matrix, dst_color_range=LIMITED)


def _write_y4m(path: Path, frames: Iterable[np.ndarray], rate: Fraction, sample_aspect: Fraction) -> int:
    first, frames = _first(path, frames)
    height, width = first.shape[:2]
    terms = f"W{width} H{height} F{rate.numerator}:{rate.denominator} Ip A{sample_aspect.numerator}:"
    count = 0
    with partial_file(path) as partial, open(partial, "wb") as file:
        file.write(f"YUV4MPEG2 {terms}{sample_aspect.denominator} C444 XCOLORRANGE=LIMITED\n".encode())
        for frame in frames:
            count += 1
            file.write(b"FRAME\n" + _planes(frame, "yuv444p", BT601).to_ndarray().tobytes())
    return count


def _write_mp4(
    path: Path,
    frames: Iterable[np.ndarray],
    rate: Fraction,
    sample_aspect: Fraction,
    chroma: str,
    durations: dict | None,
    color: Sequence[int],
) -> int:
    import av

    first, frames = _first(path, frames)
    height, width = first.shape[:2]
    if max(height, width) > LONGEST_SIDE:
        advice = "write .y4m or a folder of PNGs"
        raise StgvError(f"frames are {width}x{height}, H.264 takes {LONGEST_SIDE} a side: {advice}")
    padding = (0, 0) if chroma == "444" else (height % 2, width % 2)
    layout, count = f"yuv{chroma}p", 0
    tick, times = unpacked(durations) if durations else (None, None)
    try:
        with partial_file(path, path.suffix) as partial:
            with av.open(os.path.abspath(partial), "w", options={"movflags": "+faststart"}) as file:
                stream = file.add_stream("libx264", rate=rate)
                stream.height, stream.width, stream.pix_fmt = height + padding[0], width + padding[1], layout
                stream.options = {"crf": "12", "preset": "medium"}
                coded = stream.codec_context
                coded.sample_aspect_ratio, coded.color_range = sample_aspect, LIMITED
                coded.colorspace = BT709
                coded.color_primaries, coded.color_trc = (BT709 if n in UNTAGGED else n for n in color[:2])
                if durations:  # an mp4 says how long frames are in the order of decoding: no frame may change its place
                    stream.options |= {"bf": "0"}
                    coded.time_base, coded.flags = tick, coded.flags | av.codec.context.Flags.frame_duration
                for frame in frames:
                    count += 1
                    whole = np.pad(frame, ((0, padding[0]), (0, padding[1]), (0, 0)), "edge")
                    planes = _planes(whole, layout, BT709)
                    if durations:
                        if count == len(times):
                            break
                        planes.pts, planes.time_base = int(times[count - 1]), tick
                        planes.duration = int(times[count] - times[count - 1])
                    file.mux(stream.encode(planes))
                if durations and count != len(times) - 1:
                    raise StgvError(f"durations must be of all frames, got those of {len(times) - 1}")
                file.mux(stream.encode())
    except av.FFmpegError as error:
        raise StgvError(f"cannot write {path}: {error.strerror or error}") from error
    return count


def _write_folder(path: Path, frames: Iterable[np.ndarray]) -> int:
    """Into a folder beside `path` first, so that frames of two renders are never mixed."""
    earlier = _frames_of_ours(path) if path.is_dir() else []
    _, frames = _first(path, frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, count = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=path.parent)), 0
    try:
        for count, frame in enumerate(frames, 1):
            _, data = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            data, length, crc = data.tobytes(), len(SIGNATURE) - 4, zlib.crc32(SIGNATURE)
            signed = data[:33] + struct.pack(">I", length) + SIGNATURE + struct.pack(">I", crc) + data[33:]
            (partial / f"{count - 1:05d}.png").write_bytes(signed)  # after the header, which takes 33 bytes
        for file in earlier:
            file.unlink()
        path.mkdir(exist_ok=True)
        for file in partial.iterdir():
            file.replace(path / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return count


def _frames_of_ours(folder: Path) -> list[Path]:
    """Frames that were written here before. Raises StgvError where there are pictures of others."""
    pictures = [file for file in folder.iterdir() if file.suffix.lower() in PICTURES]
    for file in pictures:
        with file.open("rb") as opened:
            if SIGNATURE not in opened.read(200):
                raise StgvError(
                    f"{folder} holds pictures that stgvlib did not write ({file.name}): take another folder"
                )
    return pictures
