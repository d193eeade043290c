"""From a decoded frame to RGB as it is to be shown: colour matrix, range, rotation and mirror, as the file tags them.

A frame without tags is BT.601, limited range, which ffmpeg assumes too. 8-bit 4:2:0 and 4:2:2 of even height go through
swscale's fast path, as in ffmpeg and OpenCV: the nearest chroma sample, values at most 3 of 255 off. All others
interpolate chroma (bicubic), at most 1 off. HDR (PQ, HLG) and wide gamut keep their curve and primaries: only the
matrix is applied.
"""

import cv2
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from stgvlib.errors import StgvError

# The number in the stream (ITU-T H.273) -> name, swscale's matrix. 0, 2 and 3: not tagged.
MATRICES = {
    1: ("BT.709", Colorspace.ITU709),
    4: ("FCC", Colorspace.FCC),
    5: ("BT.601", Colorspace.ITU601),
    6: ("BT.601", Colorspace.ITU601),
    7: ("SMPTE 240M", Colorspace.SMPTE240M),
    9: ("BT.2020", Colorspace.BT2020),
} | {untagged: ("BT.601 (not tagged)", Colorspace.ITU601) for untagged in (0, 2, 3)}
PRIMARIES = {1: "BT.709", 4: "BT.470 M", 5: "BT.601 (625 lines)", 6: "BT.601 (525 lines)", 7: "SMPTE 240M", 8: "film"}
PRIMARIES |= {9: "BT.2020", 10: "XYZ", 11: "DCI-P3", 12: "Display P3", 22: "EBU 3213"}
TRANSFERS = {1: "BT.709", 6: "BT.601", 7: "SMPTE 240M", 8: "linear", 13: "sRGB", 14: "BT.2020", 15: "BT.2020"}
HDR = {16: "PQ", 18: "HLG"}
NEAR = 0.02  # sine of the angle by which a display matrix may miss a right angle


def without_matrix(frame: VideoFrame) -> bool:
    """Whether a frame holds RGB, a palette or grey, not YUV."""
    name = frame.format.name
    return frame.format.is_rgb or name.startswith(("gray", "ya", "mono", "pal8"))


def full_range(frame: VideoFrame) -> bool:
    return frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")


def tags(frame: VideoFrame) -> list[int] | None:
    """A frame's primaries, transfer and matrix, as ITU-T H.273 numbers them (2: not tagged), and 1 for full range, 0
    for limited; None where none of the three is tagged."""
    found = [v if 0 < v < 256 else 2 for v in (frame.color_primaries, frame.color_trc, frame.colorspace)]
    if without_matrix(frame):
        found[2] = 0  # RGB
    return None if set(found) <= {0, 2} else [*found, int(without_matrix(frame) or full_range(frame))]


def named(color: list[int]) -> dict[str, str]:
    """Names of what `tags` gives."""
    primaries, transfer, matrix, full = color
    tables = {"primaries": (PRIMARIES, primaries), "transfer": (TRANSFERS | HDR, transfer)}
    names = {"matrix": MATRICES.get(matrix, (f"number {matrix}", None))[0], "range": "full" if full else "limited"}
    names |= {
        what: table.get(n, f"number {n}") if n not in (0, 2) else "not tagged" for what, (table, n) in tables.items()
    }
    return names | ({"matrix": "none (RGB or grey)"} if matrix == 0 else {})


def colour(frame: VideoFrame) -> dict[str, str]:
    """How a frame's colours are understood: names of matrix, range, primaries and transfer."""
    without = without_matrix(frame)
    matrix = 0 if without else frame.colorspace or 2
    return named([frame.color_primaries, frame.color_trc, matrix, without or full_range(frame)])


