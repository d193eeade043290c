"""Records: made once, loaded after, remade when anything that decides them changes; and the reports made of them.

Files that are damaged or were edited are in test_record_files.py.
"""

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch
from small_runs import TINY, run

from stgvlib.baselines import SYSTEMS, gaussian
from stgvlib.codec import fine_tune
from stgvlib.config import PROFILES, STGV
from stgvlib.errors import StgvError
from stgvlib.ops.encoding import HashGrid
from stgvlib.repro import curve_tables, curves, figures, fits, layout, tables
from stgvlib.repro.records import Record, save_record
from stgvlib.repro.registry import RUNS, named
from stgvlib.video.datasets import Dataset, Source
from stgvlib.video.write import write_video

NAMES = {"V1": "multi_frame", "V2": "key_frame", "Ours": "paper"}


def test_a_record_says_everything_that_decides_a_number(results):
    record = run("bunny/paper")
    on_disk = json.loads((results / "runs" / "bunny" / "paper.json").read_text())
    assert on_disk == record.data
    assert on_disk["config"]["steps"] == 30 and on_disk["dataset"]["size"] == [64, 128]
    assert len(on_disk["dataset"]["sha256"]) == 64 and on_disk["seed"] == 0 and on_disk["commit"]
    assert on_disk["parameters"] == 8 * on_disk["gaussians"] + 71_813
    assert {"psnr", "psnr_8bit", "ms_ssim", "decode_fps", "device", "versions", "seconds"} <= set(on_disk)
    assert record.image("frame").shape == record.image("truth").shape
    assert record.image("motion").ndim == 3


def test_a_valid_record_is_not_run_again(results, monkeypatch):
    first = run("bunny/key_frame")
    monkeypatch.setattr(gaussian, "fit", lambda *_, **__: pytest.fail("fitted again"))
    assert run("bunny/key_frame").data == first.data
    with pytest.raises(pytest.fail.Exception):
        run("bunny/key_frame", refresh=True)
    with pytest.raises(pytest.fail.Exception):
        run("bunny/key_frame", seed=1)
    monkeypatch.setattr(fits, "VERSION", 999)
    with pytest.raises(pytest.fail.Exception):
        run("bunny/key_frame")


def test_a_record_of_other_settings_is_remade(results):
    made = run("bunny/static")
    save_record(made.name, made.path, made.data | {"hash": "other", "psnr": 99.0})
    assert run("bunny/static")["psnr"] < 50


def test_a_record_of_other_code_is_used_and_marked(results):
    made = run("bunny/static")
    assert not run("bunny/static").outdated
    assert "outdated" not in tables.run_table(["bunny/static"], "smoke", "cpu", "code")
    save_record(made.name, made.path, made.data | {"sources": "0" * 16})
    record = run("bunny/static")
    assert record["psnr"] == made["psnr"] and record.outdated
    table = tables.run_table(["bunny/static"], "smoke", "cpu", "code")
    assert table.loc[0, "outdated"] == "all" and table.loc[0, "PSNR"] == round(made["psnr"], 2)
    text = (results / "tables" / "code.md").read_text()
    assert f"<sup>{layout.DAGGER}</sup>" in text and layout.COMMAND in text


def test_a_run_of_your_own_is_kept_and_reported(results, tmp_path):
    from stgvlib.repro import Run, report

    config = replace(named("bunny/static").system.config, gaussians=50)
    record = fits.run(Run("bunny", config, "fifty Gaussians"), "smoke", "cpu", show_progress=False)
    assert record.path.parent == results / "runs" / "mine" / "bunny" and record["gaussians"] == 50
    assert fits.run(Run("bunny", config, "again"), "smoke", "cpu", make=False).data == record.data
    paper = run("bunny/paper")
    table = report("smoke").set_index("run")
    assert table.loc[record.name, "PSNR"] == round(record["psnr"], 2)
    assert table.loc["bunny/paper", "PSNR"] == round(paper["psnr"], 2)
    with pytest.raises(StgvError, match="nowhere.mp4 does not exist"):
        fits.run(Run(str(tmp_path / "nowhere.mp4"), config, ""), "smoke", "cpu")
    with pytest.raises(StgvError, match="no system fits a dict: expected FitConfig, InrConfig"):
        fits.run(Run("bunny", {}, ""), "smoke", "cpu")


