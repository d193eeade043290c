"""The shipped clip is the benchmark's, missing datasets say how to get them, and a fetched archive is checked.

| case | source | test |
|---|---|---|
| no checksum; a damaged archive stays for ever | FAULTS 8 | test_a_damaged_archive_is_deleted_and_asked_for_again |
| a page answered with 200 becomes the archive | FAULTS 8 | test_a_page_is_no_archive |
| disk full, 404, offline: one line | FAULTS 8 | test_what_fails_in_a_download_is_one_line, test_a_connection_... |
| members outside of the folder | FAULTS 8 | test_members_stay_in_their_folder |
| UVG needs py7zr | FAULTS 8 | test_uvg_is_unpacked_with_py7zr |
| `davis/cow`: no list of names | CASES D | test_a_name_like_a_datasets_lists_them |
| UVG's stand-ins: which is taken, what it is said to be | issue 29 | test_the_best_source_is_taken, test_a_folder_... |
"""

import hashlib
import http.server
import io
import threading
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest

from stgvlib.errors import StgvError
from stgvlib.video import datasets
from stgvlib.video.write import write_video

PAGE = b"<!DOCTYPE html><html>Please log in</html>"


def zipped(**members):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "/"), content)
    return data.getvalue()


WHOLE = zipped(DAVIS__a=bytes(range(256)) * 1000)


class Asked(list):
    cut = None  # the connection ends after so many bytes


@contextmanager
def serve(*replies):
    """A server on this machine that honours ranges; each reply is (status, content) and answers one request. Gives its
    URL and where the requests began."""
    asked, waiting = Asked(), iter(replies)

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            asked.append(start)
            status, content = next(waiting)
            self.send_response(206 if status == 200 and 0 < start < len(content) else status)
            self.send_header("Content-Type", "text/html" if content == PAGE else "application/zip")
            self.send_header("Content-Length", str(len(content[start:])))
            self.end_headers()
            self.wfile.write(content[start : asked.cut])

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/a.zip", asked
    server.shutdown()
    server.server_close()


def test_bunny_is_the_benchmarks_clip():
    path = datasets.find("bunny")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd"
    video = datasets.load_dataset("bunny")
    assert (video.num_frames, video.size) == (132, (640, 1280))
    assert datasets.frames_sha256(video.with_(crop=None)) == datasets.BUNNY_FRAMES_SHA256


def test_missing_and_unknown_datasets(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "data_folders", lambda: [tmp_path])
    with pytest.raises(StgvError, match="stgv fetch uvg"):
        datasets.load_dataset("uvg/Beauty")
    with pytest.raises(StgvError, match="dataset must be one of"):
        datasets.load_dataset("cats")
    with pytest.raises(StgvError, match="davis or uvg"):
        datasets.fetch("bunny")


@pytest.mark.parametrize(
    "name, nearest", [("davis/cow", "davis/cows"), ("uvg/beauty", "uvg/Beauty"), ("buny", "bunny")]
)
def test_a_name_like_a_datasets_lists_them(name, nearest):
    with pytest.raises(StgvError, match=f"{name} is no file or folder, and no dataset: those are {nearest}, ") as error:
        datasets.open_input(name)
    assert all(known in str(error.value) for known in datasets.DATASETS) and "\n" not in str(error.value)
    with pytest.raises(StgvError, match=r"clip\.mp4 does not exist; expected a video file"):
        datasets.open_input("clip.mp4")


def test_incomplete_dataset_is_not_used(monkeypatch, tmp_path):
    import cv2

    (tmp_path / "davis" / "cows").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "davis" / "cows" / "00000.jpg"), np.zeros((480, 854, 3), np.uint8))
    monkeypatch.setattr(datasets, "data_folders", lambda: [tmp_path])
    with pytest.raises(StgvError, match="gives 1 frames, davis/cows has 104"):
        datasets.load_dataset("davis/cows")


def pictures(folder, count, size=(512, 512)):
    """A folder of PNGs of one colour, UVG's names; written once and linked, which is as good and fast."""
    import cv2

    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "00000.png"), np.full((*size, 3), 90, np.uint8))
    for i in range(1, count):
        (folder / f"{4 * i:05d}.png").hardlink_to(folder / "00000.png")


