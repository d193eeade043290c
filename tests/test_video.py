"""Readers, writers and their error messages, on files made here and on the real clip.

| case | source | test |
|---|---|---|
| frames of two renders in one folder | CASES A | test_a_folder_never_holds_frames_of_two_renders |
| a colon, no UTF-8, above 16,384 px, a dot in a folder's name | CASES C, D | test_names_that_were_tracebacks |
| untagged colours, pixel shape, less than 0.0005 fps | CASES B, E | test_a_written_file_is_tagged_and_... |
| odd sides | CASES E | test_odd_sizes_survive |

What is read of files is in test_reader.py.
"""

import os
import shutil
from fractions import Fraction

import cv2
import numpy as np
import pytest

from stgvlib.errors import StgvError
from stgvlib.video.video import open_video, video_of
from stgvlib.video.write import write_video


def moving(frames=6, height=24, width=32):
    """Smooth frames with a moving ramp, so that lossy codecs keep them close."""
    y, x = np.mgrid[:height, :width]
    stack = [np.stack([x * 4 + 5 * t, y * 5 + 3 * t, x * 2 + y * 2], -1) for t in range(frames)]
    return np.stack(stack).clip(0, 255).astype(np.uint8)


def write_yuv(path, frames):
    with open(path, "wb") as file:
        for frame in frames:
            file.write(cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420).tobytes())


def test_mp4_round_trip_and_lazy_reading(tmp_path):
    frames = moving(12, 64, 96)
    assert write_video(tmp_path / "a.mp4", frames, 12.5) == 12
    video = open_video(tmp_path / "a.mp4")
    assert (video.num_frames, video.size, video.fps) == (12, (64, 96), 12.5)
    whole = video.read()
    assert np.abs(whole.astype(int) - frames).mean() < 3
    assert np.array_equal(video.read(7, 9), whole[7:9]) and np.array_equal(video.read(2, 3), whole[2:3])
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_frames_are_decoded_once_where_memory_is_enough(tmp_path, monkeypatch):
    write_video(tmp_path / "clip", moving(6))
    missing = moving(6)[..., 0] > 20
    video = open_video(tmp_path / "clip").with_(stride=2, limit=3, crop=(2, 20), resize=(9, 16), cuts=(1,))
    monkeypatch.setattr("stgvlib.video.video.AT_ONCE", 2)
    held = video.with_(missing=missing).in_memory()
    assert (held.num_frames, held.size, held.fps, held.cuts) == (3, (9, 16), 12.5, (1,)) and held.missing is missing
    shown = video.read()
    shutil.rmtree(tmp_path / "clip")
    assert np.array_equal(held.read(), shown) and held.in_memory() is held
    monkeypatch.setattr("stgvlib.video.video.HELD", 3 * 3 * 9 * 16 - 1)
    assert video.in_memory() is video


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (2, 5)])
def test_odd_sizes_survive(tmp_path, size):
    frames = moving(3, *size)
    write_video(tmp_path / "pngs", frames)
    assert np.array_equal(open_video(tmp_path / "pngs").read(), frames)
    write_video(tmp_path / "a.mp4", frames, chroma="444")
    assert open_video(tmp_path / "a.mp4").size == size
    write_video(tmp_path / "b.mp4", frames)  # players show 4:2:0, which has even sides
    padded = open_video(tmp_path / "b.mp4").read()
    assert padded.shape[1:3] == tuple(side + side % 2 for side in size)
    assert np.abs(padded[:, -1, -1].astype(int) - padded[:, size[0] - 1, size[1] - 1]).max() < 20


