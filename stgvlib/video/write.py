"""Write frames as H.264 mp4, as raw y4m, or as a folder of PNGs.

An mp4 is BT.709 in limited range and tagged so: players assume BT.709 for untagged files of 720 rows and more, BT.601
for smaller ones. A y4m file has no tags and is BT.601 in 4:4:4, which its readers assume.
"""

import os
import shutil
import struct
import tempfile
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from stgvlib.errors import StgvError
from stgvlib.files import PARTIAL, partial_file

FILES = (".mp4", ".y4m")
LONGEST_SIDE = 16_384  # px, of H.264
PICTURES = (".png", ".jpg", ".jpeg")
SIGNATURE = b"tEXtSoftware\0stgvlib"  # a chunk of every PNG written here
BT709, BT601, LIMITED = 1, 5, 1  # as ffmpeg numbers them


def write_video(
    path: str | Path,
    frames,  # iterable of uint8 [H, W, 3] RGB
    fps: float = 25.0,
    sample_aspect: Fraction | float = 1,  # width of a pixel over its height
    chroma: Literal["420", "444"] = "420",
) -> int:
    """Write frames as H.264 mp4 (crf 12), as raw y4m (4:4:4) or, where the name has no suffix, as a folder of PNGs.

    Returns the number of frames. An odd width or height gets one more column or row in an mp4, a copy of the last,
    because most players show 4:2:0 alone; `chroma="444"` keeps the size. A file or folder appears when it is complete.
    In a folder, only frames that were written here before are replaced.

    Raises StgvError for another suffix, for no frames, for frames that H.264 cannot hold, for a folder that holds other
    pictures, and when the disk is full.

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
        return _write_file(path, frames, _rate(fps), Fraction(sample_aspect).limit_denominator(65_535), chroma)
    except OSError as error:
        raise StgvError(f"cannot write {path}: {error.strerror or error}") from error


def is_folder(path: Path) -> bool:
    """Whether an output's name means a folder of PNGs. Raises StgvError for the suffix of another kind of file."""
    suffix = path.suffix.lower()
    if suffix in FILES:
        return False
    if suffix[1:2].isalpha() and len(suffix) <= 6 and not path.is_dir():  # `frames_1.5x` has no such suffix
        raise StgvError(f"{path.name}: output must end in .mp4 or .y4m, or be a folder for PNG frames")
    return True


def _rate(fps: float) -> Fraction:
    """23.976 is 24000 / 1001; slower than a frame in 1,000 seconds takes a larger denominator."""
    return Fraction(fps).limit_denominator(1001) or Fraction(fps).limit_denominator(10**6)


def _write_file(path: Path, frames, rate: Fraction, sample_aspect: Fraction, chroma: str) -> int:
    import av

    raw = path.suffix.lower() == ".y4m"
    layout = "yuv444p" if raw or chroma == "444" else "yuv420p"
    matrix = BT601 if raw else BT709
    count = 0
    try:
        with partial_file(path, path.suffix) as partial:
            options = {} if raw else {"movflags": "+faststart"}
            with av.open(os.path.abspath(partial), "w", options=options) as file:
                for frame in frames:
                    if layout == "yuv420p":
                        frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), "edge")
                    if count == 0:
                        if not raw and max(frame.shape) > LONGEST_SIDE:
                            height, width = frame.shape[:2]
                            advice = "write .y4m or a folder of PNGs"
                            raise StgvError(f"frames are {width}x{height}, H.264 takes {LONGEST_SIDE} a side: {advice}")
                        stream = file.add_stream("wrapped_avframe" if raw else "libx264", rate=rate)
                        stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], layout
                        stream.codec_context.sample_aspect_ratio = sample_aspect
                        if not raw:
                            stream.options = {"crf": "12", "preset": "medium"}
                            coded = stream.codec_context
                            coded.color_range, coded.colorspace = LIMITED, matrix
                            coded.color_primaries = coded.color_trc = BT709
                    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                    file.mux(
                        stream.encode(picture.reformat(format=layout, dst_colorspace=matrix, dst_color_range=LIMITED))
                    )
                    count += 1
                if count == 0:
                    raise StgvError(f"cannot write {path}: there are no frames")
                file.mux(stream.encode())
    except av.FFmpegError as error:
        raise StgvError(f"cannot write {path}: {error.strerror or error}") from error
    return count


def _write_folder(path: Path, frames) -> int:
    """Into a folder beside `path` first, so that frames of two renders are never mixed."""
    earlier = _frames_of_ours(path) if path.is_dir() else []
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
