"""Raw yuv files, read as their names say, and folders of pictures: each case that gave wrong pixels or crashes.

| case | reported as | test |
|---|---|---|
| raw 10 bits, 4:2:2, 4:4:4, nv12, grey; _120fps_ | A, B: 8-bit 4:2:0 | test_raw_files_are_read_as_named, ..._refused |
| other spellings: 10b, 420_10, i010, argb, 60hz | A: read as 8-bit 4:2:0, 25 frames/s | test_words_of_raw_names |
| cut JPEG or PNG in a folder | A: lower half grey | test_damaged_pictures_are_named |
| names with a leading dot; 1.png beside 1.jpg; 10²1.png | A, C: extra frames, ValueError | test_names_of_pictures |
| EXIF; 16-bit, grey, palette, alpha, 1-bit PNG; CMYK JPEG | stays right | test_exif_orientation, test_kinds_of_png |
| links | stays right | test_links_are_followed |
"""

import base64
import os

import cv2
import numpy as np
import pytest
from clips import refusal, rgb_of

from stgvlib.video.raw_source import layout_of
from stgvlib.video.video import open_video


@pytest.mark.parametrize(
    "name, bits, planes, yuv, fps",
    [
        ("a_8x6_120fps_420_8bit.yuv", 8, [(6, 8), (3, 4), (3, 4)], True, 120),
        ("a_8x6_420_10bit_30fps.yuv", 10, [(6, 8), (3, 4), (3, 4)], True, 30),
        ("a_8x6_yuv422p.yuv", 8, [(6, 8), (6, 4), (6, 4)], True, 25),
        ("a_8x6_yuv422p10le_23.976fps.yuv", 10, [(6, 8), (6, 4), (6, 4)], True, 23.976),
        ("a_7x5_444.yuv", 8, [(5, 7), (5, 7), (5, 7)], True, 25),
        ("a_7x5_p10le.yuv", 10, [(5, 7), (3, 4), (3, 4)], True, 25),
        ("a_8x6_nv12.yuv", 8, [(6, 8), (3, 4, 2)], True, 25),
        ("a_8x6_gray.yuv", 8, [(6, 8)], False, 25),
        ("a_8x6_grey10le.yuv", 10, [(6, 8)], False, 25),
    ],
)
def test_raw_files_are_read_as_named(tmp_path, name, bits, planes, yuv, fps):
    values, kind = (np.array([81, 90, 200]) << (bits - 8)), "<u2" if bits == 10 else np.uint8
    if len(planes) == 2:
        parts = [np.full(planes[0], values[0]), np.full(planes[1], values[1:])]
    else:
        parts = [np.full(shape, value) for shape, value in zip(planes, values)]
    frame = b"".join(part.astype(kind).tobytes() for part in parts)
    (tmp_path / name).write_bytes(frame * 3)
    video = open_video(tmp_path / name)
    assert (video.num_frames, video.size, video.fps) == (3, planes[0][:2], fps)
    expected = rgb_of(values, bits=bits) if yuv else np.full(3, 81)
    assert np.abs(video.read() - expected).max() <= 2


@pytest.mark.parametrize(
    "name, says",
    [
        ("a_8x6_rgb8.yuv", "says rgb8, which is no pixel format that can be read"),
        ("a_8x6_yv12.yuv", "says yv12, which"),
        ("a_8x6_v210.yuv", "says v210, which"),
        ("a_8x6_yaf32.yuv", "says yaf32, which"),  # swscale aborts at it
        ("a_8x6_12bpp.yuv", "says 12bpp, which"),
        ("a_8x6_nv12_10bit.yuv", "says nv12 10bit, which"),
        ("a_8x6_422_420.yuv", "says 422 420, which"),
        ("a_8x6_420_60.yuv", "says 420p60, which"),
        ("a_8x6_0fps.yuv", "says 0 frames/s, expected above 0 and at most 1000; rename it"),
        ("a_8x6_5994_420.yuv", "says 5994 frames/s, expected above 0 and at most 1000; rename it"),
    ],
)
def test_raw_files_are_refused(tmp_path, name, says):
    (tmp_path / name).write_bytes(bytes(8 * 6 * 12))
    message = refusal(tmp_path / name)
    assert says in message
    hint = f"ffmpeg -f rawvideo -pixel_format FORMAT -video_size 8x6 -framerate 25 -i {name} -c:v ffv1"
    assert "frames/s, expected" in message or hint in message


