"""What is done to frames before they are fitted, and the classical ways of undoing it."""

import sys

import cv2
import numpy as np
import pytest

from stgvlib.errors import StgvError
from stgvlib.repro import classical
from stgvlib.video import holes
from stgvlib.video.video import video_of


def test_masks_hide_what_they_say():
    random, fixed, moving = (mask(7, (640, 800), 3) for mask in classical.MASKS.values())
    assert all(0 < hidden <= 5 * 50 * 50 for hidden in random.sum((1, 2)))
    assert (fixed == fixed[0]).all() and fixed[0].sum() == 5 * 50 * 50 and fixed[0, 295:345, 375:425].all()
    assert not (random[0] == random[1]).all() and (classical.random_boxes(7, (640, 800), 3) == random).all()
    assert not (classical.random_boxes(7, (640, 800), 4) == random).all()
    columns = [np.nonzero(m)[1].mean() for m in moving]
    assert columns == sorted(columns) and moving[0].sum() == pytest.approx(np.pi * 64 * 96, rel=0.02)
    assert classical.random_boxes(1, (64, 64))[0].sum() <= 5 * 5 * 5


def test_masks_that_do_not_match_are_told():
    with pytest.raises(StgvError, match="the mask is 3x8x9, expected 4 frames of 8x9: one picture a frame"):
        holes.check_mask(np.zeros((3, 8, 9), bool), 4, (8, 9))
    whole = np.zeros((4, 8, 9), bool)
    whole[2] = True
    with pytest.raises(StgvError, match="the mask hides all of frame 2"):
        holes.check_mask(whole, 4, (8, 9))
    with pytest.raises(StgvError, match="too small for boxes"):
        classical.random_boxes(1, (5, 2))


def test_noise_has_its_level_and_repeats_itself():
    gray = np.full((4, 300, 400, 3), 128, np.uint8)
    white = classical.add_noise(gray, "white").astype(float) - 128
    assert white.std() == pytest.approx(255 * classical.WHITE_SIGMA, rel=0.02) and abs(white.mean()) < 0.1
    black = classical.add_noise(gray, "black")
    assert (black == 0).mean() == pytest.approx(0.01, rel=0.1) and set(np.unique(black)) == {0, 128}
    salt = classical.add_noise(gray, "salt_pepper")
    assert (salt == 255).mean() == pytest.approx(0.0025, rel=0.2) == (salt == 0).mean()
    assert (salt.min(-1) == salt.max(-1)).all(), "whole pixels"
    assert (classical.add_noise(gray, "black") == black).all() and (
        classical.add_noise(gray, "black", 1) != black
    ).any()
    assert (gray == 128).all()
    with pytest.raises(StgvError, match="noise must be one of white, black, salt_pepper, got 'pink'"):
        classical.add_noise(gray, "pink")


def test_filters_remove_noise(frames):
    """At the size that a clean frame tells, and at the one that is chosen without it."""
    noisy = classical.add_noise(frames, "white")
    before = classical.psnr_of(noisy, frames)
    for method in ("gaussian", "uniform", "median", "nlm", "nlm_5", "wavelet"):
        sizes = classical.best_size(noisy, method, frames), classical.blind_size(noisy, method)
        best, blind = (classical.psnr_of(classical.denoise(noisy, method, size), frames) for size in sizes)
        assert before + 1 < blind <= best + 0.05, method  # the first frame chooses for all
    least, most = (classical.denoise(noisy, method, 3) for method in ("minimum", "maximum"))
    assert (least <= noisy).all() and (most >= noisy).all()
    pepper = classical.add_noise(frames, "salt_pepper")
    assert classical.best_size(pepper, "median", frames) == 3
    for call in (lambda: classical.denoise(noisy, "fft", 3), lambda: classical.blind_size(noisy, "fft")):
        with pytest.raises(StgvError, match="filter must be one of gaussian, .*wavelet, got 'fft'"):
            call()


