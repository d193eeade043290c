"""Frames of a video file, decoded by PyAV (FFmpeg): every codec, by number, with one window in memory.

A file is decoded once when it is opened, because headers lie: frames are counted, and each one's time stamp, key-frame
flag and a checksum of every fourth row are kept. Reading goes on from frame to frame; back or far forward it jumps to
the key frame before. A frame after a jump is compared with its checksum: where the file's index, an open group of
pictures or damage makes the jump inexact, the file is decoded from its start instead.
"""

import bisect
import itertools
import os
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame

from stgvlib.errors import StgvError
from stgvlib.video.pixels import HDR, TURNS, Converter, colour, resize, tags, turn
from stgvlib.video.timing import clock_of, frame_rate, is_even, packed

THREADS = 4  # of the decoder at most: each holds a frame more
FAR = 16  # frames: a jump to a key frame nearer than that is slower than decoding on
TEXT = ("tty", "bin", "xbin", "adf", "idf")  # formats by which FFmpeg renders text as a video
LENGTHS = ("matroska,webm", "flv", "asf", "mxf", "rm")  # formats whose header has a duration, but no count of frames
UNKNOWN = "its video track is encrypted, or of a codec that is not known"
EXPECTED = "expected a video file or a folder of PNG or JPEG frames"


def convert_hint(path: Path, options: str = "") -> str:
    """The command that makes a file of this one which can be read."""
    return f"convert it: ffmpeg -i {path.name} {options}-c:v ffv1 {path.stem}_ffv1.mkv"


def head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(64)


def reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).partition("\n")[0]


class Pass:
    """One pass over the frames of a file's video track, from its start or from a key frame."""

    def __init__(self, path: Path, threads: int):
        self.path, self.damaged = path, 0  # packets that cannot be decoded, frames that show it
        try:
            self._file = open(path, "rb")  # PyAV takes names in UTF-8 only, and reads a colon as a protocol
        except OSError as error:
            raise StgvError(f"{path} cannot be opened: {reason(error)}") from error
        try:  # no protocol: a playlist must not open other files
            options = {"protocol_whitelist": "none"}
            self.container = av.open(self._file, container_options=options, metadata_errors="replace")
        except (av.FFmpegError, OSError, ValueError) as error:
            self._file.close()
            raise StgvError(
                f"{path} is not a video that can be decoded, or is incomplete ({reason(error)}); {EXPECTED}"
            ) from error
        try:
            self.stream, self.others = self._track()
        except StgvError:
            self.close()
            raise
        self.stream.codec_context.thread_count = threads
        self.stream.thread_type = "AUTO"

    def _track(self):
        """The largest video track that is no attached picture, and the other ones."""
        path, container = self.path, self.container
        name = container.format.name
        if name in TEXT:
            raise StgvError(f"{path} is not a video (format {name}); {EXPECTED}")
        tracks = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not tracks:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise StgvError(f"{path} has no video track (format {name}: {kinds}); {EXPECTED}")
        known = [s for s in tracks if s.codec_context is not None]
        if not known:
            raise StgvError(f"{path}: {UNKNOWN} (format {name}); {convert_hint(path)}")
        if name == "webp_pipe" and b"ANIM" in head(path):  # FFmpeg reads WebP pictures, no animations
            raise StgvError(
                f"{path} is an animated WebP, which FFmpeg cannot decode; make a folder of PNGs of it: "
                f"magick {path.name} -coalesce {path.stem}/%05d.png"
            )
        best = max(known, key=lambda s: (s.width * s.height, bool(s.disposition & av.stream.Disposition.default)))
        return best, [s for s in tracks if s is not best]

    def frames(self) -> Iterator[VideoFrame]:
        """Decoded frames in order of display. Packets that cannot be decoded are left out, and counted."""
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError):  # the file breaks off: what the decoder holds is still to come
                self.damaged += 1
                packet = None
            try:
                for frame in self.stream.decode(packet):
                    self.damaged += frame.is_corrupt
                    yield frame
            except EOFError:
                return
            except av.FFmpegError:
                self.damaged += 1
            if packet is None:
                return

    def seek(self, stamp: int) -> None:
        self.container.seek(stamp, stream=self.stream)

    def close(self) -> None:
        self.container.close()
        self._file.close()


