"""Shared fixtures. Tests that take `device` run on the CPU always and on a GPU where there is one."""

import os
import signal

import stgvlib  # noqa: F401, I001  before torch: threads wait without spinning

if "PYTEST_XDIST_WORKER" in os.environ:  # processes side by side share the cores, with what they start
    cores = os.cpu_count() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores)))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a job in the background, and in all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
import torch
from command import FAST, stgv

from stgvlib.config import PROFILES
from stgvlib.device import cuda_status
from stgvlib.video.write import write_video

# Files of 20 s and more, which begin first, so that processes side by side end together (--no-loadscope-reorder).
LONGEST = (
    "distributed train fuzz safety player cuda baselines extending compress wheel player_predicted records".split()
)
USABLE, WHY = cuda_status()
gpu = pytest.mark.skipif(not USABLE, reason=f"no CUDA: {WHY}")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONGEST)
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(gpu)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(scope="module")
def two_threads():
    """At the least: what kernels share out is shared, also where tests side by side have a core each."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(2, before))
    yield
    torch.set_num_threads(before)


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
