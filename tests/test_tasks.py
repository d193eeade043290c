"""Masks, noise, filters; a model rendered larger; what lies between frames."""

import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from stgvlib.baselines.inr import NERV, fit_inr
from stgvlib.config import PROFILES, STGV, FieldConfig, Profile
from stgvlib.errors import StgvError
from stgvlib.fitting.batches import load_gops
from stgvlib.fitting.fit import fit
from stgvlib.model import resample
from stgvlib.model.video_model import VideoModel
from stgvlib.repro import classical, figures, task_tables, tasks
from stgvlib.repro.records import Record
from stgvlib.video import holes
from stgvlib.video.video import video_of

SIZE = (72, 128)


@pytest.fixture
def frames():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    waves = [np.sin((x + 2 * t) / (9 + c)) * np.cos(y / (11 + c)) * 90 + 128 for t in range(6) for c in range(3)]
    return np.stack(waves).reshape(6, 3, *SIZE).transpose(0, 2, 3, 1).astype(np.uint8)


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


def test_missing_pixels_are_left_out_of_the_loss(frames):
    """What stands in a hole changes nothing: two videos that differ there alone give the same model."""
    missing = np.zeros(frames.shape[:3], bool)
    missing[:, 20:40, 30:60] = True
    config = replace(
        STGV, coarse_steps=20, motion_steps=20, steps=20, gaussians=40, field=FieldConfig(log2_table_size=6)
    )
    models = []
    for fill in (0, 255):
        spoiled = frames.copy()
        spoiled[missing] = fill
        models.append(fit(video_of(spoiled).with_(missing=missing), config).model)
    one, two = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], two[name]) for name in one)
    loaded, _ = load_gops(video_of(frames).with_(missing=missing), [(0, 4), (4, 6)], torch.device("cpu"))
    assert (loaded[0, :, 25, 40, 3] == 0).all() and (loaded[0, :, 5, 5, 3] == 255).all()
    assert (loaded[1, 2:, ..., 3] == 0).all()


def test_networks_leave_missing_pixels_out_too(frames):
    missing = np.zeros(frames.shape[:3], bool)
    missing[:, 20:40, 30:60] = True
    config, losses = replace(NERV, epochs=2), []
    for fill in (0, 255):
        spoiled = frames.copy()
        spoiled[missing] = fill
        losses.append(fit_inr(video_of(spoiled).with_(missing=missing), config).losses["training"])
    assert torch.equal(*losses)
    with pytest.raises(StgvError, match="siren cannot leave pixels out"):
        fit_inr(video_of(frames).with_(missing=missing), replace(tasks.FITTED["siren"].config, epochs=1))


def test_a_blurred_gaussian_is_rendered_sharp():
    """An analytic scene: means over pixels of one Gaussian are, to second order, one with 1/12 px^2 more variance.
    Rendered at three times the size it must be the means over the smaller pixels, with no shift of half a pixel."""
    variance, centre, scale, size = np.array([1.5, 2.5]), np.array([9.3, 7.8]), 3, (16, 20)

    def means(size, factor):
        """Of the Gaussian over pixels, by 16 x 16 samples each."""
        y, x = (np.arange(length * 16) + 0.5 for length in size)
        x, y = np.meshgrid(x / 16 / factor, y / 16 / factor)
        value = np.exp(-((x - centre[0]) ** 2) / 2 / variance[0] - (y - centre[1]) ** 2 / 2 / variance[1])
        return value.reshape(size[0], 16, size[1], 16).mean((1, 3))

    model = VideoModel(replace(STGV, field=FieldConfig(encoding="none"), motion_steps=0, steps=0), [1], size, 1)
    blurred = torch.tensor(variance + 1 / 12).sqrt().float()
    gain = float(np.sqrt(variance.prod() / (variance + 1 / 12).prod()))
    shape = torch.tensor([[blurred[0], 0.0, blurred[1]]])
    model.gaussians.set_pixels(0, torch.tensor(centre[None]).float(), shape, torch.full((1, 3), gain))
    frame = torch.tensor([0])
    fitted = model.render(frame)[0, ..., 0].detach().numpy()
    assert np.abs(fitted - means(size, 1)).max() < 0.01
    large = (size[0] * scale, size[1] * scale)
    truth = means(large, scale)
    sharp, plain = (resample.render_scaled(model, frame, large, s)[0, ..., 0].numpy() for s in (True, False))
    assert np.abs(sharp - truth).max() < 0.012 and np.abs(sharp - truth).mean() < 0.3 * np.abs(plain - truth).mean()
    same = resample.render_scaled(model, frame, size)[0, ..., 0].numpy()
    assert np.allclose(same, fitted, atol=1e-5), "at scale one nothing changes"


