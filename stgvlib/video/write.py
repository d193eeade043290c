"""Write frames as H.264 mp4, as raw y4m, or as a folder of PNGs."""

import os
from pathlib import Path

import cv2
import numpy as np

from stgvlib.errors import StgvError


def write_video(path: str | Path, frames, fps: float = 25.0) -> int:
    """Write an iterable of uint8 [H, W, 3] RGB frames as H.264 mp4 (crf 12), as raw y4m (4:4:4) or, where the name has
    no suffix, as a folder of PNGs. `fps` is in frames a second.

    Returns the number of frames. A file appears only when it is complete. Raises StgvError for another suffix.

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