def test_a_written_file_is_tagged_and_players_show_its_colours(tmp_path):
    """CASES E: BT.709, tagged; pixel shape and rate as given. Values from the standard: green is Y 173, U 42, V 26."""
    import av

    frames = np.zeros((3, 48, 64, 3), np.uint8)
    frames[..., 1] = 255
    write_video(tmp_path / "a.mp4", frames, 24000 / 1001, Fraction(16, 15))
    with av.open(str(tmp_path / "a.mp4")) as file:
        stream = file.streams.video[0]
        coded = stream.codec_context
        assert (coded.colorspace, coded.color_range, coded.color_primaries, coded.color_trc) == (1, 1, 1, 1)
        assert stream.sample_aspect_ratio == Fraction(16, 15) and stream.average_rate == Fraction(24000, 1001)
        planes = next(file.decode(video=0)).to_ndarray()
    y, u, v = planes[0, 0], planes[48, 0], planes[60, 0]
    assert max(abs(int(y) - 173), abs(int(u) - 42), abs(int(v) - 26)) <= 1
    assert np.abs(open_video(tmp_path / "a.mp4").read().astype(int) - frames).max() <= 3
    write_video(tmp_path / "slow.mp4", frames, 0.0004)
    assert open_video(tmp_path / "slow.mp4").fps == pytest.approx(0.0004, rel=1e-3)


def test_names_that_were_tracebacks(tmp_path, monkeypatch):
    """CASES C and D: a colon, bytes that are no UTF-8, a folder with a dot, a side above 16,384 px."""
    monkeypatch.chdir(tmp_path)
    frames = np.zeros((2, 16, 24, 3), np.uint8)
    for name in ("10:30.mp4", os.fsdecode(b"caf\xe9.mp4"), "frames_1.5x"):
        assert write_video(name, frames) == 2 and open_video(name).num_frames == 2
    with pytest.raises(StgvError, match="frames are 16386x2, H.264 takes 16384 a side"):
        write_video("wide.mp4", np.zeros((1, 2, 16386, 3), np.uint8))
    with pytest.raises(StgvError, match="there are no frames"):
        write_video("none.mp4", frames[:0])
    assert sorted(os.listdir(b".")) == [b"10:30.mp4", b"caf\xe9.mp4", b"frames_1.5x"]


def test_a_folder_never_holds_frames_of_two_renders(tmp_path):
    """CASES A: what stgvlib wrote is replaced, and pictures of others are refused."""
    frames = np.zeros((3, 16, 24, 3), np.uint8)
    write_video(tmp_path / "out", frames)
    write_video(tmp_path / "out", frames[:1])
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["00000.png"]
    cv2.imwrite(str(tmp_path / "out/00007.png"), frames[0])
    with pytest.raises(StgvError, match="pictures that stgvlib did not write .00007.png.: take another folder"):
        write_video(tmp_path / "out", frames)
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_y4m(tmp_path):
    frames = moving()
    planes = [cv2.cvtColor(f, cv2.COLOR_RGB2YUV_I420).tobytes() for f in frames]
    header = b"YUV4MPEG2 W32 H24 F25:1 Ip A1:1 C420jpeg\n"
    (tmp_path / "a.y4m").write_bytes(header + b"".join(b"FRAME\n" + p for p in planes))
    video = open_video(tmp_path / "a.y4m")
    assert video.num_frames == 6 and video.size == (24, 32)


def test_uvg_protocol_on_a_small_file(tmp_path):
    """1080p yuv420p, every 4th frame, 720p: the same path as UVG's, on a small file."""
    frames = moving(10, 48, 64)
    write_yuv(tmp_path / "Small_64x48_120fps_420_8bit_YUV.yuv", frames)
    video = open_video(tmp_path / "Small_64x48_120fps_420_8bit_YUV.yuv").with_(stride=4, resize=(32, 42))
    read = video.read()
    assert video.num_frames == 3 and read.shape == (3, 32, 42, 3)
    expected = [cv2.resize(frames[i], (42, 32), interpolation=cv2.INTER_AREA) for i in (0, 4, 8)]
    assert np.abs(read.astype(int) - expected).mean() < 4  # chroma is subsampled


