"""The player in a real headless browser: its decoder and frames against Python's, its page, and bad files."""

import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import stgv
from format_decoder import decode as decode_by_document
from player_pages import (  # noqa: F401  fixtures
    DECODE,
    FITTED,
    browser,
    bytes_in_page,
    clip_file,
    fitted,
    flat,
    opened,
    psnr_of_frames,
    shown,
    text_of,
    until,
)
from scenes import FIELDS, TINY, random_model

from stgvlib.codec import bitstream
from stgvlib.config import PAPER, STGV
from stgvlib.player.bundle import MODULES, script
from stgvlib.player.page import page as page_of
from stgvlib.player.page import playable

TANH = replace(TINY, position_space="tanh", position_code="plain", time_code="plain", width=12)
DRAWN = {
    **{name: FIELDS[name] for name in ("lattice alone", "gsvr", "d2gv", "static", "positional")},
    "tanh, plain waves": replace(PAPER, field=replace(TANH, encoding="positional", position_frequencies=4)),
    "polynomial": replace(STGV, motion_steps=0, field=replace(TINY, polynomial=2)),
    "odd levels": replace(PAPER, field=replace(TINY, levels=3, deform_shape=True, spatial_features=2)),
}
GOLDEN = Path(__file__).parent / "golden"
HOSTILE = '<img src=x onerror="window.pwned=1">.stgv'


def compare(tab, data, shader, ratios=(1.0,)):
    """Integers of all GoPs, and the lowest PSNR of a frame, against Python's. Returns whether the GPU ran the field."""
    ran, integers = tab.evaluate(DECODE, [text_of(data), shader])
    for ours, gop in zip(integers, decode_by_document(data)[1], strict=True):
        assert np.array_equal(flat(ours), flat(gop.integers()))
    for ratio in ratios:
        assert min(psnr_of_frames(tab, bitstream.parse(data).model, ratio)) > 45
    return ran


@pytest.mark.parametrize("name", FITTED)
def test_integers_and_frames_are_pythons(name, fitted, opened):  # noqa: F811
    tab = opened(page_of("empty"))
    assert compare(tab, fitted[name], True, (1.0, 0.5, 2.0))
    assert not compare(tab, fitted[name], False)


@pytest.mark.parametrize("name", DRAWN)
def test_every_kind_of_field(name, opened):  # noqa: F811
    model = random_model(DRAWN[name], (2, 3), 40, (24, 40), noise=0.05)
    data, tab = bitstream.stream(model), opened(page_of("empty"))
    on_gpu = compare(tab, data, True)
    assert on_gpu == (name not in ("gsvr", "d2gv"))  # planes, two-layer heads
    compare(tab, data, False)


def test_golden_files(opened):  # noqa: F811
    tab = opened(page_of("empty"))
    for path in sorted(GOLDEN.glob("*.stgv")):
        compare(tab, path.read_bytes(), True)


def test_an_export_plays_from_a_file(clip_file, opened, tmp_path):  # noqa: F811
    output = tmp_path / "clip.html"
    done = stgv("export", clip_file, output)
    assert done.returncode == 0 and f"of which the video has {clip_file.stat().st_size:,}" in done.stderr
    html = output.read_text()
    assert "http://" not in html.replace("http://www.w3.org/2000/svg", "") and "https://" not in html
    tab = opened(html)
    assert tab.text_content("h1") == "clip.stgv"
    facts = tab.text_content(".facts")
    assert all(part in facts for part in ("64×48", "8 frames", "2 groups", "25 frames/s", "bits a pixel"))
    assert tab.evaluate("document.querySelector('.poster')") is None  # the first frame took its place
    for key, frame in (("End", 7), ("ArrowLeft", 6), ("Home", 0), ("ArrowRight", 1)):
        tab.keyboard.press(key)
        until(tab, f"document.querySelector('.frame').textContent.startsWith('{frame} / 7')")
    tab.keyboard.press(" ")
    until(tab, "stgvPlayer.playing && stgvPlayer.frame > 3")
    tab.keyboard.press(" ")
    assert tab.evaluate("stgvPlayer.playing") is False
    until(tab, "stgvPlayer.keyFrames.size === 2")


