"""The look of figures: one colour and one marker a system or block codec, labels at points, and how a figure is saved.

Ours are warm, the paper's method is blue, other Gaussians are green, networks purple, block codecs grey. The colours
are those of Okabe and Ito and of Paul Tol's "muted" palette, which colour-blind readers tell apart in small numbers;
there are more systems than such colours, so each has a marker of its own too. Files are made of one recipe in several
ways have shades of their system's colour and other dashes.

A figure is 858 px wide on a code host (`SHOWN`); sizes here are chosen for that: a point is 100 / 72 px there.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from stgvlib.baselines.block_codecs import BLOCK_CODECS, USUAL
from stgvlib.files import write_atomically
from stgvlib.repro.records import Record, results

SHOWN = 858  # px, how wide a code host shows a figure
WIDTH, SHARP = SHOWN / 100, 200  # inches; dots an inch of a plot, twice what is shown
STYLE = {"figure.dpi": SHARP, "font.size": 8, "axes.titlesize": 9, "axes.titleweight": "bold", "lines.linewidth": 1.4}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e4e4e4"}
STYLE |= {"axes.axisbelow": True, "lines.markersize": 5, "axes.labelsize": 8, "legend.frameon": False}
SYSTEM_LOOKS = {
    "SIREN": ("#882255", "s"),
    "NeRV": ("#AA4499", "D"),
    "E-NeRV": ("#CC79A7", "p"),
    "HNeRV": ("#332288", "h"),
    "HNeRV-Boost": ("#8877CC", "8"),
    "2DGS": ("#999933", "^"),
    "GaussianVideo": ("#44AA99", "v"),
    "GSVR": ("#117733", "<"),
    "D2GV": ("#009E73", ">"),
    "STGV": ("#0072B2", "o"),
    "ours, hashes alone": ("#CC6677", "X"),
    "ours (quality)": ("#D55E00", "*"),
    "ours (fast)": ("#E69F00", "P"),
    "STGV's field, our trainer": ("#56B4E9", "d"),
    "D2GV's field, our trainer": ("#88CCAA", "H"),
    "multi-frame (V1)": ("#661100", "s"),
    "Planes": ("#DDAA33", "v"),
    "2D hash alone": ("#66AA55", "^"),
    "3D hash alone": ("#AA6699", "D"),
}
ALIASES = {"2D and 3D hash": "STGV", "Our preset": "ours, hashes alone"}  # of notebooks 01 and 02
ALIASES |= {"Positional": "D2GV", "key frame (V2)": "D2GV"}  # D2GV's encoding
RECIPES = {  # part that is mixed with white, or below zero with black; line
    "our recipe": (0.0, "-"),
    "our recipe, GoPs of 33 frames": (-0.45, "--"),
    "rounded, entropy-coded": (0.0, "-"),
    "fitted for its file, up to three of four GoPs predicted": (0.0, "-"),
    "fitted for its file, no GoP predicted": (0.4, "--"),
    "its own recipe": (0.62, "-"),
    "its own recipe, codebooks of 64": (0.45, "--"),
    "its own recipe, codebooks of 256": (0.28, "-."),
    "its own recipe, codebooks of 1024": (-0.35, ":"),
    "its own recipe, codebooks of 1024, a step a row": (-0.6, "-"),
}
CODEC_LOOKS = {"x264": ("#8c8c8c", "+"), "x265": ("#555555", "x"), "av1": ("#707070", "1"), "vvc": ("#000000", "2")}
SETTINGS = {"": (0.0, "-"), "psnr": (0.1, "-"), "slower": (-0.3, "-."), "closed": (0.3, "--"), "usual": (0.45, ":")}


def looks(titles: Iterable[str]) -> dict[str, dict]:
    """How each curve or point of a figure is drawn: {title: {"color", "marker", "linestyle"}}.

    Args:
        titles: Labels of systems, alone or before ", <recipe>"; names of block codecs; others, such as those of systems
            that somebody registered, which get colours that no other has.

    Examples:
        >>> from stgvlib.repro.looks import looks
        >>> looks(["STGV", "x265_closed"])
        {'STGV': {'color': '#0072b2', 'marker': 'o', 'linestyle': '-'}, \
'x265_closed': {'color': '#888888', 'marker': 'x', 'linestyle': '--'}}
    """
    spare = _spare()
    return {title: _known(title) or next(spare) for title in titles}


def _known(title: str) -> dict | None:
    if title in BLOCK_CODECS:
        codec, _, setting = title.partition("_")
        return _look(*CODEC_LOOKS[codec], *(SETTINGS["usual"] if title in USUAL else SETTINGS[setting]))
    title = ALIASES.get(title, title)
    if title in SYSTEM_LOOKS:
        return _look(*SYSTEM_LOOKS[title])
    for recipe, (light, line) in RECIPES.items():
        system = title.removesuffix(f", {recipe}")
        if system != title and system in SYSTEM_LOOKS:
            return _look(*SYSTEM_LOOKS[system], light, line)
    return None


def _look(color: str, marker: str, light: float = 0.0, line: str = "-") -> dict:
    mixed = np.array(to_rgb(color)) * (1 - abs(light)) + max(light, 0)
    return {"color": to_hex(mixed), "marker": marker, "linestyle": line}


def _spare() -> Iterator[dict]:
    for k in count():  # hues in golden steps, none of which is in the tables
        yield _look(to_hex(hsv_to_rgb(((0.07 + 0.618034 * k) % 1, 0.9, 0.62))), "oDsX"[k % 4])


def label_points(axis: Axes, points: list[tuple[float, float, str, str]]) -> None:
    """Write a label beside each point (x, y, text, colour) where it hides nothing, with a line to those far off.

    It takes, from the highest point down, the nearest of the places around it that are free of labels, markers and
    lines. The axis must have lines and its final limits.
    """
    figure = axis.get_figure()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # else labels would move the axes
    renderer, px = figure.canvas.get_renderer(), figure.dpi / 100
    inside = axis.get_window_extent(renderer).padded(-1)
    drawn = [_path(axis, line) for line in axis.lines]
    drawn = np.concatenate(drawn)
    marks = axis.transData.transform([p[:2] for p in points])
    taken = [Bbox.from_extents(*(mark - 6 * px), *(mark + 6 * px)) for mark in marks]
    for x, y, text, color in sorted(points, key=lambda point: -point[1]):
        at = axis.transData.transform((x, y))
        note = axis.annotate(text, (x, y), (0, 0), textcoords="offset pixels", fontsize=7.5, color=_dark(color))
        box = note.get_window_extent(renderer)
        best, offset, away = np.inf, (0, 0), 0
        for far in (9, 13, 18, 25, 34, 46, 60, 78, 100):
            for angle in np.arange(16) * np.pi / 8:
                dx, dy = far * px * np.cos(angle), far * px * np.sin(angle)
                left = at[0] + dx - box.width * (1 - np.cos(angle)) / 2
                low = at[1] + dy - box.height * (1 - np.sin(angle)) / 2
                place = Bbox.from_bounds(left, low, box.width, box.height)
                cost = far + (0 if _within(place, inside) else 1e4)
                cost += 500 * sum(place.overlaps(other) for other in taken)
                near = place.padded(3 * px)
                cost += 12 * np.count_nonzero(((drawn > near.min) & (drawn < near.max)).all(1))
                if cost < best:
                    best, offset, away, chosen = cost, (left - at[0], low - at[1]), far, place
        taken.append(chosen.padded(2 * px))
        note.set_position(offset)
        if away > 18:
            end = np.clip(at, chosen.min, chosen.max) - at
            line = {"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
            axis.annotate("", (x, y), tuple(end), textcoords="offset pixels", arrowprops=line)


def label_ends(axis: Axes) -> None:
    """Write the names of lines in a column to the right of their common end, in the order of their last points."""
    figure = axis.get_figure()
    ends = sorted(
        ((*line.get_xydata()[-1], line.get_label(), line.get_color()) for line in axis.lines), key=lambda e: e[1]
    )
    figure.draw_without_rendering()
    apart, heights = 13 * figure.dpi / 100, [axis.transData.transform(end[:2])[1] for end in ends]
    places = np.array(heights)
    for _ in range(200):  # neighbours push each other away
        close = np.maximum(apart - np.diff(places), 0) / 2
        places[:-1] -= close
        places[1:] += close
    for (x, y, text, color), height, place in zip(ends, heights, places):
        line = {"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
        at = 22 * figure.dpi / 100, place - height
        more = {"textcoords": "offset pixels", "va": "center", "fontsize": 7.5, "color": _dark(color)}
        axis.annotate(text, (x, y), at, arrowprops=line | {"relpos": (0, 0.5)}, **more)


def _path(axis: Axes, line) -> np.ndarray:
    """A line's course in px, a point every few px."""
    corners = line.get_transform().transform(np.column_stack(line.get_data()).astype(float))
    parts = [np.linspace(a, b, max(2, int(np.hypot(*(b - a)) / 6))) for a, b in zip(corners, corners[1:])]
    return np.concatenate(parts) if parts else corners