def test_odd_yuv(tmp_path):
    """Odd sides have chroma planes rounded up."""
    luma, chroma = np.full((3, 5), 120, np.uint8), np.full((2, 2, 3), 128, np.uint8)
    (tmp_path / "gray_5x3.yuv").write_bytes((luma.tobytes() + chroma.tobytes()) * 2)
    video = open_video(tmp_path / "gray_5x3.yuv")
    assert video.num_frames == 2 and np.ptp(video.read()) == 0


def test_crop_limit_and_order_of_names(tmp_path):
    frames = moving(12)
    (tmp_path / "f").mkdir()
    for i, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / "f" / f"frame{i}.png"), frame[..., ::-1])
    video = open_video(tmp_path / "f").with_(crop=(4, 20), limit=11)
    assert np.array_equal(video.read(), frames[:11, 4:20])


def test_bad_input_says_what_to_do(tmp_path):
    def message(path):
        with pytest.raises(StgvError) as error:
            video = open_video(path)
            video.read()
        assert "\n" not in str(error.value)
        return str(error.value)

    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty").mkdir()
    (tmp_path / "noname.yuv").write_bytes(b"0" * 10)
    (tmp_path / "cut_4x4.yuv").write_bytes(b"0" * 25)
    (tmp_path / "nil_0x4.yuv").write_bytes(b"0" * 25)
    (tmp_path / "mixed").mkdir()
    cv2.imwrite(str(tmp_path / "mixed" / "0.png"), np.zeros((4, 6, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "mixed" / "1.png"), np.zeros((4, 7, 3), np.uint8))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "0.png").write_bytes(b"\x89PNG and no more")
    assert "does not exist" in message(tmp_path / "nothing.mp4")
    assert "not a video" in message(tmp_path / "text.mp4")
    assert "no PNG or JPEG" in message(tmp_path / "empty")
    assert "size in its name" in message(tmp_path / "noname.yuv")
    assert "25 bytes, expected a multiple of 24" in message(tmp_path / "cut_4x4.yuv")
    assert "at least 1" in message(tmp_path / "nil_0x4.yuv")
    assert "1.png is 7x4, 0.png 6x4" in message(tmp_path / "mixed")
    assert "not an image" in message(tmp_path / "broken")
    with pytest.raises(StgvError, match="must end in .mp4"):
        write_video(tmp_path / "a.gif", moving())


def test_time_stamps_and_colours_are_written_as_they_are_given(tmp_path):
    """Of each frame, the last too; primaries and transfer are the frames', matrix and range the conversion's."""
    frames, path = moving(6, 48, 64), tmp_path / "a.mp4"
    for tick, runs in (
        ([1, 25], [3, 1, 1, 5, 2, 2]),
        ([1, 1000], [1, 33, 1, 100, 4, 17]),
        ([1001, 30_000], [3, 1, 3, 2]),
    ):
        durations = {"tick": tick, "runs": runs}
        write_video(path, frames, 20, durations=durations, color=[9, 16, 9, 0])
        assert open_video(path).hints() == {"durations": durations, "color": [9, 16, 1, 0]}
    write_video(path, frames, color=[2, 13, 6, 1])  # primaries that are not tagged
    assert open_video(path).hints() == {"color": [1, 13, 1, 0]}
    write_video(path, frames, color=[200, 3, 6, 1])  # numbers that nobody knows
    assert open_video(path).hints() == {"color": [2, 2, 1, 0]}
    for runs in ([5, 1], [7, 1]):
        with pytest.raises(StgvError, match=f"durations must be of all frames, got those of {runs[0]}"):
            write_video(tmp_path / "b.mp4", frames, durations={"tick": [1, 25], "runs": runs})
    assert not (tmp_path / "b.mp4").exists()


def test_a_poster_is_the_middle_frame_unless_another_shows_more():
    frames = np.full((9, 16, 24, 3), 90, np.uint8)
    assert video_of(frames).hints() == {}
    frames[:, :8] = 200
    assert video_of(frames).hints() == {}
    frames[3:] = 0  # fades to black
    assert video_of(frames).hints() == {"poster": 0}
    assert video_of(frames).with_(limit=3).hints() == {}
