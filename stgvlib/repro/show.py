"""What notebooks show: pictures small enough to be saved, charts with hover beside a still picture, and findings.

A chart is a Vega-Lite specification, which JupyterLab draws itself; code hosts show the still picture of the same cell.
"""

import base64
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from IPython.display import Image, Markdown, display

from stgvlib.files import repository
from stgvlib.repro.records import Record

WIDTH = 858  # px, of a notebook's column on a code host
MOST = 60_000  # bytes of a picture within a notebook
VEGA_LITE = "application/vnd.vegalite.v5+json"


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite specification and the still picture that stands in for it."""

    spec: dict
    still: Path

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        text = {"text/plain": f"A chart, {self.still.name}", VEGA_LITE: self.spec}
        return text | _encoded(self.still, MOST)


def picture(path: Path, most: int = MOST) -> Image:
    """A figure as a cell holds it: its file, or of a file of more than `most` bytes a JPEG of at most 858 px width."""
    ((kind, data),) = _encoded(path, most).items()
    return Image(base64.b64decode(data), format=kind.rpartition("/")[2], width=WIDTH)


def gallery(paths: Iterable[Path], first: int = 2, most: int = MOST) -> None:
    """Show the first figures, and links to the files of all of them, which are whole."""
    paths = list(paths)
    for path in paths[:first]:
        display(picture(path, most))
    folder = repository() / "notebooks"
    links = [f"[{path.stem}]({Path(os.path.relpath(path, folder)).as_posix()})" for path in paths]
    if links:
        display(Markdown(f"In full size: {', '.join(links)}."))


def frames(*pictures: np.ndarray) -> Image:
    """Pictures uint8 [H, W, 3] RGB of one size, side by side, as a JPEG."""
    _, data = cv2.imencode(".jpg", np.hstack(pictures)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    return Image(data.tobytes(), format="jpeg", width=WIDTH)


def _encoded(path: Path, most: int) -> dict[str, str]:
    """A picture's media type and its bytes in base64."""
    data, kind = path.read_bytes(), "png" if path.suffix == ".png" else "jpeg"
    if len(data) > most:
        pixels, quality, kind = cv2.imread(str(path)), 90, "jpeg"
        scale = min(1.0, WIDTH / pixels.shape[1])
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        while len(data) > most and quality > 20:
            data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            quality -= 10
    return {f"image/{kind}": base64.b64encode(data).decode()}


def chart(points: list[dict], x: Iterable[str], y: Iterable[str], still: Path, lines: bool = False) -> Chart:
    """A chart with a panel for each pair of `x` (a logarithmic axis) and `y`, titles of columns of `points`.

    The first column names a system: a point's label, or with `lines` a curve's. All columns stand in the hover. A click
    on a name in the legend picks its curve out.
    """
    columns = list(dict.fromkeys(title for point in points for title in point))
    field = {title: f"c{place}" for place, title in enumerate(columns)}  # titles have dots and commas
    values = [{field[title]: value for title, value in point.items()} for point in points]
    hover = [{"field": field[title], "title": title} for title in columns]
    for item in hover:
        if any(isinstance(value.get(item["field"]), float) for value in values):
            item |= {"type": "quantitative", "format": ".4~g"}
    name = {"field": "c0", "type": "nominal", "title": columns[0] if columns else "", "sort": None}
    panels = []
    for place, (across, up) in enumerate(zip(x, y, strict=True)):
        axes = {
            "x": {
                "field": field.get(across),
                "type": "quantitative",
                "scale": {"type": "log", "padding": 12 if lines else 50},
                "title": across,
            },
            "y": {"field": field.get(up), "type": "quantitative", "scale": {"zero": False}, "title": up},
        }
        colour = (
            name
            | {"scale": {"scheme": "tableau20"}}
            | {"legend": {"orient": "bottom", "columns": 3, "labelLimit": 280} if lines else None}
        )
        encoding = axes | {"color": colour, "tooltip": hover}
        mark = {"type": "line", "point": True} if lines else {"type": "point", "filled": True, "size": 90}
        picked = (
            [{"name": f"pick{place}", "select": {"type": "point", "fields": ["c0"]}, "bind": "legend"}] if lines else []
        )
        if lines:
            encoding |= {"opacity": {"condition": {"param": f"pick{place}", "value": 1}, "value": 0.12}}
        zoom = {"name": f"zoom{place}", "select": "interval", "bind": "scales"}
        layers = [{"mark": mark, "encoding": encoding, "params": [zoom, *picked]}]
        if not lines:
            text = {"type": "text", "align": "left", "dx": 8, "fontSize": 11}
            layers.append({"mark": text, "encoding": axes | {"text": name, "color": colour}})
        panels.append({"layer": layers, "width": 360, "height": 320})
    schema = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "data": {"values": values}}
    return Chart(schema | {"hconcat": panels}, still)


def cost_points(records: dict[str, Record]) -> list[dict]:
    """Rows of a chart of quality and cost, a system each."""
    return [
        {
            "system": label,
            "PSNR, dB": record["psnr"],
            "training, s": record["seconds"]["total"],
            "decoding, frames/s": max(record["decode_fps_8bit"], record["decode_fps"]),
            "parameters": record["parameters"],
            "device": record["device"],
        }
        for label, record in records.items()
        if record
    ]


def rate_points(curves: dict[str, Record]) -> list[dict]:
    """Rows of a chart of rate-distortion curves, a file each."""
    return [
        {
            "system": label,
            "bits a pixel": point["bpp"],
            "PSNR, dB": point["psnr"],
            "MS-SSIM": point["ms_ssim"],
            "bytes": point["bytes"],
        }
        for label, record in curves.items()
        if record
        for point in record["points"]
    ]
