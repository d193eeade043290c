"""What notebooks show: small pictures, charts with hover, sentences from records, sliders that fit a crop."""

import base64
import json

import cv2
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("IPython", reason="needs the notebooks extra")

from stgvlib import STGV  # noqa: E402
from stgvlib.errors import StgvError  # noqa: E402
from stgvlib.repro import findings, fits, notebooks, records, show, try_it  # noqa: E402


def record(psnr, seconds=60.0, device="a card", **more):
    data = {"psnr": psnr, "seconds": {"total": seconds}, "device": device, "decode_fps": 10.0, "parameters": 1}
    return records.Record("a/b", None, data | {"decode_fps_8bit": 20.0} | more)


NONE = records.Record("a/b", None, None, "not run yet")


def noise(path, width, height):
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    return path


def test_a_picture_is_embedded_small_and_its_file_stays(tmp_path):
    small, large = noise(tmp_path / "small.png", 30, 20), noise(tmp_path / "large.png", 1200, 900)
    before = large.read_bytes()
    assert show.picture(small).data == small.read_bytes()
    shown = show.picture(large)
    assert len(shown.data) <= 2 * show.MOST < len(before) == large.stat().st_size
    assert cv2.imdecode(np.frombuffer(shown.data, np.uint8), 1).shape == (644, 858, 3)


def test_links_of_a_gallery_hold_in_the_executed_copy(tmp_path, monkeypatch, capsys):
    from nbformat.v4 import new_code_cell, new_notebook, new_output, writes

    monkeypatch.setattr("stgvlib.repro.show.repository", lambda: tmp_path)
    monkeypatch.setattr("stgvlib.repro.notebooks.repository", lambda: tmp_path)
    figure, copy = tmp_path / "results/paper/figures/a.jpg", tmp_path / "results/paper/notebooks/01.ipynb"
    for path in (figure, copy):
        path.parent.mkdir(parents=True)
    noise(figure, 30, 20)
    told = []
    monkeypatch.setattr("stgvlib.repro.show.display", told.append)
    show.gallery([figure], first=0)
    assert "[a](../results/paper/figures/a.jpg)" in told[0].data
    data = {"text/markdown": told[0].data, "image/png": "", notebooks.WIDGET: {"model_id": "1"}}
    cell = new_code_cell("", outputs=[new_output("display_data", data=data)])
    copy.write_text(writes(new_notebook(cells=[cell], metadata={"widgets": {"state": "large"}})))
    notebooks._reproducible(copy)
    text = copy.read_text()
    assert "[a](../figures/a.jpg)" in text and notebooks.WIDGET not in text and "large" not in text


def test_a_chart_has_named_points_a_hover_and_a_still_picture(tmp_path):
    points = show.cost_points({"one": record(30.0), "two, too": record(31.0, 5.0), "none": NONE})
    made = show.chart(points, ("training, s",), ("PSNR, dB",), noise(tmp_path / "still.png", 30, 20))
    bundle = made._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == (tmp_path / "still.png").read_bytes()
    spec = json.loads(json.dumps(bundle[show.VEGA_LITE], allow_nan=False))
    assert [value["c0"] for value in spec["data"]["values"]] == ["one", "two, too"]
    dots, names = spec["hconcat"][0]["layer"]
    assert {item["title"] for item in dots["encoding"]["tooltip"]} >= {"system", "PSNR, dB", "device"}
    assert names["mark"]["type"] == "text" and names["encoding"]["text"]["field"] == "c0"
    curve = record(0.0, points=[{"bpp": 0.1, "psnr": 30.0, "ms_ssim": None, "bytes": 9}])
    rates = show.rate_points({"ours": curve, "none": NONE})
    lines = show.chart(rates, ("bits a pixel",), ("MS-SSIM",), tmp_path / "still.png", lines=True)
    assert lines.spec["hconcat"][0]["layer"][0]["params"][1]["bind"] == "legend"
    assert show.chart([], ("a",), ("b",), tmp_path / "still.png").spec["data"]["values"] == []


