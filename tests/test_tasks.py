"""Tasks: their records and tables; a model rendered larger; what lies between frames. Filters: test_classical.py."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stgvlib.baselines import GaussianSystem
from stgvlib.baselines.inr import NERV, fit_inr
from stgvlib.config import PROFILES, STGV, FieldConfig, Profile
from stgvlib.errors import StgvError
from stgvlib.fitting.batches import load_gops
from stgvlib.fitting.fit import fit
from stgvlib.model import resample
from stgvlib.model.video_model import VideoModel
from stgvlib.repro import classical, figures, fits, task_tables, tasks
from stgvlib.repro.layout import DAGGER
from stgvlib.repro.records import NOT_MADE, Record
from stgvlib.video import datasets
from stgvlib.video.video import video_of
from stgvlib.video.write import write_video


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
        "inpaint_random/bunny/d2gv",
        "inpaint_random/bunny/d2gv_flow",
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
        if not name.endswith("telea"):
            filled = name.endswith(("stgv", "_flow"))
            assert record["holes"] == ("filled along optical flow" if filled else "left out of the loss")
            assert ("holes" in record["seconds"]) == filled
    if kind == "noise":
        assert ("psnr_composited" in record.data) == ("white" not in name)
        assert ("psnr_blind" in record.data) == name.endswith("median")
        if name.endswith("median") and record["kernel_blind"] == record["kernel"]:
            assert record["psnr_blind"] == pytest.approx(record["psnr"], abs=1e-3)
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
    noises = tasks.records("noise_white", "smoke", "cpu")
    rows = task_tables.task_table("noise_white", noises, "smoke", "table_6_white").set_index("system")
    blind, ours = rows["bunny: blind"], rows["bunny: ours"]
    assert blind["ours, hashes alone"] == ours["ours, hashes alone"], "a fit never sees the clean frames"
    assert blind["Median"] == round(noises["bunny"]["median"]["psnr_blind"], 2) and np.isnan(blind["As given"])
    older = dict(noises["bunny"]["median"].data)
    del older["psnr_blind"]
    noises["bunny"]["median"] = replace(noises["bunny"]["median"], data=older)
    rows = task_tables.task_table("noise_white", noises, "smoke", "table_6_white").set_index("system")
    assert "bunny: recorded before blind was measured" in rows["note"]["Median"]
    assert "recorded before" not in rows["note"]["ours, hashes alone"] + rows["note"]["Gaussian"]
    picture = figures.task_figure(inpainted["bunny"], "smoke", "figure_6_bunny")
    assert cv2.imread(str(picture)).std() > 20
    scaled = tasks.records("scale_2", "smoke", "cpu")
    table = task_tables.task_table("scale_2", scaled, "smoke", "super_resolution_2")
    assert "As given" not in set(table["system"]) and "bunny: back-projected" in table
    assert figures.method_figure("smoke").stat().st_size > 10_000


@pytest.fixture
def beauty(results, tmp_path, monkeypatch):
    """A dataset of the paper's super-resolution, 5 frames of noise."""
    folder = tmp_path / "clips"
    write_video(folder, np.random.default_rng(0).integers(0, 255, (5, 512, 512, 3), np.uint8))
    synthetic = replace(datasets.DATASETS["uvg/Beauty"], candidates=(str(folder),), frames=5, stride=1)
    monkeypatch.setitem(datasets.DATASETS, "uvg/Beauty", synthetic)


@pytest.mark.parametrize("method", ["stgv", "lanczos"])
def test_fractions_of_a_scale_have_records_too(method, beauty, results):
    record = tasks.run(f"scale_1.5/uvg/Beauty/{method}", "smoke", "cpu", show_progress=False)
    assert record["dataset"]["size"] == [51, 51] and record["psnr"] > 5 < record["psnr_back_projected"]
    assert (results / "runs/tasks/scale_1.5/uvg/Beauty" / f"{method}.frame.png").is_file()
    found = {"uvg/Beauty": {method: record}}
    assert task_tables.task_table("scale_1.5", found, "smoke", "super_resolution_1.5")["Beauty: ours"].notna().all()


