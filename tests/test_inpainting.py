"""Holes filled along optical flow: from other frames, where they are seen; from around, where nothing is.

| case | source | test |
|---|---|---|
| `--mask` reads the whole mask | FAULTS 9 | test_memory_does_not_grow_with_the_masks_length |
| a mask of 0 and 1; white on transparent | CASES A | test_a_mask_without_white_..., test_transparent_white_... |
"""

import subprocess
import sys
from dataclasses import replace

import av
import cv2
import numpy as np
import pytest
from clips import encode, scene
from scenes import pan

from stgvlib.config import PAPER, STGV, FieldConfig
from stgvlib.errors import StgvError
from stgvlib.fitting import fit as train
from stgvlib.video import holes as inpainting
from stgvlib.video.holes import Mask, along_flow, read_mask, telea
from stgvlib.video.video import video_of


def to_the_left(frames=8):
    return pan(frames, (72, 112), (-3, 0))


def spoil(clean, holes):
    """Frames with black squares of 14 px, whose left edges are given a frame; and where they are."""
    missing = np.zeros(clean.shape[:3], bool)
    for i, left in enumerate(holes):
        missing[i, 28:42, left : left + 14] = True
    given = clean.copy()
    given[missing] = 0
    return given, missing


def fill(given, missing, cuts=None):
    return along_flow(video_of(given).with_(missing=missing, cuts=cuts)).read()


def error(frames, clean, missing):
    return np.abs(frames[missing].astype(float) - clean[missing]).mean()


@pytest.mark.parametrize("holes", [[50] * 8, [20 + 9 * i for i in range(8)]], ids=["hole stays", "hole moves"])
def test_what_another_frame_shows_is_found_there(holes):
    clean = to_the_left()
    given, missing = spoil(clean, holes)
    found = fill(given, missing)
    assert found.dtype == np.uint8 and (found[~missing] == clean[~missing]).all() and (given[missing] == 0).all()
    assert error(found, clean, missing) < 0.5 * error(telea(given, missing), clean, missing)


def test_what_no_frame_shows_is_filled_from_around():
    """A still picture under a hole that stays, and frames too small for flow."""
    still = np.repeat(to_the_left(1), 4, 0)
    given, missing = spoil(still, [50] * 4)
    assert (fill(given, missing) == telea(given, missing)).all()
    given, missing = given[:, 26:36, 45:55], missing[:, 26:36, 45:55]
    assert (fill(given, missing) == telea(given, missing)).all()
    whole = np.ones_like(missing[:1])
    assert fill(given[:1], whole).shape == given[:1].shape


def test_no_pixel_comes_from_another_scene():
    clean = np.concatenate([to_the_left(4), np.full_like(to_the_left(4), 255)])
    given, missing = spoil(clean, [50] * 4 + [0] * 4)
    missing[4:], given[4:] = False, 255
    cut = fill(given, missing, (4,))
    assert (cut[:4] == fill(given[:4], missing[:4])).all() and (cut[4:] == 255).all()
    assert (fill(given, missing)[3] != cut[3]).any()


def test_long_videos_are_filled_by_parts(monkeypatch):
    """What is out of reach changes nothing, and a part of the filled frames is the same part of all."""
    given, missing = spoil(to_the_left(12), [50] * 12)
    monkeypatch.setattr(inpainting, "REACH", 3)
    whole = along_flow(video_of(given).with_(missing=missing))
    monkeypatch.setattr(inpainting, "WINDOW", 4)
    parts = along_flow(video_of(given).with_(missing=missing))
    assert (parts.read() == whole.read()).all() and (parts.read(5, 9) == whole.read()[5:9]).all()
    missing = missing.copy()
    missing[4:8] = False
    few = along_flow(video_of(given).with_(missing=missing)).read()
    assert (few[4:8] == given[4:8]).all() and (few[:4][missing[:4]] > 0).all()
    assert (whole.in_memory().read() == whole.read()).all() and (whole.read(2, 3)[0] != given[2]).any()


