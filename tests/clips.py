"""Small videos that tests write, and the colours that they must be read as."""

from fractions import Fraction

import av
import numpy as np
import pytest

from stgvlib.errors import StgvError
from stgvlib.video.video import open_video

WEIGHTS = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 2: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}  # Kr, Kb


def rgb_of(yuv, matrix=2, full=False, bits=8):
    """ITU-R BT.601, 709, 2020: code values Y, Cb, Cr [..., 3] to 8-bit RGB."""
    one, scale = 2**bits - 1, 2 ** (bits - 8)
    low, luma, chroma = (0, one, one) if full else (16 * scale, 219 * scale, 224 * scale)
    y, cb, cr = np.moveaxis(np.asarray(yuv, float), -1, 0)
    y, cb, cr = (y - low) / luma, (cb - 128 * scale) / chroma, (cr - 128 * scale) / chroma
    red, blue = WEIGHTS[matrix]
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.rint(255 * np.stack([r, g, b], -1)), 0, 255)


def frame_of(planes, pix_fmt, width, height):
    """A frame from the raw bytes of its planes."""
    decoder = av.CodecContext.create("rawvideo", "r")
    decoder.width, decoder.height, decoder.pix_fmt = width, height, pix_fmt
    return decoder.decode(av.Packet(planes))[0]


def encode(path, frames, codec="libx264", pix_fmt="yuv420p", rate=25, stamps=None, prepare=None, muxer=None, **options):
    """Write av frames, or uint8 RGB arrays. `stamps`: time of each frame in 1/1000 s."""
    with av.open(str(path), "w", options=muxer or {}) as file:
        stream = file.add_stream(codec, rate=rate)
        frames = [f if isinstance(f, av.VideoFrame) else av.VideoFrame.from_ndarray(f, format="rgb24") for f in frames]
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, pix_fmt
        stream.options = {name.replace("_", "-"): value for name, value in options.items()}
        if stamps:
            stream.codec_context.time_base = Fraction(1, 1000)
        if prepare:
            prepare(stream)
        for i, frame in enumerate(frames):
            frame.pts = stamps[i] if stamps else None
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def scene(count=12, height=48, width=64):
    """Frames of soft blobs that move, all different."""
    y, x = np.mgrid[:height, :width] / 8
    phases = np.arange(3) * 2
    waves = [np.sin(x[..., None] + t / 3 + phases) + np.cos(y[..., None] * 1.5 - t / 5 - phases) for t in range(count)]
    return [np.uint8(127 + 60 * wave) for wave in waves]


def refusal(path):
    with pytest.raises(StgvError) as error:
        open_video(path).read()
    assert "\n" not in str(error.value)
    return str(error.value)