def test_zoom_renders_the_gaussians_again_and_views_differ(clip_file, opened):  # noqa: F811
    tab = opened(page_of("clip", clip_file.read_bytes()))
    stage = tab.locator(".stage").bounding_box()
    tab.mouse.move(stage["x"] + 300, stage["y"] + 200)
    tab.mouse.wheel(0, -800)
    until(tab, "stgvPlayer.window.zoom === 4")
    state = "JSON.stringify([stgvPlayer.window.zoom, ...stgvPlayer.window.centre])"
    before = tab.evaluate(state)
    tab.mouse.down()
    tab.mouse.move(stage["x"] + 360, stage["y"] + 220, steps=4)
    tab.mouse.up()
    assert tab.evaluate(state) != before and tab.evaluate("stgvPlayer.picked") is None
    tab.mouse.click(stage["x"] + 300, stage["y"] + 200)
    tab.wait_for_selector(".numbers:not([hidden])")
    assert "red, green, blue" in tab.text_content(".numbers")
    pictures = []
    for view in ("picture", "canonical", "motion", "size", "static", "dynamic"):
        tab.select_option("select[aria-label=View]", view)
        tab.wait_for_timeout(100)
        pictures.append(shown(tab))
    assert all((a != b).any() for k, a in enumerate(pictures) for b in pictures[:k])
    tab.keyboard.press("0")
    assert tab.evaluate("stgvPlayer.window.zoom") == 1
    for name in ("Ellipses", "Arrows"):
        tab.get_by_label(name).check()
    drawn = "document.querySelector('.overlay').getContext('2d').getImageData(0, 0, 900, 400).data.some((v) => v)"
    until(tab, drawn)


def with_header(data, **changes):
    """A file whose header says something else, with right checksums."""
    count = struct.unpack_from("<H", data, 10)[0]
    sections = [list(struct.unpack_from("<BHII", data, 16 + 11 * k)) for k in range(count)]
    start = 16 + 11 * count
    end = start + sections[0][2]
    text = json.dumps(json.loads(data[start:end]) | changes).encode()
    sections[0][2:] = len(text), zlib.crc32(text)
    table = b"".join(struct.pack("<BHII", *section) for section in sections)
    return data[:12] + struct.pack("<I", zlib.crc32(table)) + table + text + data[end:]


def test_bad_files_give_a_line_and_the_page_takes_another(fitted, opened):  # noqa: F811
    good = fitted["stgv"]
    newer = good[:8] + struct.pack("<H", 5) + good[10:]
    huge = with_header(good, gaussians=2**31 - 1)
    cases = {
        "no .stgv file": b"GIF89a and more than sixteen bytes",
        "section table is cut off": good[:30],
        "Group 2 is cut off": good[:-10],
        "format version 5. This player reads versions 3 and 4": newer,
        "size must be two sides": with_header(good, size=[0, 64]),
        "more than its size allows": huge,
        "poster must be a frame of the video, got 8": with_header(good, poster=8),
        "color must be four whole numbers": with_header(good, color=[9, 16, 9, 2]),
        "durations must have tick and runs": with_header(good, durations=None),
        "durations must be whole numbers": with_header(good, durations={"tick": [1, 25], "runs": [8, 0]}),
        "durations must be of all frames": with_header(good, durations={"tick": [1, 25], "runs": [7, 1]}),
        "pixels of a frame": with_header((GOLDEN / "plain.stgv").read_bytes(), size=[32767, 32767]),
        "fails its checksum": good[:-10] + bytes(10),
        "no .stgv": b"",
    }
    tab = opened(page_of("empty"))
    for told, data in cases.items():
        tab.evaluate(f"stgvPlayer.open({bytes_in_page(data)}, 'bad.stgv')")
        message = tab.text_content(".message")
        assert told in message and "\n" not in message and len(message) < 300, message
        tab.keyboard.press("ArrowRight")
        tab.evaluate(f"stgvPlayer.open({bytes_in_page(good)}, 'good.stgv')")
        assert tab.is_hidden(".message") and tab.text_content(".frame").startswith("0 / 7")


