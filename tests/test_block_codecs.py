"""Block codecs: curves of real files, groups that are decoded by themselves, encoders that are not installed."""

import os
import re
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec

import av
import numpy as np
import pytest

from stgvlib.baselines import block_codecs
from stgvlib.baselines.block_codecs import BLOCK_CODECS, CLOSED
from stgvlib.errors import StgvError
from stgvlib.repro import curves
from stgvlib.video.video import open_video
from stgvlib.video.write import write_video

NO_VVC = pytest.mark.skipif(not find_spec("imageio_ffmpeg"), reason="needs the vvc extra")
NAMES = [pytest.param(name, marks=NO_VVC if name == "vvc" else ()) for name in BLOCK_CODECS]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """40 frames of odd size, 67x51, in which a ramp moves."""
    y, x = np.mgrid[:51, :67]
    frames = [np.stack([x * 2 + 3 * t, y * 3, x + y], -1).astype(np.uint8) for t in range(40)]
    path = tmp_path_factory.mktemp("clip") / "clip"
    write_video(path, frames)
    return open_video(path)


def test_block_codecs_make_a_curve(results, monkeypatch):
    setting = replace(BLOCK_CODECS["x264"], levels=(20, 40))
    monkeypatch.setitem(BLOCK_CODECS, "x264", setting)
    record = curves.block_codec("x264", "bunny", "smoke", show_progress=False)
    fine, coarse = record["points"]
    assert fine["bytes"] > coarse["bytes"] > 500 and fine["psnr"] > coarse["psnr"] + 2 > 20
    assert fine["bpp"] == 8 * fine["bytes"] / (64 * 128 * 3) and fine["psnr_yuv"] > fine["psnr"]
    assert record["threads"] == {"encoding": os.cpu_count(), "decoding": 1} and record["programs"]["pyav"]
    assert fine["encode_cpu_seconds"] > 0 and fine["decode_fps"] > 10 and "one thread" in record["decode_protocol"]
    monkeypatch.setattr(block_codecs, "encode", lambda *_: pytest.fail("encoded again"))
    assert curves.block_codec("x264", "bunny", "smoke").data == record.data
    with pytest.raises(StgvError, match="codec must be one of x264, x265, av1, .* got 'mpeg2'"):
        curves.block_codec("mpeg2", "bunny", "smoke")


@pytest.mark.parametrize("name", NAMES)
def test_frames_come_back_at_their_size(clip, tmp_path, name):
    setting, path = BLOCK_CODECS[name], tmp_path / "video.mp4"
    seconds, cpu_seconds = block_codecs.encode(clip, setting, setting.levels[0], path)
    found = list(block_codecs.decode(path, clip.size))
    assert len(found) == 40 and all(np.abs(a.astype(int) - b).mean() < 4 for a, b in zip(found, clip.read()))
    assert seconds > 0 and cpu_seconds > 0 and block_codecs.decode_fps(path) > 10
    assert block_codecs.source_rate(path)[0] == 40 * block_codecs.source_rate(path)[1] < path.stat().st_size


@pytest.mark.parametrize("name", NAMES)
def test_closed_groups_are_decoded_by_themselves(clip, tmp_path, name):
    """Every 16th frame is a key frame and all packets before the second can be missing; else there is one key frame."""
    path = tmp_path / "video.mp4"
    block_codecs.encode(clip, BLOCK_CODECS[name], BLOCK_CODECS[name].levels[1], path)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        packets = [packet for packet in file.demux(stream) if packet.size]
        keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
        if name not in CLOSED:
            assert keys == [0]
            return
        assert keys == [0, 16, 32]
        tail = [frame for packet in [*packets[16:], None] for frame in stream.codec_context.decode(packet)]
    tail = [frame.to_ndarray(format="rgb24")[:51, :67] for frame in tail]
    whole = list(block_codecs.decode(path, clip.size))
    assert len(tail) == 24 and all(np.array_equal(a, b) for a, b in zip(tail, whole[16:]))


@pytest.mark.parametrize("codec, psychovisual", [("x264", rb"psy=(\d)"), ("x265", rb"psy-rd=([\d.]+)")])
def test_tuning_reaches_the_encoder(clip, tmp_path, codec, psychovisual):
    """Both write their settings into the stream."""
    strengths = []
    for name in (codec, f"{codec}_psnr", f"{codec}_closed"):
        block_codecs.encode(clip, BLOCK_CODECS[name], 24, tmp_path / f"{name}.mp4")
        strengths.append(float(re.search(psychovisual, (tmp_path / f"{name}.mp4").read_bytes())[1]))
    assert strengths[0] > 0 == strengths[1] == strengths[2]


def test_settings_that_came_later_leave_hashes_alone():
    assert set(BLOCK_CODECS["x264"].settings()) == {"codec", "preset", "levels"}
    assert BLOCK_CODECS["x265_closed"].settings() == asdict(BLOCK_CODECS["x265_closed"])
    assert len({str(setting.settings()) for setting in BLOCK_CODECS.values()}) == len(BLOCK_CODECS)


def test_without_an_encoder_the_record_says_why(results, clip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    record = curves.block_codec("vvc", "bunny", "smoke", show_progress=False)
    assert not record and record.reason == "not run: no VVC encoder here: pip install 'stgvlib[vvc]'"
    with pytest.raises(StgvError, match="PyAV has no libmpeg9"):
        block_codecs.encode(clip, replace(BLOCK_CODECS["x264"], codec="libmpeg9"), 20, tmp_path / "video.mp4")


def test_a_program_that_fails_is_told(clip, tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho 'Unknown encoder libvvenc' >&2\nexit 1\n")
    program.chmod(0o755)
    module = type(sys)("imageio_ffmpeg")
    module.get_ffmpeg_exe = lambda: str(program)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", module)
    with pytest.raises(StgvError, match="cannot encode VVC: Unknown encoder libvvenc"):
        block_codecs.encode(clip, BLOCK_CODECS["vvc"], 30, tmp_path / "video.mp4")


def test_the_source_of_bunny_has_a_rate():
    """Its frames are those of a stream of 795,933 bytes, 0.059 bits a pixel of 640x1280."""
    from stgvlib.repro.records import Record
    from stgvlib.video.datasets import find

    assert block_codecs.source_rate(find("bunny"))[0] == 795_933
    record = Record("bunny/rate_stgv", find("bunny"), {"dataset": {"size": [640, 1280]}})
    assert curves.source_bpp("bunny", record) == pytest.approx(0.0589, abs=5e-5)
    assert curves.source_bpp("bunny", Record("bunny/rate_stgv", find("bunny"), None, "not run")) is None
    smaller = Record("bunny/rate_stgv", find("bunny"), {"dataset": {"size": [192, 384]}})
    assert curves.source_bpp("bunny", smaller) is None
    with pytest.raises(StgvError, match="is no video file"):
        block_codecs.source_rate(find("bunny").parent)
