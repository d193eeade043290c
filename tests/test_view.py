"""The player in a notebook: the widget, and JupyterLab in a real headless browser."""

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

import pytest
from scenes import random_model

from stgvlib import encode, view
from stgvlib.config import STGV, FieldConfig
from stgvlib.errors import StgvError
from stgvlib.model.model_file import save_model
from stgvlib.model.video_model import VideoModel

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def model_of(**field):
    config = replace(STGV, field=replace(FieldConfig(position_scale=8.0, log2_table_size=6, zero_heads=False), **field))
    return random_model(config, (3, 2), 60, (48, 80), noise=0)


def test_a_saved_notebook_holds_a_picture_and_no_video(tmp_path):
    pytest.importorskip("anywidget", reason="needs the notebooks extra")
    encode(model_of(), path := tmp_path / "clip.stgv")
    (video := tmp_path / "clip.webm").write_bytes(b"a video")
    widget = view(path, video)
    shown, _ = widget._repr_mimebundle_()
    assert base64.b64decode(shown["image/jpeg"])[:3] == b"\xff\xd8\xff" and "clip.stgv" in shown["text/plain"]
    state = widget.get_state()
    assert not [name for name, value in state.items() if isinstance(value, (bytes, memoryview))]
    assert base64.b64encode(path.read_bytes()[:30]).decode() not in json.dumps(state, default=str)
    sent = []
    widget.send = lambda content, buffers: sent.append((content, buffers))
    widget._handle_custom_msg({"from": 0.5}, [])
    assert sent == [
        ({"name": "clip.stgv", "video": "video/webm", "to": 0.5}, [path.read_bytes(), b"a video"]),
    ]


def test_models_that_cannot_be_played(monkeypatch, tmp_path):
    with pytest.raises(StgvError, match="this model has no frames to show"):
        view(VideoModel(STGV, [], (8, 8), 1))
    with pytest.raises(StgvError, match="height must be at least 240 px, got 0"):
        view(model_of(), height=0)
    with pytest.raises(StgvError, match="cannot read .*none.mp4"):
        view(model_of(), tmp_path / "none.mp4")
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(StgvError, match="view needs anywidget: pip install"):
        view(model_of())


class Browser:
    """Chromium without a window, told what to do over its debugging socket."""

    def __init__(self, folder, url):
        import websocket

        port = free_port()
        flags = "--headless --no-sandbox --use-angle=swiftshader --enable-unsafe-swiftshader --disable-quic "
        flags += "--no-first-run --disable-sync --disable-dev-shm-usage"
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
def test_the_player_in_jupyterlab(tmp_path):
    """A notebook that calls view(model): the player shows a frame, a key the next; the notebook stays small."""
    pytest.importorskip("anywidget", reason="needs the notebooks extra")
    save_model(model_of(), tmp_path / "m.safetensors")
    source = 'import stgvlib\nstgvlib.view("m.safetensors", height=420)'
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
        frame = "document.querySelector('.stgv .frame')?.textContent ?? ''"
        patiently(lambda: browser.value(frame).startswith("0 / 4"), 120)
        picture = "document.querySelector('.stgv .picture').toDataURL()"
        before = browser.value(picture)
        browser.value("document.querySelector('.stgv').focus()")
        for kind in ("keyDown", "keyUp"):
            key = {"key": "ArrowRight", "code": "ArrowRight", "windowsVirtualKeyCode": 39}
            browser.call("Input.dispatchKeyEvent", type=kind, **key)
        patiently(lambda: browser.value(frame).startswith("1 / 4"), 30)
        assert browser.value(picture) != before
        shot = browser.call("Page.captureScreenshot", format="png")["data"]
        assert len(shot) > 10_000
        if folder := os.environ.get("STGV_SCREENSHOTS"):
            (Path(folder) / "viewer.png").write_bytes(base64.b64decode(shot))
        browser.value("jupyterapp.commands.execute('docmanager:save')")
        saved = tmp_path / "look.ipynb"
        patiently(lambda: "image/jpeg" in saved.read_text(), 30)
        assert saved.stat().st_size < 30_000
    finally:
        if browser:
            browser.close()
        server.terminate()
        server.wait(20)
