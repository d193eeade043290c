"""Figures from run records, below results/<profile>/figures, with an alternative text each in alt.json. What has no
record or picture is left out. Crops are made in crops.py, colours and labels in looks.py."""

import textwrap
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from stgvlib.repro.crops import figure_3, figure_8, systems_figure, task_figure
from stgvlib.repro.looks import WIDTH, alt_texts, label_ends, label_points, log_ticks, looks, save, styled, video_text
from stgvlib.repro.pictures import PICTURED
from stgvlib.repro.published import PUBLISHED
from stgvlib.repro.records import Record

__all__ = [
    "alt_texts",
    "cost_figure",
    "figure_3",
    "figure_5",
    "figure_8",
    "figure_9",
    "history_figure",
    "method_figure",
    "motion_figure",
    "systems_figure",
    "task_figure",
    "time_figure",
]

SETTING_WORDS = {"psnr": "tuned for PSNR", "slower": "slower preset", "closed": "closed groups"}
METHOD = """The method as boxes and arrows: the first frame of a group gives canonical Gaussians; their places and the
time enter a 2D and a 3D hash, whose features and the encoded time enter an MLP; it moves and recolours the Gaussians,
and the sum of all deformed Gaussians is the frame."""


def method_figure(profile: str) -> Path:
    """Fig. 2, drawn anew: what is fitted first, what moves it, and how a frame comes out."""
    boxes = {  # title, text, left, bottom, width, height, colour
        "Key frame": ("first frame\nof a group", 0.0, 0.60, 0.13, 0.30, "#dddddd"),
        "Canonical Gaussians": (
            "$\\mu, \\Sigma, c$ of N Gaussians\n10,000 steps (KFCI)",
            0.18,
            0.60,
            0.19,
            0.30,
            "#cfe2f3",
        ),
        "2D hash": ("$f_s = G_{2D}(x, y)$\n8 levels x 2", 0.18, 0.30, 0.19, 0.22, "#fce5cd"),
        "3D hash": ("$f_d = G_{3D}(x, y, t)$\n8 levels x 4", 0.18, 0.03, 0.19, 0.22, "#f4cccc"),
        "Time": ("frame i of n\n$t = (i + 1) / n$, $\\gamma(t)$", 0.0, 0.03, 0.13, 0.49, "#dddddd"),
        "MLP": ("two layers of 128\non $(f_s, f_d, \\gamma(t))$", 0.43, 0.10, 0.15, 0.36, "#d9ead3"),
        "Heads": ("$\\Delta\\mu$, $\\Delta c$", 0.63, 0.10, 0.11, 0.36, "#d9ead3"),
        "Deformed Gaussians": ("$\\mu + \\Delta\\mu$, $\\Sigma$, $c + \\Delta c$", 0.63, 0.60, 0.17, 0.30, "#cfe2f3"),
        "Frame": ("sum of all\nGaussians", 0.86, 0.60, 0.14, 0.30, "#dddddd"),
    }
    arrows = (
        ("Key frame", "Canonical Gaussians"),
        ("Canonical Gaussians", "2D hash"),
        ("Time", "3D hash"),
        ("2D hash", "MLP"),
        ("3D hash", "MLP"),
        ("MLP", "Heads"),
        ("Heads", "Deformed Gaussians"),
        ("Canonical Gaussians", "Deformed Gaussians"),
        ("Deformed Gaussians", "Frame"),
    )
    with styled(**{"axes.grid": False}):
        figure, axis = plt.subplots(figsize=(WIDTH, 3), layout="constrained")
        axis.set(xlim=(-0.01, 1.01), ylim=(0, 0.95))
        axis.axis("off")
        for title, (text, left, bottom, width, height, color) in boxes.items():
            axis.add_patch(
                FancyBboxPatch((left, bottom), width, height, "round,pad=0.004", facecolor=color, edgecolor="#555")
            )
            axis.text(
                left + width / 2, bottom + 0.72 * height, title, ha="center", va="center", weight="bold", fontsize=7.5
            )
            axis.text(left + width / 2, bottom + 0.32 * height, text, ha="center", va="center", fontsize=7)
        for source, target in arrows:
            (_, x0, y0, w0, h0, _), (_, x1, y1, _, h1, _) = boxes[source], boxes[target]
            if x0 + w0 <= x1:
                ends = (x0 + w0, min(y0 + h0, max(y0, y1 + h1 / 2))), (x1, y1 + h1 / 2)
            else:
                ends = (x0 + w0 / 2, y0 if y0 > y1 else y0 + h0), (x0 + w0 / 2, y1 + h1 if y0 > y1 else y1)
            axis.annotate("", ends[1], ends[0], arrowprops={"arrowstyle": "-|>", "color": "#333", "linewidth": 1.5})
        return save(figure, "figure_2", profile, METHOD)