def test_a_fit_fills_holes_once_and_only_where_it_starts_from_flow(monkeypatch):
    given, missing = spoil(to_the_left(6), [50] * 6)
    video = video_of(given).with_(missing=missing, cuts=())
    seen = []
    monkeypatch.setattr(train, "along_flow", lambda v: seen.append(v.num_frames) or along_flow(v))
    short = {"coarse_steps": 4, "steps": 10, "gaussians": 40, "field": FieldConfig(log2_table_size=6)}
    result = train.fit(video, replace(STGV, motion_steps=4, **short))
    assert seen == [6] and "holes" in result.seconds, "the trials of GoP lengths fill nothing again"
    for config in (replace(STGV, motion_steps=0, gop_size=6, **short), replace(PAPER, gop_size=6, **short)):
        assert "holes" not in train.fit(video, config).seconds
    assert seen == [6]
    assert (along_flow(video).weights() == 255).all() and (video.weights()[missing] == 0).all()


def test_filling_is_told():
    given, missing = spoil(to_the_left(3), [50] * 3)
    short = {"coarse_steps": 2, "motion_steps": 2, "steps": 2, "gop_size": 3, "gaussians": 40}
    notes = []
    config = replace(STGV, field=FieldConfig(log2_table_size=6), **short)
    train.fit(video_of(given).with_(missing=missing), config, progress=lambda p: notes.append(p.note))
    assert "filling 588 missing pixels along optical flow" in notes


def masks_in(folder, pictures):
    folder.mkdir()
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    return str(folder)


def test_a_mask_is_an_array_that_is_not_in_memory(tmp_path):
    """Its items, slices, count and hash are those of the array, also resized and at an odd size."""
    rng = np.random.default_rng(0)
    missing = rng.random((5, 7, 9)) < 0.3
    mask = Mask(missing, (7, 9))
    assert mask.shape == (5, 7, 9) and len(mask) == 5 and mask.sum() == missing.sum()
    for part in (2, -1, slice(1, 4), slice(None), slice(4, 9), slice(2, 2), [3, 0, 3]):
        assert mask[part].dtype == bool and np.array_equal(mask[part], missing[part])
    with pytest.raises(IndexError):
        mask[5]
    video = video_of(rng.integers(0, 256, (5, 14, 18, 3), np.uint8)).with_(resize=(7, 9))
    pictures = [np.repeat(np.repeat(m, 2, 0), 2, 1).astype(np.uint8) * 255 for m in missing]
    read = read_mask(masks_in(tmp_path / "m", pictures), video)
    assert (read[:] == missing).all()
    weights = [v.weights(1, 4) for v in (video.with_(missing=read), video.with_(missing=missing))]
    assert (weights[0] == weights[1]).all() and weights[0].dtype == np.uint8
    filled = [along_flow(video.with_(missing=m)).in_memory().read() for m in (read, missing)]
    assert (filled[0] == filled[1]).all()
    with pytest.raises(StgvError, match="the mask has 5 frames, expected 4: one picture a frame"):
        read_mask(str(tmp_path / "m"), video.with_(limit=4))
    masks_in(tmp_path / "whole", [*pictures[:4], pictures[0] * 0 + 255])
    with pytest.raises(StgvError, match="the mask hides all of frame 4: leave some pixels to fit"):
        read_mask(str(tmp_path / "whole"), video)


@pytest.mark.parametrize("brightest", [0, 1, 127])
def test_a_mask_without_white_says_how_bright_it_is(tmp_path, brightest):
    video = video_of(np.zeros((2, 16, 24, 3), np.uint8))
    dark = np.zeros((16, 24), np.uint8)
    dark[4:8, 4:8] = brightest
    folder = masks_in(tmp_path / "m", [dark, dark])
    with pytest.raises(StgvError, match=f"^no pixel of the mask is white: the brightest is {brightest} of 255$"):
        read_mask(folder, video)
    masks_in(tmp_path / "one", [dark, np.where(dark > 0, 255, dark) if brightest else dark + np.eye(16, 24) * 255])
    assert read_mask(str(tmp_path / "one"), video)[:].any((1, 2)).tolist() == [False, True]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_transparent_white_is_not_missing(tmp_path, kind):
    """White is missing where it is opaque: editors paint masks on a transparent layer, often white below."""
    video, most = video_of(np.zeros((1, 16, 24, 3), np.uint8)), np.iinfo(kind).max
    picture = np.full((16, 24, 4), most, kind)
    picture[..., 3] = 0
    picture[4:8, 4:9, 3] = most
    picture[8:12, 4:9, 3] = most // 4
    picture[4:8, 6:7, :3] = 0
    missing = read_mask(masks_in(tmp_path / "m", [picture]), video)[0]
    expected = np.zeros((16, 24), bool)
    expected[4:8, 4:9], expected[4:8, 6:7] = True, False
    assert (missing == expected).all()


