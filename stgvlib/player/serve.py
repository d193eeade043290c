"""Serves the player and one file on 127.0.0.1, to this machine alone, until Ctrl-C."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from stgvlib.errors import StgvError
from stgvlib.player.page import page, video_type

HOST = "127.0.0.1"


def server(name: str, data: bytes, video: Path | None = None, port: int = 0) -> ThreadingHTTPServer:
    """A server that is bound to a free port, or to `port`. Raises StgvError where the port is taken."""
    links = {"source": "file"} | ({"video": "video", "type": video_type(video)} if video else {})
    about = {
        "/": ("text/html; charset=utf-8", page(name, links=links).encode()),
        "/file": ("application/octet-stream", data),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = (self.headers.get("Host") or "").partition(":")[0]
            if host not in (HOST, "localhost"):  # a page elsewhere whose name leads to this machine
                self.send_error(403)
            elif self.path == "/video" and video is not None:
                self._answer(video_type(video), video.read_bytes())
            elif self.path in about:
                self._answer(*about[self.path])
            else:
                self.send_error(404)

        def _answer(self, kind: str, body: bytes) -> None:
            self.send_response(200)
            headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
            for header, value in (headers | {"X-Content-Type-Options": "nosniff"}).items():
                self.send_header(header, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_) -> None:
            pass

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise StgvError(f"cannot listen on port {port} of {HOST}: {error.strerror or error}; take another") from error