def yuv(folder, name, frames):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}_1920x1080_120fps_420_8bit_YUV.yuv", "wb") as file:
        file.truncate(frames * 1920 * 1080 * 3 // 2)  # sparse


def test_the_best_source_is_taken_wherever_it_lies(monkeypatch, tmp_path):
    """The official file before 132 pictures, those before a stand-in; a folder belongs to the source of its number."""
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setattr(datasets, "data_folders", lambda: [first, second])
    with pytest.raises(StgvError, match=r"missing: expected uvg/Beauty_1920x1080\*.yuv or uvg/Beauty below .*first or"):
        datasets.load_dataset("uvg/Beauty")
    pictures(first / "uvg/Beauty", 36)
    video = datasets.load_dataset("uvg/Beauty")
    assert (video.num_frames, video.size) == (36, (512, 512)) and video.read(35).shape == (1, 512, 512, 3)
    assert video.notes == ("uvg/Beauty is a stand-in: 512x512, centre crop, every 4th frame, 36 frames",)
    pictures(second / "uvg/Beauty", 132, (720, 1280))
    video = datasets.load_dataset("uvg/Beauty")
    assert (video.num_frames, video.size) == (132, (720, 1280)) and "of a public copy" in video.notes[0]
    assert datasets.find("uvg/Beauty") == second / "uvg/Beauty"
    yuv(second / "uvg", "Beauty", 600)
    video = datasets.load_dataset("uvg/Beauty")
    assert (video.num_frames, video.size, datasets.note_of("uvg/Beauty")) == (150, (720, 1280), "")
    assert not any("stand-in" in note for note in video.notes)


@pytest.mark.parametrize("name, count", [("Beauty", 37), ("ShakeNDry", 36), ("YachtRide", 36)])
def test_a_folder_of_another_number_of_frames_says_what_was_expected(monkeypatch, tmp_path, name, count):
    expected = {"Beauty": "132 or 36", "ShakeNDry": "132 or 35", "YachtRide": "132"}[name]
    pictures(tmp_path / "uvg" / name, count)
    monkeypatch.setattr(datasets, "data_folders", lambda: [tmp_path])
    with pytest.raises(StgvError, match=f"uvg/{name} gives {count} frames, uvg/{name} has {expected}: is the"):
        datasets.load_dataset(f"uvg/{name}")


def test_frames_of_another_size_are_no_stand_in(monkeypatch, tmp_path):
    pictures(tmp_path / "uvg/Jockey", 36, (64, 48))
    monkeypatch.setattr(datasets, "data_folders", lambda: [tmp_path])
    with pytest.raises(StgvError, match=r"has frames of 48x64, expected 512x512 \(stand-in: "):
        datasets.load_dataset("uvg/Jockey")


def test_a_part_of_a_frame_stands_in(monkeypatch, tmp_path):
    """Columns, then rows, then every n-th frame, then a profile's resize."""
    frames = np.zeros((5, 8, 12, 3), np.uint8)
    frames[..., 0], frames[..., 1] = np.arange(5)[:, None, None] * 40, np.arange(12) * 20
    write_video(tmp_path / "clip", frames)
    part = datasets.Source(("clip",), 3, (2, 8), (4, 12), 2, size=(6, 8), note="stand-in: a corner")
    whole = datasets.Dataset("whole", ("whole.mp4",), 9, 100, target=(20, 30), stand_ins=(part,))
    monkeypatch.setattr(datasets, "data_folders", lambda: [tmp_path])
    monkeypatch.setitem(datasets.DATASETS, "whole", whole)
    video = datasets.load_dataset("whole")
    assert np.array_equal(video.read(), frames[::2, 2:8, 4:12]) and video.about()["width"] == 8
    assert video.scaled(0.5).read().shape == (3, 3, 4, 3)
    assert whole.pixels_per_gaussian((6, 8), stand_in=True) == 6 and whole.pixels_per_gaussian((6, 8)) == 0.48


def test_uvg_is_fetched_where_only_a_stand_in_is_here(monkeypatch, tmp_path):
    asked = []
    pictures(tmp_path / "uvg/Beauty", 36)
    yuv(tmp_path / "uvg", "Jockey", 600)
    monkeypatch.setattr(datasets, "data_folders", lambda: [tmp_path])
    monkeypatch.setattr(datasets, "find_spec", lambda _: True)
    monkeypatch.setattr(datasets, "_download", lambda url, _: asked.append(url.rsplit("/", 1)[1].split("_")[0]))
    monkeypatch.setattr(datasets, "_unpack", lambda *_: None)
    datasets.fetch("uvg", tmp_path)
    assert asked == ["Beauty", "Bosphorus", "HoneyBee", "ReadySetGo", "ShakeNDry", "YachtRide"]


@pytest.mark.parametrize("name", [n for n in datasets.DATASETS if n.startswith("davis/")])
def test_davis_where_it_is(name):
    if datasets.find(name) is None:
        pytest.skip("DAVIS is not here: stgv fetch davis, or set STGV_DATA")
    video = datasets.load_dataset(name)
    assert video.size in ((720, 1280), (480, 854))


def test_a_download_resumes(tmp_path):
    """The part that is there is not asked for again, and a whole archive is not asked for at all."""
    (tmp_path / "a.zip.part").write_bytes(WHOLE[:1000])
    with serve((200, WHOLE)) as (url, asked):
        path = datasets._download(url, tmp_path)
        assert path.read_bytes() == WHOLE and asked == [1000]
        assert datasets._download(url, tmp_path) == path and asked == [1000]
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_a_page_is_no_archive(tmp_path):
    """It neither becomes the archive nor replaces the part of one."""
    (tmp_path / "a.zip.part").write_bytes(WHOLE[:1000])
    with serve((200, PAGE), (200, WHOLE)) as (url, _):
        with pytest.raises(StgvError, match=r"answers with a page \(text/html\), not with an archive; download it by"):
            datasets._download(url, tmp_path)
        assert datasets._download(url, tmp_path).read_bytes() == WHOLE


@pytest.mark.parametrize("known", [False, True])
def test_a_damaged_archive_is_deleted_and_asked_for_again(tmp_path, monkeypatch, known):
    if known:
        monkeypatch.setitem(datasets.SHA256, "a.zip", hashlib.sha256(WHOLE).hexdigest())
        damaged, told = WHOLE[:500] + b"?" + WHOLE[501:], "gave a file of SHA-256 .*, expected "
    else:
        damaged, told = WHOLE[:-30], "gave an archive that does not open, which was deleted"
    with serve((200, damaged), (200, WHOLE), (200, WHOLE)) as (url, asked):
        with pytest.raises(StgvError, match=told):
            datasets._download(url, tmp_path)
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "a.zip").write_bytes(PAGE)  # as an earlier version left it
        assert datasets._download(url, tmp_path).read_bytes() == WHOLE and asked == [0, 0]
    (tmp_path / "a.zip").write_bytes(WHOLE[:500] + b"?" + WHOLE[501:])
    with pytest.raises(StgvError, match=r"a.zip is damaged \(BadZipFile\) and was deleted: fetch again"):
        datasets._unpack(tmp_path / "a.zip", tmp_path)
    assert not (tmp_path / "a.zip").exists()


