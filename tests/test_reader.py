"""What the reader makes of videos from the field: each case that gave wrong pixels, times, crashes or messages.

| case | reported as | test |
|---|---|---|
| header says 1000 or 60000 frames/s | B: believed | test_frame_rate_from_time_stamps |
| below 0.0005 frames/s | B: 24 | test_slow_rates |
| variable frame rate, lost frames | stays right | test_variable_rates_and_gaps, test_times_that_are_not_even |
| truncated mp4 (index in front), mkv, FLV, ASF, AVI, MXF | B: short without a word | test_a_truncated_... |
| y4m: 4:4:4, 4:2:2, 4:1:1, mono, 10 bits, full range | stays right | test_kinds_of_y4m |
| fragmented mp4, APNG, links | stays right | test_containers |
| not UTF-8, Cyrillic under LC_ALL=C, a colon | C, FAULTS 11: crash | test_any_name |
| AV1, animated WebP | D: "is the file complete?" | test_codecs, test_files_that_are_refused |
| pipe, empty, text, playlist, encrypted, audio | D: wrong reason | test_files_that_are_refused |
| sample aspect ratio | E: lost | test_sample_aspect |
| two video tracks | E: the first, a preview | test_the_largest_track_is_read |
| size or pixel format changes, cover art, GIF, cut y4m, edit list | stays right | test_what_was_right_stays |
| jumps back and forward; memory | (ours) | test_any_order_gives_the_same_frames, test_frames_are_not_held |

Colours, orientation and interlaced frames are in test_pixels.py.
"""

import gc
import json
import os
import subprocess
import sys
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from clips import encode, refusal, rgb_of, scene

from stgvlib.video import file_source
from stgvlib.video.timing import is_even, packed, unpacked
from stgvlib.video.video import open_video, video_of


@pytest.mark.parametrize("header, step, rate", [(1000, 33, 30.303), (1000, 40, 25), (24, 40, 25), (1000, 42, 23.8095)])
def test_frame_rate_from_time_stamps(tmp_path, header, step, rate):
    encode(tmp_path / "a.mkv", scene(), "libvpx-vp9", rate=header, stamps=[step * i for i in range(12)])
    video = open_video(tmp_path / "a.mkv")
    assert video.fps == pytest.approx(rate, rel=1e-5) and video.num_frames == 12
    assert video.notes == (f"the header says {header} frames/s, the time stamps {rate:g}",)


def test_a_header_of_60000_frames_a_second(tmp_path):
    """As DV in a mov has it: the time base taken for a rate."""
    encode(tmp_path / "a.mov", scene(), "mpeg4", rate=60000, stamps=[40 * i for i in range(12)])
    assert open_video(tmp_path / "a.mov").fps == 25


def test_rounded_time_stamps_are_a_standard_rate(tmp_path):
    """Matroska's 1 ms: 29.97 frames/s stay what they are, with a wrong header too."""
    stamps = [round(i * 1001 / 30) for i in range(60)]
    encode(tmp_path / "a.mkv", scene(60), rate=500, stamps=stamps)
    assert open_video(tmp_path / "a.mkv").fps == 30000 / 1001
    encode(tmp_path / "b.mkv", scene(2), rate=Fraction(24000, 1001))
    video = open_video(tmp_path / "b.mkv")
    assert video.fps == 24000 / 1001 and video.notes == ()


def test_slow_rates(tmp_path):
    encode(tmp_path / "a.mp4", scene(3), rate=Fraction(1, 4000))
    assert open_video(tmp_path / "a.mp4").fps == 1 / 4000


def test_variable_rates_and_gaps(tmp_path):
    """Of a variable rate the mean counts; a few lost frames do not change the rate."""
    encode(tmp_path / "a.mkv", scene(), stamps=[i * i * 10 for i in range(12)])
    video = open_video(tmp_path / "a.mkv")
    assert video.fps == pytest.approx(11 / 1.21) and "variable frame rate (0.01 to 0.21 s a frame)" in video.notes[0]
    encode(tmp_path / "b.mkv", scene(), stamps=[40 * i + (400 if i > 5 else 0) for i in range(12)])
    video = open_video(tmp_path / "b.mkv")
    assert video.fps == 25 and "variable frame rate (0.04 to 0.44 s a frame)" in video.notes[0]


