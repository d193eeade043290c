"""The player's page: one HTML file with a .stgv file inside, or the same page served on this machine alone.

A file's name is text wherever it stands, and the page's own policy lets no script run but the player's.
"""

import base64
import hashlib
import html
import json
import string
from pathlib import Path
from typing import TYPE_CHECKING

from stgvlib.errors import StgvError
from stgvlib.player.bundle import script, source

if TYPE_CHECKING:
    from stgvlib.model.video_model import VideoModel

POSTER_SIDE = 1280  # px, at most, of the still picture for browsers without WebGL2
START = "modules.start.startPage();\n"


def page(
    name: str,
    data: bytes | None = None,  # of the .stgv file that the page holds
    poster: bytes | None = None,  # JPEG
    links: dict[str, str] | None = None,  # what the page fetches: source, video; and the video's type
) -> str:
    """HTML of a player that holds a file, or fetches one, or waits for one to be dropped."""
    code = script() + START
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    connect = "'self'" if links else "'none'"
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        f"media-src blob:; connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
    about = json.dumps({"name": name, **(links or {})}).replace("<", "\\u003c")
    held = still = ""
    if data is not None:
        held = f'<script type="text/plain" id="stgv-file">{base64.b64encode(data).decode()}</script>\n'
    if poster is not None:
        encoded = base64.b64encode(poster).decode()
        still = f'<img class="poster" alt="A frame of the video" src="data:image/jpeg;base64,{encoded}">'
    values = {"policy": policy, "title": html.escape(name), "style": source("player.css"), "about": about}
    return string.Template(source("page.html")).substitute(values, poster=still, file=held, script=code)


def video_type(path: Path) -> str:
    """The media type of a reference video."""
    return {".webm": "video/webm", ".mkv": "video/x-matroska"}.get(path.suffix.lower(), "video/mp4")


def playable(model: "VideoModel | str | Path") -> tuple[bytes, bytes]:
    """(bytes of a .stgv file, JPEG of its poster frame) of a model or of either kind of file; what is no .stgv file is
    rounded to the codec's usual steps. Raises StgvError for a file that cannot be read, and for one without frames."""
    import cv2

    from stgvlib.codec.bitstream import STEPS, is_stream, stream
    from stgvlib.codec.load import find_model, load_model
    from stgvlib.model.decoder import Decoder
    from stgvlib.model.limits import hints_of
    from stgvlib.model.video_model import VideoModel

    path, about = None, {}
    if not isinstance(model, VideoModel):
        path = find_model(model)
        model, about = load_model(path)
    if sum(model.num_frames) == 0 or model.count == 0:
        raise StgvError(f"{path or 'this model'} has no frames to show: fit a video first")
    aspect = about.get("sample_aspect", (1, 1))
    if path is not None and is_stream(path):
        data = path.read_bytes()
    else:
        data = stream(model, STEPS, about.get("fps", 25.0), **hints_of(about, sum(model.num_frames)))
    width = model.size[1] * aspect[0] / aspect[1]
    scale = min(1.0, POSTER_SIDE / max(model.size[0], width))
    decoder = Decoder(model)
    shown = cv2.resize(
        decoder[about.get("poster", len(decoder) // 2)].cpu().numpy(),
        [max(1, round(side * scale)) for side in (width, model.size[0])],
        interpolation=cv2.INTER_AREA,
    )
    _, picture = cv2.imencode(".jpg", shown[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return data, picture.tobytes()