def cost_figure(records: dict[str, Record], profile: str, name: str = "quality_and_cost") -> Path:
    """PSNR of every system over its training time and over its decoding speed. Hollow: on another card than most."""
    found = {title: record for title, record in records.items() if record}
    panels = {
        "training time, s": lambda r: r["seconds"]["total"],
        "decoding speed, frames/s (8-bit, several frames a call)": lambda r: max(r["decode_fps_8bit"], r["decode_fps"]),
    }
    main, cards = _cards(found.values())
    with styled():
        figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 7), layout="constrained")
        for axis, (label, of) in zip(axes, panels.items()):
            points = {
                title: [(of(record), record["psnr"], record["device"] == main)] for title, record in found.items()
            }
            _curves(axis, points, label)
        figure.suptitle(
            f"{_video(found.values())}: quality and cost at equal numbers of parameters ({cards})", fontsize=9
        )
        for axis in axes if found else ():
            _label(axis)
        told = [f"{t} {r['psnr']:.2f} dB, {r['seconds']['total']:.0f} s" for t, r in found.items()]
        return save(figure, name, profile, f"PSNR over training time and decoding speed: {'; '.join(told)}. {cards}.")


def time_figure(records: dict[str, list[Record]], profile: str, name: str) -> Path:
    """PSNR over seconds of training of every system, a point a schedule: records by label, shortest schedule first.
    Hollow: on another card than most."""
    found = {label: [record for record in parts if record] for label, parts in records.items()}
    every = [record for parts in found.values() for record in parts]
    main, cards = _cards(every)
    points = {
        label: [(record["seconds"]["total"], record["psnr"], record["device"] == main) for record in parts]
        for label, parts in found.items()
        if parts
    }
    with styled():
        figure, axis = plt.subplots(figsize=(WIDTH, 4.6), layout="constrained")
        _curves(axis, points, "training time, s")
        axis.set_title(f"{_video(every)}: quality over training time ({cards})", loc="left", weight="normal")
        if points:
            _label(axis)
        best = [f"{label} {parts[-1][1]:.2f} dB after {parts[-1][0]:.0f} s" for label, parts in points.items()]
        return save(figure, name, profile, f"PSNR over training time: {'; '.join(best)}. {cards}.")


def figure_9(records: dict[int, Record], profile: str) -> Path:
    """Fig. 9: quality, parameters, decoding speed and training time over the number of Gaussians a GoP."""
    found = {n: record for n, record in sorted(records.items()) if record}
    panels = {
        "PSNR, dB": lambda r: r["psnr"],
        "parameters, millions": lambda r: r["parameters"] / 1e6,
        "decoding speed, frames/s (8-bit)": lambda r: r["decode_fps_8bit"],
        "training time, s": lambda r: r["seconds"]["total"],
    }
    with styled():
        figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 5), layout="constrained", sharex=True)
        for axis, (label, of) in zip(axes.flat, panels.items()):
            numbers = [record["gaussians"] for record in found.values()]
            axis.plot(numbers, [of(record) for record in found.values()], **looks(["STGV"])["STGV"])
            axis.set_title(label, loc="left")
            axis.xaxis.set_major_formatter("{x:,.0f}")
            axis.yaxis.set_major_formatter("{x:,g}")
            axis.margins(y=0.12)
        for axis in axes[1]:
            axis.set_xlabel("Gaussians a group of pictures")
        figure.suptitle(f"{_video(found.values())}: the paper's method by its number of Gaussians", fontsize=9)
        told = [
            f"{r['gaussians']:,} Gaussians: {r['psnr']:.2f} dB, {r['parameters'] / 1e6:.2f}M" for r in found.values()
        ]
        return save(
            figure, "figure_9", profile, f"Quality and cost by Gaussians a group: {'; '.join(told)} parameters."
        )


def history_figure(records: dict[str, Record], profile: str, name: str, stages: tuple[str, ...]) -> Path:
    """PSNR over training steps of each record, one panel a stage."""
    found, drawn = {title: record for title, record in records.items() if record}, looks(records)
    with styled():
        figure, axes = plt.subplots(1, len(stages), figsize=(WIDTH, 3.6), squeeze=False, layout="constrained")
        for axis, stage in zip(axes.flat, stages):
            for title, record in found.items():
                if record["history"][stage]:
                    look = drawn[title] | {"markevery": 0.1}
                    axis.plot(*zip(*record["history"][stage]), **look, label=title)
            axis.set(xlabel="training step", ylabel="PSNR of the training frame, dB")
            axis.set_title(f"{_video(found.values())}, {stage} stage", loc="left")
            axis.margins(x=0.02)
            axis.set_xlim(right=axis.get_xlim()[1] * (1.05 + 0.15 * len(stages)))  # room for labels
            axis.xaxis.set_major_formatter("{x:,.0f}")
        for axis in axes.flat:
            if axis.lines:
                label_ends(axis)
        ends = [f"{t} {r['history'][stages[-1]][-1][1]:.2f} dB" for t, r in found.items() if r["history"][stages[-1]]]
        return save(figure, name, profile, f"PSNR over training steps; at the end: {'; '.join(ends)}.")