def test_scales_that_cannot_be_rendered():
    for scale, said in ((0, "above 0, got 0"), (-2, "above 0, got -2"), (float("nan"), "got nan"), (300, "do not fit")):
        with pytest.raises(StgvError, match=said):
            resample.check_scale(scale, (720, 1280))
    assert resample.check_scale(3, (720, 1280)) == 3


def test_between_is_half_way():
    model = VideoModel(replace(STGV, field=FieldConfig(log2_table_size=5)), [3, 2], (8, 8), 2)
    assert [resample.between(model, i) for i in range(4)] == [(0, 0.5), (0, 1.5), (1, -0.5), (1, 0.5)]
    with pytest.raises(StgvError, match="frame 4 of 5 has no successor"):
        resample.between(model, 4)


def test_half_way_gaussians():
    """Inside a GoP each Gaussian is half-way; where GoPs meet the frames are averaged."""
    config = replace(STGV, motion_steps=0, field=FieldConfig(encoding="planes", polynomial=1, position_scale=10.0))
    model = VideoModel(config, [2, 1], (20, 30), 1)
    for g in range(2):
        model.gaussians.set_pixels(g, torch.tensor([[5.0, 10.0]]), torch.tensor([[2.0, 0.0, 2.0]]), torch.ones(1, 3))
    model.gaussians.motion.data[0] = torch.tensor([[2.0, 0.0]])  # 20 px over a GoP: at 15 and 25 px
    centre = resample.render_half_way(model, 0)[..., 0].sum(0).argmax().item()
    assert centre in (19, 20)
    meeting = resample.render_half_way(model, 1)[..., 0].sum(0)
    assert meeting[24:26].max() == pytest.approx(meeting[4:6].max().item(), rel=0.05) and meeting[15] < 0.1


def test_back_projection_makes_frames_agree_with_the_small_ones(frames):
    small = np.stack([cv2.resize(frame, (64, 36), interpolation=cv2.INTER_AREA) for frame in frames])
    start = classical.upscale(small, SIZE, "bicubic")
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


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("STGV_RESULTS", str(tmp_path))
    tiny = Profile("smoke", scale=0.1, frames=5, coarse_steps=0.004, steps=0.0005)
    monkeypatch.setitem(PROFILES, "smoke", tiny)
    return tmp_path / "smoke"


@pytest.mark.parametrize(
    "name",
    [
        "inpaint_random/bunny/stgv",
        "inpaint_random/bunny/telea",
        "inpaint_random/bunny/nerv",
        "noise_white/bunny/median",
        "noise_black/bunny/stgv_smooth",
        "noise_salt_pepper/bunny/stgv_robust",
        "noise_salt_pepper/bunny/median",
        "scale_2/bunny/stgv",
        "scale_2/bunny/bicubic",
        "between/bunny/stgv",
        "between/bunny/flow",
    ],
)
def test_tasks_leave_records(name, results, monkeypatch):
    record = tasks.run(name, "smoke", "cpu", show_progress=False)
    kind = tasks.TASKS[name.split("/")[0]].kind
    assert record["psnr"] > 5 and record["frames"] == (2 if kind == "between" else 5)
    assert record.image("frame").shape == record.image("truth").shape
    if kind == "inpaint":
        assert record["psnr_composited"] > record["psnr_given"] and record["psnr_holes"] > 5
    if kind == "noise":
        assert ("psnr_composited" in record.data) == ("white" not in name)
    if name == "noise_salt_pepper/bunny/median":  # what is no outlier needs no filter
        assert record["psnr_composited"] > record["psnr"] + 2 > record["psnr_given"]
    if kind == "scale":
        assert record["psnr_back_projected"] > record["psnr"]
    if name == "between/bunny/stgv":
        assert record["psnr_half_way"] > 5
    if name == "scale_2/bunny/stgv":
        assert (
            record["psnr_sharpened"] > 5 < record["psnr_small"]
            and record.image("given").shape == record.image("truth").shape
        )
    monkeypatch.setattr(tasks, "spoil", lambda *_: pytest.fail("made again"))
    assert tasks.run(name, "smoke", "cpu").data == record.data
    with pytest.raises(pytest.fail.Exception):
        tasks.run(name, "smoke", "cpu", seed=1)