def _within(box: Bbox, other: Bbox) -> bool:
    return bool((box.min >= other.min).all() and (box.max <= other.max).all())


def _dark(color: str) -> str:
    """A colour in which small text can be read on white."""
    rgb = np.array(to_rgb(color))
    return to_hex(rgb * min(1, 0.38 / (rgb @ (0.299, 0.587, 0.114))))


def log_ticks(axis: Axes) -> None:
    """Plain numbers below a logarithmic axis: 1, 2, 5, or over more than two decades only powers of ten."""
    least, most = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(subs=(1,) if most > 200 * least else (1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:,g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def video_text(record: Record | None) -> str:
    """The name of a record's video: "Bunny", "DAVIS blackswan", "UVG Beauty (stand-in)"; empty without a record."""
    if not record:
        return ""
    group, _, name = record["dataset"]["name"].rpartition("/")
    stands = " (stand-in)" if "source" in record["dataset"] else ""
    return (f"{group.upper()} {name}" if group else name.capitalize().replace("_720", ", 720p")) + stands


def save(figure: Figure, name: str, profile: str, alt: str, suffix: str = ".png") -> Path:
    """Write a figure below results/<profile>/figures, its alternative text into alt.json there, and close it."""
    folder = results(profile) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{suffix}"
    sharp = {"pil_kwargs": {"quality": 95, "subsampling": 0, "optimize": True}} if suffix == ".jpg" else {}
    figure.savefig(path, dpi=figure.dpi, **sharp)
    plt.close(figure)
    texts = alt_texts(profile) | {path.name: " ".join(alt.split())}
    text = json.dumps(dict(sorted(texts.items())), indent=1, ensure_ascii=False)
    write_atomically(folder / "alt.json", f"{text}\n".encode())
    return path


def alt_texts(profile: str) -> dict[str, str]:
    """Alternative texts of a profile's figures, by the names of their files."""
    path = results(profile) / "figures" / "alt.json"
    return json.loads(path.read_text()) if path.exists() else {}


def styled(**more):
    """The context in which figures are drawn."""
    return matplotlib.rc_context(STYLE | more)
