"""Holes filled along optical flow: from other frames, where they are seen; from around, where nothing is."""

from dataclasses import replace

import numpy as np
import pytest
from scenes import pan

from stgvlib.config import PAPER, STGV, FieldConfig
from stgvlib.fitting import fit as train
from stgvlib.video import holes as inpainting
from stgvlib.video.holes import along_flow, telea
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
