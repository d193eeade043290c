"""The printed tables: internally consistent where the paper is, and the known slips where it is not."""

import pytest

from stgvlib.repro import paper


def test_recomputed_means_show_the_papers_slips():
    seven, eight = paper.recomputed_means(paper.TABLE_7), paper.recomputed_means(paper.TABLE_8)
    wrong = {(7, m): round(p[1], 3) for m, (p, _) in seven.items() if abs(p[0] - p[1]) > 0.01}
    wrong |= {(8, m): round(p[1], 3) for m, (p, _) in eight.items() if abs(p[0] - p[1]) > 0.01}
    expected = {(7, "E-NeRV"): 35.021, (7, "2DGS"): 31.827, (7, "D2GV"): 34.449}
    expected |= {(8, "NeRV"): 27.090, (8, "2DGS"): 30.253, (8, "D2GV"): 31.262}
    assert wrong == pytest.approx(expected, abs=2e-3)


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