def test_what_cannot_run_says_why(results, monkeypatch):
    missing = fits.run("bunny/paper", "paper", "cpu")
    assert not missing and "needs a CUDA GPU" in missing.reason
    with pytest.raises(StgvError, match="has no record: not run"):
        missing["psnr"]
    monkeypatch.setitem(RUNS, "x", replace(named("bunny/paper"), dataset="uvg/Jockey"))
    monkeypatch.setattr(fits.datasets, "locate", lambda _: None)
    assert "stgv fetch uvg" in run("x").reason
    with pytest.raises(StgvError, match="no run is named 'bunny/nothing'; near it: "):
        run("bunny/nothing")


def test_a_system_may_not_have_the_name_of_another_run(results, monkeypatch):
    static = replace(SYSTEMS["stgv"], key="static", label="mine")
    monkeypatch.setitem(SYSTEMS, "static", static)  # bunny/static is a variant of Table IV
    with pytest.raises(StgvError, match="system 'static' has the name of another run, bunny/static"):
        fits.systems("bunny", "smoke", "cpu", make=False)


def test_tables_come_from_records_alone(results):
    records = {variant: run(f"bunny/{name}") for variant, name in NAMES.items()}
    records["V3"] = Record("gone", results / "gone.json", None, "not run: no GPU here")
    table = tables.table_4(records, "smoke").set_index("variant")
    for variant, record in list(records.items())[:3]:
        assert table.loc[variant, "ours Bunny"] == round(record["psnr"], 2)
        assert table.loc[variant, "parameters"] == record["parameters"]
    assert pd.isna(table.loc["V3", "ours Bunny"]) and "no GPU here" in table.loc["V3", "note"]
    assert table["difference"].isna().all()  # a reduced profile is not compared with the paper
    assert table["paper Bunny"].tolist() == [37.26, 37.81, 37.93, 37.64]
    written = pd.read_csv(results / "tables" / "table_4.csv")
    assert written["ours Bunny"].tolist()[:3] == table["ours Bunny"].tolist()[:3]
    assert (results / "tables" / "table_4.md").read_text().count("<tr>") == 2 + len(records)


def test_figures_are_drawn_and_not_blank(results):
    import cv2

    records = {name: run(f"bunny/{name}") for name in ("multi_frame", "key_frame", "paper")}
    made = [
        figures.figure_3(records["multi_frame"], records["key_frame"], "smoke"),
        figures.figure_8(records, "smoke"),
        figures.history_figure(records, "smoke", "curves", ("coarse", "deformation")),
        figures.motion_figure(records["paper"], "smoke"),
    ]
    for path in made:
        picture = cv2.imread(str(path))
        assert picture.shape[1] >= 858 and picture.std() > 10, path


def test_level_table_finds_what_the_paper_overlooks():
    table = tables.level_table(HashGrid(1, 3, 4))
    assert table["hashed"].all() and (table["neighbours sharing a time cell"] == "0 of 9").all()
    assert tables.level_table(HashGrid(1, 2, 2))["hashed"].tolist() == [False, False] + [True] * 6


def test_records_serve_where_their_frames_are_not(results, monkeypatch):
    """Tables are rebuilt from committed records on machines without the dataset; settings still decide."""
    monkeypatch.setitem(PROFILES, "smoke", replace(TINY, scale=1.0))
    small = replace(named("bunny/static"), dataset="davis/cows")
    monkeypatch.setitem(RUNS, "x/cows", small)
    clip = fits.datasets.load_dataset("bunny").scaled(0.1)
    with monkeypatch.context() as here:
        here.setattr(fits.datasets, "open_input", lambda _: clip)
        made = run("x/cows")
    assert made and made["psnr"] > 5
    monkeypatch.setattr(fits.datasets, "locate", lambda _: None)
    assert run("x/cows").data == made.data
    assert run("x/cows", refresh=True).reason == "davis/cows is not on the machine that ran this: stgv fetch davis"
    monkeypatch.setitem(RUNS, "x/cows", replace(small, config=named("bunny/paper").config))
    assert "of other settings" in run("x/cows").reason