def test_flow_fills_the_same_frames_for_all(results, monkeypatch):
    """What each system of FROM_FLOW is fitted to is what the row of flow alone shows."""
    given = {}

    class Given(Exception):
        pass

    def fit(self, video, *_, **__):
        given[self.key] = video
        raise Given

    monkeypatch.setattr(GaussianSystem, "fit", fit)
    for system in (*tasks.FROM_FLOW, "d2gv"):
        with pytest.raises(Given):
            tasks.run(f"inpaint_random/bunny/{system}", "smoke", "cpu", show_progress=False)
    alone = tasks.run("inpaint_random/bunny/flow", "smoke", "cpu")
    clean = fits.video_for(tasks.Run("bunny", None, ""), PROFILES["smoke"]).read()
    unfilled = given["d2gv"]
    for system in tasks.FROM_FLOW:
        filled = given[system].read()
        assert (filled == given["stgv"].read()).all() and given[system].weights().all()
        assert (filled[unfilled.missing] != unfilled.read()[unfilled.missing]).any()
        assert classical.psnr_of(filled, clean) == pytest.approx(alone["psnr"], abs=1e-3)
    assert not unfilled.weights().all()


def test_other_settings_of_a_system_ask_for_its_records_again(results, monkeypatch):
    """A record of D2GV as it was is not valid for D2GV as it is."""
    tasks.run("inpaint_random/bunny/d2gv", "smoke", "cpu", show_progress=False)
    assert tasks.run("inpaint_random/bunny/d2gv", "smoke", "cpu", make=False)
    other = tasks.FITTED["d2gv"]
    monkeypatch.setitem(tasks.FITTED, "d2gv", replace(other, config=replace(other.config, position_rate=6e-3)))
    record = tasks.run("inpaint_random/bunny/d2gv", "smoke", "cpu", make=False)
    assert not record and record.reason == NOT_MADE
    assert tasks.run("inpaint_random/bunny/d2gv", "smoke", "cpu", show_progress=False)


def test_flow_table(tmp_path, monkeypatch):
    """What a representation adds to flow; a cell of another code's record is marked, and so is the difference."""

    monkeypatch.setenv("STGV_RESULTS", str(tmp_path))

    def record(holes, outdated=False):
        return Record("x", Path("x.json"), {"psnr_holes": holes}, outdated=outdated)

    found = {"stgv": record(30.5), "flow": record(30.0), "paper": record(20.0), "paper_flow": record(29.0, True)}
    found["d2gv_flow"] = Record("y", Path("y.json"), None, "no GPU")
    table = task_tables.flow_table({"random": {"davis/cows": found}}, "paper", "inpainting_flow")
    rows = table.set_index("representation")
    assert rows["adds to flow"].round(2).tolist()[:2] == [0.5, -1.0] and rows["left out"].tolist()[1] == 20.0
    assert rows["note"]["D2GV"] == "no GPU" and np.isnan(rows["adds to flow"]["D2GV"])
    assert rows["outdated"].tolist() == ["", "fitted to filled frames, adds to flow", ""]
    text = (tmp_path / "paper" / "tables" / "inpainting_flow.md").read_text()
    mark = f"<sup>{DAGGER}</sup></td>"
    assert f'29.00{mark}<td align="right">\u22121.00{mark}' in text


def test_unknown_tasks_and_missing_data(results, monkeypatch):
    monkeypatch.delenv("STGV_DATA", raising=False)
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
        model = VideoModel(config, [6], (72, 128), 50, torch.Generator().manual_seed(0))
        draw = torch.Generator().manual_seed(1)
        for p in (*model.field.encoding_parameters(), model.field.position_head.weight):
            p.data = torch.randn(p.shape, generator=draw)
        there = {t: model.deform(model.times(torch.tensor([t])))[0].detach() for t in (2, 2.5, 3)}
        return ((there[2] + there[3]) / 2 - there[2.5]).abs().mean() / (there[3] - there[2]).abs().mean()

    steady, usual = swing(tasks.STEADY), swing(STGV)
    assert steady < 0.5 * usual, (steady, usual)
