"""The printed tables: internally consistent where the paper is, and the known slips where it is not."""

import pytest

from stgvlib.repro import paper


def test_averages_show_the_papers_slips():
    """FACTS, section 7; AUDIT 12. The paper prints two decimals, so half a unit is no slip."""
    wrong = {
        (number.table, number.row, number.title): round(mean, 3)
        for number, mean, _ in paper.averages()
        if number.measure == "PSNR" and abs(mean - number.value) > 0.0051
    }
    uvg = {"E-NeRV": 35.021, "2DGS": 31.827, "D2GV": 34.449}
    davis = {"NeRV": 27.090, "2DGS": 30.253, "D2GV": 31.262}
    expected = {(table, row, "UVG, average"): mean for table in ("I", "VII") for row, mean in uvg.items()}
    expected |= {(table, row, "DAVIS, average"): mean for table in ("I", "VIII") for row, mean in davis.items()}
    assert wrong == pytest.approx(expected | {("VI", "Minimum", "average of 3"): 17.230}, abs=2e-3)
    assert {number.table for number, *_ in paper.averages()} == {"I", "III", "IV", "V", "VI", "VII", "VIII"}


def test_numbers_are_those_that_are_printed():
    numbers = paper.numbers()
    assert len(numbers) == 287 == len({(n.table, n.row, n.measure, n.of) for n in numbers})
    found = {(n.table, n.row, n.measure, n.title): n.value for n in numbers}
    assert found[("I", "STGV", "FPS", "DAVIS, average")] == 433 and found[("II", "GSVR", "PSNR", "bunny")] == 35.65
    assert found[("III", "D2GV", "PSNR", "inpaint_random/davis/cows")] == 29.30
    assert found[("VI", "Median", "PSNR", "noise_salt_pepper/uvg/HoneyBee")] == 38.15
    assert (
        found[("VIII", "2DGS", "MS-SSIM", "davis/boat")] == 0.9554 and ("II", "GSVR", "MS-SSIM", "bunny") not in found
    )
    assert paper.TABLE_2["SIREN"][1:] == paper.TABLE_1["uvg"]["SIREN"][2:]  # a slip of the paper


def test_tables_have_a_value_a_video():
    for table, videos in ((paper.TABLE_7, paper.UVG_VIDEOS), (paper.TABLE_8, paper.DAVIS_VIDEOS)):
        for psnr, ssim in table.values():
            assert len(psnr) == len(ssim) == len(videos) + 1
            assert all(20 < v < 45 for v in psnr) and all(0.8 < v < 1 for v in ssim)


def test_the_same_figure_is_the_same_in_every_table():
    assert paper.TABLE_4["Ours"] == paper.TABLE_5["spatio-temporal"]
    assert paper.TABLE_4["V2"] == paper.TABLE_5["positional"]
    assert paper.TABLE_2["STGV"][1] == paper.TABLE_4["Ours"][0]
    assert paper.TABLE_1["uvg"]["STGV"][2] == paper.TABLE_7["STGV"][0][-1] == paper.TABLE_4["Ours"][1]
