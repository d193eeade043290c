"""Tables and figures of curves that are made up, so that every number is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stgvlib.baselines.block_codecs import BLOCK_CODECS
from stgvlib.repro import curve_tables, documents, figures
from stgvlib.repro.published import NOT_READ, PUBLISHED
from stgvlib.repro.records import Record

LEVELS = range(5)


def curve(factor=1.0, yuv=True, **more):
    """Five points whose quality is 30 dB at 0.01 `factor` bits a pixel and 2.5 dB more at twice the rate."""
    points = [{"bpp": 0.01 * factor * 2**k, "bytes": 1000 * 2**k, "psnr": 30 + 2.5 * k} for k in LEVELS]
    points = [p | {"ms_ssim": 1 - 10 ** (-p["psnr"] / 20), "encode_seconds": 1.0} for p in points]
    points = [p | ({"psnr_yuv": p["psnr"] + 2} if yuv else {}) for p in points]
    data = {"points": points, "run": ["bunny/stgv"], "device": "a card", "dataset": {"name": "bunny"}}
    return Record("bunny/rate_stgv", Path(), data | more)


NONE = Record("bunny/rate_none", Path(), None, "not run")


def test_every_measure_has_its_bd_rate(results):
    """Twice the rate at the same quality is +100 % in each; a record without a measure has the reason instead."""
    made = {"anchor": curve(), "twice": curve(2.0), "old": curve(0.5, yuv=False), "none": NONE}
    for measure in curve_tables.MEASURES.values():
        table = curve_tables.bd_table(made, ["anchor"], "smoke", f"bd_{measure}", measure).set_index("system")
        assert table.loc["twice", "against anchor, %"] == 100 and table.loc["none", "note"] == "not run"
        if measure == "psnr_yuv":
            assert pd.isna(table.loc["old", "against anchor, %"])
            assert table.loc["old", "note"] == f"anchor: {curve_tables.OLDER}"
        else:
            assert table.loc["old", "against anchor, %"] == -50
        name = {"psnr": "bd_rate", "psnr_yuv": "bd_rate_yuv", "ms_ssim": "bd_rate_ms_ssim"}[measure]
        assert documents.FUNCTIONS[name](made["anchor"]["points"], made["twice"]["points"]) == pytest.approx(100)


def test_bd_rates_of_old_records_have_a_dagger(results):
    """Their columns' names have commas themselves."""
    made = {"anchor": curve(), "old": replace(curve(2.0), outdated=True)}
    curve_tables.bd_table(made, ["anchor"], "smoke")
    text = (results / "tables/bd_rates.md").read_text()
    assert 'old<sup>\u2020</sup></td><td align="right">+100.0<' in text
    assert 'anchor</td><td align="right">+0.0<' in text


def test_ms_ssim_is_compared_in_decibels():
    assert curve_tables.rated([{"bpp": 0.1, "ms_ssim": 0.99}], "ms_ssim") == [(0.1, pytest.approx(20))]


def test_rates_say_what_ran_and_what_is_missing(results):
    codec = curve(device="a processor, 2 cores", threads={"encoding": 2, "decoding": 1})
    table = curve_tables.rate_table({"ours": curve(yuv=False), "x264": codec, "none": NONE}, "smoke")
    assert len(table) == 11 and list(table["PSNR in YUV"][5:10]) == [32, 34.5, 37, 39.5, 42]
    assert set(table["note"][:5]) == {"no PSNR in YUV: its record is older than this measure"}
    assert set(table["threads"][5:10]) == {"2 to encode, 1 to decode"} and pd.isna(table["threads"][0])
    assert table["device"][0] == "a card" and table["note"].iloc[-1] == "not run"


def test_all_codecs_at_a_glance(results, monkeypatch):
    monkeypatch.setattr(curve_tables, "run", lambda *_, **__: Record("", Path(), {"frames": 132, "gops": 9}))
    codecs = {codec: curve(0.5) for codec in BLOCK_CODECS} | {"vvc": NONE}
    table = curve_tables.codec_table({"bunny": {"ours": curve(), **codecs}}, "ours", "smoke").set_index("block codec")
    assert list(table.index) == list(BLOCK_CODECS) and set(table["our groups, frames"]) == {"14.7"}
    assert list(table.loc["x265_closed"].filter(like="in ")) == [100, 100, 100]
    assert table.loc["x265_closed", "its groups, frames"] == 16
    assert table.loc["x265", "its groups, frames"] == "whole video"
    assert table.loc["vvc"].filter(like="in ").isna().all() and table.loc["vvc", "note"] == "not run"
    table = curve_tables.codec_table({"bunny": {"ours": NONE, **codecs}}, "ours", "smoke")
    assert table["in PSNR, %"].isna().all() and pd.isna(table["our groups, frames"]).all()


def test_published_points_stand_beside_ours_at_their_rate(results):
    """Between 0.02 and 0.04 bits a pixel ours has 32.5 to 35 dB: 34.3 at 0.0329; above its last point nothing."""
    table = curve_tables.published_table(curve(), "bunny", "smoke")
    (boost,) = PUBLISHED
    assert list(table["published PSNR"][:3]) == [34.54, 36.92, 39.58] and len(table) == 3 + len(NOT_READ)
    assert table["ours PSNR"][0] == round(32.5 + 2.5 * np.log2(0.0329 / 0.02), 2)
    assert table["difference"][0] == round(32.5 + 2.5 * np.log2(0.0329 / 0.02) - 34.54, 2)
    assert pd.isna(curve_tables.published_table(curve(0.01), "bunny", "smoke")["ours PSNR"][0])
    assert table["note"][:3].str.contains("arXiv 2402.18152").all() and table["note"][:3].str.contains("720x1280").all()
    assert table["note"][3:].str.contains("not read off").all()
    assert curve_tables.published_table(NONE, "bunny", "smoke")["note"][0].endswith("ours: not run")


def test_figure_5_has_its_source_and_what_others_published(results):
    """Each of the two changes the picture."""
    made = {"ours": curve(), "x265_psnr": curve(0.9), "x265_closed": curve(1.1), "x265_slower": curve(0.8)}

    def drawn(**more):
        return np.asarray(Image.open(figures.figure_5(made, "smoke", **more)).convert("RGB").resize((700, 250)))

    plain, line, points = drawn(), drawn(source=0.0589), drawn(dataset="bunny")
    assert (plain != line).any() and (plain != points).any() and (line != points).any()