def test_task_tables_and_figures(results):
    """A row a system; what the paper prints beside it; reasons where there is no record; pictures side by side."""
    inpainted = tasks.records("inpaint_random", "smoke", "cpu")
    missing = {system: Record(system, results, None, "no GPU") for system in inpainted["bunny"]}
    table = task_tables.task_table("inpaint_random", inpainted | {"davis/cows": missing}, "smoke", "table_3")
    rows = table.set_index("system")
    assert rows["cows: paper"]["As given"] == 24.47
    assert rows["bunny: ours"].notna().all() and rows["cows: ours"].isna().all()
    assert "no GPU" in rows["note"]["OpenCV inpainting"] and rows["bunny: holes"]["OpenCV inpainting"] > 5
    assert (results / "tables" / "table_3.csv").is_file()
    older = dict(inpainted["bunny"]["telea"].data)
    del older["psnr_composited"]
    inpainted["bunny"]["telea"] = replace(inpainted["bunny"]["telea"], data=older)
    rows = task_tables.task_table("inpaint_random", inpainted, "smoke", "table_3").set_index("system")
    assert rows["bunny: composited"].notna().sum() == len(rows) - 2  # and as given
    assert "bunny: recorded before composited was measured" in rows["note"]["OpenCV inpainting"]
    picture = figures.task_figure(inpainted["bunny"], "smoke", "figure_6_bunny")
    assert cv2.imread(str(picture)).std() > 20
    scaled = tasks.records("scale_2", "smoke", "cpu")
    table = task_tables.task_table("scale_2", scaled, "smoke", "super_resolution_2")
    assert "As given" not in set(table["system"]) and "bunny: back-projected" in table
    assert figures.method_figure("smoke").stat().st_size > 10_000


def test_unknown_tasks_and_missing_data(results, monkeypatch):
    for name in ("inpaint_random/bunny/e_nerv", "noise_pink/bunny/stgv", "stgv", "scale_2/davis/camel/stgv"):
        with pytest.raises(StgvError, match="is no run of a task"):
            tasks.run(name, "smoke", "cpu")
    missing = tasks.run("inpaint_random/uvg/Beauty/stgv", "smoke", "cpu")
    assert not missing and "stgv fetch uvg" in missing.reason


def test_inpainted_holes_are_filled_from_other_frames():
    """A still picture with a hole that moves: what is missing in one frame is seen in the others."""
    picture = cv2.resize(
        np.random.default_rng(0).integers(0, 255, (6, 10, 3), np.uint8), (80, 48), interpolation=cv2.INTER_CUBIC
    )
    clean, missing = np.stack([picture] * 6), np.zeros((6, 48, 80), bool)
    for i in range(6):
        missing[i, 16:32, 10 * i : 10 * i + 16] = True
    given = clean.copy()
    given[missing] = 0
    field = FieldConfig(log2_table_size=6, position_scale=10.0)
    config = replace(STGV, coarse_steps=200, motion_steps=50, steps=300, gaussians=150, field=field)
    model = fit(video_of(given).with_(missing=missing), config).model
    shown = np.stack([(model.render(torch.tensor([i]))[0].clamp(0, 1) * 255).byte().numpy() for i in range(6)])
    inside = classical.psnr_of(shown[missing][None], clean[missing][None])
    assert inside > 20 and inside > classical.psnr_of(given[missing][None], clean[missing][None]) + 8


def test_huber_loss_leaves_outliers_out():
    """A still picture under salt and pepper: both losses fit the same frames, and where few pixels are far off the
    Huber loss is nearer to what was there. Without noise it costs little."""
    small = np.random.default_rng(0).integers(40, 215, (6, 10, 3), np.uint8)
    clean = np.stack([cv2.resize(small, (80, 48), interpolation=cv2.INTER_CUBIC)] * 4)
    field = FieldConfig(log2_table_size=6, position_scale=10.0)
    squared = replace(STGV, coarse_steps=200, motion_steps=0, steps=300, gaussians=150, field=field)
    found = {}
    for noise in ("salt_pepper", None):
        given = clean if noise is None else classical.add_noise(clean, noise)
        for huber in (None, 0.1):
            model = fit(video_of(given), replace(squared, huber=huber)).model
            shown = np.stack([(model.render(torch.tensor([i]))[0].clamp(0, 1) * 255).byte().numpy() for i in range(4)])
            found[noise, huber] = classical.psnr_of(shown, clean)
    assert found["salt_pepper", 0.1] > found["salt_pepper", None] + 1 and found[None, 0.1] > found[None, None] - 0.5


def test_a_steady_field_swings_less_between_frames():
    """Random tables: how far Gaussians are, half-way in time, from half-way between the frames around."""

    def swing(config):
        config = replace(config, gop_size=6, field=replace(config.field, log2_table_size=8))
        model = VideoModel(config, [6], SIZE, 50, torch.Generator().manual_seed(0))
        draw = torch.Generator().manual_seed(1)
        for p in (*model.field.encoding_parameters(), model.field.position_head.weight):
            p.data = torch.randn(p.shape, generator=draw)
        there = {t: model.deform(model.times(torch.tensor([t])))[0].detach() for t in (2, 2.5, 3)}
        return ((there[2] + there[3]) / 2 - there[2.5]).abs().mean() / (there[3] - there[2]).abs().mean()

    steady, usual = swing(tasks.STEADY), swing(STGV)
    assert steady < 0.5 * usual, (steady, usual)