def test_times_that_are_not_even(tmp_path):
    """They are known of each frame that is seen, in memory too; a tick, or a tenth of a frame, is no unevenness."""
    stamps = [0, 40, 80, 120, 320, 360, 400, 440]
    encode(tmp_path / "a.mkv", scene(8), stamps=stamps)
    video = open_video(tmp_path / "a.mkv")
    assert video.hints()["durations"] == {"tick": [1, 25], "runs": [3, 1, 1, 5, 4, 1]}
    assert video.in_memory().hints() == video.hints()
    assert "durations" not in video.with_(limit=3).hints()
    assert video.with_(limit=5).hints()["durations"]["runs"] == [3, 1, 1, 5, 1, 1]
    assert video.with_(stride=2).hints()["durations"] == {"tick": [2, 25], "runs": [1, 1, 1, 3, 2, 1]}
    assert video.with_(stride=3, limit=2).hints()["durations"]["runs"] == [1, 3, 1, 7], "the last frame is held"
    assert is_even(Fraction(1, 12_800), range(0, 7000, 512))
    assert not is_even(Fraction(1, 12_800), [*range(0, 6145, 512), 70_144]), "the last frame is held"
    assert not is_even(Fraction(1, 25), np.cumsum([0, *([1, 1, 1, 2] * 10)])), "a tick is as long as a frame"
    for stamps in ([33, 67, 100, 133, 167, 200, 233, 267], [2, 41, 79, 120, 162, 201, 238, 280]):
        encode(tmp_path / "even.mkv", scene(8), stamps=stamps)
        assert "durations" not in open_video(tmp_path / "even.mkv").hints()


def test_times_take_few_bytes():
    draw = np.random.default_rng(0)
    times = np.cumsum(np.append(0, draw.integers(1000, 9000, 2000)))  # of 1/90,000 s
    exact = packed(Fraction(1, 90_000), times)
    assert np.array_equal(unpacked(exact)[1], times)
    many = np.cumsum(np.append(0, draw.choice([3000, 3003, 3010, 6000], 6500)))
    rounded = packed(Fraction(1, 90_000), many)
    tick, found = unpacked(rounded)
    assert tick == Fraction(1, 1000) and np.abs(found - many / 90).max() <= 0.5
    assert packed(Fraction(1, 90_000), np.cumsum(draw.integers(1000, 9000, 9000))) is None
    assert packed(Fraction(1, 10**9), [0, 10, 3 * 10**9 + 1]) is None  # 10 ns and 3 s


def test_a_truncated_file_is_noted(tmp_path):
    whole = encode(tmp_path / "a.mp4", scene(), muxer={"movflags": "faststart"}, g="1", bf="0", crf="1")
    assert open_video(whole).notes == ()
    data = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    video = open_video(tmp_path / "cut.mp4")
    assert 0 < video.num_frames < 12 and np.array_equal(video.read(), open_video(whole).read(0, video.num_frames))
    assert video.notes == (f"the header says 12 frames, {video.num_frames} can be decoded",)


