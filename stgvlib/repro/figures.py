"""Figures from run records, below results/<profile>/figures: pictures as .jpg, the rest as .png. What has no record or
picture is left out."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import LogLocator, NullFormatter

from stgvlib.baselines.block_codecs import BLOCK_CODECS, USUAL
from stgvlib.repro.published import PUBLISHED
from stgvlib.repro.records import Record, results
from stgvlib.repro.tasks import LABELS

STYLE = {"figure.dpi": 110, "font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True}
STYLE |= {"axes.axisbelow": True}
CODEC_MARKERS = {"libx264": "s", "libx265": "^", "libsvtav1": "*", "libvvenc": "P"}
ERROR_RANGE = 32  # of 255, white in an error map


def figure_3(multi: Record, key: Record, profile: str) -> Path:
    """Fig. 3: the canonical frame after multi-frame and after key-frame initialisation, beside the key frame."""
    panels = [("Key frame (ground truth)", key, "key"), ("Multi-frame initialisation", multi, "canonical")]
    return _crops([*panels, ("Key-frame initialisation (KFCI)", key, "canonical")], "figure_3", profile)


def figure_8(records: dict[str, Record], profile: str, name: str = "figure_8") -> Path:
    """Fig. 1 and Fig. 8: the last frame of the first GoP as each system renders it. Keys are the panels' titles."""
    found = {title: record for title, record in records.items() if record}
    first = next(iter(found.values()), None)
    truth = [("Ground truth", first, "truth")] if first else []
    titled = [(f"{title}, {record['psnr']:.2f} dB", record, "frame") for title, record in found.items()]
    return _crops([*truth, *titled], name, profile, columns=4 if len(titled) > 5 else 3)


def task_figure(records: dict[str, Record], profile: str, name: str) -> Path:
    """Fig. 6, 7 and 10: the same crop as it was given, as each system makes it, and the truth, with the whole frames'
    PSNR or, of inpainting, that inside the holes. Keys are run names' last parts."""
    found = {system: record for system, record in records.items() if record}
    first = next(iter(found.values()), None)
    panels = [("Given", first, "given")] if first else []
    for system, record in found.items():
        inside = record.data.get("psnr_holes")
        quality = f"{record['psnr']:.2f} dB" if inside is None else f"{inside:.2f} dB inside"
        panels.append((f"{LABELS[system]}, {quality}", record, "frame"))
    panels += [("Ground truth", first, "truth")] if first else []
    return _crops(panels, name, profile, _columns(len(panels)))


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
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure, axis = plt.subplots(figsize=(13, 4), layout="constrained")
        axis.set(xlim=(-0.01, 1.01), ylim=(0, 0.95))
        axis.axis("off")
        for title, (text, left, bottom, width, height, color) in boxes.items():
            axis.add_patch(
                FancyBboxPatch((left, bottom), width, height, "round,pad=0.004", facecolor=color, edgecolor="#555")
            )
            axis.text(left + width / 2, bottom + 0.72 * height, title, ha="center", va="center", weight="bold")
            axis.text(left + width / 2, bottom + 0.32 * height, text, ha="center", va="center", fontsize=10)
        for source, target in arrows:
            (_, x0, y0, w0, h0, _), (_, x1, y1, _, h1, _) = boxes[source], boxes[target]
            if x0 + w0 <= x1:
                ends = (x0 + w0, min(y0 + h0, max(y0, y1 + h1 / 2))), (x1, y1 + h1 / 2)
            else:
                ends = (x0 + w0 / 2, y0 if y0 > y1 else y0 + h0), (x0 + w0 / 2, y1 + h1 if y0 > y1 else y1)
            axis.annotate("", ends[1], ends[0], arrowprops={"arrowstyle": "-|>", "color": "#333", "linewidth": 1.5})
        return _save_figure(figure, "figure_2", profile)


def _crops(panels: list[tuple[str, Record, str]], name: str, profile: str, columns: int = 3) -> Path:
    shown = [(t, record.image(key)) for t, record, key in panels if record and record.picture(key).exists()]
    return _grid(shown, name, profile, columns)


def _columns(pictures: int) -> int:
    """Three or four, whichever leaves fewer places empty."""
    return min((4, 3), key=lambda columns: -pictures % columns)