@pytest.mark.parametrize(
    "name, form, fps",
    [
        ("a_10b_8x6", "yuv420p10le", 25),
        ("a_8x6_420_10", "yuv420p10le", 25),
        ("a_8x6_yuv420p_10", "yuv420p10le", 25),
        ("a_8x6_yuv422_10b", "yuv422p10le", 25),
        ("a_8x6_10bpp", "yuv420p10le", 25),
        ("a_8x6_12bit", "yuv420p12le", 25),
        ("a_8x6_yuv420p10be", "yuv420p10be", 25),
        ("a_8x6_i010", "yuv420p10le", 25),
        ("i210_8x6", "yuv422p10le", 25),
        ("a_8x6_y8", "gray", 25),
        ("a_8x6_y16", "gray16le", 25),
        ("a_8x6_y800", "gray", 25),
        ("a_8x6_monochrome", "gray", 25),
        ("a_8x6_argb", "argb", 25),
        ("a_8x6_abgr", "abgr", 25),
        ("a_8x6_rgb565", "rgb565le", 25),
        ("a_8x6_yuy2", "yuyv422", 25),
        ("a_8x6_p010", "p010le", 25),
        ("a_8x6_4_2_2", "yuv422p", 25),
        ("a_8x6_60hz_4-4-4", "yuv444p", 60),
        ("a_59_94fps_8x6", "yuv420p", 59.94),
        ("a_8x6_fps30", "yuv420p", 30),
        ("RaceHorses_832x480_50", "yuv420p", 50),
        ("Nebuta_2560x1600_60_10bit_crop", "yuv420p10le", 60),
        ("a_8x6_50_422_10", "yuv422p10le", 50),
        ("a_8x6p24_yuv420p", "yuv420p", 24),
        ("a_8x6_8_bit", "yuv420p", 25),
        ("clip 10-bit 444 8x6", "yuv444p10le", 25),
        ("gray_mybelle10be_scene422_take5b_x264_v100_cuda_8x6", "yuv420p", 25),  # none of these words says a format
    ],
)
def test_words_of_raw_names(name, form, fps):
    assert layout_of(f"{name}.yuv")[2:4] == (form, fps)


@pytest.mark.parametrize(
    "name, note",
    [
        ("a_8x6", "no rate: 25 frames/s; no format: 8-bit 4:2:0"),
        ("a_8x6_420", "no rate: 25 frames/s; no bit depth: 8 bits"),
        ("a_8x6_30fps_10bit", "no chroma format: 4:2:0"),
        ("a_8x6_50", "a 50 after the size: 50 frames/s; no format: 8-bit 4:2:0"),
        ("a_8x6_50fps_420_8bit", None),
        ("a_8x6_50fps_yuv420p", None),
    ],
)
def test_what_a_raw_file_s_name_does_not_say_is_noted(tmp_path, name, note):
    (tmp_path / f"{name}.yuv").write_bytes(bytes(8 * 6 * 3))
    assert open_video(tmp_path / f"{name}.yuv").notes == ((f"its name has {note}",) if note else ())


@pytest.mark.parametrize(
    "name, pixel, rgb",
    [
        ("argb", bytes([255, 10, 20, 30]), (10, 20, 30)),
        ("abgr", bytes([255, 30, 20, 10]), (10, 20, 30)),
        ("rgb565", (31 << 11 | 63 << 5).to_bytes(2, "little"), (255, 255, 0)),
        ("y16", (200 * 257).to_bytes(2, "little"), (200, 200, 200)),
        ("yuyv422", bytes([180, 128]), (191, 191, 191)),
        ("p010", None, (191, 191, 191)),
    ],
)
def test_packed_raw_files(tmp_path, name, pixel, rgb):
    data = pixel * 48 if pixel else (180 << 8).to_bytes(2, "little") * 48 + (128 << 8).to_bytes(2, "little") * 24
    (tmp_path / f"a_8x6_{name}.yuv").write_bytes(data * 2)
    video = open_video(tmp_path / f"a_8x6_{name}.yuv")
    assert video.num_frames == 2 and np.abs(video.read() - np.array(rgb)).max() <= 1


def test_damaged_pictures_are_named(tmp_path):
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8), (0, 0), 2)
    for suffix in (".jpg", ".png"):
        folder = tmp_path / suffix[1:]
        folder.mkdir()
        data = cv2.imencode(suffix, picture)[1].tobytes()
        for i in range(3):
            (folder / f"{i}{suffix}").write_bytes(data + b"trailing \xff\xda bytes" * (i == 0))
        assert open_video(folder).num_frames == 3 and len(open_video(folder).read()) == 3
        for share in (0.5, 0.9, 0.999):
            (folder / f"1{suffix}").write_bytes(data[: int(len(data) * share)])
            assert f"1{suffix} is damaged: the file is cut off" in refusal(folder)
    (folder / "1.png").write_bytes(data[:200] + b"\0\0" + data[202:])
    assert "1.png is damaged: the checksum" in refusal(folder)
    (folder / "1.png").write_bytes(b"")
    assert "1.png is not an image" in refusal(folder)