def checksum(frame: VideoFrame) -> int:
    """Of every fourth row of the first plane: sees each kind of wrong frame, and costs little."""
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, abs(plane.line_size))
    used = plane.width * max(1, frame.format.components[0].bits + 7 >> 3)  # the rest of a row is not defined
    return zlib.crc32(np.ascontiguousarray(rows[: plane.height : 4, :used]))


class FileSource:
    """Any file that FFmpeg decodes. Attributes: `num_frames`, `size` (height, width in px), `fps`, `sample_aspect`
    (width to height of a pixel as shown), `clock` (`clock_of`), `color` (`tags`), `notes` (lines for the user), `fault`
    (the one of them that says that frames are missing or wrong), `facts` (what was understood). `on_black`: transparent
    pixels become black.

    Raises StgvError for a file that cannot be decoded.
    """

    on_black = False

    def __init__(self, path: Path):
        self.path = path
        self._pass: Pass | None = None  # opened by `read`
        self._next = 0  # frame that it gives next
        self._jumps, self._jumped = True, False  # whether jumps are exact so far; whether `_pass` began with one
        self._threads = min(THREADS, os.cpu_count() or 1)
        self._convert = Converter()
        self._scan()
        if self._damaged:  # what decoders put there depends on threads, and on the frames before
            self._threads, self._jumps = 1, False
            self._scan()

    def _scan(self) -> None:
        scan = Pass(self.path, self._threads)
        try:
            self._count(scan)
        finally:
            scan.close()
        self._damaged = scan.damaged

    def _count(self, scan: Pass) -> None:
        path, stream = self.path, scan.stream
        self._stamps, self._keys, self._sums = [], [], []
        first, interlaced, sizes, shown = None, False, set(), 0
        for frame in scan.frames():
            if first is None:
                first, self.size = frame, self._rgb(frame).shape[:2]
            if frame.key_frame or not self._sums:
                self._keys.append(len(self._sums))
            self._stamps.append(frame.pts)
            self._sums.append(checksum(frame))
            sizes.add((frame.width, frame.height))
            shown = frame.duration
            interlaced |= frame.interlaced_frame
        self.num_frames, codec = len(self._sums), stream.codec_context.codec.canonical_name
        if not self.num_frames:
            encrypted = "encrypted" if stream.codec_tag.startswith(("enc", "drm")) else "encrypted or incomplete"
            raise StgvError(
                f"{path} has no frame that can be decoded (format {scan.container.format.name}, codec {codec}): "
                f"is the file {encrypted}?"
            )
        self.fps, notes = frame_rate(stream.guessed_rate, self._stamps, stream.time_base)
        self.clock = clock_of(stream.time_base, self._stamps, shown)
        if self.clock and not is_even(*self.clock) and packed(*self.clock) is None:
            notes.append("its time stamps are too irregular to be kept in a model: it is rendered at even times")
        turned = turn(first)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        self.sample_aspect = 1 / aspect if turned and turned[0] else aspect
        colours, self.color = colour(first), tags(first)
        self.notes = tuple(notes + self._warnings(scan, first, interlaced, sizes, colours))
        ignored = [f"{s.type} track {s.index}" for s in scan.container.streams if s is not stream]
        self.facts = {
            "format": scan.container.format.long_name,
            "codec": codec,
            "pixel_format": first.format.name,
            **colours,
            "rotation": TURNS[turned],
            "interlaced": "yes" if interlaced else "no",
            "ignored": ignored,
        }

    def _warnings(self, scan: Pass, first: VideoFrame, interlaced: bool, sizes: set, colours: dict) -> list[str]:
        """What a user should be told about the file."""
        stream, notes = scan.stream, []
        if scan.others:
            left = ", ".join(f"{s.index} ({s.width}x{s.height})" for s in scan.others if s.codec_context)
            notes.append(
                f"{len(scan.others) + 1} video tracks: track {stream.index} ({stream.width}x{stream.height}) is read, "
                f"the largest; left out: {left or 'unknown codecs'}"
            )
        self.fault = self._cut_short(scan)
        if scan.damaged and not self.fault:
            self.fault = f"the file is damaged: {scan.damaged} frames are wrong or left out of {self.num_frames}"
        if self.fault:
            notes.append(self.fault)
        if colours["transfer"] in HDR.values():
            notes.append(f"HDR ({colours['transfer']}): frames are not tone-mapped, and look flat on a usual screen")
        if interlaced:
            notes.append("interlaced: both fields of a frame are woven, not deinterlaced")
        if len(sizes) > 1:
            notes.append(f"the size changes in the video: all frames are resized to {self.size[1]}x{self.size[0]}")
        if any(part.is_alpha for part in first.format.components) and scan.container.format.name != "gif":
            notes.append("transparency is ignored")
        if turn(first) is None:
            notes.append("the display matrix turns by no multiple of 90 degrees: frames are not turned")
        return notes

    def _cut_short(self, scan: Pass) -> str | None:
        """A note where fewer frames came than the header promises."""
        stream, container, last = scan.stream, scan.container, self._stamps[-1]
        if last is None:
            return None
        name, start = container.format.name, stream.start_time or 0
        seconds = float((last - start) * stream.time_base) + 1.5 / self.fps
        # Edit lists shorten the duration too. FFmpeg shortens AVI's by the size of the file.
        length = stream.frames if name == "avi" else stream.duration or 0
        if stream.frames > self.num_frames and seconds < length * stream.time_base:
            return f"the header says {stream.frames} frames, {self.num_frames} can be decoded"
        if name == "asf" and not container.duration:  # FFmpeg drops it where the header's file size is another one
            return f"the header's length does not fit the file: its end may be missing after {self.num_frames} frames"
        promised = (container.duration or 0) / av.time_base  # of all tracks; some count from 0, not from the start
        if name in LENGTHS and seconds + max(0, start * stream.time_base) < 0.95 * promised:
            return f"the header says {promised:.4g} s, {self.num_frames / self.fps:.4g} s of video can be decoded"
        return None

    def _rgb(self, frame: VideoFrame) -> np.ndarray:
        try:
            return self._convert(frame, self.on_black)
        except StgvError as error:
            raise StgvError(f"{self.path}: {error}; {convert_hint(self.path, '-vf zscale=matrix=709 ')}") from error
        except (av.FFmpegError, ValueError) as error:
            raise StgvError(
                f"{self.path}: pixel format {frame.format.name} cannot be converted to RGB ({reason(error)}); "
                f"{convert_hint(self.path, '-pix_fmt yuv444p ')}"
            ) from error

    def read(self, indices: list[int]) -> list[np.ndarray]:
        frames = []
        for index in indices:
            rgb = self._rgb(self._frame(index))
            if rgb.shape[:2] != self.size:
                rgb = resize(rgb, self.size)
            frames.append(rgb)
        return frames

    def _frame(self, index: int) -> VideoFrame:
        at = bisect.bisect_right(self._keys, index) - 1  # the key frame before
        if self._pass is None or index < self._next or (self._jumps and self._keys[at] - self._next > FAR):
            self._go_to(at)
        frame = self._advance(index)
        if self._jumped and (frame is None or checksum(frame) != self._sums[index]):
            self._jumps = False
            self._go_to(0)
            frame = self._advance(index)
        if frame is None:
            self._go_to(0)
            raise StgvError(f"{self.path}: frame {index} cannot be decoded; the file changed since it was opened")
        return frame

    def _go_to(self, at: int) -> None:
        """To key frame number `at` or some frames before it; to the start where the file has no index for that."""
        key = self._keys[at] if self._jumps and at > 0 else 0
        for earlier in (0, 1, 3) if key else ():  # MPEG-TS lands a little late
            try:
                self._pass = self._pass or Pass(self.path, self._threads)
                self._pass.seek(self._stamps[self._keys[max(0, at - earlier)]])
                self._frames = self._pass.frames()
                first = next(self._frames)
                self._next = self._stamps.index(first.pts, 0, key + 1)
                self._frames, self._jumped = itertools.chain([first], self._frames), True
                return
            except (av.FFmpegError, OSError, TypeError, ValueError, StopIteration):
                continue
        self._jumps &= not key
        if self._pass is not None:
            self._pass.close()
        self._pass = Pass(self.path, self._threads)
        self._frames, self._next, self._jumped = self._pass.frames(), 0, False

    def _advance(self, index: int) -> VideoFrame | None:
        """Frame `index`, which is the next one or comes after it."""
        for frame in self._frames:
            self._next += 1
            if self._next > index:
                return frame
        return None
