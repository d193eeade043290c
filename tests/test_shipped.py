"""A model that ships opens by its bare name, from any folder."""

import json
import subprocess
import sys
import urllib.request

import pytest
from command import refused, stgv

from stgvlib.codec.load import find_model, load_model
from stgvlib.errors import StgvError
from stgvlib.video.video import open_video


def test_a_model_that_ships_opens_by_its_bare_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, about = load_model("bunny.stgv")
    assert (model.size, sum(model.num_frames), about["damaged"]) == ((224, 448), 132, {})
    assert json.loads(stgv("info", "bunny.stgv", "--json").stdout)["frames"] == 132
    assert stgv("render", "bunny.stgv", tmp_path / "out.mp4", "--scale", "0.25").returncode == 0
    assert open_video(tmp_path / "out.mp4").size == (56, 112)
    assert stgv("export", "bunny.stgv", tmp_path / "out.html").returncode == 0
    running = subprocess.Popen([sys.executable, "-m", "stgvlib", "view", "bunny.stgv"], stdout=subprocess.PIPE)
    try:
        with urllib.request.urlopen(running.stdout.readline().decode().strip()) as answer:
            assert b"bunny.stgv" in answer.read()
    finally:
        running.kill()
        running.communicate()
    (tmp_path / "bunny.stgv").write_bytes(b"mine")  # a file here comes first
    with pytest.raises(StgvError, match="bunny.stgv is no .stgv file"):
        load_model("bunny.stgv")


def test_a_wrong_name_lists_the_models_that_ship(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "the models that ship are bunny.stgv" in refused("info", "buny.stgv")
    assert "the models that ship are bunny.stgv" in refused("render", "none.safetensors", "out.mp4")
    with pytest.raises(StgvError, match="cannot read"):  # a path is no bare name
        load_model("./elsewhere/bunny.stgv")
    monkeypatch.setattr("stgvlib.codec.load.data_folders", list)
    with pytest.raises(StgvError, match="no model ships with this installation"):
        find_model("bunny.stgv")