def _grid(shown: list[tuple[str, np.ndarray]], name: str, profile: str, columns: int) -> Path:
    """Pictures [H, W, 3] with titles, in rows of `columns`."""
    rows, width = max(1, -(-len(shown) // columns)), 14 / columns
    aspect = shown[0][1].shape[0] / shown[0][1].shape[1] if shown else 1
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        size = (14, rows * (width * aspect + 0.35))
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
        for axis in axes.flat:
            axis.axis("off")
        for axis, (title, picture) in zip(axes.flat, shown):
            axis.imshow(picture, interpolation="antialiased")
            axis.set_title(title, fontsize=11)
        return _save_figure(figure, name, profile, ".jpg")


def systems_figure(records: dict[str, Record], profile: str, name: str) -> Path:
    """Fig. 4 and Fig. 11: the same crop of the same frame by every system, each above its error against the ground
    truth, and a scale of errors (white: 32 of 255 or more)."""
    found = {t: r for t, r in records.items() if r and r.picture("frame").exists()}
    shown = []
    if found:
        truth = next(iter(found.values())).image("truth")
        ramp = np.broadcast_to(np.linspace(0, 255, truth.shape[1])[:, None], truth.shape).astype(np.uint8)
        pairs = [(("Ground truth", truth), ("error: from 0 to 32 of 255 and more", ramp))]
        for title, record in found.items():
            picture = record.image("frame")
            error = cv2.absdiff(picture, truth).max(2, keepdims=True).repeat(3, 2)
            error = np.minimum(error.astype(np.float32) / ERROR_RANGE, 1)
            pairs.append(((f"{title}, {record['psnr']:.2f} dB", picture), ("", (255 * error).astype(np.uint8))))
        columns = _columns(len(pairs))
        for start in range(0, len(pairs), columns):  # a row of crops, a row of errors
            for row in zip(*pairs[start : start + columns]):
                shown += [*row, *[("", np.full_like(truth, 255))] * (columns - len(row))]
    return _grid(shown, name, profile, _columns(len(found) + 1))


def cost_figure(records: dict[str, Record], profile: str, name: str = "quality_and_cost") -> Path:
    """PSNR of every system over its training time and over its decoding speed."""
    found = {title: record for title, record in records.items() if record}
    panels = {
        "training, s": lambda r: r["seconds"]["total"],
        "decoding, frames/s (8-bit, several a call)": lambda r: max(r["decode_fps_8bit"], r["decode_fps"]),
    }
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(14, 5), layout="constrained")
        for axis, (label, of) in zip(axes, panels.items()):
            for place, (title, record) in enumerate(found.items()):
                marker = "oD"[place // 10]  # there are ten colours
                axis.scatter(of(record), record["psnr"], s=60, color=f"C{place}", marker=marker, label=title)
            axis.set(xscale="log", xlabel=label, ylabel="PSNR, dB")
            _log_ticks(axis)
        if found:
            axes[1].legend(frameon=False, bbox_to_anchor=(1, 1), loc="upper left")
        return _save_figure(figure, name, profile)


def time_figure(records: dict[str, list[Record]], profile: str, name: str) -> Path:
    """PSNR over seconds of training of every system, a point a schedule: records by label, shortest schedule first.
    Only those of the card that most of them have, which the axis names."""
    cards = [record["device"] for parts in records.values() for record in parts if record]
    card = max(set(cards), key=cards.count) if cards else ""
    with matplotlib.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(9, 5), layout="constrained")
        for place, (label, parts) in enumerate(records.items()):
            found = [record for record in parts if record and record["device"] == card]
            if found:
                points = [(record["seconds"]["total"], record["psnr"]) for record in found]
                axis.plot(*zip(*points), f"{'oD'[place // 10]}-", color=f"C{place % 10}", label=label, markersize=5)
        axis.set(xscale="log", xlabel=f"training, s ({card})", ylabel="PSNR, dB")
        _log_ticks(axis)
        if axis.lines:
            axis.legend(frameon=False, bbox_to_anchor=(1, 1), loc="upper left")
        return _save_figure(figure, name, profile)


def figure_9(records: dict[int, Record], profile: str) -> Path:
    """Fig. 9: quality, parameters and decoding speed over the number of Gaussians a GoP."""
    found = {n: record for n, record in sorted(records.items()) if record}
    panels = {
        "PSNR, dB": lambda r: r["psnr"],
        "parameters, M": lambda r: r["parameters"] / 1e6,
        "decoding, frames/s (8-bit)": lambda r: r["decode_fps_8bit"],
        "training, s": lambda r: r["seconds"]["total"],
    }
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(1, 4, figsize=(14, 3.4), layout="constrained")
        for axis, (label, of) in zip(axes, panels.items()):
            numbers = [record["gaussians"] for record in found.values()]
            axis.plot(numbers, [of(record) for record in found.values()], "o-", linewidth=2)
            axis.set(xlabel="Gaussians a GoP", title=label)
        return _save_figure(figure, name="figure_9", profile=profile)


def history_figure(records: dict[str, Record], profile: str, name: str, stages: tuple[str, ...]) -> Path:
    """PSNR over training steps of each record, one panel a stage."""
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(stages), figsize=(12, 4), squeeze=False, layout="constrained")
        for axis, stage in zip(axes.flat, stages):
            for title, record in records.items():
                if record and record["history"][stage]:
                    steps, values = zip(*record["history"][stage])
                    axis.plot(steps, values, label=title, linewidth=2)
            axis.set(title=f"{stage} stage", xlabel="step", ylabel="PSNR of the training frame, dB")
            if axis.lines:
                axis.legend(frameon=False)
        return _save_figure(figure, name, profile)