def figure_5(
    curves: dict[str, Record],
    profile: str,
    name: str = "figure_5",
    source: float | None = None,
    dataset: str = "",
) -> Path:
    """Fig. 5: PSNR and MS-SSIM over the rate of every curve. `source`: bits a pixel of the file that the frames come
    from, a vertical line. Points that others have published on `dataset` are hollow. The legend is in the order of the
    curves' best PSNR."""
    found = {title: record["points"] for title, record in curves.items() if record}
    found = dict(sorted(found.items(), key=lambda pair: -max(p["psnr"] for p in pair[1])))
    measures = {
        "PSNR, dB": lambda p: p["psnr"],
        "MS-SSIM, dB: -10 log10(1 - MS-SSIM)": lambda p: p["ms_ssim"] and -10 * np.log10(1 - p["ms_ssim"]),
    }
    with styled():
        figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 7.4), layout="constrained", sharex=True)
        for axis, (label, of) in zip(axes, measures.items()):
            for title, look in looks(found).items():
                pairs = [(p["bpp"], of(p)) for p in found[title] if of(p) is not None]
                axis.plot(*zip(*pairs), **look, label=_words(title)) if pairs else None
            if source:
                text = f"the video's own file,\n{source:.3f} bits a pixel"
                axis.axvline(source, color="#b8b8b8", linestyle=(0, (1, 3)), label=text)
            for curve in PUBLISHED if axis is axes[0] else ():
                if curve.dataset == dataset:
                    text = _words(f"{curve.label}, published, {'x'.join(map(str, curve.size[::-1]))}")
                    look = looks([curve.label])[curve.label] | {"linestyle": "none", "fillstyle": "none"}
                    axis.plot(*zip(*curve.points), **look, label=text)
            axis.set(xscale="log", ylabel=label)
            log_ticks(axis)
        axes[1].set_xlabel("bits a pixel (size of the file)")
        axes[0].set_title(f"{_video(curves.values())}: quality over rate", loc="left")
        if axes[0].lines:
            figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=7.5, handlelength=3)
        told = [
            f"{t} {p[0]['psnr']:.1f} dB at {p[0]['bpp']:.3f} to {p[-1]['psnr']:.1f} at {p[-1]['bpp']:.3f}"
            for t, p in ((t, sorted(p, key=lambda p: p["bpp"])) for t, p in found.items())
        ]
        alt = f"{_video(curves.values())}, PSNR and MS-SSIM over bits a pixel: {'; '.join(told)}."
        return save(figure, name, profile, alt)


def motion_figure(record: Record, profile: str, name: str = "deformation_fields") -> Path:
    """How far the field moves each part of the picture against the rest: all, and with one hash silenced."""
    titles = {"motion": "Whole field", "motion_static": "2D hash alone", "motion_dynamic": "3D hash alone"}
    shown = [key for key in titles if record and key in record["pictures"]]
    with styled(**{"axes.grid": False}):
        figure, axes = plt.subplots(1, max(1, len(shown)), figsize=(WIDTH, 2), squeeze=False, layout="constrained")
        for axis in axes.flat:
            axis.axis("off")
        for axis, key in zip(axes.flat, shown):
            most = record["pictures"][key]
            pixels = record.image(key)[..., 0] / 255 * most
            drawn = axis.imshow(pixels, cmap="magma", vmin=0, vmax=max(most, 1e-6))
            axis.set_title(titles[key])
            bar = figure.colorbar(drawn, ax=axis, orientation="horizontal", shrink=0.8, pad=0.03, aspect=30)
            bar.set_label("displacement against the median, px")
        figure.suptitle(f"{_video([record])}: displacement of the Gaussians in frame {PICTURED}", fontsize=9)
        told = [f"{titles[key]} up to {record['pictures'][key]:.1f} px" for key in shown]
        alt = f"{_video([record])}, maps of how far the field moves the picture: {', '.join(told)}."
        return save(figure, name, profile, alt)


def _curves(axis: Axes, points: dict[str, list[tuple[float, float, bool]]], label: str) -> None:
    """Lines of (x, PSNR, filled or hollow) over a logarithmic axis, by titles."""
    for title, look in looks(points).items():
        xs, ys, filled = zip(*points[title])
        axis.plot(xs, ys, **look, label=title, fillstyle="full" if filled[-1] else "none", markersize=7)
    axis.set(xscale="log", xlabel=label, ylabel="PSNR, dB")
    axis.margins(0.1)
    log_ticks(axis)


def _words(title: str) -> str:
    """A title as a legend has it: settings of block codecs in words, in short lines."""
    codec, _, setting = title.partition("_")
    return textwrap.fill(f"{codec}, {SETTING_WORDS[setting]}" if setting in SETTING_WORDS else title, 27)


def _label(axis: Axes) -> None:
    """Names of lines at their last points."""
    ends = [(*line.get_xydata()[-1], line.get_label(), line.get_color()) for line in axis.lines]
    label_points(axis, ends)


def _cards(records: Iterable[Record]) -> tuple[str, str]:
    """(the card that most records were made on, which cards the filled and the hollow points stand for)."""
    cards = [record["device"] for record in records if record]
    main = max(sorted(set(cards)), key=cards.count, default="")
    others = ", ".join(sorted(set(cards) - {main}))
    return main, f"filled: {main}; hollow: {others}" if others else main


def _video(records: Iterable[Record]) -> str:
    return next((video_text(record) for record in records if record), "")