def test_frames_are_shown_at_their_times(fitted, opened):  # noqa: F811
    """The player's times are those of the header; its clock shows each frame until the next one's."""
    runs = {"tick": [1, 25], "runs": [3, 1, 1, 5, 4, 2]}
    tab = opened(page_of("even", with_header(fitted["stgv"], fps=20)))
    assert tab.evaluate("Array.from(stgvPlayer.times)") == pytest.approx([k / 20 for k in range(9)])
    tab = opened(page_of("uneven", with_header(fitted["stgv"], durations=runs, color=[9, 16, 9, 0], poster=7)))
    times = [0, 0.04, 0.08, 0.12, 0.32, 0.4, 0.48, 0.56, 0.64]
    assert tab.evaluate("Array.from(stgvPlayer.times)") == pytest.approx(times)
    assert "variable, about 25 frames/s" in tab.text_content(".facts")
    due = """(speed) => {
      const clock = new modules.clock.Clock();
      clock.start(2, stgvPlayer.times, speed);
      const { begun } = clock;
      return [0, 30, 50, 230, 250, 310, 330, 550, 570, 600].map((ms) => clock.due(begun + ms));
    }"""  # from 0.08 s
    assert tab.evaluate(due, 1) == [2, 2, 3, 3, 4, 4, 5, 7, 0, 0]
    assert tab.evaluate(due, 0.5) == [2, 2, 2, 3, 3, 3, 3, 4, 4, 4]


def test_damaged_groups_are_black_and_the_others_are_whole(fitted, opened):  # noqa: F811
    data = fitted["stgv"]
    tab = opened(page_of("cut", data[:-10]))
    assert shown(tab).max() > 60
    assert "Group 2 is cut off" in tab.text_content(".message")
    tab.keyboard.press("End")
    until(tab, "document.querySelector('.frame').textContent.startsWith('7 / 7')")
    assert shown(tab).max() == 0


def test_names_are_text(fitted, opened):  # noqa: F811
    tab = opened(page_of(HOSTILE + "</script><script>window.pwned=1</script>", fitted["paper"]))
    assert HOSTILE in tab.text_content("h1") and HOSTILE in tab.title()
    tab.set_input_files("input[type=file]", {"name": HOSTILE, "mimeType": "", "buffer": b"no video"})
    tab.wait_for_selector(".message:not([hidden])")
    assert tab.text_content("h1") == HOSTILE and tab.evaluate("document.querySelector('h1 img')") is None
    lying = with_header(fitted["paper"], size=["<img src=x onerror=window.pwned=1>", 1])
    tab.set_input_files("input[type=file]", {"name": "a.stgv", "mimeType": "", "buffer": lying})
    until(tab, "document.querySelector('.message').textContent.includes('<img src=x')")
    tab.set_input_files("input[type=file]", {"name": "b.stgv", "mimeType": "", "buffer": fitted["paper"]})
    until(tab, "document.querySelector('h1').textContent === 'b.stgv' && stgvPlayer.total === 8")
    assert tab.evaluate("window.pwned") is None


def test_without_webgl2_the_still_picture_stays(clip_file, opened):  # noqa: F811
    data, poster = playable(clip_file)
    none = """const get = HTMLCanvasElement.prototype.getContext;
    HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
      return kind === "webgl2" ? null : get.call(this, kind, ...more);
    };"""
    tab = opened(page_of("clip", data, poster), prepare=none)
    assert "no WebGL2" in tab.text_content(".message")
    assert tab.evaluate("document.querySelector('.poster').naturalWidth") == 64


@pytest.mark.parametrize("width", [360, 1000])
def test_the_page_fits_its_window(width, clip_file, opened):  # noqa: F811
    tab = opened(page_of("a name that is longer than a telephone is wide.stgv", clip_file.read_bytes()), width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator(".stage").bounding_box()["height"] > 160


def test_the_bundle_has_every_module():
    from stgvlib.player.bundle import FOLDER

    assert sorted(MODULES) == sorted(path.stem for path in FOLDER.glob("*.js"))
    assert "</script" not in script() and "innerHTML" not in script()
    for path in [*FOLDER.glob("*.js"), *FOLDER.glob("*.css")]:
        lines = path.read_text().splitlines()
        assert len(lines) < 400 and max(map(len, lines)) <= 120, path.name
