"""Figures as people see them: every one is drawn again from the committed records, and its parts are read."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from stgvlib.baselines import SYSTEMS
from stgvlib.baselines.block_codecs import BLOCK_CODECS
from stgvlib.repro import crops, curves, figures, film, looks, redraw
from stgvlib.repro.controls import SAME_ROWS
from stgvlib.video.video import video_of

ROOT = Path(__file__).parent.parent
SMALLEST = 8  # px of text, as a code host shows it


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """(matplotlib's figure, its file) of every figure of the paper profile."""
    folder, made = tmp_path_factory.mktemp("results"), []
    (folder / "paper").mkdir()
    (folder / "paper" / "runs").symlink_to(ROOT / "results/paper/runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STGV_RESULTS", str(folder))
        close = looks.plt.close
        patch.setattr(looks.plt, "close", lambda figure: close(made.append(figure) or figure))
        paths = list(redraw.draw_all("paper"))
        yield list(zip(made, paths, strict=True))


def texts(figure):
    return [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]


def test_every_system_and_codec_has_a_look_of_its_own():
    systems = [*(system.label for system in SYSTEMS.values()), *SAME_ROWS.values()]
    titles = [f"{SYSTEMS[s.system].label}, {s.recipe}" for s in map(curves.CURVES.get, curves.SYSTEMS_COMPARED)]
    found = looks.looks([*systems, *looks.SYSTEM_LOOKS, *BLOCK_CODECS, "a stranger's", "another's"])
    assert len({look["color"] for look in found.values()}) == len(found)
    assert len({found[label]["marker"] for label in systems}) == len(systems)
    assert len({(look["marker"], look["linestyle"]) for look in map(found.get, BLOCK_CODECS)}) == len(BLOCK_CODECS)
    in_curves = looks.looks([*titles, *BLOCK_CODECS])
    assert len({look["color"] for look in in_curves.values()}) == len(in_curves)
    assert in_curves[titles[0]]["color"] == found["ours, hashes alone"]["color"]
    assert not set(systems) - set(looks.SYSTEM_LOOKS), "give the new system a colour and a marker in looks.py"


def test_no_colour_is_used_twice_in_a_panel(drawn):
    for figure, path in drawn:
        for axis in figure.axes:
            curves_here = [line for line in axis.lines if line.get_linestyle() != (0, (1, 3)) and len(line.get_xdata())]
            colors = [line.get_color() for line in curves_here if line.get_marker() != "None"]
            assert len(set(colors)) == len(colors), path.name


def test_text_is_large_enough_and_inside_and_apart(drawn):
    """At the width at which a code host shows a figure."""
    for figure, path in drawn:
        renderer = FigureCanvasAgg(figure).get_renderer()
        shrunk, boxes = min(1, looks.SHOWN / figure.bbox.width), []
        free = {*figure.texts, *(text for axis in figure.axes for text in (*axis.texts, axis.title, axis._left_title))}
        for text in texts(figure):
            assert text.get_fontsize() / 72 * figure.dpi * shrunk >= SMALLEST, (path.name, text.get_text())
            if text in free:  # ticks have texts outside too, which are not drawn
                box = Text.get_window_extent(text, renderer)  # of an annotation without its arrow
                assert box.min.min() >= -1 and (box.max <= figure.bbox.max + 1).all(), (path.name, text.get_text())
                boxes.append((box.padded(-1), text.get_text()))
        for (one, name), (other, text) in combinations(boxes, 2):
            assert not one.overlaps(other), f"{path.name}: {name!r} lies on {text!r}"


def test_every_figure_has_a_text_and_fits(drawn):
    assert set(figures.alt_texts("paper")) == {path.name for _, path in drawn}
    for _, path in drawn:
        assert len(figures.alt_texts("paper")[path.name]) > 60
        assert path.stat().st_size < 1.5e6 and Image.open(path).width >= looks.SHOWN, path.name
        assert np.asarray(Image.open(path).convert("L")).std() > 10, path.name
        assert any(word in figures.alt_texts("paper")[path.name] for word in ("dB", "px", "boxes")), path.name


def test_committed_figures_are_those_of_the_records(drawn):
    """The same files, with the same texts: `python -m stgvlib.repro figures` makes them."""
    folder = ROOT / "results/paper/figures"
    files = {path.name for path in folder.iterdir()} - {"alt.json"}
    assert files == {path.name for _, path in drawn}
    assert (folder / "alt.json").read_text() == (drawn[0][1].parent / "alt.json").read_text()


def test_crops_are_pixels_of_the_records_where_systems_differ():
    truth = np.zeros((60, 90, 3), np.uint8)
    same, other = truth + 3, truth + 3
    other[31:43, 52:70] = 30  # of one of them, a place as large as the enlarged part
    crop, inset = crops._places([same, other], truth, (36, 54))
    rows, columns = (slice(c.start + i.start, c.start + i.stop) for c, i in zip(crop, inset))
    assert (rows, columns) == (slice(31, 43), slice(52, 70))
    sheet = crops._column(crops.Panel("", other), truth, crop, inset, errors=True)
    enlarged = sheet[36 + crops.GAP : 72 + crops.GAP, :54]
    assert (enlarged == 30).all() and sheet.shape == (3 * 36 + 2 * crops.GAP, 54, 3)
    assert sheet[-36:, :54].max() == round(30 / crops.ERROR_RANGE * 255 - 0.5)
    assert crops.Panel("A", truth + 51).text(truth, crop, 30) == ["A", "crop 14.0 dB"]


def test_the_moving_picture_moves(tmp_path, frames):
    film._write(tmp_path / "a.gif", video_of(frames), {"one": list(frames), "two": list(255 - frames)}, "about it")
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == len(frames) and picture.width == looks.SHOWN and picture.info["loop"] == 0
    with Image.open(ROOT / "docs/bunny.gif") as picture:
        assert 24 <= picture.n_frames <= 44 and picture.width <= looks.SHOWN
    assert (ROOT / "docs/bunny.gif").stat().st_size < 3e6
    assert "dB" in (ROOT / "docs/bunny.txt").read_text()