@pytest.mark.parametrize(
    "name, codec",
    [("a.mkv", "libx264"), ("a.flv", "flv"), ("a.avi", "mpeg4"), ("a.mxf", "mpeg2video"), ("a.wmv", "wmv2")],
)
def test_a_truncated_file_of_other_containers_is_noted(tmp_path, name, codec):
    """Headers have a duration, AVI's a count; FFmpeg takes ASF's away where it does not fit the file."""
    frames = np.random.default_rng(0).integers(0, 256, (50, 48, 64, 3), np.uint8)
    whole = encode(tmp_path / name, list(frames), codec, g="5", bf="0")
    assert open_video(whole).notes == () and open_video(whole).num_frames == 50
    data = whole.read_bytes()
    (tmp_path / f"cut_{name}").write_bytes(data[: len(data) * 6 // 10])
    video = open_video(tmp_path / f"cut_{name}")
    found = f"{video.num_frames / 25:.4g} s of video can be decoded"
    said = {"a.avi": f"the header says 50 frames, {video.num_frames} can be decoded"}
    said["a.wmv"] = f"the header's length does not fit the file: its end may be missing after {video.num_frames} frames"
    assert 0 < video.num_frames < 45 and video.notes == (said.get(name, f"the header says 2 s, {found}"),)
    assert video.source.fault == video.notes[0]


@pytest.mark.parametrize(
    "kind, chroma, bits",
    [
        ("444", (48, 64), 8),
        ("422", (48, 32), 8),
        ("411", (48, 16), 8),
        ("mono", None, 8),
        ("420p10", (24, 32), 10),
        ("420jpeg XCOLORRANGE=FULL", (24, 32), 8),
    ],
)
def test_kinds_of_y4m(tmp_path, kind, chroma, bits):
    values, kept = (np.array([81, 90, 200]) << (bits - 8)), "<u2" if bits == 10 else np.uint8
    shapes = [(48, 64), *([chroma, chroma] if chroma else [])]
    planes = b"".join(np.full(shape, value, kept).tobytes() for shape, value in zip(shapes, values))
    header = f"YUV4MPEG2 W64 H48 F25:1 Ip A1:1 C{kind}\n".encode()
    (tmp_path / "a.y4m").write_bytes(header + (b"FRAME\n" + planes) * 3)
    video = open_video(tmp_path / "a.y4m")
    expected = rgb_of(values, full="FULL" in kind, bits=bits) if chroma else np.full(3, 81)
    assert video.num_frames == 3 and np.abs(video.read() - expected).max() <= 2
    assert video.about()["range"] == ("full" if "FULL" in kind or not chroma else "limited") and video.notes == ()


@pytest.mark.parametrize(
    "name, codec, pix_fmt, muxer",
    [("a.mp4", "libx264", "yuv420p", {"movflags": "frag_keyframe+empty_moov"}), ("a.apng", "apng", "rgb24", {})],
)
def test_containers(tmp_path, name, codec, pix_fmt, muxer):
    frames = scene(12)
    (tmp_path / f"link_{name}").symlink_to(encode(tmp_path / name, frames, codec, pix_fmt, muxer=muxer, g="5"))
    for video in (open_video(tmp_path / name), open_video(tmp_path / f"link_{name}")):
        difference = np.abs(video.read().astype(int) - frames).mean()
        assert (video.num_frames, video.fps, video.notes) == (12, 25, ())
        assert difference <= (6 if codec == "libx264" else 0)  # chroma is subsampled


@pytest.mark.parametrize(
    "name", [b"caf\xe9.mp4", "фильм.mp4".encode(), b"10:30.mp4", b"a%03d[1].mp4", b"-x.mp4"], ids=ascii
)
def test_any_name(tmp_path, name):
    """Read by a relative name, in another process, under a locale without such letters."""
    os.rename(encode(tmp_path / "a.mp4", scene(3)), os.path.join(os.fsencode(tmp_path), name))
    code = (
        "import os; from stgvlib import open_video as o; [print(o(os.listdir(x)[0]).read().shape) for x in ('.', b'.')]"
    )
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ran.stdout == "(3, 48, 64, 3)\n" * 2, ran.stderr


@pytest.mark.parametrize("codec, name", [("libsvtav1", "a.mp4"), ("libsvtav1", "a.webm"), ("libvpx-vp9", "a.webm")])
def test_codecs(tmp_path, codec, name):
    frames = scene(8)
    video = open_video(encode(tmp_path / name, frames, codec, crf="10"))
    assert video.num_frames == 8 and np.abs(video.read().astype(int) - frames).mean() < 6


@pytest.mark.parametrize(
    "name, options", [("a.mp4", {}), ("a.ts", {}), ("a.mkv", {"x264_params": "open-gop=1"}), ("a.h264", {})]
)
def test_any_order_gives_the_same_frames(tmp_path, name, options):
    path = encode(tmp_path / name, scene(60), g="12", **options)
    frames, video = open_video(path).read(), open_video(path)
    assert len(frames) == 60
    for index in (50, 3, 0, 59, 30, 31, 12, 11, 48):
        assert np.array_equal(video.read(index, index + 1)[0], frames[index])
    assert np.array_equal(video.with_(stride=7).read(), frames[::7])


def test_a_jump_that_is_not_exact_is_undone(tmp_path):
    path = encode(tmp_path / "a.mkv", scene(60), g="12", bf="0")
    frames, video = open_video(path).read(), open_video(path)
    keys, stamps = video.source._keys, video.source._stamps
    assert keys[:4] == [0, 12, 24, 36]
    stamps[24], stamps[36] = stamps[36], stamps[24]  # as an index that points to another key frame
    assert np.array_equal(video.read(40, 41)[0], frames[40])


def test_frames_are_not_held(tmp_path):
    """Without the garbage collector, which may come late, decoded frames do not add up."""
    video = open_video(encode(tmp_path / "a.mp4", scene(30), prepare=lambda stream: stream.set_display_rotation(90)))
    gc.collect()
    gc.disable()
    try:
        before = sum(type(thing) is av.VideoFrame for thing in gc.get_objects())  # other tests' too
        assert sum(1 for _ in video) == 30
        assert sum(type(thing) is av.VideoFrame for thing in gc.get_objects()) - before <= 5
    finally:
        gc.enable()


def test_the_largest_track_is_read(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        streams = [file.add_stream("libx264", rate=25) for _ in range(3)]
        for stream, (width, height) in zip(streams, [(32, 20), (64, 48), (48, 32)]):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for stream in streams:
            for frame in scene(4, stream.height, stream.width):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        for stream in streams:
            file.mux(stream.encode())
    video = open_video(tmp_path / "a.mkv")
    assert video.size == (48, 64) and video.num_frames == 4
    assert video.notes == ("3 video tracks: track 1 (64x48) is read, the largest; left out: 0 (32x20), 2 (48x32)",)
    assert video.about()["ignored"] == ["video track 0", "video track 2"]


def test_sample_aspect(tmp_path):
    def prepare(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)

    video = open_video(encode(tmp_path / "a.mp4", scene(2), prepare=prepare))
    assert video.sample_aspect == Fraction(16, 11) and video.about()["sample_aspect"] == "16:11"
    assert video.with_(resize=(24, 32)).sample_aspect == Fraction(16, 11)
    assert video.with_(resize=(38, 51)).sample_aspect == Fraction(16, 11)  # sides are rounded
    assert video.with_(resize=(48, 93)).sample_aspect == Fraction(16, 11) * Fraction(64, 93)  # nearly square pixels
    assert video.with_(crop=(0, 24)).sample_aspect == Fraction(16, 11)
    assert video.with_(resize=(48, 32)).in_memory().sample_aspect == Fraction(32, 11)
    assert video_of(np.zeros((1, 4, 4, 3), np.uint8)).sample_aspect == 1


def test_about_is_json(tmp_path):
    video = open_video(encode(tmp_path / "a.mp4", scene(4))).with_(stride=2, resize=(24, 32))
    about = json.loads(json.dumps(video.about()))
    expected = {"format": "QuickTime / MOV", "codec": "h264", "pixel_format": "yuv420p", "width": 32, "height": 24}
    expected |= {"sample_aspect": "1:1", "frames": 2, "fps": 12.5, "seconds": 0.16, "range": "limited", "notes": []}
    expected |= {"matrix": "BT.601 (not tagged)", "primaries": "not tagged", "transfer": "not tagged"}
    expected |= {"rotation": "none", "interlaced": "no"}
    assert about == expected | {"ignored": []}


def test_what_was_right_stays(tmp_path):
    small, large = scene(4, 32, 48), scene(4)
    data = [encode(tmp_path / f"{i}.h264", frames).read_bytes() for i, frames in enumerate((large, small))]
    (tmp_path / "size.h264").write_bytes(b"".join(data))
    video = open_video(tmp_path / "size.h264")
    assert video.num_frames == 8 and video.size == (48, 64)
    assert video.notes == ("the size changes in the video: all frames are resized to 64x48",)
    resized = [cv2.resize(frame, (64, 48), interpolation=cv2.INTER_CUBIC) for frame in small]
    assert np.abs(video.read().astype(int) - [*large, *resized]).mean() < 8

    other = encode(tmp_path / "2.h264", large, pix_fmt="yuv444p").read_bytes()
    (tmp_path / "format.h264").write_bytes(data[0] + other)
    assert np.abs(open_video(tmp_path / "format.h264").read().astype(int) - [*large, *large]).mean() < 8

    planes = bytes([180]) * (64 * 48) + bytes([128]) * (64 * 24)
    whole = b"YUV4MPEG2 W64 H48 F30000:1001 Ip A1:1 C420jpeg\n" + (b"FRAME\n" + planes) * 3
    (tmp_path / "cut.y4m").write_bytes(whole[:-100])
    video = open_video(tmp_path / "cut.y4m")
    assert video.num_frames == 2 and video.fps == 30000 / 1001 and np.unique(video.read()).tolist() == [190]

    flat = [np.full((48, 64, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    video = open_video(encode(tmp_path / "a.gif", flat, "gif", "rgb8"))
    assert np.abs(video.read().astype(int) - flat).mean() < 6 and video.notes == ()


def test_files_that_are_refused(tmp_path):
    def write(name, data):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    film = encode(tmp_path / "a.mp4", scene(4))
    encode(tmp_path / "a.webp", scene(3), "libwebp_anim", "bgra")
    with av.open(str(tmp_path / "a.wav"), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        file.mux(stream.encode(sound))
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").write_bytes(b"0")
    picture = encode(tmp_path / "one.webp", scene(1), "libwebp", "bgra").read_bytes()
    assert open_video(tmp_path / "one.webp").num_frames == 1
    assert "complete" in refusal(write("cut.webp", picture[:40]))
    assert "animated WebP, which FFmpeg cannot decode; make a folder of PNGs" in refusal(tmp_path / "a.webp")
    assert "pipe.mp4 is a pipe or device; expected a file" in refusal(tmp_path / "pipe.mp4")
    assert "empty.mp4 is empty (0 bytes)" in refusal(write("empty.mp4", b""))
    assert "no video track (format wav: audio)" in refusal(tmp_path / "a.wav")
    assert "a.txt is not a video (format tty)" in refusal(write("a.txt", b"some words\n" * 99))
    assert "is not a video that can be decoded" in refusal(write("b.mp4", film.read_bytes()[:200]))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{film}\n#EXT-X-ENDLIST\n".encode()
    assert "is not a video that can be decoded" in refusal(write("list.m3u8", playlist))
    assert "films holds no PNG or JPEG frames but 1 .mp4" in refusal(tmp_path / "films")
    assert "does not exist; expected a video file or a folder" in refusal(tmp_path / "none" / "a.mp4")
    assert "cannot be opened: File name too long" in refusal(tmp_path / ("x" * 300))
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "76" * 16, "encryption_kid": "a7" * 16}
    assert "encrypted" in refusal(encode(tmp_path / "c.mp4", scene(4), muxer=key))
    assert "encrypted" in refusal(write("d.mp4", film.read_bytes().replace(b"avc1", b"encv")))


def test_side_data_of_a_kind_that_pyav_does_not_know(tmp_path):
    """A TIFF carries EXIF, which PyAV cannot name: it is read all the same."""
    picture = scene(1)[0]
    cv2.imwrite(str(tmp_path / "a.tif"), picture[..., ::-1])
    assert np.array_equal(open_video(tmp_path / "a.tif").read()[0], picture)


def test_what_a_file_holds_besides(tmp_path):
    """Cover art is no video; an edit list that leaves frames out is no truncation."""
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        film, cover = file.add_stream("libx264", rate=25), file.add_stream("mjpeg", rate=1)
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        film.options = {"bf": "0"}
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 300, 300, "yuvj420p", 1 << 10
        for frame in scene(12):
            file.mux(film.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(cover.encode(av.VideoFrame.from_ndarray(scene(1, 300, 300)[0], format="rgb24")))
        for stream in (film, cover):
            file.mux(stream.encode())
    video = open_video(tmp_path / "a.mp4")
    assert video.size == (48, 64) and video.num_frames == 12 and video.notes == ()
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    at = data.find(b"elst") + 12  # of the film's one entry: duration in 1/1000 s, start in 1/12800 s
    assert data[at : at + 8] == (480).to_bytes(4) + bytes(4)
    data[at : at + 8] = (240).to_bytes(4) + (3 * 512).to_bytes(4)
    (tmp_path / "b.mp4").write_bytes(data)
    shown = open_video(tmp_path / "b.mp4")
    assert np.array_equal(shown.read(), video.read(3, 9)) and shown.notes == ()


def test_the_decoder_s_threads_are_few(tmp_path, monkeypatch):
    """Each thread holds a frame more: on a machine of many cores too."""
    monkeypatch.setattr(file_source.os, "cpu_count", lambda: 128)
    video = open_video(encode(tmp_path / "a.mp4", scene(2)))
    assert video.read().shape[0] == 2 and video.source._pass.stream.codec_context.thread_count <= 4