def turn(frame: VideoFrame) -> tuple[bool, int, int] | None:
    """The display matrix as (transpose, step down, step across): transpose first, then walk rows and columns by 1 or
    -1. None where it turns by another angle than a multiple of 90 degrees."""
    try:
        data = SideDataContainer(frame)  # frame.side_data is the same, but keeps the frame in memory
        matrices = [np.frombuffer(d, np.int32) for d in data if d.type.name == "DISPLAYMATRIX"]
    except ValueError:  # PyAV does not know a kind of side data: without its matrix, a mirror cannot be seen
        return ROTATIONS.get(frame.rotation % 360)
    if not matrices:
        return ROTATIONS[0]
    # A pixel (x, y) is shown at (a x + c y, b x + d y), with y downwards.
    a, b, _, c, d = matrices[0][:5].astype(float)
    straight, crossed = np.hypot(a, d), np.hypot(b, c)
    if crossed <= NEAR * straight and a and d:
        return False, int(np.sign(d)), int(np.sign(a))
    if straight <= NEAR * crossed and b and c:
        return True, int(np.sign(b)), int(np.sign(c))
    return None


ROTATIONS = {0: (False, 1, 1), 90: (True, -1, 1), 180: (False, -1, -1), 270: (True, 1, -1)}  # by degrees, to the left
TURNS = {  # what a display matrix does, in words
    (False, 1, 1): "none",
    (False, 1, -1): "mirrored left to right",
    (False, -1, 1): "mirrored top to bottom",
    (False, -1, -1): "180 degrees",
    (True, 1, -1): "90 degrees clockwise",
    (True, -1, 1): "90 degrees counter-clockwise",
    (True, 1, 1): "90 degrees clockwise, then mirrored left to right",
    (True, -1, -1): "90 degrees counter-clockwise, then mirrored left to right",
    None: "none (the file's angle is no multiple of 90 degrees)",
}


def unflagged(frame: VideoFrame) -> VideoFrame:
    """The frame without its interlaced flag. By it swscale converts field by field, but reads chroma past the end where
    fields have no whole number of chroma rows."""
    plain = VideoFrame(frame.width, frame.height, frame.format.name)
    for to, plane in zip(plain.planes, frame.planes):
        size = min(to.line_size, plane.line_size)
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        np.frombuffer(to, np.uint8).reshape(-1, to.line_size)[: plane.height, :size] = rows[: plane.height, :size]
    return plain


class Converter:
    """Decoded frames to uint8 RGB [H, W, 3], rotated and mirrored by each frame's own display matrix. With `on_black`,
    a pixel is at most as bright as it is opaque. Raises StgvError for a matrix that is unknown."""

    def __init__(self):
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame, on_black: bool = False) -> np.ndarray:
        to = "rgba" if on_black else "rgb24"
        source = unflagged(frame) if frame.interlaced_frame and frame.height % 4 else frame
        if without_matrix(frame):
            rgb = self._reformatter.reformat(source, format=to, threads=1)
        else:
            if frame.colorspace not in MATRICES:
                raise StgvError(f"its colour matrix (number {frame.colorspace} of ITU-T H.273) is not supported")
            matrix = MATRICES[frame.colorspace][1]
            rgb = self._reformatter.reformat(
                source,
                format=to,
                src_colorspace=matrix,
                dst_colorspace=matrix,
                src_color_range=ColorRange.JPEG if full_range(frame) else ColorRange.MPEG,
                dst_color_range=ColorRange.JPEG,
                interpolation=Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT,
                threads=1,
            )
        rgb = rgb.to_ndarray()
        if on_black:
            rgb = np.minimum(rgb[..., :3], rgb[..., 3:])
        transpose, down, across = turn(frame) or (False, 1, 1)
        if transpose:
            rgb = rgb.transpose(1, 0, 2)
        return np.ascontiguousarray(rgb[::down, ::across])


def resize(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame uint8 [H, W, 3] of another size (height, width): the mean of areas where it shrinks, else bicubic."""
    shrink = size[0] * size[1] < frame.shape[0] * frame.shape[1]
    ipp = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)  # Intel's bicubic differs between OpenCV 4.10 and 5.0; a thread has its own switch
    try:
        return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC)
    finally:
        cv2.ipp.setUseIPP(ipp)
