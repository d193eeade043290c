"""`stgv view` and `stgv export`: the server, a reference video, bad input."""

import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from command import refused, stgv
from player_pages import browser, clip_file, fitted, shown, until  # noqa: F401  fixtures

from stgvlib.codec import bitstream
from stgvlib.codec.load import load_model
from stgvlib.config import PAPER
from stgvlib.errors import StgvError
from stgvlib.metrics import psnr
from stgvlib.model.decoder import Decoder
from stgvlib.model.video_model import VideoModel
from stgvlib.player.serve import server
from stgvlib.video.datasets import load_dataset
from stgvlib.video.video import open_video
from stgvlib.video.write import write_video

ROOT = Path(__file__).parent.parent


def test_the_server_answers_this_machine_alone(clip_file, browser):  # noqa: F811
    with server("clip.stgv", clip_file.read_bytes()) as running:
        assert running.server_address[0] == "127.0.0.1"
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{running.server_port}/"
            assert urllib.request.urlopen(f"{url}file").read() == clip_file.read_bytes()
            for request in (urllib.request.Request(url, headers={"Host": "evil.example"}), f"{url}../setup"):
                with pytest.raises(urllib.error.HTTPError) as refusal:
                    urllib.request.urlopen(request)
                refusal.value.close()
            tab = browser.new_page()
            tab.goto(url)
            until(tab, "globalThis.stgvPlayer?.total === 8")
            tab.close()
        finally:
            running.shutdown()
            thread.join()


def test_a_reference_video_is_compared(clip_file, browser, tmp_path):  # noqa: F811
    """The fitted frames as H.264: PSNR on the page is that of the file read here, but for how chroma is enlarged."""
    frames = np.stack([frame.numpy() for frame in Decoder(bitstream.decode(clip_file).model)])
    write_video(video := tmp_path / "clip.mp4", iter(frames), Fraction(25), Fraction(1), "420")
    decoded = open_video(video).read()[3].astype(np.float32) / 255
    expected = psnr(torch.from_numpy(frames[3].astype(np.float32) / 255), torch.from_numpy(decoded))
    with server("clip.stgv", clip_file.read_bytes(), video) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        tab = browser.new_page()
        try:
            tab.goto(f"http://127.0.0.1:{running.server_port}/")
            until(tab, "document.documentElement.dataset.stgv === 'ready'")
            if "cannot decode" in tab.text_content(".message"):
                pytest.skip("this Chromium has no H.264")
            tab.evaluate("stgvPlayer.go(3)")
            until(tab, "stgvPlayer.compared?.frame === 3")
            assert tab.evaluate("stgvPlayer.compared.psnr") == pytest.approx(
                float(expected), abs=4
            )  # the next frame: 20 dB
            until(tab, "document.querySelector('.frame').textContent.includes(' dB')")
            split = shown(tab)
            tab.select_option("select[aria-label=View]", "error")
            tab.wait_for_timeout(300)
            assert (shown(tab) != split).any()
        finally:
            tab.close()
            running.shutdown()
            thread.join()


def test_the_view_command_serves_until_it_is_interrupted(clip_file):  # noqa: F811
    command = [sys.executable, "-m", "stgvlib", "view", str(clip_file)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = running.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url) as answer:
            assert b"stgv-about" in answer.read()
        running.send_signal(signal.SIGINT)
        told = running.communicate(timeout=30)[1]
        assert running.returncode == 0 and "Traceback" not in told
    finally:
        running.kill()


def test_bad_input_of_the_commands(clip_file, tmp_path):  # noqa: F811
    taken = tmp_path / "taken.html"
    taken.write_text("mine")
    assert "add --overwrite" in refused("export", clip_file, taken) and taken.read_text() == "mine"
    assert stgv("export", clip_file, taken, "--overwrite").returncode == 0 and taken.read_text() != "mine"
    assert "must end in .html" in refused("export", clip_file, tmp_path / "clip.htmx")
    foreign = tmp_path / "foreign.stgv"
    foreign.write_bytes(b"something else")
    assert "is no .stgv file" in refused("export", foreign, tmp_path / "no.html")
    assert "cannot read" in refused("view", tmp_path / "missing.stgv")
    assert "does not exist" in refused("view", clip_file, "--video", tmp_path / "missing.mp4")
    assert not (tmp_path / "no.html").exists()
    bitstream.encode(VideoModel(PAPER, [1], (8, 8), 0), empty := tmp_path / "empty.stgv")
    assert "no frames to show" in refused("export", empty, tmp_path / "no.html")


def test_a_port_that_is_taken_is_named(clip_file):  # noqa: F811
    with server("a", b"") as running, pytest.raises(StgvError, match=f"port {running.server_port}"):
        server("b", b"", port=running.server_port)


def test_the_file_that_ships_plays(tmp_path):
    """data/bunny/bunny.stgv looks like Bunny, and its page is small."""
    shipped = ROOT / "data/bunny/bunny.stgv"
    model, about = load_model(shipped)
    given = load_dataset("bunny").with_(resize=model.size)
    frame = Decoder(model, dtype=torch.float32)[0]
    assert about["fps"] == 25 and sum(model.num_frames) == given.num_frames
    assert psnr(frame, torch.from_numpy(given.read(0, 1)[0]) / 255) > 34
    assert stgv("export", shipped, tmp_path / "bunny.html").returncode == 0
    assert (tmp_path / "bunny.html").stat().st_size < 1.6e6