def test_a_record_says_what_stood_in_for_its_dataset(results, monkeypatch, tmp_path):
    """It has the density of the whole frame, and never takes the place of a record of the dataset's own frames."""
    monkeypatch.setitem(PROFILES, "smoke", replace(TINY, scale=1.0))
    clip = fits.datasets.load_dataset("bunny").scaled(0.1)
    write_video(tmp_path / "own", clip.read(0, 3))
    write_video(tmp_path / "part", clip.read(0, 2)[:, :32, :48])
    part = Source(("part",), 2, note="stand-in: a corner")
    dataset = Dataset("d", ("own",), 3, 40, target=(64, 128), stand_ins=(part,))
    monkeypatch.setitem(fits.datasets.DATASETS, "d", dataset)
    monkeypatch.setattr(fits.datasets, "data_folders", lambda: [tmp_path])
    monkeypatch.setitem(RUNS, "x/d", replace(named("bunny/static"), dataset="d", published_gaussians=True))
    own = run("x/d")
    assert own["frames"] == 3 and "source" not in own["dataset"] and own["gaussians"] == 40
    (tmp_path / "own").rename(tmp_path / "away")
    assert run("x/d").data == own.data
    own.path.unlink()
    made = run("x/d")
    assert made["dataset"]["source"] == "stand-in: a corner" and made["frames"] == 2
    assert made["gaussians"] == round(32 * 48 / (64 * 128 / 40)) == 8
    (tmp_path / "part").rename(tmp_path / "gone")
    assert run("x/d").data == made.data  # where no frames are at hand
    (tmp_path / "away").rename(tmp_path / "own")
    assert run("x/d")["frames"] == 3  # the official frames replace it


def test_systems_make_tables_and_figures(results, monkeypatch):
    import cv2

    found = {label: run(f"bunny/{key}") for key, label in (("siren", "SIREN"), ("2dgs", "2DGS"), ("paper", "STGV"))}
    gone = Record("gone", results / "gone.json", None, "not here")
    table = tables.table_2(found | {"D2GV": gone}, "smoke").set_index("system")
    assert table.loc["SIREN", "ours PSNR"] == round(found["SIREN"]["psnr"], 2)
    assert table.loc["SIREN", "paper PSNR"] == 26.27 and pd.isna(table.loc["2DGS", "paper PSNR"])
    assert pd.isna(table.loc["D2GV", "ours PSNR"]) and table.loc["D2GV", "note"].startswith("not here")
    assert table["difference"].isna().all()
    davis = {"cows": found, "boat": found | {"SIREN": gone}}
    means = tables.table_1("davis", davis, "smoke").set_index("system")
    assert means.loc["STGV", "videos"] == 2 and "2 of 6 videos" in means.loc["STGV", "note"]
    videos = tables.video_table("davis", davis, "smoke").set_index(["system", "measure", "source"])
    assert videos.loc[("2DGS", "PSNR", "ours"), "cows"] == round(found["2DGS"]["psnr"], 4)
    assert videos.loc[("2DGS", "PSNR", "paper"), "boat"] == 33.01
    assert pd.isna(videos.loc[("SIREN", "PSNR", "ours"), "boat"])
    alone = videos.loc[("SIREN", "PSNR", "ours")]
    assert alone["mean"] == alone["cows"] and "mean of 1 of 6 videos" in alone["note"]
    for path in (
        figures.systems_figure(found | {"D2GV": gone}, "smoke", "systems"),
        figures.cost_figure(found | {"D2GV": gone}, "smoke"),
        figures.figure_9({20_000: found["STGV"], 5_000: found["2DGS"], 1: gone}, "smoke"),
    ):
        assert cv2.imread(str(path)).std() > 10, path


def test_the_audit_finds_what_the_paper_got_wrong(results):
    audit = tables.audit_table("smoke")
    wrong = audit[~audit["agrees"]]
    assert len(wrong) == 17 and len(audit) == 55
    found = set(zip(wrong["table"], wrong["system"], wrong["measure"]))
    assert {("VI", "Minimum", "PSNR"), ("VII", "NeRV", "MS-SSIM"), ("II", "SIREN", "PSNR")} < found
    three = audit[(audit["system"] == "D2GV") & (audit["of"] == "DAVIS, average") & (audit["measure"] == "PSNR")]
    assert three["printed"].tolist() == [31.09, 30.26] and three["mean"].tolist() == [31.2617] * 2


def test_seeds_have_a_mean_and_a_spread(results, monkeypatch):
    table = tables.seed_table(["bunny/static"], "smoke", "cpu", seeds=2).iloc[0]
    values = [run("bunny/static", seed=seed)["psnr"] for seed in (0, 1)]
    assert table["seeds"] == 2 and table["mean PSNR"] == round(sum(values) / 2, 3)
    assert table["spread"] == round(abs(values[0] - values[1]), 3) > 0


