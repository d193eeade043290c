"""Predicted GoPs in the player, in a real headless browser: integers, Gaussians and frames against Python's."""

import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from player_pages import (  # noqa: F401  fixtures
    DECODE,
    browser,
    flat,
    opened,
    psnr_of_frames,
    shown,
    text_of,
    until,
)
from scenes import FIELDS, TINY, random_model, waves

from stgvlib.codec import bitstream
from stgvlib.codec.chains import compress_video, setting_for
from stgvlib.codec.predict import Changes
from stgvlib.codec.quantize import quantize
from stgvlib.codec.steps import Steps
from stgvlib.codec.units import KEY, PREDICTED, key_unit, predicted_unit
from stgvlib.config import PAPER, STGV
from stgvlib.player.page import page as page_of
from stgvlib.video.video import video_of

DRAWN = {
    "shape": replace(STGV, motion_steps=0, field=replace(TINY, deform_shape=True, lattice=(2, 3, 3))),
    "paper": replace(PAPER, field=TINY),
    "lattice alone": FIELDS["lattice alone"],
    "tanh": replace(PAPER, field=replace(TINY, position_space="tanh")),
    "planes": replace(PAPER, field=replace(FIELDS["gsvr"].field, polynomial=0, width=16)),
}
LENGTHS = (3, 2, 4, 1, 2)
KEYS = (0, 3)  # GoPs that begin a chain
VALUES = """() => gops.map((gop) => ({
  gaussians: [gop.mu, gop.cholesky, gop.rgb].map((values) => Array.from(values)),
  tensors: Object.values(gop.tensors).map((values) => Array.from(values)),
}))"""


