"""Block codecs as honest anchors of a rate-distortion curve: x264, x265 and SVT-AV1 through PyAV, VVenC through FFmpeg.

8-bit 4:2:0 as they are used (VVenC codes 10 bits of the same 8-bit pixels), one .mp4 file a rate whose size on disk is
the rate (a few KB are the container's), all of the machine's cores for encoding. Quality is measured on the decoded
RGB frames, as everywhere; YUV PSNR too, from planes that are made of them as of ours (`metrics.psnr_yuv`).

The set answers three questions and has a curve for each answer:
- What do people get? x264 and x265 with psychovisual tuning, which lowers PSNR, as their defaults are.
- What is the best that they reach in PSNR? x264, x265 and SVT-AV1 (its default) tuned for PSNR, x265 and SVT-AV1 at
  slow presets, and VVC. All of these predict across the whole video.
- What do they need with our random access? The medium presets again, in closed groups of 16 frames, each with an intra
  frame and decodable by itself, as ours are on Bunny. Our groups are often shorter, which is not held against them.

Decoding is timed without conversion of the frames, on one thread and in seconds of CPU time, which other programs on
the machine lengthen little. Encoding has seconds of wall clock and of CPU time.
"""

import math
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from stgvlib.errors import StgvError
from stgvlib.metrics import evaluate
from stgvlib.video.video import Video

DECODE_PROTOCOL = "one thread, CPU time, whole file to frames as the codec gives them (YUV), no conversion"
WHOLE = 320  # frames, a multiple of 32: VVenC's groups without `group`, longer than any video here
FIRST_SETTINGS = ("codec", "preset", "levels")  # always part of a record's hash; later ones where they are set


@dataclass(frozen=True)
class BlockCodec:
    """A codec, its settings, and the quality levels that make its curve."""

    codec: str = ""
    preset: str = "medium"
    levels: tuple[int, ...] = (18, 22, 26, 30, 34, 38)  # CRF; of VVenC the quantiser's parameter, QP
    tune: str = ""  # "psnr": no psychovisual tuning
    group: int = 0  # frames of a closed group; 0: groups as long as the codec likes, here the whole video

    def options(self, level: int) -> dict[str, str]:
        """What FFmpeg hands to the encoder."""
        if self.codec == "libvvenc":
            groups = f"poc0idr=1:intraperiod={self.group or WHOLE}"
            return {"preset": self.preset, "qp": str(level), "qpa": "0", "vvenc-params": groups}
        closed = f"keyint={self.group}:min-keyint={self.group}:open-gop=0:scenecut=0"
        more = {
            "libx264": [closed] if self.group else [],
            "libx265": ["log-level=error", *([closed] if self.group else [])],
            "libsvtav1": [f"keyint={self.group}:irefresh-type=2"] if self.group else [],
        }[self.codec]
        found = {"preset": self.preset, "crf": str(level)} | ({"tune": self.tune} if self.tune else {})
        return found | ({f"{self.codec.removeprefix('lib')}-params": ":".join(more)} if more else {})

    def settings(self) -> dict:
        """What identifies a curve: also of a record that is older than a setting."""
        usual = asdict(BlockCodec())
        return {k: v for k, v in asdict(self).items() if k in FIRST_SETTINGS or v != usual[k]}


TUNED = BlockCodec("libx265", levels=(18, 24, 30, 36), tune="psnr")
AV1 = BlockCodec("libsvtav1", preset="6", levels=(20, 32, 44, 56))  # its tune is PSNR; presets: 0 (slowest) to 13
BLOCK_CODECS = {
    "x264": BlockCodec("libx264"),
    "x265": BlockCodec("libx265"),
    "av1": replace(AV1, levels=(20, 28, 36, 44, 52, 60)),
    "x264_psnr": replace(TUNED, codec="libx264"),
    "x265_psnr": TUNED,
    "x265_slower": replace(TUNED, preset="slower"),
    "av1_slower": replace(AV1, preset="3"),
    "vvc": BlockCodec("libvvenc", "fast", levels=(20, 25, 30, 35)),
    "x264_closed": replace(TUNED, codec="libx264", group=16),
    "x265_closed": replace(TUNED, group=16),
    "av1_closed": replace(AV1, group=16),
}
CLOSED = tuple(name for name, setting in BLOCK_CODECS.items() if setting.group)
USUAL = ("x264", "x265")  # with psychovisual tuning


