"""Figures of crops: what systems make of one frame, pixel for pixel, beside the truth.

Records keep a crop of one frame of each system. Shown are the part of it in which the systems differ most, at native
size, and below it the part of that in which they differ most, three times as large, with square pixels. Both are
chosen by the spread of the systems' errors, whoever has the smaller one. Files are 858 px wide, so that a code host
shows every pixel as it is.
"""

import textwrap
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.transforms import IdentityTransform

from stgvlib.repro.looks import SHOWN, WIDTH, save, styled, video_text
from stgvlib.repro.pictures import PICTURED
from stgvlib.repro.records import Record
from stgvlib.repro.tasks import LABELS

CELLS = {3: 276, 4: 204}  # px, the width of a column, by the number of columns
ENLARGED = 3
ERROR_RANGE = 32  # of 255, white in an error map
LINE, GAP = 15, 6  # px, between lines of text, between pictures of a column
SUFFIX = ".png"


TASKS = {"inpaint": "Holes filled", "noise": "Noise taken out", "scale": "Enlarged", "between": "Frames left out"}
Place = tuple[slice, slice]  # rows, columns


@dataclass
class Panel:
    """A column: its title, its picture, what is known of its quality."""

    title: str
    picture: np.ndarray  # uint8 [H, W, 3]
    frame: str = ""  # PSNR of the whole frame
    more: str = ""
    judged: bool = True  # its errors decide what is shown; else it has none: the truth

    def text(self, truth: np.ndarray, crop: Place, width: int) -> list[str]:
        """Lines above the column, of `width` letters."""
        error = np.square(self.picture[crop].astype(np.float64) - truth[crop]).mean()
        quality = f"crop {10 * np.log10(255**2 / max(error, 1e-3)):.1f} dB" if self.judged else ""
        return list(
            filter(None, [*textwrap.wrap(self.title, width), ", ".join(filter(None, (self.frame, quality))), self.more])
        )


def figure_3(multi: Record, key: Record, profile: str) -> Path:
    """Fig. 3: the canonical frame after multi-frame and after key-frame initialisation, beside the key frame."""
    panels = [Panel("Ground truth (key frame)", key.image("key"), judged=False)]
    panels += [Panel("Multi-frame initialisation", multi.image("canonical"))]
    panels += [Panel("Key-frame initialisation (KFCI)", key.image("canonical"))]
    return _sheet(panels, "Canonical frames of the first group", key, "figure_3", profile, number=0)


def figure_8(records: dict[str, Record], profile: str, name: str = "figure_8") -> Path:
    """Fig. 1 and Fig. 8: a frame as each system renders it. Keys are the panels' titles."""
    found = _with_picture(records)
    return _sheet(_panels(found), "", next(iter(found.values()), None), name, profile)


def systems_figure(records: dict[str, Record], profile: str, name: str) -> Path:
    """Fig. 4 and Fig. 11: the same crop of the same frame by every system, each above its error against the ground
    truth (white: 32 of 255 or more)."""
    found = _with_picture(records)
    return _sheet(_panels(found), "", next(iter(found.values()), None), name, profile, errors=True)


def task_figure(records: dict[str, Record], profile: str, name: str) -> Path:
    """Fig. 6, 7 and 10: the truth, the same crop as it was given, and as each system makes it. Keys are run names' last
    parts. Of inpainting, the errors in holes decide what is shown."""
    found = _with_picture(records)
    first = next(iter(found.values()), None)
    panels = _panels({LABELS[system]: record for system, record in found.items()})
    if first and first.picture("given").exists():
        panels.insert(1, Panel("As given", first.image("given")))
    kind = first["task"]["kind"] if first else ""
    holes = (panels[0].picture != panels[1].picture).any(2) if kind == "inpaint" else None
    return _sheet(panels, TASKS.get(kind, ""), first, name, profile, where=holes)


def _with_picture(records: dict[str, Record]) -> dict[str, Record]:
    return {title: r for title, r in records.items() if r and r.picture("frame").exists()}


def _panels(found: dict[str, Record]) -> list[Panel]:
    panels = [Panel("Ground truth", next(iter(found.values())).image("truth"), judged=False)] if found else []
    for title, record in found.items():
        frames, holes = record["psnr_frames"], record.data.get("psnr_holes")
        frame = f"frame {frames[min(PICTURED, len(frames) - 1)]:.1f} dB"
        more = "" if holes is None else f"all holes of the video {holes:.1f} dB"
        panels.append(Panel(title, record.image("frame"), frame, more))
    return panels


