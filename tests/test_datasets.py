"""The shipped clip is the benchmark's, missing datasets say how to get them, and a fetched archive is checked.

| case | source | test |
|---|---|---|
| no checksum; a damaged archive stays for ever | FAULTS 8 | test_a_damaged_archive_is_deleted_and_asked_for_again |
| a page answered with 200 becomes the archive | FAULTS 8 | test_a_page_is_no_archive |
| disk full, 404, offline: one line | FAULTS 8 | test_what_fails_in_a_download_is_one_line, test_a_connection_... |
| members outside of the folder | FAULTS 8 | test_members_stay_in_their_folder |
| UVG needs py7zr | FAULTS 8 | test_uvg_is_unpacked_with_py7zr |
| `davis/cow`: no list of names | CASES D | test_a_name_like_a_datasets_lists_them |
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
