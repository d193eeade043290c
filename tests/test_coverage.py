"""What the tables say of frames that are not the paper's, and how many of the paper's numbers have been measured.

| case | source | test |
|---|---|---|
| a bare +0.44 dB on DAVIS where four of six are 854x480 | AUDIT 7 | test_a_difference_is_of_the_same_frames_only |
| stand-ins in Table I's and VII's means | issue 29, 3 | test_a_mean_over_stand_ins_says_of_what_it_is |
| 287 numbers: same frames, stand-in, other frames, missing | AUDIT 12, issue 29, 9 | test_every_number_... |
| sequences of UVG that nobody has | issue 29, 3 | test_a_sequence_without_a_source_stays_missing |
"""

import pandas as pd
import pytest

from stgvlib.config import profile
from stgvlib.repro import classical, coverage, documents, frames, paper, tables, task_tables, work
from stgvlib.repro.records import Record
from stgvlib.video import datasets

CROP = "stand-in: 512x512, centre crop"


def fake(name, dataset, size=(720, 1280), psnr=30.0, source="", device="NVIDIA H100", **more):
    data = {"name": dataset, "frames": 9, "size": list(size)} | ({"source": source} if source else {})
    record = {"dataset": data, "profile": "paper", "psnr": psnr, "psnr_8bit": psnr, "ms_ssim": 0.9, "frames": 9}
    record |= {"parameters": 3_000_000, "seconds": {"total": 9.0}, "decode_fps": 100.0, "decode_fps_8bit": 200.0}
    record["fps_8bit_protocol"] = "16 frames a call"
    return Record(name, None, record | {"device": device, "config": {"steps": 9}, "about": ""} | more)


def gone(name):
    return Record(name, None, None, f"{name.rpartition('/')[0]} is not on the machine that ran this: stgv fetch uvg")


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.setenv("STGV_RESULTS", str(tmp_path))
    return tmp_path / "paper/tables"


def test_frames_are_the_same_a_stand_in_or_others():
    assert frames.kind(fake("", "bunny", (640, 1280))) == frames.kind(fake("", "davis/boat")) == frames.SAME
    assert frames.kind(fake("", "davis/cows", (480, 854))) == frames.OTHER
    assert frames.kind(fake("", "uvg/Bosphorus", source="stand-in: of the same size")) == frames.STAND_IN
    assert frames.kind(fake("", "mine", (24, 32))) == frames.SAME  # a video of your own
    scale = profile("quick").scale
    for rows, columns, kind in ((480, 854, frames.OTHER), (720, 1280, frames.SAME)):
        size = round(scale * rows), round(scale * columns)
        assert frames.kind(fake("", "davis/cows", size, profile="quick")) == kind
    mark = "854x480 with the paper's budget, 2.25 times as dense"
    small = [fake("", f"davis/{video}", (480, 854)) for video in ("cows", "camel")]
    assert frames.marks([*small, fake("", "davis/boat"), gone("uvg/x/y")]) == [f"cows, camel: {mark}"]


def test_a_difference_is_of_the_same_frames_only(written):
    same = {video: {"STGV": fake("", f"davis/{video}", psnr=31.5)} for video in paper.DAVIS_VIDEOS}
    row = tables.table_1("davis", same, "paper").iloc[0]
    assert row["difference"] == round(31.5 - 31.36, 2) and row["note"] == ""
    mixed = same | {video: {"STGV": fake("", f"davis/{video}", (480, 854))} for video in ("cows", "camel")}
    row = tables.table_1("davis", mixed, "paper").iloc[0]
    assert pd.isna(row["difference"]) and row["ours PSNR"] == 31.0 and row["videos"] == 6
    assert row["note"].startswith("camel, cows: 854x480 with the paper's budget, 2.25 times as dense; on the paper's ")
    theirs = (31.14 + 30.44 + 30.33 + 35.47) / 4
    assert row["note"].endswith(f"(dance-twirl, bmx-trees, blackswan, boat): ours 31.50, paper {theirs:.2f}")
    sizes = tables.size_table(mixed, "paper").set_index("video")["note"]
    assert "2.25 times as dense; 854x480 JPEG saved again at quality 75" in sizes["cows"]
    assert sizes["boat"] == "at least 720p, resized to 720p"
    note = tables.video_table("davis", mixed, "paper").iloc[1]["note"]
    assert note == "camel, cows: 854x480 with the paper's budget, 2.25 times as dense"