def _sheet(
    panels: list[Panel],
    about: str,
    record: Record,
    name: str,
    profile: str,
    errors: bool = False,
    number: int = PICTURED,
    where: np.ndarray | None = None,  # bool [H, W]: pixels whose errors count; None: all
) -> Path:
    """Columns of panels, the truth first, each a crop, its enlarged part and, of `errors`, its error map."""
    columns = min((4, 3), key=lambda columns: -len(panels) % columns)  # fewer places empty
    if panels and CELLS[4] // 2 < panels[0].picture.shape[1] < CELLS[3]:
        columns = 4  # a wider column would be empty in part
    wrap = CELLS[columns] // 6 - 4  # letters that fit
    cell, rows = CELLS[columns], max(1, -(-len(panels) // columns))
    zoom = max([1, *(cell // panel.picture.shape[1] for panel in panels)])  # of the small pictures of small profiles
    for panel in panels:
        panel.picture = panel.picture.repeat(zoom, 0).repeat(zoom, 1)
    where = where if where is None else where.repeat(zoom, 0).repeat(zoom, 1)
    parts, texts, notes = [], [], _notes(about, record, number, zoom, errors)
    if panels:
        truth = panels[0].picture
        crop, inset = _places([p.picture for p in panels if p.judged], truth, (3 * cell // 4, cell), where)
        parts = [_column(panel, truth, crop, inset, errors) for panel in panels]
        texts = [panel.text(truth, crop, wrap) for panel in panels]
    lines, head = max(map(len, texts), default=0), len(notes) * LINE + GAP
    step = lines * LINE + GAP + max((part.shape[0] for part in parts), default=0) + 2 * GAP
    height = head + rows * step
    with styled(**{"figure.dpi": 100, "axes.grid": False}):
        figure = plt.figure(figsize=(WIDTH, height / 100))

        def write(x: int, y: int, line: str, bold: bool) -> None:
            weight = "bold" if bold else "normal"
            figure.text(x, y, line, transform=IdentityTransform(), va="top", fontsize=8, weight=weight)

        for row, line in enumerate(notes):
            write(0, height - row * LINE - 1, line, not row)
        for place, (panel, part, text) in enumerate(zip(panels, parts, texts)):
            x = place % columns * (cell + (SHOWN - columns * cell) // (columns - 1))
            y = height - head - place // columns * step
            for row, line in enumerate(text):
                write(x, y - row * LINE, line, line in panel.title)
            figure.figimage(part, x, y - lines * LINE - GAP - part.shape[0], origin="upper")
        told = [f"{p.title}, {', '.join(text[len(textwrap.wrap(p.title, wrap)) :])}" for p, text in zip(panels, texts)]
        alt = f"{notes[0]}. Left to right, top to bottom: {'; '.join(line.rstrip(', ') for line in told)}."
        return save(figure, name, profile, alt, SUFFIX)


def _notes(about: str, record: Record | None, number: int, zoom: int, errors: bool) -> list[str]:
    if not record:
        return ["No record has a picture"]
    height, width = record["dataset"]["size"]
    number = min(number, record["frames"] - 1)
    what = f"{about + ': ' if about else ''}{video_text(record)}, {width}x{height}, frame {number}"
    size = "native size" if zoom == 1 else f"{zoom} times its size"
    text = f"Crop at {size}; below it its framed part, {ENLARGED} times as large"
    return [what, text + (f"; then the error, black: 0, white: {ERROR_RANGE} of 255 or more" if errors else "")]


def _column(panel: Panel, truth: np.ndarray, crop: Place, inset: Place, errors: bool) -> np.ndarray:
    """Pictures of a column, one below the other, on white."""
    part = panel.picture[crop].copy()
    rows, columns = inset
    enlarged = part[inset].repeat(ENLARGED, 0).repeat(ENLARGED, 1)
    for away, color in ((0, (0, 0, 0)), (1, (255, 255, 255))):  # a frame around it, seen on light and dark
        start, stop = (columns.start - 1 - away, rows.start - 1 - away), (columns.stop + away, rows.stop + away)
        cv2.rectangle(part, start, stop, color, 1)
    found = [part, enlarged]
    if errors:
        error = cv2.absdiff(panel.picture[crop], truth[crop]).max(2, keepdims=True).repeat(3, 2)
        found.append((np.minimum(error / ERROR_RANGE, 1) * 255).astype(np.uint8))
        if not panel.judged:  # the truth has no error: a scale
            found[-1] = np.linspace(0, 255, part.shape[1]).astype(np.uint8)[None, :, None].repeat(20, 0).repeat(3, 2)
    high = sum(p.shape[0] for p in found) + GAP * (len(found) - 1)
    sheet, y = np.full((high, max(p.shape[1] for p in found), 3), 255, np.uint8), 0
    for picture in found:
        sheet[y : y + picture.shape[0], : picture.shape[1]] = picture
        y += picture.shape[0] + GAP
    return sheet


def _places(
    pictures: list[np.ndarray], truth: np.ndarray, size: tuple[int, int], where: np.ndarray | None = None
) -> tuple[Place, Place]:
    """(rows and columns of the crop in the pictures, rows and columns of the enlarged part in the crop): where the
    pictures' RMS errors over the place differ most. Their quartiles count, so that one bad picture does not decide, and
    errors over ERROR_RANGE count as that."""
    size = tuple(min(s, t) for s, t in zip(size, truth.shape))
    errors = [np.square(np.minimum(cv2.absdiff(p, truth).max(2), ERROR_RANGE).astype(np.float64)) for p in pictures]

    errors = errors if where is None else [error * where for error in errors]

    def best(errors: list[np.ndarray], size: tuple[int, int]) -> Place:
        height, width = size
        means = [cv2.boxFilter(e, -1, (width, height), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT) for e in errors]
        rows, columns = (full - part + 1 for full, part in zip(errors[0].shape, size))
        low, high = np.quantile(np.sqrt(means)[:, :rows, :columns], (0.25, 0.75), axis=0)
        spread = high - low
        top, left = np.unravel_index(spread.argmax(), spread.shape)
        return slice(int(top), int(top) + height), slice(int(left), int(left) + width)

    crop = best(errors, size)
    inset = best([e[crop] for e in errors], tuple(s // ENLARGED for s in size))
    return crop, inset
