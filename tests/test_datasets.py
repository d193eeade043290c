"""The shipped clip is the benchmark's, and missing datasets say how to get them."""

import hashlib

import pytest

from stgvlib.errors import StgvError
from stgvlib.video import datasets


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


def test_incomplete_dataset_is_not_used(monkeypatch, tmp_path):
    import cv2
    import numpy as np

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


def test_download_resumes_and_offline_says_where_to_put_the_file(monkeypatch, tmp_path):
    """A local server that honours ranges: the part that is there is not asked for again."""
    import http.server
    import threading

    content = bytes(range(256)) * 100
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            asked.append(start)
            self.send_response(206 if start else 200)
            self.end_headers()
            self.wfile.write(content[start:])

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "a.bin.part").write_bytes(content[:1000])
    path = datasets._download(f"http://127.0.0.1:{server.server_port}/a.bin", tmp_path)
    assert path.read_bytes() == content and asked == [1000]
    server.shutdown()
    server.server_close()
    with pytest.raises(StgvError, match="place it at .*b.bin"):
        datasets._download(f"http://127.0.0.1:{server.server_port}/b.bin", tmp_path)