def test_a_blind_size_follows_the_noise():
    """Of a smooth picture the widest kernel, of fine detail that is hardly noisy the narrowest."""
    y, x = np.mgrid[:96, :128]
    smooth = np.repeat((100 + 0.4 * x + 0.3 * y)[None, ..., None], 3, -1).astype(np.uint8)
    fine = np.random.default_rng(0).integers(0, 255, (1, 24, 32, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    noisy = classical.add_noise(smooth, "white")
    for method in ("gaussian", "uniform"):
        assert classical.blind_size(noisy, method) == classical.best_size(noisy, method, smooth) == 7
        assert classical.blind_size(fine, method) == 3
    assert classical.blind_size(noisy, "nlm") > classical.blind_size(fine, "nlm") == 5
    assert classical.blind_size(noisy, "wavelet") is None


def test_scikit_image_is_asked_for_in_one_line(frames, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(StgvError, match="denoising needs scikit-image: pip install"):
        classical.blind_size(frames, "median")


def test_five_frames_are_seen_at_the_ends_of_a_clip_too(frames):
    numbered = np.arange(7, dtype=np.uint8)[:, None, None, None]
    seen = {i: classical.around(numbered, i, 5).ravel().tolist() for i in range(7)}
    assert seen[0] == [1, 2, 0, 3, 4] and seen[1] == [0, 2, 1, 3, 4] and seen[3] == [1, 2, 3, 4, 5]
    assert seen[6] == [2, 3, 6, 4, 5]
    assert classical.around(numbered[:4], 3, 5).ravel().tolist() == [1, 3, 2], "three of four"
    assert classical.around(numbered[:1], 0, 5).ravel().tolist() == [0]
    still = np.repeat(frames[:1], 7, 0)
    noisy = classical.add_noise(still, "white")
    alone, five = (classical.denoise(noisy, method, 9) for method in ("nlm", "nlm_5"))
    for i in range(7):  # nothing moves, so four more frames tell more of each
        assert classical.psnr_of(five[i : i + 1], still[:1]) > classical.psnr_of(alone[i : i + 1], still[:1]) + 1


def test_back_projection_makes_frames_agree_with_the_small_ones(frames):
    small = np.stack([cv2.resize(frame, (64, 36), interpolation=cv2.INTER_AREA) for frame in frames])
    start = classical.upscale(small, frames.shape[1:3], "bicubic")
    made = classical.back_project(start, small)
    again = np.stack([cv2.resize(frame, (64, 36), interpolation=cv2.INTER_AREA) for frame in made])
    before = np.stack([cv2.resize(frame, (64, 36), interpolation=cv2.INTER_AREA) for frame in start])
    assert classical.psnr_of(again, small) > classical.psnr_of(before, small) + 5
    assert classical.psnr_of(made, frames) > classical.psnr_of(start, frames)
    assert classical.psnr_of(classical.back_project(frames, small), frames) > 50, "what agrees already stays"


def test_flow_follows_what_moves(frames):
    assert classical.psnr_of(classical.flow(frames[::2]), frames[1:5:2]) > classical.psnr_of(
        classical.average(frames[::2]), frames[1:5:2]
    )
    assert classical.average(np.array([[[[0, 10, 255]]], [[[255, 11, 255]]]], np.uint8)).tolist() == [
        [[[128, 11, 255]]]
    ]
    with pytest.raises(StgvError, match="resizer must be one of"):
        classical.upscale(frames, (8, 8), "nearest")
    assert classical.upscale(frames, (144, 256), "lanczos").shape == (6, 144, 256, 3)


@pytest.mark.parametrize("size", [(512, 512), (540, 960), (720, 1280)])
def test_tasks_suit_the_sizes_of_uvg(size):
    """Boxes of 50 px in frames of 640 rows or more, of as large a part of smaller ones; and sides that every factor
    divides, the rest cropped."""
    clean = np.random.default_rng(0).integers(0, 255, (3, *size, 3), np.uint8)
    boxes = classical.spoil("inpaint", "random", video_of(clean))
    side = round(50 * min(1, size[0] / 640))
    assert side**2 <= boxes.missing[0].sum() <= 5 * side**2 and boxes.given.size == size
    for level in ("1.5", "2", "2.5", "3"):
        scaled = classical.spoil("scale", level, video_of(clean))
        for small, large, whole in zip(scaled.given.size, scaled.clean.shape[1:3], size):
            assert small * float(level) == large <= whole < large + 5, (level, small, large)
        assert (scaled.clean == clean[:, : scaled.clean.shape[1], : scaled.clean.shape[2]]).all()
    assert classical.upscale(scaled.given.read(), scaled.clean.shape[1:3], "bicubic").shape == scaled.clean.shape
    noisy = classical.spoil("noise", "white", video_of(clean))
    assert classical.blind_size(noisy.given.read(), "median") in classical.KERNELS


def test_what_shrinks_by_parts_of_a_pixel_keeps_its_place():
    """A slope, shrunk 2.5 times: each small pixel is the mean over its 2.5 x 2.5 px, with no shift."""
    x = np.tile(np.arange(40, dtype=np.float64) * 5, (40, 1))
    clean = np.repeat(x[None, ..., None], 3, -1).astype(np.uint8)
    small = classical.spoil("scale", "2.5", video_of(clean)).given.read()[0, 8, :, 0]
    assert len(small) == 16 and np.abs(small - 5 * ((np.arange(16) + 0.5) * 2.5 - 0.5)).max() <= 1
    with pytest.raises(StgvError, match="frames of .*4 are too small to be shrunk 2.5 times"):
        classical.spoil("scale", "2.5", video_of(clean[:, :4, :4]))
