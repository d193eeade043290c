"""Which device runs, and what is said where a GPU cannot be used."""

import pytest
import torch

from stgvlib import device
from stgvlib.errors import StgvError


@pytest.fixture
def gpu_seen(monkeypatch):
    """torch sees a GPU of a given architecture."""

    def see(capability):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Some GPU")

    return see


def refused(said):
    assert device.resolve_device("auto").type == "cpu"
    assert said in device.fallback_reason() and "\n" not in device.fallback_reason()
    with pytest.raises(StgvError, match="use --device cpu"):
        device.resolve_device("cuda")


def test_an_old_gpu_falls_back_to_the_cpu(gpu_seen):
    gpu_seen((6, 1))
    refused("sm_61, our kernels need sm_75")


def test_a_gpu_that_nvrtc_does_not_know_falls_back(gpu_seen, monkeypatch, tmp_path):
    pytest.importorskip("cuda.core")
    monkeypatch.setenv("STGV_CACHE", str(tmp_path))
    gpu_seen((99, 0))
    refused("cannot compile for Some GPU, sm_990")


def test_no_nvrtc_falls_back(gpu_seen, monkeypatch):
    compiler = pytest.importorskip("stgvlib.ops.cuda.compiler")

    def missing():
        raise RuntimeError("libnvrtc.so.13 not found\nsearched everywhere")

    monkeypatch.setattr(compiler, "nvrtc_version", missing)
    gpu_seen((9, 0))
    refused("NVRTC cannot be used (libnvrtc.so.13 not found)")


def test_without_a_gpu_nothing_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.fallback_reason() is None and device.resolve_device("auto").type == "cpu"
    with pytest.raises(StgvError, match="device must be auto, cpu or cuda"):
        device.resolve_device("tpu")
