"""Decoding speed: which batches are tried, which is the best, and what a record says of it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from stgvlib import metrics
from stgvlib.config import PAPER
from stgvlib.model.decoder import Decoder
from stgvlib.model.judge import decoding_speed
from stgvlib.model.video_model import VideoModel
from stgvlib.repro.records import Record
from stgvlib.repro.tables import best_batch


class Clocked:
    """A decoder whose calls take 8 ms and 1 ms a frame; it counts what it decodes."""

    way, decoded, most = "as a test does", None, 1000

    def __init__(self, model, dtype):
        self.model, self.dtype = model, dtype

    def __getitem__(self, number):
        return self.frames([number])[0]

    def frames(self, numbers):
        if len(numbers) > self.most:
            raise torch.cuda.OutOfMemoryError
        assert 0 <= numbers[0] and numbers[-1] < sum(self.model.num_frames)
        self.model.clock[0] += 0.008 + 0.001 * len(numbers)
        self.model.seen.setdefault((self.dtype, len(numbers)), set()).update(numbers)
        return torch.zeros(len(numbers), 1)


@pytest.fixture
def model(monkeypatch):
    """Its parameters are on no CPU, as those of a GPU."""
    found = nn.Linear(1, 1, device="meta")
    found.num_frames, found.clock, found.seen = [12, 8], [0.0], {}
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: found.clock[0]))
    return found


def test_batches_are_tried_up_to_the_videos_length(model):
    found = decoding_speed(model, Clocked)
    assert list(found["decode_batches"]) == ["1", "2", "4", "8", "16"]
    for batch, fps in found["decode_batches"].items():
        assert fps == pytest.approx(1000 * int(batch) / (8 + int(batch)), rel=1e-3)
    assert found["decode_fps"] == found["decode_fps_8bit_single"] == pytest.approx(1000 / 9, abs=0.01)
    assert found["decode_fps_8bit"] == found["decode_batches"]["16"]
    text = "frames a call tried: 1, 2, 4, 8, 16 (the video has 20); as a test does"
    assert found["fps_8bit_protocol"].endswith(text)
    assert model.seen[torch.float32, 1] == set(range(10))  # of the first GoP
    assert model.seen[torch.uint8, 1] == set(range(20)) and model.seen[torch.uint8, 8] == set(range(16))


def test_no_call_is_long(model):
    found = decoding_speed(model, Clocked, longest=0.022)
    assert list(found["decode_batches"]) == ["1", "2", "4"]
    assert "tried: 1, 2, 4 (8 would take over 0.022 s)" in found["fps_8bit_protocol"]
    began = model.clock[0]
    decoding_speed(model, Clocked)
    assert model.clock[0] - began < 2


def test_memory_may_end(model, monkeypatch):
    monkeypatch.setattr(Clocked, "most", 4)
    found = decoding_speed(model, Clocked)
    assert list(found["decode_batches"]) == ["1", "2", "4"] and "(8 need more memory)" in found["fps_8bit_protocol"]
    monkeypatch.setattr(Clocked, "most", 0)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        decoding_speed(model, Clocked)


def test_a_decoder_says_how_it_decodes(device):
    model = VideoModel(PAPER, [3, 2], (20, 30), 5).to(device)
    found = decoding_speed(model, Decoder, seconds=0.01)
    graph = "one CUDA graph a call" if device.type == "cuda" else "no CUDA graph"
    assert found["fps_8bit_protocol"].endswith(graph) and found["fps_protocol"].endswith(graph)
    assert list(found["decode_batches"]) == (["1", "2", "4"] if device.type == "cuda" else ["1"])


def test_tables_name_the_best_batch(tmp_path):
    new = {"decode_batches": {"1": 9.0, "16": 30.0, "32": 29.0}, "fps_8bit_protocol": "8-bit, ..."}
    old = {"fps_8bit_protocol": "4 frames a call, 8-bit, warm, synchronised, whole video"}
    assert [best_batch(Record("x", tmp_path, data)) for data in (new, old)] == ["16", "4"]