def drawn(model, steps, largest=3):
    """A file of random differences, and the integers of its GoPs (None of key GoPs)."""
    random = np.random.default_rng(7)
    units, integers, count = [], [], 0
    for g, frames in enumerate(model.num_frames):
        group = quantize(model, g, steps)
        if g in KEYS:
            units.append((KEY, key_unit(group)))
            integers.append(None)
            count = len(group.gaps)
            continue
        flags = (random.random(count) < 0.4).astype(np.int64)
        rows = [random.integers(-largest, largest + 1, (n, flags.sum())) for n in (2, 3, 3)]
        rows[1][:, ::2] = 0  # shapes that stay to the last bit
        predicted = [bool(k % 3) for k in range(len(group.tensors))]
        tensors = [(step, values // 8 if add else values) for add, (step, values) in zip(predicted, group.tensors)]
        units.append((PREDICTED, predicted_unit(Changes(frames, flags, *rows, predicted, tensors))))
        field = [part for add, (_, values) in zip(predicted, tensors) for part in ([add], values)]
        integers.append([[frames, count], flags, *rows, *field])
    return bitstream.assembled(model, model.count, steps, units, 25.0), integers


def model_of(name):
    torch.manual_seed(3)
    return random_model(DRAWN[name], LENGTHS, 40, (24, 40), noise=0.05)


@pytest.fixture(scope="module")
def video_file():
    video = video_of(waves(24, (72, 128)))
    short = replace(setting_for(video.size), gop_size=4, gaussians=150, coarse_steps=40, motion_steps=0, steps=40)
    made = compress_video(video, short, keyint=3, fine_tuning=40, changing=40)
    assert [gop["kind"] for gop in made.gops] == ["key", "predicted", "predicted"] * 2
    return made.data


def with_unit(data, number, change):
    """A file with another section `number`, its checksums right."""
    count = struct.unpack_from("<H", data, 10)[0]
    table = [list(struct.unpack_from("<BHII", data, 16 + 11 * k)) for k in range(count)]
    at, bodies = 16 + 11 * count, []
    for _, _, size, _ in table:
        bodies.append(data[at : at + size])
        at += size
    kind, bodies[number] = change(table[number][0], bodies[number])
    table[number] = [kind, table[number][1], len(bodies[number]), zlib.crc32(bodies[number])]
    packed = b"".join(struct.pack("<BHII", *section) for section in table)
    return data[:12] + struct.pack("<I", zlib.crc32(packed)) + packed + b"".join(bodies)


def compared(tab, data, shader=False):
    """Opens a file in a page, and compares its Gaussians and fields with Python's. Returns integers and the model."""
    model = bitstream.parse(data).model
    _, integers = tab.evaluate(DECODE, [text_of(data), shader])
    for g, gop in enumerate(tab.evaluate(VALUES)):
        gaussians = model.gaussians
        for ours, values in zip(gop["gaussians"], (gaussians.mu[g], gaussians.cholesky[g], gaussians.rgb[g])):
            theirs = values.detach().numpy().ravel()[: len(ours)]
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3, err_msg=f"GoP {g}")
        for ours, p in zip(gop["tensors"], model.field.parameters(), strict=True):
            assert np.array_equal(np.float32(ours), p[g].detach().numpy().ravel()), f"field of GoP {g}"
    return integers, model


@pytest.mark.parametrize("name", DRAWN)
def test_integers_and_gaussians_are_pythons(name, opened):  # noqa: F811
    data, expected = drawn(model_of(name), Steps(lowest=(3, 3)) if name in ("shape", "planes") else Steps())
    integers, _ = compared(opened(page_of("empty")), data)
    for ours, theirs in zip(integers, expected, strict=True):
        assert theirs is None or np.array_equal(flat(ours), flat(theirs))


@pytest.mark.parametrize("shader", [True, False])
def test_frames_of_a_compressed_video_are_pythons(shader, video_file, opened):  # noqa: F811
    tab = opened(page_of("empty"))
    _, model = compared(tab, video_file, shader)
    assert min(psnr_of_frames(tab, model)) > 45


def test_a_damaged_key_group_loses_its_chain_alone(video_file, opened):  # noqa: F811
    start = 16 + 11 * 7
    sizes = [struct.unpack_from("<I", video_file, 16 + 11 * k + 3)[0] for k in range(7)]
    broken = bytearray(video_file)
    broken[start + sizes[0] + 40] ^= 1
    assert sorted(bitstream.parse(bytes(broken)).damaged) == [0, 1, 2]
    tab = opened(page_of("broken", bytes(broken)))
    assert "Group 1 fails its checksum" in tab.text_content(".message") and shown(tab).max() == 0
    tab.evaluate("stgvPlayer.go(11)")
    until(tab, "document.querySelector('.frame').textContent.startsWith('11 / 23')")
    assert shown(tab).max() == 0
    assert "Group 3 is predicted from group 2, which is damaged" in tab.text_content(".message")
    tab.evaluate("stgvPlayer.go(12)")
    until(tab, "document.querySelector('.frame').textContent.startsWith('12 / 23')")
    assert shown(tab).max() > 60


def test_the_last_frame_is_shown_at_once_and_marks_differ(video_file, opened):  # noqa: F811
    tab = opened(page_of("clip", video_file))
    tab.evaluate("stgvPlayer.go(23)")
    until(tab, "document.querySelector('.frame').textContent.startsWith('23 / 23')")
    assert shown(tab).max() > 60 and tab.is_hidden(".message")
    until(tab, "stgvPlayer.keyFrames.size === 6")
    assert tab.evaluate("[0, 1, 2, 3, 4, 5].filter((gop) => stgvPlayer.gops.isPredicted(gop))") == [1, 2, 4, 5]
    assert "6 groups" in tab.text_content(".facts")


def test_what_python_refuses_the_player_refuses(opened):  # noqa: F811
    good, _ = drawn(model_of("paper"), Steps())
    head = struct.Struct("<HI")

    def changed(gop, frames=LENGTHS[1], more=0, rest=lambda body: body):
        def change(kind, body):
            _, count = head.unpack_from(body)
            return kind, head.pack(frames, count + more) + rest(body[head.size :])

        return with_unit(good, 1 + gop, change)

    cases = {
        "leaves the range of numbers": (drawn(model_of("paper"), Steps(position=1000.0), 2000)[0], [1, 2, 4]),
        "nothing before it": (with_unit(good, 1, lambda kind, body: (PREDICTED, body)), [0, 1, 2]),
        "another number of Gaussians": (changed(1, more=-1), [1, 2]),
        "more Gaussians than the header": (changed(1, more=1), [1, 2]),
        "other frames": (changed(1, frames=9), [1, 2]),
        "flags out of range": (changed(1, rest=lambda body: b"\2\0\2" + bytes([255]) * 10 + body), [1, 2]),
        "bytes too many": (changed(2, LENGTHS[2], rest=lambda body: body + b"\0"), [2]),
        "cut off": (changed(4, LENGTHS[4], rest=lambda body: body[:-1]), [4]),
        "a key GoP as a predicted one": (with_unit(good, 4, lambda kind, body: (PREDICTED, body)), [3, 4]),
        "a predicted GoP as a key one": (with_unit(good, 2, lambda kind, body: (KEY, body)), [1, 2]),
    }
    lost = """(text) => {
      const data = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
      const gops = new modules.predict.Gops(modules.format.openFile(data));
      const numbers = gops.file.header.frames.map((_, gop) => gop);
      const errors = numbers.filter((gop) => gops.advance(gop, Infinity) && gops.kept.get(gop) instanceof Error);
      return [errors, errors.every((gop) => gops.kept.get(gop) instanceof modules.entropy.FileError)];
    }"""
    tab = opened(page_of("empty"))
    for name, (data, expected) in cases.items():
        assert sorted(bitstream.parse(data).damaged) == expected, name
        assert tab.evaluate(lost, text_of(data)) == [expected, True], name