def figure_5(
    curves: dict[str, Record],
    profile: str,
    name: str = "figure_5",
    source: float | None = None,
    dataset: str = "",
) -> Path:
    """Fig. 5: PSNR and MS-SSIM over the rate of every curve. Block codecs are black, hollow at slow presets and dashed
    in closed groups. `source`: bits a pixel of the file that the frames come from, a vertical line. Points that others
    have published on `dataset` are hollow diamonds."""
    found = {title: record["points"] for title, record in curves.items() if record}
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(14, 5), layout="constrained")
        for axis, (label, key) in zip(axes, {"PSNR, dB": "psnr", "MS-SSIM": "ms_ssim"}.items()):
            others = iter(range(len(found)))
            for title, points in found.items():
                pairs = [(p["bpp"], p[key]) for p in points if p[key] is not None]
                if pairs:
                    axis.plot(*zip(*pairs), **_line(title, others), label=title, linewidth=2, markersize=5)
            if source:
                axis.axvline(
                    source, color="0.5", linestyle=":", label=f"the video's own file, {source:.3f} bits a pixel"
                )
            for curve in PUBLISHED if key == "psnr" else ():
                if curve.dataset == dataset:
                    text = f"{curve.label}, published, {'x'.join(map(str, curve.size))}"
                    axis.plot(*zip(*curve.points), "D", color="C3", fillstyle="none", markersize=7, label=text)
            axis.set(xscale="log", xlabel="bits a pixel (file size)", ylabel=label)
            _log_ticks(axis)
        if axes[0].lines:
            lines = axes[0].get_legend_handles_labels()
            axes[1].legend(*lines, frameon=False, bbox_to_anchor=(1, 1), loc="upper left")
        return _save_figure(figure, name, profile)


def _line(title: str, others: Iterator[int]) -> dict:
    """How a curve is drawn: a block codec by its settings, others in turn in ten colours, then with another marker."""
    if (setting := BLOCK_CODECS.get(title)) is None:
        place = next(others)
        return {"marker": "oD"[place // 10], "linestyle": "-", "color": f"C{place % 10}"}
    line = {"marker": CODEC_MARKERS[setting.codec], "color": "0.6" if title in USUAL else "black"}
    slow = title.endswith("_slower")
    return line | {"linestyle": "--" if setting.group else "-", "fillstyle": "none" if slow else "full"}


def motion_figure(record: Record, profile: str, name: str = "deformation_fields") -> Path:
    """How far the field moves each part of the picture against the rest: all, and with one hash silenced."""
    titles = {"motion": "Whole field", "motion_static": "2D hash alone", "motion_dynamic": "3D hash alone"}
    shown = [key for key in titles if record and key in record["pictures"]]
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(1, max(1, len(shown)), figsize=(12, 3), squeeze=False, layout="constrained")
        for axis, key in zip(axes.flat, shown):
            most = record["pictures"][key]
            pixels = record.image(key)[..., 0] / 255 * most
            drawn = axis.imshow(pixels, cmap="magma", vmin=0, vmax=max(most, 1e-6))
            axis.set_title(titles[key])
            axis.axis("off")
            figure.colorbar(drawn, ax=axis, shrink=0.8, label="px")
        return _save_figure(figure, name, profile)


def _log_ticks(axis) -> None:
    """Plain numbers below a logarithmic axis: 1, 2, 5, or over more than two decades only powers of ten."""
    least, most = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(subs=(1,) if most > 200 * least else (1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:,g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def _save_figure(figure, name: str, profile: str, suffix: str = ".png") -> Path:
    folder = results(profile) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{suffix}"
    small = {"dpi": 80, "pil_kwargs": {"quality": 60}} if suffix == ".jpg" else {}  # notebooks hold them too
    figure.savefig(path, bbox_inches="tight", **small)
    plt.close(figure)
    return path
