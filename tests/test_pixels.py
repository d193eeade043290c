"""Colours, orientation and fields of video files: values from the formulas of the standards.

| case | reported as | test |
|---|---|---|
| interlaced y4m, H.264, MPEG-2 | A: noise, stale memory | test_interlaced_frames_are_woven, test_interlaced_y4m |
| display matrix: rotations and mirrors | A: turned by 180 degrees, or ignored | test_frames_are_shown_upright |
| BT.601, 709, 2020, SMPTE 240M; range; 10 bit | A: BT.601 for all | test_matrix_and_range_are_those_tagged |
| HDR (PQ, HLG) | A: nothing said | test_hdr_is_noted |
"""

import hashlib
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from clips import encode, frame_of, refusal, rgb_of, scene

from stgvlib.video.pixels import Converter, resize
from stgvlib.video.video import open_video


def colours(height=48, width=64):
    """Code values of 8 bits, [H, W, 3]: 2 x 4 blocks from dark to bright, grey, and of strong colours."""
    blocks = [[(40, 128, 128), (126, 128, 128), (210, 128, 128), (81, 90, 240)]]
    blocks += [[(145, 54, 34), (41, 240, 110), (120, 150, 100), (100, 110, 160)]]
    return np.kron(np.array(blocks), np.ones((height // 2, width // 4, 1), int))


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv444p10le"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 2, 6, 7, 9])
def test_matrix_and_range_are_those_tagged(tmp_path, matrix, full, pix_fmt):
    bits = 10 if pix_fmt.endswith("10le") else 8
    yuv = colours() * 2 ** (bits - 8)
    planes = np.moveaxis(yuv, -1, 0).astype("<u2" if bits == 10 else np.uint8).tobytes()

    def tag(stream):
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full else 1

    encode(tmp_path / "a.mkv", [frame_of(planes, pix_fmt, 64, 48)], "ffv1", pix_fmt, prepare=tag)
    video = open_video(tmp_path / "a.mkv")
    assert np.abs(video.read()[0] - rgb_of(yuv, matrix, full, bits)).max() <= 1
    about = video.about()
    names = {1: "BT.709", 2: "BT.601 (not tagged)", 6: "BT.601", 7: "SMPTE 240M", 9: "BT.2020"}
    assert (about["matrix"], about["range"]) == (names[matrix], "full" if full else "limited")


@pytest.mark.parametrize("height", [48, 47])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "nv12"])
def test_subsampled_colours(tmp_path, pix_fmt, height):
    """8 bits through the fast path (even heights) and the other: the middle of each block has its colour."""
    yuv, down = colours()[:height], 1 if pix_fmt == "yuv422p" else 2
    chroma = yuv[::down, ::2, 1:].astype(np.uint8)
    chroma = chroma.tobytes() if pix_fmt == "nv12" else np.moveaxis(chroma, -1, 0).tobytes()
    frame = frame_of(yuv[..., 0].astype(np.uint8).tobytes() + chroma, pix_fmt, 64, height)
    encode(tmp_path / "a.mkv", [frame], "rawvideo", pix_fmt)
    difference = np.abs(open_video(tmp_path / "a.mkv").read()[0] - rgb_of(yuv))
    assert max(difference[r : r + 12, c : c + 8].max() for r in (6, 30) for c in (4, 20, 36, 52)) <= 3


def test_a_matrix_that_is_unknown_is_refused(tmp_path):
    def tag(stream):
        stream.codec_context.colorspace = 8  # YCgCo

    encode(tmp_path / "a.mkv", scene(2), "ffv1", "yuv444p", prepare=tag)
    assert "matrix (number 8 of ITU-T H.273) is not supported; convert it: ffmpeg -i a.mkv -vf zscale" in refusal(
        tmp_path / "a.mkv"
    )


@pytest.mark.parametrize("transfer, name", [(16, "PQ"), (18, "HLG")])
def test_hdr_is_noted(tmp_path, transfer, name):
    """BT.2020 red of 10 bits is red, not (255, 65, 43)."""
    red = np.full((48, 64, 3), [294, 387, 960], int)
    planes = red[..., 0].astype("<u2").tobytes() + np.moveaxis(red[::2, ::2, 1:], -1, 0).astype("<u2").tobytes()

    def tag(stream):
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries, context.color_range = 9, transfer, 9, 1

    frames = [frame_of(planes, "yuv420p10le", 64, 48) for _ in range(2)]
    video = open_video(encode(tmp_path / "a.mkv", frames, "ffv1", "yuv420p10le", prepare=tag))
    assert rgb_of(red[0, 0], 9, False, 10).tolist() == [255, 0, 0]
    assert np.abs(video.read() - rgb_of(red, 9, False, 10)).max() <= 1
    assert [note.startswith(f"HDR ({name}): frames are not tone-mapped") for note in video.notes] == [True]
    assert video.about()["transfer"] == name and video.about()["matrix"] == "BT.2020"


@pytest.mark.parametrize("codec, name", [("libx264", "a.mp4"), ("mpeg2video", "a.mpg"), ("prores_ks", "a.mov")])
def test_interlaced_frames_are_woven(tmp_path, codec, name):
    """Even rows from one field, odd rows from the other: as they are, and the same at each opening."""
    luma = np.full((48, 64), 180, np.uint8)
    luma[1::2] = 60
    planes = luma.tobytes() + bytes([128]) * (48 * 32)
    options = {"x264_params": "tff=1:qp=1"} if codec == "libx264" else {"flags": "+ildct+ilme", "qmin": "1"}
    options |= {} if codec != "prores_ks" else {"qmin": "2"}
    form = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
    path = encode(tmp_path / name, [frame_of(planes, "yuv420p", 64, 48) for _ in range(4)], codec, form, **options)
    video = open_video(path)
    expected = rgb_of(np.stack([luma, luma * 0 + 128, luma * 0 + 128], -1))
    assert video.num_frames == 4 and np.abs(video.read() - expected).max() <= 8
    assert video.notes == ("interlaced: both fields of a frame are woven, not deinterlaced",)
    assert video.about()["interlaced"] == "yes" and np.array_equal(open_video(path).read(), video.read())


@pytest.mark.parametrize("width, height", [(64, 48), (64, 46), (7, 47), (64, 2), (5, 1)])
def test_interlaced_y4m(tmp_path, width, height):
    """Constant Y 180 is grey 190.96, at heights too that fields do not share evenly."""
    planes = bytes([180]) * (width * height) + bytes([128]) * (2 * -(-width // 2) * -(-height // 2))
    header = f"YUV4MPEG2 W{width} H{height} F25:1 It A1:1 C420jpeg\n".encode()
    (tmp_path / "a.y4m").write_bytes(header + (b"FRAME\n" + planes) * 3)
    video = open_video(tmp_path / "a.y4m")
    assert video.num_frames == 3 and set(np.unique(video.read())) <= {190, 191}
    assert video.notes == ("interlaced: both fields of a frame are woven, not deinterlaced",)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_frames_are_shown_upright(tmp_path, degrees, mirror):
    """Turned counter-clockwise, then mirrored left to right: all eight orientations."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = (200, 30, 30), (30, 200, 30), (30, 30, 200)

    def prepare(stream):
        stream.set_display_rotation(degrees, hflip=mirror)
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    encode(tmp_path / "a.mp4", [picture] * 2, prepare=prepare, crf="1")
    expected = np.rot90(picture, degrees // 90)
    expected = expected[:, ::-1] if mirror else expected
    video = open_video(tmp_path / "a.mp4")
    assert video.size == expected.shape[:2]
    assert np.median(np.abs(video.read()[1].astype(int) - expected)) <= 3  # chroma is subsampled
    assert video.sample_aspect == (Fraction(3, 4) if degrees in (90, 270) else Fraction(4, 3))
    assert (video.about()["rotation"] == "none") == (degrees == 0 and not mirror)


def test_a_mirror_in_mid_stream(tmp_path):
    """Each frame is shown by its own display matrix, in HEVC's or H.264's SEI: here two files, one after the other."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32] = 200
    convert = Converter()
    for mirror in (False, True, False):
        path = encode(tmp_path / "a.mp4", [picture], prepare=lambda s, m=mirror: s.set_display_rotation(0, hflip=m))
        with av.open(str(path)) as file:
            shown = convert(next(file.decode(video=0)))
        assert (shown[:, :28].mean() > 150) == (not mirror) and (shown[:, 36:].mean() > 150) == mirror


def test_bicubic_is_not_intel_s():
    """OpenCV 4.10's and 5.0's Intel primitives round differently; the plain code is one, and the switch is put back."""
    picture, used = np.random.default_rng(0).integers(0, 256, (72, 128, 3), dtype=np.uint8), cv2.ipp.useIPP()
    found = resize(picture, (108, 192))
    assert cv2.ipp.useIPP() == used
    cv2.ipp.setUseIPP(False)
    try:
        assert np.array_equal(found, cv2.resize(picture, (192, 108), interpolation=cv2.INTER_CUBIC))
        assert hashlib.sha256(found).hexdigest()[:16] == "0a72ad38cde36c89"
    finally:
        cv2.ipp.setUseIPP(used)


def test_an_angle_that_is_not_right_is_noted(tmp_path):
    encode(tmp_path / "a.mp4", scene(2), prepare=lambda stream: stream.set_display_rotation(30))
    video = open_video(tmp_path / "a.mp4")
    assert video.size == (48, 64) and "no multiple of 90 degrees" in video.notes[0]
