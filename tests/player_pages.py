"""Pages of the player in a headless Chromium, and files to play: fixtures of the player's tests."""

import base64
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import pan

from stgvlib.codec import bitstream
from stgvlib.config import PAPER, QUALITY, STGV
from stgvlib.fitting.fit import fit
from stgvlib.metrics import psnr
from stgvlib.model.decoder import Decoder
from stgvlib.video.video import video_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new --no-sandbox --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --use-angle=swiftshader --enable-unsafe-swiftshader"
).split()
SHORT = {"gop_size": 4, "gaussians": 120, "coarse_steps": 60, "steps": 60}
FITTED = {
    "stgv": replace(STGV, **SHORT, motion_steps=20),
    "quality": replace(QUALITY, **SHORT, motion_steps=20),
    "paper": replace(PAPER, **SHORT),
}

PIXELS = """([gop, index, ratio]) => {
  const { width, height, rgb } = renderer.pixels(gop, index, ratio);
  const bytes = new Uint8Array(rgb.buffer);
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return [width, height, btoa(text)];
}"""
DECODE = """([text, shader]) => {
  const file = modules.format.openFile(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
  const decoded = new modules.predict.Gops(file, true);
  globalThis.gops = file.header.frames.map((_, gop) => gop).reverse().map((gop) => decoded.at(gop)).reverse();
  globalThis.renderer?.close();
  const canvas = document.createElement("canvas");
  globalThis.renderer = new modules.render.Renderer(canvas, file.header, (g) => gops[g], shader);
  return [renderer.deformProgram !== null, gops.map((gop) => gop.integers.map((run) => Array.from(run)))];
}"""


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens HTML as a file; nothing may be written to the console as an error."""
    errors, pages = [], []

    def open_page(html, width=1000, height=640, prepare=None):
        path = tmp_path / f"page{len(pages)}.html"
        path.write_text(html, encoding="utf-8")
        tab = browser.new_page(viewport={"width": width, "height": height})
        pages.append(tab)
        tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        if prepare:
            tab.add_init_script(prepare)
        tab.goto(path.as_uri())
        until(tab, "document.documentElement.dataset.stgv === 'ready'")
        return tab

    yield open_page
    for tab in pages:
        tab.close()
    assert errors == []


@pytest.fixture(scope="module")
def fitted():
    video = video_of(pan(8, (48, 64)))
    return {name: bitstream.stream(fit(video, config, "cpu").model) for name, config in FITTED.items()}


@pytest.fixture(scope="module")
def clip_file(fitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("player") / "clip.stgv"
    path.write_bytes(fitted["quality"])
    return path


def until(tab, condition, seconds=30):
    """Waits for a condition in the page, whose policy forbids playwright's own way to do so."""
    for _ in range(20 * seconds):
        if tab.evaluate(f"!!({condition})"):
            return
        tab.wait_for_timeout(50)
    raise TimeoutError(condition)


def shown(tab):
    """The canvas of the picture, uint8 [H, W, 3]."""
    import cv2

    data = tab.evaluate("document.querySelector('.picture').toDataURL('image/png').split(',')[1]")
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)


def text_of(data):
    return base64.b64encode(data).decode()


def bytes_in_page(data):
    return f"Uint8Array.from(atob('{text_of(data)}'), (c) => c.charCodeAt(0))"


def flat(arrays):
    return np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays])


def psnr_of_frames(tab, model, ratio=1.0):
    """PSNR in dB of each frame of the renderer that DECODE made, against a model's."""
    decoder = Decoder(model, ratio, dtype=torch.float32)
    for number, expected in enumerate(decoder):
        width, height, text = tab.evaluate(PIXELS, [*decoder.place(number), ratio])
        found = np.frombuffer(base64.b64decode(text), np.float32).reshape(height, width, 3)
        yield psnr(torch.from_numpy(found.copy()).clamp(0, 1), expected.clamp(0, 1))
