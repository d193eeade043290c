"""Every public function and class has a runnable example; docstrings of ops give shapes and units."""

import doctest
import importlib
import inspect
import pydoc
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import pytest

import stgvlib
import stgvlib.baselines
import stgvlib.repro
from stgvlib.config import STGV
from stgvlib.video.datasets import register_dataset

ROOT = Path(__file__).parent.parent


def public() -> dict:
    """Functions and classes that users call, by the names that they import."""
    found = {name: getattr(stgvlib, name) for name in stgvlib.__all__}
    for package in (stgvlib.baselines, stgvlib.repro):
        names = set(package.__all__) - {"System"}  # a protocol: nobody calls it
        found |= {f"{package.__name__.partition('.')[2]}.{name}": getattr(package, name) for name in sorted(names)}
    found["video.datasets.register_dataset"] = register_dataset
    return {name: value for name, value in found.items() if inspect.isclass(value) or inspect.isfunction(value)}


PUBLIC = public()
SHAPES = {  # what `help` has to show
    "splat": ("[G, N, 2] px", "[G, N, 3] px", "(height, width) in px", "[G, H, W, 3]", "(0.5, 0.5)", "eq. 1-2"),
    "splat_mse": ("[G, N, 2] px", "uint8 [G, T, H, W, 4]", "int32 [G]", "[G], the mean squared error"),
    "psnr": ("dB", "[H, W, 3] in [0, 1]"),
    "ms_ssim": ("[H, W, 3] in [0, 1]", "160 px"),
    "evaluate": ("dB", "float [H, W, 3]", "uint8 [H, W, 3]"),
    "video_of": ("uint8 [T, H, W, 3]", "frames a second"),
    "write_video": ("uint8 [H, W, 3]", "frames a second"),
    "Video": ("uint8 [T, H, W, 3]", "height, width in px"),
    "Decoder": ("[H, W, 3]", "[B, H, W, 3]", "uint8", "float32"),
    "VideoModel": ("[GoPs, Gaussians, 2]", "height, width in px"),
    "compress": ("bits a pixel", "dB"),
    "encode": ("bytes",),
    "judge": ("dB", "px", "frames a second"),
    "view": ("px",),
}


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Temporary files and results of examples go where pytest deletes them."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("STGV_RESULTS", str(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_examples_that_run(name, places, capsys):
    value = PUBLIC[name]
    assert "\n    Examples:\n        >>> " in (value.__doc__ or ""), f"the docstring of {name} has no Examples:"
    module = importlib.import_module(value.__module__)
    example = doctest.DocTestParser().get_doctest(value.__doc__, {}, name, module.__file__, None)  # imports all it uses
    called = f"{name.rpartition('.')[2]}("
    assert inspect.isclass(value) or any(called in line.source for line in example.examples), f"{name} is not called"
    failed, tried = doctest.DocTestRunner().run(example)
    assert tried and not failed, capsys.readouterr().out


@pytest.mark.parametrize("name", SHAPES)
def test_help_shows_shapes_and_units(name):
    shown = " ".join(pydoc.render_doc(PUBLIC[name], renderer=pydoc.plaintext).split())
    for expected in SHAPES[name]:
        assert expected in shown, f"help({name}) does not show {expected!r}"


def test_the_whole_api_is_exported_and_listed():
    wanted = {"FAST", "ProgressBar", "Steps", "compress", "decode", "encode", "load_dataset", "splat", "splat_mse"}
    assert wanted | {"load_model", "save_model", "view", "__version__"} <= set(stgvlib.__all__) == set(dir(stgvlib))
    for name in stgvlib.__all__:
        assert getattr(stgvlib, name) is not None
    with pytest.raises(AttributeError, match="module 'stgvlib' has no attribute 'load'"):
        _ = stgvlib.load


def test_the_version_is_that_of_the_package():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    printed = subprocess.run([sys.executable, "-m", "stgvlib", "--version"], capture_output=True, text=True, check=True)
    assert stgvlib.__version__ == version and version in printed.stdout


def test_load_model_and_view_take_both_files(places):
    model = stgvlib.VideoModel(STGV, [2], (16, 24), 5)
    stgvlib.save_model(model, "small.safetensors")
    stgvlib.encode(model, "small.stgv", fps=30)
    pytest.importorskip("anywidget")
    for path in ("small.safetensors", Path("small.stgv")):
        assert stgvlib.load_model(path)[0].num_frames == [2]
        assert "image/jpeg" in stgvlib.view(path)._repr_mimebundle_()[0]
    assert stgvlib.load_model("small.stgv")[1]["fps"] == 30
    with pytest.raises(stgvlib.StgvError, match="gone.stgv"):
        stgvlib.view("gone.stgv")


@pytest.mark.parametrize("terminal, notebook", [(True, False), (False, True), (False, False)])
def test_fit_shows_progress_where_someone_watches(terminal, notebook, monkeypatch, capsys):
    from dataclasses import replace

    from stgvlib.fitting import fit as module

    bars = []

    def bar(title, shown):
        bars.append(shown)
        return stgvlib.ProgressBar(title, False)

    monkeypatch.setattr(module, "ProgressBar", bar)
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    monkeypatch.setattr("stgvlib.fitting.progress.in_notebook", lambda: notebook)
    short = replace(STGV, gop_size=2, coarse_steps=2, motion_steps=0, steps=2, gaussians=5)
    video = stgvlib.video_of(np.zeros((2, 16, 24, 3), np.uint8))
    stgvlib.fit(video, short)
    stgvlib.fit(video, short, progress=None)
    assert bars == [terminal or notebook, False]