def test_findings_say_who_wins_and_who_loses():
    audit = pd.DataFrame({"agrees": [True, False]})
    bunny = {"HNeRV": record(38.0), "2DGS": record(29.0, 2.0, "another card"), "SIREN": NONE}
    good, bad = {"ours (quality)": record(41.0)}, {"ours (quality)": record(30.0), "ours, hashes alone": record(33.0)}
    text = findings.systems(bunny | good, {"cows": {**bunny, **bad}}, audit, "paper").data
    assert "*ours (quality)* with 41.00 dB, ahead of HNeRV, the best other system, with 38.00 dB" in text
    assert "2DGS (2 s, 29.00 dB, another card)" in text and "compared: SIREN" in text
    assert "on 1 of 2 videos, by 3.00 to 3.00 dB. It loses on cows (HNeRV, 8.00 dB)" in text
    assert "*ours, hashes alone* is ahead on cows (3.00 dB)" in text and "1 of 2 averages" in text
    text = findings.systems(bunny | bad, {}, audit, "smoke").data
    assert "behind HNeRV" in text and "Profile smoke is reduced" in text.splitlines()[0]
    kinds = {"Holes": ({"bunny": {"stgv": record(30.0), "flow": record(31.5), "paper": NONE}}, "psnr")}
    assert (
        "ours is behind the best other method by 1.50 dB on Bunny (Optical flow)" in findings.tasks(kinds, "paper").data
    )
    assert findings.tasks({"Holes": ({"bunny": {"stgv": NONE}}, "psnr")}, "paper").data.count("no records") == 1


def test_findings_of_the_committed_records_are_three_to_six_sentences():
    multi, key = (fits.run(f"bunny/{name}", "paper", "cpu", make=False) for name in ("multi_frame", "key_frame"))
    lines = findings.kfci(multi, key, "paper").data.splitlines()
    assert 3 <= len(lines) <= 6 and all(line.startswith("- ") and line.endswith(".") for line in lines)


def test_a_notebook_reads_the_papers_records_and_makes_none(monkeypatch, tmp_path):
    monkeypatch.setenv("STGV_RESULTS", str(tmp_path))
    from stgvlib.repro.curves import block_codec

    try:
        records.make_missing(False)
        assert block_codec("x264", "bunny", "paper", show_progress=False).reason == "not run yet"
        assert not list(tmp_path.rglob("*.json"))
    finally:
        records.make_missing(True)


def test_sliders_fit_a_crop(monkeypatch):
    pytest.importorskip("ipywidgets", reason="needs the notebooks extra")
    for name, start in {"steps": 20, "gaussians": 100}.items():
        monkeypatch.setitem(try_it.SLIDERS, name, (*try_it.SLIDERS[name][:3], start, try_it.SLIDERS[name][4]))
    widget = try_it.try_it({"ours": STGV}, "gaussians", "steps", "coarser")
    gaussians, steps, coarser, frame, row, image = widget.children
    assert (gaussians.value, frame.value) == (100, 7) and bytes(image.value[:2]) == b"\xff\xd8"
    assert base64.b64decode(widget._repr_mimebundle_()["image/jpeg"]) == image.value
    first = image.value
    frame.value = 0
    assert image.value != first  # rendered, not fitted
    coarser.value, first = 7, image.value
    row.children[0].click()
    assert image.value != first and row.children[2].value == "" and not row.children[0].disabled
    monkeypatch.setattr("stgvlib.repro.try_it.fit", lambda *_, **__: (_ for _ in ()).throw(StgvError("no room")))
    row.children[0].click()
    assert row.children[2].value == "no room"
    with pytest.raises(StgvError, match="sliders must be of gaussians, .*, got colour"):
        try_it.try_it({}, "colour")


def test_a_hole_is_judged_inside():
    tried = try_it.attempt(STGV, {"gaussians": 100, "steps": 20, "hole": 8})
    assert tried.frames.shape == try_it.crop().shape and tried.words.endswith("dB inside the hole")
    assert tried.frames.dtype == np.uint8