def test_a_mean_over_stand_ins_says_of_what_it_is(written):
    records = {v: {"D2GV": gone(f"uvg/{v}/d2gv")} for v in ("ReadySteadyGo", "YachtRide")}
    for video, psnr in (("Beauty", 30.0), ("Jockey", 32.0)):
        records[video] = {"D2GV": fake("", f"uvg/{video}", (512, 512), psnr, CROP)}
    row = tables.table_1("uvg", records, "paper").iloc[0]
    assert row["ours PSNR"] == 31 and pd.isna(row["difference"])
    said = (
        "uvg/ReadySteadyGo, uvg/YachtRide are not on the machine that ran this: stgv fetch uvg; mean of 2 of 7 videos"
    )
    assert row["note"] == f"{said}; Beauty, Jockey: {CROP}"
    ours = tables.video_table("uvg", records, "paper").iloc[1]
    assert ours["mean"] == 31 and "mean of 2 of 7 videos" in ours["note"] and f"Beauty, Jockey: {CROP}" in ours["note"]
    sizes = tables.size_table(records, "paper").set_index("video")
    assert sizes.loc["Beauty", "note"] == CROP and sizes.loc["Beauty", "size"] == "512x512"
    assert "not on the machine" in sizes.loc["YachtRide", "note"]


def test_ablations_have_uvgs_means(written, monkeypatch):
    found = {"uvg/Beauty/multi_frame": fake("", "uvg/Beauty", (512, 512), 33.0, CROP)}
    monkeypatch.setattr(tables, "run", lambda name, *_, **__: found.get(name) or gone(name))
    table = tables.table_4({"V1": fake("", "bunny", psnr=37.0), "V2": fake("", "bunny")}, "paper").set_index("variant")
    assert table.loc["V1", "difference"] == -0.26 and table.loc["V1", "ours UVG"] == 33
    assert pd.isna(table.loc["V2", "ours UVG"]) and "mean of 1 of 7 videos" in table.loc["V1", "note"]
    assert table.loc["V1", "note"].startswith("UVG: uvg/Bosphorus, ") and f"Beauty: {CROP}" in table.loc["V1", "note"]


def test_task_tables_mark_stand_ins(written):
    record = fake("", "uvg/Beauty", (512, 512), source=CROP, psnr_given=20.0)
    table = task_tables.task_table("inpaint_random", {"uvg/Beauty": {"stgv": record}}, "paper", "t").set_index("system")
    assert table.loc["ours, hashes alone", "note"] == f"Beauty: {CROP}"


def test_every_number_is_counted_once(written, monkeypatch):
    """Whatever records there are: none, those that are committed, all."""
    sizes = [48, 23, 18, 10, 6, 32, 80, 70]
    monkeypatch.setattr(coverage, "record_of", lambda name, *_, **__: gone(name))
    none = coverage.coverage_table("paper").set_index("table")
    assert none["numbers"].tolist() == [*sizes, 287] == none["missing"].tolist() and none[frames.SAME].sum() == 0
    assert none.loc["VII", "reason"] == "80: its frames are not on the machine that ran this: stgv fetch uvg"

    def every(name, *_, **__):
        dataset = next(d for d in datasets.DATASETS if d in name)
        return fake(
            name, dataset, (480, 854) if "cows" in name else (720, 1280), source="x" * dataset.startswith("uvg")
        )

    monkeypatch.setattr(coverage, "record_of", every)
    table = coverage.coverage_table("paper").set_index("table")
    assert table.loc["all", "missing"] == 0 and (table[list(coverage.KINDS)].sum(axis=1) == table["numbers"]).all()
    assert table.loc["I", list(coverage.KINDS)].tolist() == [0, 12, 12, 24, 0]  # the means of DAVIS have cows in them
    assert table.loc["II", list(coverage.KINDS)].tolist() == [15, 0, 0, 8, 0]
    assert table.loc["IV", list(coverage.KINDS)].tolist() == [5, 5, 0, 0, 0]
    assert table.loc["VIII", list(coverage.KINDS)].tolist() == [50, 0, 20, 0, 0]
    assert coverage.coverage_table("quick").set_index("table").loc["II", frames.OTHER] == 15
    monkeypatch.setattr(coverage, "RTX", "H100")
    assert coverage.coverage_table("paper").set_index("table").loc["II", frames.SAME] == 23