def test_what_fails_in_a_download_is_one_line(tmp_path, monkeypatch):
    with (
        serve((404, PAGE)) as (url, _),
        pytest.raises(StgvError, match="answers 404 Not Found; .* at .*a.zip"),
    ):
        datasets._download(url, tmp_path)
    with pytest.raises(StgvError, match=r"cannot reach .* \(ConnectionError\); .* place it at .*a.zip"):
        datasets._download(url, tmp_path)  # which has ended
    (tmp_path / "davis").mkdir()
    (tmp_path / "davis" / "a.zip.part").symlink_to("/dev/full")
    with serve((200, WHOLE)) as (url, _):
        monkeypatch.setattr(datasets, "DAVIS_URL", url)
        with pytest.raises(StgvError, match="cannot write .*: No space left on device; fetch again to go on"):
            datasets.fetch("davis", tmp_path)


def test_a_connection_that_ends_early_keeps_the_part(tmp_path):
    with serve((200, WHOLE), (200, WHOLE)) as (url, asked):
        asked.cut = 200_000
        with pytest.raises(StgvError, match=r"cannot reach .* fetch again to go on"):
            datasets._download(url, tmp_path)
        part = (tmp_path / "a.zip.part").read_bytes()
        assert part == WHOLE[: len(part)] and len(part) > 100_000
        asked.cut = None
        assert datasets._download(url, tmp_path).read_bytes() == WHOLE and asked == [0, len(part)]


def test_davis_is_unpacked_beside_its_archive(tmp_path, monkeypatch):
    with serve((200, WHOLE)) as (url, _):
        monkeypatch.setattr(datasets, "DAVIS_URL", url)
        assert datasets.fetch("davis", tmp_path) == [tmp_path / "DAVIS"]
    assert (tmp_path / "DAVIS" / "a").read_bytes() == bytes(range(256)) * 1000


def test_members_stay_in_their_folder(tmp_path):
    target = tmp_path / "in"
    target.mkdir()
    for name in ("../out", "/tmp/../out", "a/../../out"):
        (tmp_path / "a.zip").write_bytes(zipped(**{"first": b"", name: b"x"}))
        with pytest.raises(StgvError, match=f"holds {name!r}, which lies outside of .*in: do not use it"):
            datasets._unpack(tmp_path / "a.zip", target)
    assert list(target.iterdir()) == [] and not (tmp_path / "out").exists()


def test_uvg_is_unpacked_with_py7zr(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "find_spec", lambda _: None)
    with pytest.raises(StgvError, match=r"unpacking UVG needs py7zr: pip install 'stgvlib\[data\]'"):
        datasets.fetch("uvg", tmp_path)
    py7zr = pytest.importorskip("py7zr", reason="needs the extra data")
    for name, inside in (("a.7z", "Beauty.yuv"), ("b.7z", "../out.yuv")):
        with py7zr.SevenZipFile(tmp_path / name, "w") as file:
            file.writestr(b"frames", "x" * len(inside))
            file.header.files_info.files[0]["filename"] = inside  # its own writer refuses the second
    target = tmp_path / "in"
    datasets._unpack(tmp_path / "a.7z", target)
    assert (target / "Beauty.yuv").read_bytes() == b"frames"
    with pytest.raises(StgvError, match="holds '../out.yuv', which lies outside"):
        datasets._unpack(tmp_path / "b.7z", target)
    assert not (tmp_path / "out.yuv").exists()
    (tmp_path / "a.7z").write_bytes((tmp_path / "a.7z").read_bytes()[:-5])
    assert datasets._fault(tmp_path / "a.7z", "a.7z") == "an archive that does not open"