@pytest.mark.parametrize("name, codec, pix_fmt", [("m.apng", "apng", "rgba"), ("m.mkv", "ffv1", "bgra")])
def test_transparent_white_of_a_mask_s_video_is_not_missing(tmp_path, name, codec, pix_fmt):
    picture = np.full((16, 24, 4), 255, np.uint8)
    picture[..., 3] = 0
    picture[4:8, 4:9, 3] = 255
    picture[8:12, 4:9, 3] = 64
    frames = [av.VideoFrame.from_ndarray(np.roll(picture, i, 0), format="rgba") for i in range(3)]
    encode(tmp_path / name, frames, codec, pix_fmt)
    missing = read_mask(str(tmp_path / name), video_of(np.zeros((3, 16, 24, 3), np.uint8)))
    expected = np.zeros((16, 24), bool)
    expected[4:8, 4:9] = True
    assert np.array_equal(missing[:], [np.roll(expected, i, 0) for i in range(3)])


def test_a_mask_that_is_damaged_is_refused(tmp_path):
    """Its frames that are left would hide other pixels."""
    whole = encode(tmp_path / "m.mkv", scene(12), g="1", crf="1").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 6 // 10])
    video = video_of(np.zeros((3, 48, 64, 3), np.uint8))
    with pytest.raises(StgvError, match="cut.mkv is not whole: the header says 0.48 s, .* copy or make it again$"):
        read_mask(str(tmp_path / "cut.mkv"), video, 3)
    assert read_mask(str(tmp_path / "m.mkv"), video, 3).shape == (3, 48, 64)


MASKED = """
import sys
from pathlib import Path
from stgvlib.video import holes
from stgvlib.video.holes import along_flow, read_mask
from stgvlib.video.video import open_video
holes.REACH, holes.WINDOW, holes.SIDE = 1, 2, 64
video = open_video(sys.argv[1])
masked = video.with_(missing=read_mask(sys.argv[2], video))
filled = along_flow(masked)
for i in range(0, video.num_frames, 5):
    assert masked.weights(i, i + 5).min() == 0 and filled.read(i, i + 5).max() > 0
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])  # ru_maxrss would be the parent's
"""


def peak(*command):
    """MiB that a command had in memory at most, which it prints last."""
    ended = subprocess.run([sys.executable, "-c", *map(str, command)], capture_output=True, text=True, check=True)
    return int(ended.stdout.split()[-1]) // 1024


def raw_video(path, frames, plane):
    """8-bit yuv420p of a luma plane, as many frames."""
    chroma = bytes([128]) * (plane.size // 2)
    path.write_bytes((plane.tobytes() + chroma) * frames)
    return path


def test_memory_does_not_grow_with_the_masks_length(tmp_path):
    """30 frames more are 83 MB, and 28 MB of mask as an array."""
    ramp = np.tile(np.arange(1280, dtype=np.uint8), (720, 1))
    holes = np.full((720, 1280), 16, np.uint8)
    holes[100:120, 100:120] = 235
    peaks = []
    for frames in (20, 50):
        given = raw_video(tmp_path / f"{frames}_1280x720.yuv", frames, ramp)
        peaks.append(peak(MASKED, given, raw_video(tmp_path / f"mask{frames}_1280x720.yuv", frames, holes)))
    assert peaks[1] - peaks[0] < 20, peaks
