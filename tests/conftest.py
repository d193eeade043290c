"""Shared fixtures. Tests that take `device` run on the CPU always and on a GPU where there is one."""

import stgvlib  # noqa: F401, I001  before torch: threads wait without spinning

import pytest
import torch

from stgvlib.device import cuda_status

USABLE, WHY = cuda_status()
gpu = pytest.mark.skipif(not USABLE, reason=f"no CUDA: {WHY}")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(gpu)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> torch.device:
    return torch.device(request.param)