def test_names_of_pictures(tmp_path):
    values = {"10²1.png": 30, "9.png": 20, "2.png": 10, "x.png": 40}
    for name, value in values.items():
        (tmp_path / name).write_bytes(cv2.imencode(".png", np.full((4, 4, 3), value, np.uint8))[1])
    (tmp_path / "._2.png").write_bytes(b"a resource fork")
    (tmp_path / ".x.png").write_bytes((tmp_path / "x.png").read_bytes())
    os.rename(tmp_path / "x.png", os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"))
    (tmp_path / "notes.txt").write_text("")
    video = open_video(tmp_path)
    assert video.read()[:, 0, 0, 0].tolist() == [10, 20, 30, 40] and video.about()["ignored"] == ["notes.txt"]
    (tmp_path / "2.jpg").write_bytes(cv2.imencode(".jpg", np.zeros((4, 4, 3), np.uint8))[1])
    assert "holds 2.jpg and 2.png: a frame may be there once" in refusal(tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = (200, 30, 30), (30, 200, 30), (30, 30, 200)
    jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([orientation, 0, 0, 0]) + bytes(4)
    exif = b"\xff\xe1" + (len(tiff) + 8).to_bytes(2) + b"Exif\0\0" + tiff
    (tmp_path / "0.jpg").write_bytes(jpeg[:2] + exif + jpeg[2:])
    turned = [picture, picture[:, ::-1], picture[::-1, ::-1], picture[::-1]]
    turned += [np.rot90(p, 3) for p in (picture[::-1], picture, picture[:, ::-1][::-1][::-1], picture[::-1, ::-1])]
    video = open_video(tmp_path)
    assert video.size == turned[orientation - 1].shape[:2]
    assert np.median(np.abs(video.read()[0].astype(int) - turned[orientation - 1])) <= 6


RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
COLOURS = np.stack([RAMP, 255 - RAMP, RAMP // 2], -1)  # RGB
PALETTE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAABAQMAAADO7O3JAAAABlBMVEXICh4UHvowrDJqAAAACklEQVR4nGNwAAAAQgBBKTf07wAAAABJRU5E"
    "rkJggg=="
)
CMYK = (
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwADAgIDAgIDAwMDBAMDBAUIBQUEBAUKBwcGCAwKDAwLCgsLDQ4SEA0OEQ4LCxAWEBETFBUVFQwPFxgW"
    "FBgSFBUU/8AAFAgACAAIBEMRAE0RAFkRAEsRAP/EAB8AAAEFAQEBAQEBAAAAAAAAAAABAgMEBQYHCAkKC//EALUQAAIBAwMCBAMFBQQEAAAB"
    "fQECAwAEEQUSITFBBhNRYQcicRQygZGhCCNCscEVUtHwJDNicoIJChYXGBkaJSYnKCkqNDU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVmZ2hp"
    "anN0dXZ3eHl6g4SFhoeIiYqSk5SVlpeYmZqio6Slpqeoqaqys7S1tre4ubrCw8TFxsfIycrS09TV1tfY2drh4uPk5ebn6Onq8fLz9PX29/j5"
    "+v/aAA4EQwBNAFkASwAAPwD7ArzSvi+v1Tr/2Q=="
)


@pytest.mark.parametrize(
    "picture, options, expected",
    [
        (COLOURS[..., ::-1], [], COLOURS),
        (RAMP, [], np.repeat(RAMP[..., None], 3, -1)),
        (COLOURS[..., ::-1].astype(np.uint16) * 256 + 77, [], COLOURS),
        (RAMP.astype(np.uint16) * 256 + 77, [], np.repeat(RAMP[..., None], 3, -1)),
        (np.dstack([COLOURS[..., ::-1], RAMP]), [], COLOURS),
        (
            np.uint8(RAMP > 99) * 255,
            [cv2.IMWRITE_PNG_BILEVEL, 1],
            np.repeat(np.uint8(RAMP > 99)[..., None] * 255, 3, -1),
        ),
    ],
    ids=["8 bits", "grey", "16 bits", "grey of 16 bits", "alpha", "1 bit"],
)
def test_kinds_of_png(tmp_path, picture, options, expected):
    (tmp_path / "0.png").write_bytes(cv2.imencode(".png", picture, options)[1])
    assert np.array_equal(open_video(tmp_path).read()[0], expected)


def test_palette_png_and_cmyk_jpeg(tmp_path):
    for folder, name, text, rgb in (
        ("p", "0.png", PALETTE, [[200, 10, 30], [20, 30, 250]]),
        ("c", "0.jpg", CMYK, None),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(base64.b64decode(text))
        picture = open_video(tmp_path / folder).read()[0].astype(int)
        expected = np.array(rgb) if rgb else np.full((8, 8, 3), [200, 100, 50])
        assert picture.shape[:2] == ((1, 2) if rgb else (8, 8)) and np.abs(picture - expected).max() <= 6


def test_links_are_followed(tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "whole.png").write_bytes(cv2.imencode(".png", COLOURS[..., ::-1])[1])
    (tmp_path / "frames" / "0.png").symlink_to(tmp_path / "whole.png")
    (tmp_path / "link").symlink_to(tmp_path / "frames")
    assert np.array_equal(open_video(tmp_path / "link").read()[0], COLOURS)
    (tmp_path / "a_8x6_gray.yuv").write_bytes(RAMP.tobytes())
    (tmp_path / "b_8x6_gray.yuv").symlink_to("a_8x6_gray.yuv")
    assert np.array_equal(open_video(tmp_path / "b_8x6_gray.yuv").read()[0, ..., 0], RAMP)
