"""Block codecs as honest anchors of a rate-distortion curve: x264, x265 and SVT-AV1 through PyAV, at medium presets.

8-bit 4:2:0 as they are used, one .mp4 file a rate whose size on disk is the rate (a few KB are the container's),
default GoP structure, all of the machine's cores. Quality is measured on the decoded RGB frames, as everywhere.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stgvlib.errors import StgvError
from stgvlib.video.video import Video


@dataclass(frozen=True)
class BlockCodec:
    """A codec, its preset, and the quality levels that make its curve."""

    codec: str = ""
    preset: str = "medium"
    levels: tuple[int, ...] = (18, 22, 26, 30, 34, 38)  # CRF

    def options(self, crf: int) -> dict[str, str]:
        quiet = {"libx265": {"x265-params": "log-level=error"}}.get(self.codec, {})
        return {"preset": self.preset, "crf": str(crf), **quiet}


BLOCK_CODECS = {
    "x264": BlockCodec("libx264"),
    "x265": BlockCodec("libx265"),
    "av1": BlockCodec("libsvtav1", preset="6", levels=(20, 28, 36, 44, 52, 60)),  # 6 of 0 (slowest) to 13
}


def encode(video: Video, codec: BlockCodec, crf: int, path: Path, fps: int = 25) -> float:
    """Write a video as .mp4; returns the seconds it took. Raises StgvError where this PyAV lacks the codec."""
    import av

    try:
        av.codec.Codec(codec.codec, "w")
    except ValueError as error:
        raise StgvError(f"this PyAV has no {codec.codec}; its wheels from version 14 on do") from error
    os.environ.setdefault("SVT_LOG", "1")  # errors only
    began = time.perf_counter()
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec.codec, rate=fps)
        # 4:2:0 needs even sides.
        stream.height, stream.width = (side + side % 2 for side in video.size)
        stream.pix_fmt, stream.options = "yuv420p", codec.options(crf)
        for i in range(video.num_frames):
            frame = video.read(i, i + 1)[0]
            padding = (0, stream.height - frame.shape[0]), (0, stream.width - frame.shape[1]), (0, 0)
            picture = np.ascontiguousarray(np.pad(frame, padding, mode="edge"))
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    return time.perf_counter() - began


def decode(path: Path, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """The frames of a file that `encode` wrote, uint8 [H, W, 3]."""
    import av

    with av.open(str(path)) as file:
        for frame in file.decode(video=0):
            yield frame.to_ndarray(format="rgb24")[: size[0], : size[1]]
