"""The viewer: its pictures, and the widget in a real headless browser."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import random_model

from stgvlib.config import STGV, FieldConfig
from stgvlib.errors import StgvError
from stgvlib.metrics import to_uint8
from stgvlib.model.model_file import save_model
from stgvlib.model.video_model import VideoModel
from stgvlib.viewer import MODES, Look, Viewer, view

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def model_of(**field):
    config = replace(STGV, field=replace(FieldConfig(position_scale=8.0, log2_table_size=6, zero_heads=False), **field))
    model = random_model(config, (3, 2), 60, (48, 80), noise=0)
    with torch.no_grad():
        for table in (model.field.spatial, model.field.temporal):
            if table is not None:
                table.table *= 3e3
    return model


def test_a_whole_frame_is_what_the_model_renders(device):
    model = model_of().to(device)
    viewer = Viewer(model, width=80)
    for frame, (g, i) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
        expected = to_uint8(model.gop(g).render(torch.tensor([i], device=device))[0]).cpu().numpy()
        assert np.abs(viewer.picture(Look(frame)).astype(int) - expected).max() <= 1
    canonical = to_uint8(model.gop(1).render(torch.tensor([0], device=device), canonical=True)[0]).cpu().numpy()
    assert np.abs(viewer.picture(Look(4, "canonical")).astype(int) - canonical).max() <= 1


def test_modes_differ_and_leave_the_model_as_it_was(device):
    model = model_of().to(device)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    viewer = Viewer(model, width=80)
    pictures = [viewer.picture(Look(1, mode)) for mode in MODES]
    assert all((a != b).any() for k, a in enumerate(pictures) for b in pictures[:k])
    assert (viewer.picture(Look(1)) == pictures[0]).all()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert Viewer(model_of(temporal=False)).modes == MODES[:2]


def test_zoom_renders_the_gaussians_again():
    """A window of the picture at twice the size is that picture in the middle, rendered, not enlarged."""
    model = model_of()
    small, large = Viewer(model, width=80), Viewer(model, width=160)
    window = large.picture(Look(2))[24:72, 40:120]
    assert np.abs(small.picture(Look(2, zoom=2)).astype(int) - window).max() <= 1
    corner = small.picture(Look(2, zoom=2, centre=(0.0, 1.0)))  # moved to where the window still lies in the frame
    assert np.abs(corner.astype(int) - large.picture(Look(2))[48:, :80]).max() <= 1


def test_ellipses_and_arrows_are_drawn():
    viewer = Viewer(model_of(), width=160)
    plain = viewer.picture(Look(1))
    ellipses, arrows = viewer.picture(Look(1, ellipses=True)), viewer.picture(Look(1, arrows=True))
    assert 0.02 < (ellipses != plain).any(-1).mean() < 0.8 and 0.002 < (arrows != plain).any(-1).mean() < 0.6


def test_looks_that_a_model_has_not():
    viewer = Viewer(model_of(), width=40)
    for look, said in (
        (Look(5), "frame must be from 0 to 4, got 5"),
        (Look(0, "shaken"), "mode must be one of deformed, .* got 'shaken'"),
        (Look(0, zoom=0), "zoom must be from 1 to 1000, got 0"),
    ):
        with pytest.raises(StgvError, match=said):
            viewer.picture(look)
    with pytest.raises(StgvError, match="no frames to look at"):
        Viewer(VideoModel(STGV, [], (8, 8), 1))


def test_the_widget_draws_again_when_it_is_moved():
    widget = view(model_of(), width=80)
    image, panel = widget.children
    first = image.value
    assert first[:3] == b"\xff\xd8\xff"
    controls = {c.description: c for c in panel.children if hasattr(c, "description")}
    for name, value in (("frame", 3), ("zoom", 2.0), ("ellipses", True), ("show", "canonical")):
        before = image.value
        controls[name].value = value
        assert image.value != before, name


class Browser:
    """Chromium without a window, told what to do over its debugging socket."""

    def __init__(self, folder, url):
        import websocket

        port = free_port()
        flags = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync --disable-dev-shm-usage"
        )
        flags += " --disable-background-networking --disable-component-update --window-size=1500,900"
        command = [
            CHROMIUM,
            *flags.split(),
            f"--remote-debugging-port={port}",
            "--remote-allow-origins=*",
            f"--user-data-dir={folder}",
            url,
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.number = 0
        pages = patiently(lambda: [p for p in fetch(f"http://127.0.0.1:{port}/json") if p["type"] == "page"], 60)
        self.socket = websocket.create_connection(pages[0]["webSocketDebuggerUrl"], timeout=60)

    def call(self, method, **parameters):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while (answer := json.loads(self.socket.recv())).get("id") != self.number:
            pass
        return answer.get("result", {})

    def value(self, script):
        """Of a JavaScript expression; promises are waited for."""
        return self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)["result"].get(
            "value"
        )

    def close(self):
        self.socket.close()
        self.process.kill()
        self.process.wait()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def fetch(url):
    try:
        return json.load(urllib.request.urlopen(url, timeout=5))
    except (OSError, ValueError):
        return []


def patiently(look, seconds):
    """What `look` finds, as soon as it finds something. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing came in {seconds} s")
        time.sleep(0.3)
    return found


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
def test_the_viewer_in_a_browser(tmp_path):
    """JupyterLab, a notebook that calls view(model), and a slider moved by the keyboard: the picture changes."""
    save_model(model_of(), tmp_path / "m.safetensors")
    source = 'import stgvlib\nstgvlib.view(stgvlib.load_model("m.safetensors")[0], width=320)'
    cell = {"cell_type": "code", "execution_count": None, "id": "c0", "metadata": {}, "outputs": [], "source": source}
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    book = {"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "look.ipynb").write_text(json.dumps(book))
    port = free_port()
    options = f"--no-browser --allow-root --port={port} --IdentityProvider.token= --LabApp.expose_app_in_browser=True"
    command = [sys.executable, "-m", "jupyterlab", *options.split(), f"--ServerApp.root_dir={tmp_path}"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    browser = None
    try:
        patiently(lambda: fetch(f"http://127.0.0.1:{port}/api/status"), 90)
        browser = Browser(tmp_path / "profile", f"http://127.0.0.1:{port}/lab/tree/look.ipynb")
        ready = "!!window.jupyterapp && !!document.querySelector('.jp-Notebook .jp-CodeCell')"
        patiently(lambda: browser.value(ready), 120)
        time.sleep(3)  # the kernel's session is made after the notebook is shown
        browser.value("jupyterapp.commands.execute('notebook:run-all-cells')")
        drawn = "document.querySelector('.widget-image')?.naturalWidth > 0"
        patiently(lambda: browser.value(drawn), 120)
        source = "document.querySelector('.widget-image').src"
        assert browser.value("document.querySelector('.widget-image').naturalWidth") == 320
        before = browser.value(source)
        browser.value("document.querySelector('.noUi-handle').focus()")
        for kind in ("keyDown", "keyUp"):
            browser.call(
                "Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39
            )
        patiently(lambda: browser.value(source) != before, 30)
        labels = browser.value("[...document.querySelectorAll('.widget-label')].map(e => e.textContent).join(' ')")
        assert all(name in labels for name in ("frame", "show", "zoom", "x", "y"))
        assert browser.value("document.querySelectorAll('.widget-checkbox').length") == 2
        shot = browser.call("Page.captureScreenshot", format="png")["data"]
        assert len(shot) > 10_000
        if folder := os.environ.get("STGV_SCREENSHOTS"):
            (Path(folder) / "viewer.png").write_bytes(base64.b64decode(shot))
    finally:
        if browser:
            browser.close()
        server.terminate()
        server.wait(20)
