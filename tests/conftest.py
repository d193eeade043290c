"""Shared fixtures. Tests that take `device` run on the CPU always and on a GPU where there is one."""

import stgvlib  # noqa: F401, I001  before torch: threads wait without spinning

import numpy as np
import pytest
import torch
from command import FAST, stgv

from stgvlib.config import PROFILES
from stgvlib.device import cuda_status
from stgvlib.video.write import write_video

USABLE, WHY = cuda_status()
gpu = pytest.mark.skipif(not USABLE, reason=f"no CUDA: {WHY}")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(gpu)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "frames"
    y, x = np.mgrid[:24, :32]
    write_video(folder, (np.stack([x * 4 + t, y * 5, x + y], -1).clip(0, 255).astype(np.uint8) for t in range(5)))
    return folder


@pytest.fixture(scope="session")
def model(clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    done = stgv("fit", clip, path, *FAST)
    assert done.returncode == 0, done.stderr
    assert "5 frames of 32x24 as 1 GoP of" in done.stderr and not path.with_name("m.safetensors.parts").exists()
    return path


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A results folder of its own, for runs as small as TINY."""
    from small_runs import TINY

    monkeypatch.setenv("STGV_RESULTS", str(tmp_path))
    monkeypatch.setitem(PROFILES, "smoke", TINY)
    return tmp_path / "smoke"


@pytest.fixture
def frames():
    """Moving waves of three colours, uint8 [6, 72, 128, 3]."""
    y, x = np.mgrid[:72, :128]
    waves = [np.sin((x + 2 * t) / (9 + c)) * np.cos(y / (11 + c)) * 90 + 128 for t in range(6) for c in range(3)]
    return np.stack(waves).reshape(6, 3, 72, 128).transpose(0, 2, 3, 1).astype(np.uint8)