def test_an_average_counts_with_more_than_scale_of_its_videos(written, monkeypatch):
    here = ("Beauty", "Bosphorus", "HoneyBee")
    names = []

    def some(name, *_, **__):
        names.append(name)
        video = next((video for video in here if name == f"uvg/{video}/2dgs"), None)
        return fake(name, f"uvg/{video}", source=CROP) if video else gone(name)

    monkeypatch.setattr(coverage, "record_of", some)
    assert coverage.coverage_table("paper").set_index("table").loc["I", frames.STAND_IN] == 0
    assert len(names) == len(set(names)) > 100  # each looked up once
    here += ("Jockey",)
    assert coverage.coverage_table("paper").set_index("table").loc["I", frames.STAND_IN] == 2
    numbers = pd.read_csv(written / "coverage_numbers.csv").set_index(["table", "row", "measure", "of"])
    row = numbers.loc[("I", "2DGS", "PSNR", "UVG, average")]
    assert (row["kind"], row["note"]) == (frames.STAND_IN, "mean of 4 of 7 videos")
    assert numbers.loc[("VII", "2DGS", "MS-SSIM", "uvg/Jockey"), "kind"] == frames.STAND_IN
    assert numbers.loc[("I", "2DGS", "FPS", "UVG, average"), "kind"] == coverage.OTHER_HARDWARE


def test_numbers_have_names_of_experiments():
    """A number that no experiment could fill would be missing for ever: only networks outside of Bunny may be."""
    there, unknown = set(work.experiments("paper")), set()
    for number in paper.numbers():
        for of in number.of:
            key = "telea" if of.startswith("inpaint") else "median"  # as given: every method has it
            key = coverage.KEYS[number.row] if number.row != "Baseline" else key
            name = f"tasks/{of}/{key}" if number.table in ("III", "VI") else f"{of}/{key}"
            unknown |= {key} if name not in there else set()
    assert unknown <= {"siren", "nerv", "e_nerv"}
    assert paper.NOISES == classical.NOISES


def test_documents_reach_the_coverage(tmp_path, monkeypatch):
    table = tmp_path / "results/paper/tables/coverage.csv"
    table.parent.mkdir(parents=True)
    table.write_text("table,numbers,same frames\nI,48,0\nall,287,38\n")
    table.with_suffix(".md").write_text("| table |\n| --- |\n| I |\n")
    monkeypatch.setattr(documents, "repository", lambda: tmp_path)
    number = "of <!--{{coverage.csv:all:%s | .0f}}--><!--/-->"
    text = number % "numbers" + number % "same_frames"
    assert documents.fill(text).count("-->287<!--") == documents.fill(text).count("-->38<!--") == 1
    assert "| I |" in documents.fill("<!--table file=coverage-->\n<!--/table-->")


def test_a_sequence_without_a_source_stays_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("STGV_RESULTS", str(tmp_path))
    monkeypatch.setattr(datasets, "data_folders", lambda: [tmp_path])
    assert {"uvg/YachtRide/stgv", "uvg/ReadySteadyGo/paper", "uvg/Beauty/static"} <= set(work.experiments("paper"))
    monkeypatch.setattr(work, "experiments", lambda _: ["uvg/YachtRide/stgv"])
    (left,) = work.missing("paper")
    assert left.reason == "uvg/YachtRide is not on the machine that ran this: stgv fetch uvg"
