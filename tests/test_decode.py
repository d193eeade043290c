"""The decoder: the same frames as `render`, in 8 bits or floats, one or many, on every device."""

from dataclasses import replace

import pytest
import torch
from scenes import random_model

from stgvlib.baselines import D2GV, TWO_DGS
from stgvlib.config import PAPER, STGV, FieldConfig
from stgvlib.metrics import to_uint8
from stgvlib.model.decoder import Decoder


def model_of(config, device):
    return random_model(config, (3, 5), 200, (50, 70)).to(device)


@pytest.mark.parametrize(
    "config", [STGV, PAPER, TWO_DGS, replace(STGV, field=FieldConfig(deform_shape=True, position_scale=40.0))]
)
@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_frames_are_those_of_the_reference(config, scale, device):
    """In any order, from any GoP, alone or together; against float64 on a CPU."""
    model = model_of(config, device)
    exact = model_of(config, "cpu").double()
    places = [(g, i) for g, n in enumerate(model.num_frames) for i in range(n)]
    expected = []
    for g, i in places:
        alone = exact.gop(g).double()
        expected.append(alone.render(torch.tensor([i]), scale)[0])
    floats, bytes_ = Decoder(model, scale, torch.float32), Decoder(model, scale)
    assert len(floats) == 8
    together = floats.frames([7, 0, 3, 4]).double().cpu()
    for frame, number in zip(together, [7, 0, 3, 4]):
        assert (frame - expected[number]).abs().max() < 0.02
    for number, frame in enumerate(bytes_):
        assert frame.dtype == torch.uint8 and frame.shape == expected[number].shape
        assert (frame.cpu().int() - to_uint8(expected[number]).int()).abs().max() <= 5
        assert (floats[number].double().cpu() - expected[number]).abs().mean() < 1e-3


def test_a_frame_that_is_not_there(device):
    decoder = Decoder(model_of(STGV, device))
    for number in (8, -1):
        with pytest.raises(IndexError, match=f"frame {number} was asked for, the video has frames 0 to 7"):
            decoder[number]
    assert decoder.frames([]).shape == (0, 50, 70, 3)
    with pytest.raises(ValueError, match="uint8 or float32"):
        Decoder(decoder.model, dtype=torch.float16)


@pytest.mark.parametrize(
    "field",
    [
        FieldConfig(encoding="positional", position_scale=40.0),
        FieldConfig(encoding="planes", position_scale=40.0),
        D2GV.field,  # torch runs the next ones on a GPU too
        FieldConfig(width=48, deform_shape=True),
        FieldConfig(encoding="planes", polynomial=2, head_layers=2),
    ],
)
@pytest.mark.parametrize("config", [replace(STGV, motion_steps=0), PAPER])
def test_other_fields_decode_too(config, field, device):
    model = model_of(replace(config, field=field), device)
    frames = [model.gop(g).render(torch.tensor([i], device=device))[0] for g, i in ((0, 1), (1, 2), (1, 4))]
    for frame, shown in zip(frames, Decoder(model).frames([1, 5, 7]), strict=True):
        assert (shown.int() - to_uint8(frame).int()).abs().max() <= 1
    larger = model.gop(1).render(torch.tensor([2], device=device), 1.7)[0]
    assert (Decoder(model, 1.7)[5].int() - to_uint8(larger).int()).abs().max() <= 1