def test_models_become_files_of_several_rates(results, monkeypatch):
    """A Gaussian model fine-tuned, the same rounded, and a network; the model is fitted once and kept."""
    for name, levels, tuning in (
        ("stgv", (0.9, 0.5), 50_000),
        ("stgv_rounded", (8.0, 6.5), 0),
        ("hnerv", (8, 4), 0),
        ("chains", (1e-4, 5e-3), 10_000),
    ):
        setting = replace(curves.CURVES[name], levels=levels, fine_tuning=tuning)
        monkeypatch.setitem(curves.CURVES, name, setting)
    monkeypatch.setattr(curves, "some", lambda names, _: list(names))
    monkeypatch.setattr(fine_tune, "EVERY", 10)
    made, written = {}, []

    def write_once(video, model, setting, level, *rest):
        written.append(level)
        if written == [8.0, 6.5]:  # it goes on at the second level
            raise KeyboardInterrupt
        return curves.OURS.write(video, model, setting, level, *rest)

    monkeypatch.setitem(curves.RECIPES, "stgv_rounded", replace(curves.OURS, write=write_once))
    with pytest.raises(KeyboardInterrupt):
        curves.curve("stgv_rounded", "bunny", "smoke", "cpu", show_progress=False)
    for name in ("stgv", "stgv_rounded", "hnerv", "chains"):
        made[name] = curves.curve(name, "bunny", "smoke", "cpu", show_progress=False)
        fine, coarse = made[name]["points"]
        assert fine["bytes"] > coarse["bytes"] > 0
        if name != "stgv":  # whose second level has been trained for longer, which matters after so few steps
            assert fine["psnr"] >= coarse["psnr"] - 0.1
        assert fine["bpp"] == 8 * fine["bytes"] / (64 * 128 * 3) and fine["entropy_decoding_seconds"] > 0
        if "sections" in fine:
            assert sum(fine["sections"].values()) == fine["bytes"]
            assert name != "chains" or [gop["kind"] for gop in fine["gops"]] == ["key"]
        if name.startswith("stgv"):
            bits = fine["level"] * made[name]["parameters"]
            assert 0.3 * bits < 8 * fine["bytes"] <= bits
    assert written == [8.0, 6.5, 6.5] and not list(results.rglob("*.points"))
    monkeypatch.setattr(curves, "fitted", lambda *_: pytest.fail("compressed again"))
    assert curves.curve("stgv", "bunny", "smoke", "cpu").data == made["stgv"].data
    with monkeypatch.context() as patch:  # another fit of the same name: its curve is not this one
        changed = replace(SYSTEMS["stgv"], config=replace(STGV, color_rate=1e-3))
        patch.setitem(SYSTEMS, "stgv", changed)
        with pytest.raises(pytest.fail.Exception):
            curves.curve("stgv", "bunny", "smoke", "cpu")
    with pytest.raises(StgvError, match="curve must be one of stgv, .* got 'vvc'"):
        curves.curve("vvc", "bunny", "smoke")
    missing = Record("bunny/rate_d2gv", results, None, "not run")
    table = curve_tables.rate_table(made | {"D2GV": missing}, "smoke")
    assert len(table) == 9 and table["note"].iloc[-1] == "not run" and table["bytes"].isna().sum() == 1
    bd = curve_tables.bd_table(made, ("stgv",), "smoke")
    assert bd["against stgv, %"].isna().all() and bd["note"].str.contains("needs four points").all()
    assert list(curve_tables.section_table(made["stgv"], "smoke")["field"]) > [0, 0]
    assert figures.figure_5(made, "smoke").stat().st_size > 10_000


def test_what_the_papers_recipe_costs_is_the_fit_less_the_file(results):
    fitted = run("bunny/static")["psnr"]
    point = {"level": 20_000, "psnr": fitted - 1.5, "psnr_8bit_field_rows": fitted - 0.5}
    made = Record("bunny/rate_paper_recipe", results, {"run": ["bunny/static"], "points": [point]})
    table = curve_tables.recipe_table({"rows": made, "none": Record("none", results, None, "not run")}, "smoke")
    assert table.loc[0, "lost"] == 1.5 and table.loc[0, "fitted"] - table.loc[0, "8-bit field"] == pytest.approx(
        0.5, abs=0.02
    )
    assert list(table["note"]) == ["", "not run"] and pd.isna(table.loc[1, "lost"])


def test_a_model_that_is_gone_is_fitted_again(results):
    model, record = fits.fitted("bunny/2dgs", "smoke", "cpu", show_progress=False)
    path = record.path.with_suffix(".safetensors")
    path.unlink()
    again, _ = fits.fitted("bunny/2dgs", "smoke", "cpu", show_progress=False)
    assert path.exists() and all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))