def point(video: Video, codec: BlockCodec, level: int) -> dict:
    """A point of a curve: rate (size of the file), quality, duration of both ways. Raises StgvError as `encode`."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "video.mp4"
        seconds, cpu_seconds = encode(video, codec, level, file)
        size, fps = file.stat().st_size, decode_fps(file)
        quality = evaluate((torch.from_numpy(frame).float() / 255 for frame in decode(file, video.size)), video)
    found = {"level": level, "bytes": size, "bpp": 8 * size / (math.prod(video.size) * video.num_frames)}
    found |= {name: quality[name] for name in ("psnr", "psnr_yuv", "ms_ssim")}
    times = {"encode_seconds": seconds, "encode_cpu_seconds": cpu_seconds, "decode_fps": fps}
    return found | {name: round(value, 2) for name, value in times.items()}


def made_by(codec: BlockCodec) -> dict:
    """What a record says of the programs: their versions, threads, and how decoding is timed."""
    import av

    found = {"pyav": av.__version__, "ffmpeg": av.ffmpeg_version_info}
    if codec.codec == "libvvenc":
        try:
            found["imageio-ffmpeg"] = version("imageio-ffmpeg")
        except PackageNotFoundError:
            pass
    threads = {"encoding": os.cpu_count(), "decoding": 1}
    return {"programs": found, "threads": threads, "decode_protocol": DECODE_PROTOCOL}


def encode(video: Video, codec: BlockCodec, level: int, path: Path, fps: int = 25) -> tuple[float, float]:
    """Write a video as .mp4; returns seconds of wall clock and of CPU time. Raises StgvError where the encoder is not
    installed."""
    began, cpu = time.perf_counter(), _cpu_seconds()
    (_encode_vvc if codec.codec == "libvvenc" else _encode)(video, codec, level, path, fps)
    return time.perf_counter() - began, _cpu_seconds() - cpu


def _encode(video: Video, codec: BlockCodec, level: int, path: Path, fps: int) -> None:
    import av

    try:
        av.codec.Codec(codec.codec, "w")
    except ValueError as error:
        raise StgvError(f"this PyAV has no {codec.codec}; its wheels from version 14 on do") from error
    os.environ.setdefault("SVT_LOG", "1")  # errors only
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec.codec, rate=fps)
        stream.height, stream.width = _even(video.size)
        stream.pix_fmt, stream.options = "yuv420p", codec.options(level)
        for frame in _frames(video):
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def _encode_vvc(video: Video, codec: BlockCodec, level: int, path: Path, fps: int) -> None:
    """By the FFmpeg of the package imageio-ffmpeg: no wheel of PyAV has a VVC encoder (all have FFmpeg's decoder)."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        program = get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise StgvError("no VVC encoder here: pip install 'stgvlib[vvc]'") from error
    height, width = _even(video.size)
    command = [program, "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{width}x{height}"]
    command += ["-r", str(fps), "-i", "-", "-pix_fmt", "yuv420p10le", "-c:v", codec.codec]
    command += [word for name, value in codec.options(level).items() for word in (f"-{name}", value)]
    with subprocess.Popen([*command, str(path)], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            for frame in _frames(video):
                process.stdin.write(frame.reformat(format="yuv420p").to_ndarray().tobytes())
        except BrokenPipeError:  # it ended early, and says why
            pass
        said = process.communicate()[1].decode(errors="replace").strip()
    if process.returncode:
        raise StgvError(f"imageio-ffmpeg cannot encode VVC: {said.splitlines()[-1] if said else process.returncode}")


def _even(size: tuple[int, int]) -> tuple[int, int]:
    """4:2:0 needs even sides."""
    return size[0] + size[0] % 2, size[1] + size[1] % 2


def _frames(video: Video) -> Iterator:
    """RGB frames of PyAV, odd sides repeated at the border."""
    import av

    height, width = _even(video.size)
    for i in range(video.num_frames):
        frame = video.read(i, i + 1)[0]
        padding = (0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)
        yield av.VideoFrame.from_ndarray(np.ascontiguousarray(np.pad(frame, padding, mode="edge")), format="rgb24")


def _cpu_seconds() -> float:
    """Of this process with all of its threads, and of its children that have ended."""
    return sum(os.times()[:4])


def decode(path: Path, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """The frames of a file that `encode` wrote, uint8 [H, W, 3]."""
    import av

    with av.open(str(path)) as file:
        for frame in file.decode(video=0):
            yield frame.to_ndarray(format="rgb24")[: size[0], : size[1]]


def decode_fps(path: Path) -> float:
    """Frames that a file is decoded to in a second of one core (`DECODE_PROTOCOL`)."""
    import av

    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.thread_count, stream.thread_type = 1, "NONE"
        began = time.process_time()
        frames = sum(1 for _ in file.decode(stream))
        return frames / (time.process_time() - began)


def source_rate(path: Path) -> tuple[int, float]:
    """(bytes, bytes a frame) of the pictures in a video file, without its container.

    Raises StgvError for a folder and for a file that is no video.
    """
    import av

    try:
        with av.open(str(path)) as file:
            sizes = [packet.size for packet in file.demux(video=0) if packet.size]
    except (OSError, IndexError, av.FFmpegError) as error:
        raise StgvError(f"{path.name} is no video file") from error
    return sum(sizes), sum(sizes) / len(sizes)
