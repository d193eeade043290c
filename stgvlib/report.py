"""Tables and figures from run records: ours beside the paper's, never a number typed in.

A table is written as .csv and .md, a figure as .png, below results/<profile>/. A cell without a record stays empty and
its note says why.
"""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from stgvlib import datasets, paper
from stgvlib.encoding import HashGrid
from stgvlib.experiments import Record, results_folder, run
from stgvlib.model import write_atomically
from stgvlib.runs import RUNS

UVG_REASON = "UVG is not on the machine that ran this: stgv fetch uvg"
STYLE = {"figure.dpi": 110, "font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True}


def table_4(records: dict[str, Record], profile: str, name: str = "table_4") -> pd.DataFrame:
    """Table IV, ablation of KFCI and of the two hashes. Keys: V1, V2, V3, V4, Ours; those given make the table."""
    return _save_table(_compare(records, paper.TABLE_4, profile), name, profile)


def table_5(records: dict[str, Record], profile: str) -> pd.DataFrame:
    """Table V, encodings. Keys: positional, plane-based, spatio-temporal."""
    return _save_table(_compare(records, paper.TABLE_5, profile), "table_5", profile)


def _compare(records: dict[str, Record], printed: dict[str, tuple[float, float]], profile: str) -> pd.DataFrame:
    whole = profile == "paper"
    reduced = "" if whole else f"profile {profile}: smaller frames, fewer steps, not comparable with the paper"
    no_uvg = UVG_REASON if datasets.find("uvg/Beauty") is None else ""
    rows = []
    for key, record in records.items():
        bunny, uvg = printed[key]
        row = {"variant": key, "paper Bunny": bunny, "ours Bunny": None, "difference": None}
        if record:
            difference = record["psnr"] - bunny if whole else None
            row |= {"ours Bunny": record["psnr"], "difference": difference, "8-bit": record["psnr_8bit"]}
            row |= {"MS-SSIM": record["ms_ssim"], "parameters": record["parameters"]}
            row |= {"steps": record["config"]["steps"], "seconds": record["seconds"]["total"]}
            row |= {"frames": record["frames"], "size": "{}x{}".format(*record["dataset"]["size"])}
            row["device"] = record["device"]
        row |= {"paper UVG": uvg, "ours UVG": None}
        row["note"] = "; ".join(filter(None, [record.reason, reduced, no_uvg]))
        rows.append(row)
    return pd.DataFrame(rows)


def _save_table(frame: pd.DataFrame, name: str, profile: str) -> pd.DataFrame:
    folder = results_folder(profile) / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    rounded = frame.copy()
    for column in rounded.select_dtypes("float"):
        rounded[column] = rounded[column].round(4 if column == "MS-SSIM" else 2)
    for column in {"parameters", "steps", "frames", "Gaussians", "GoPs"} & set(rounded.columns):
        rounded[column] = rounded[column].astype("Int64")
    write_atomically(folder / f"{name}.csv", rounded.to_csv(index=False).encode())
    write_atomically(folder / f"{name}.md", markdown(rounded).encode())
    return rounded


def markdown(frame: pd.DataFrame) -> str:
    """A table as GitHub Markdown; empty where there is no value."""
    lines = [list(map(str, frame.columns)), ["---"] * len(frame.columns)]
    lines += [["" if pd.isna(v) else str(v) for v in row] for row in frame.astype(object).values]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def lever_table(family: str, base: str, profile: str = "paper") -> pd.DataFrame:
    """What each lever of a family of runs ("levers", "hard") is worth against its base, from the records there are."""
    records = {name: run(name, profile, "cpu") for name in RUNS if name.startswith(f"{family}/")}
    reference = records[f"{family}/{base}"]
    rows = []
    for name, record in records.items():
        row = {"run": name, "what": RUNS[name].about, "PSNR": None, "against base": None}
        if record:
            key_frames = record["history"]["coarse"][-1][1]
            row |= {"PSNR": record["psnr"], "key frames": key_frames, "worst frame": min(record["psnr_frames"])}
            row["against base"] = record["psnr"] - reference["psnr"] if reference else None
            row |= {"Gaussians": record["gaussians"], "GoPs": record["gops"], "parameters": record["parameters"]}
            row["seconds"] = record["seconds"]["total"]
        row["note"] = record.reason
        rows.append(row)
    return _save_table(pd.DataFrame(rows).sort_values("PSNR", ascending=False, kind="stable"), family, profile)


def level_table(grid: HashGrid, frames: int = 10) -> pd.DataFrame:
    """What each level of a hash grid can tell apart: points, table entries, points an entry, and, for a 3D grid, how
    many of the pairs of neighbouring frames share a temporal cell (none do at the published resolution)."""
    times = (np.arange(frames) + 1) / frames
    rows = []
    for level, (resolution, size) in enumerate(zip(grid.resolutions, grid.sizes)):
        points = int(np.prod(resolution))
        row = {"level": level, "grid": "x".join(map(str, resolution)), "points": points, "entries": size}
        row |= {"points an entry": round(points / size, 1), "hashed": grid.hashed[level]}
        if len(resolution) == 3:
            cells = np.floor(times * grid.scales[level, 2].item() + 0.5)
            row["neighbours sharing a time cell"] = f"{int((np.diff(cells) == 0).sum())} of {frames - 1}"
        rows.append(row)
    return pd.DataFrame(rows)


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


def _crops(panels: list[tuple[str, Record, str]], name: str, profile: str, columns: int = 3) -> Path:
    panels = [panel for panel in panels if panel[1] and panel[1].picture(panel[2]).exists()]
    rows = max(1, -(-len(panels) // columns))
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(
            rows, columns, figsize=(12, 9.3 / columns * rows), squeeze=False, layout="constrained"
        )
        for axis in axes.flat:
            axis.axis("off")
        for axis, (title, record, picture) in zip(axes.flat, panels):
            axis.imshow(record.image(picture), interpolation="nearest")
            axis.set_title(title, fontsize=12)
        return _save_figure(figure, name, profile)


def curves(records: dict[str, Record], profile: str, name: str, stages: tuple[str, ...]) -> Path:
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


def _save_figure(figure, name: str, profile: str) -> Path:
    folder = results_folder(profile) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", bbox_inches="tight")
    plt.close(figure)
    return folder / f"{name}.png"
