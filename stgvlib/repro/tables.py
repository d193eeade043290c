"""Tables from run records: ours beside the paper's, never a number typed in. Figures: figures.py.

A table is written as .csv and .md below results/<profile>/tables. A cell without a record stays empty and its note says
why.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from stgvlib.metrics import bd_rate
from stgvlib.model.video_model import write_atomically
from stgvlib.ops.encoding import HashGrid
from stgvlib.repro import paper
from stgvlib.repro.classical import NOISES
from stgvlib.repro.fits import Record, results_folder, run, some
from stgvlib.repro.registry import RUNS
from stgvlib.repro.tasks import LABELS, TASKS
from stgvlib.video import datasets

UVG_REASON = "UVG is not on the machine that ran this: stgv fetch uvg"
SOURCES = {  # what to say beside a number of DAVIS sequences that are smaller than the paper's 720p
    "bmx-trees": "854x480 JPEG of about quality 92, not 720p",
    **dict.fromkeys(
        ("camel", "cows", "dance-twirl"),
        "854x480 JPEG saved again at quality 75 (36.5 dB from the official files): softer, easier targets, not 720p",
    ),
}
AGREES = {"PSNR": 0.0051, "MS-SSIM": 0.00011}  # half a unit of the last printed digit, or a little more
MEASURES = {"PSNR": "psnr", "MS-SSIM": "ms_ssim"}


def table_1(group: str, records: dict[str, dict[str, Record]], profile: str) -> pd.DataFrame:
    """Table I for "uvg" or "davis": every system, means over the videos; records: video -> system -> record."""
    videos = {"uvg": paper.UVG_VIDEOS, "davis": paper.DAVIS_VIDEOS}[group]
    by_system: dict[str, list[Record]] = {}
    for systems in records.values():
        for label, record in systems.items():
            by_system.setdefault(label, []).append(record)
    frame = _systems(by_system, paper.TABLE_1[group], profile, len(videos))
    return _save_table(frame, f"table_1_{group}", profile)


def table_2(records: dict[str, Record], profile: str) -> pd.DataFrame:
    """Table II: every system on Bunny."""
    printed = {label: (None, *row) for label, row in paper.TABLE_2.items()}
    return _save_table(_systems({k: [r] for k, r in records.items()}, printed, profile, 1), "table_2", profile)


def _systems(records: dict[str, list[Record]], printed: dict, profile: str, videos: int) -> pd.DataFrame:
    """A row a system; ours are means over the videos that have a record."""
    rows = []
    for label, found in records.items():
        hours, fps, psnr, similarity = printed.get(label, (None,) * 4)
        there = [record for record in found if record]

        def mean(of, there=there):
            return float(np.mean([of(r) for r in there])) if there and of(there[0]) is not None else None

        row = {"system": label, "paper PSNR": psnr, "ours PSNR": mean(lambda r: r["psnr"]), "difference": None}
        if there and psnr is not None and profile == "paper" and len(there) == videos:
            row["difference"] = row["ours PSNR"] - psnr
        row |= {"paper MS-SSIM": similarity, "ours MS-SSIM": mean(lambda r: r["ms_ssim"])}
        row |= {"parameters, M": mean(lambda r: r["parameters"] / 1e6), "paper training, h": hours}
        row |= {"ours training, s": mean(lambda r: r["seconds"]["total"]), "paper FPS": fps}
        row |= {"ours FPS": mean(lambda r: r["decode_fps"]), "ours FPS, 8-bit": mean(lambda r: r["decode_fps_8bit"])}
        row |= {"videos": len(there), "device": ", ".join(dict.fromkeys(r["device"] for r in there)) or None}
        part = f"{len(there)} of {videos} videos" if 0 < len(there) < videos else ""
        row["note"] = "; ".join(filter(None, [*_reasons(found), part, _reduced(profile)]))
        rows.append(row)
    return pd.DataFrame(rows)


def _reasons(records: Iterable[Record]) -> list[str]:
    """Each reason once; datasets that are missing for the same one in one sentence."""
    found: dict[str, list[str]] = {}
    for reason in dict.fromkeys(record.reason for record in records if not record):
        what, are, rest = reason.partition(" is not on the machine")
        found.setdefault(are + rest if are else reason, []).append(what if are else "")
    return [
        f"{', '.join(names)}{reason.replace(' is ', ' are ', 1) if len(names) > 1 else reason}"
        for reason, names in found.items()
    ]


def _reduced(profile: str) -> str:
    if profile == "paper":
        return ""
    return f"profile {profile}: smaller frames, fewer steps, not comparable with the paper"


def video_table(group: str, records: dict[str, dict[str, Record]], profile: str) -> pd.DataFrame:
    """Tables VII ("uvg") and VIII ("davis"): every system on every video, printed and ours in turn."""
    number, videos, printed = {
        "uvg": (7, paper.UVG_VIDEOS, paper.TABLE_7),
        "davis": (8, paper.DAVIS_VIDEOS, paper.TABLE_8),
    }[group]
    labels = list(dict.fromkeys(label for systems in records.values() for label in systems))
    rows = []
    for label in labels:
        for place, (measure, key) in enumerate(MEASURES.items()):
            if label in printed:
                values = printed[label][place][:-1]
                row = {"system": label, "measure": measure, "source": "paper"} | dict(zip(videos, values))
                rows.append(row | {"mean": sum(values) / len(values), "note": "mean recomputed from the row"})
            found = {video: records.get(video, {}).get(label) for video in videos}
            values = [record[key] if record else None for record in found.values()]
            row = {"system": label, "measure": measure, "source": "ours"} | dict(zip(videos, values))
            row["mean"] = sum(values) / len(values) if None not in values else None
            not_run = ["not part of this profile"] if None in found.values() else []
            notes = [*_reasons(r for r in found.values() if r is not None), *not_run, _reduced(profile)]
            rows.append(row | {"note": "; ".join(filter(None, notes))})
    return _save_table(pd.DataFrame(rows), f"table_{number}", profile, digits=4)


def size_table(records: dict[str, dict[str, Record]], profile: str) -> pd.DataFrame:
    """What was fitted of each video: frame size, frames, and what to know of the files that it came from."""
    rows = []
    for video, systems in records.items():
        record = next((r for r in systems.values() if r), None)
        row = {"video": video, "size": None, "frames": None, "note": "; ".join(_reasons(systems.values()))}
        if record:
            row |= {"size": "{}x{}".format(*record["dataset"]["size"]), "frames": record["frames"]}
            native = record["config"]["pixels_per_gaussian"] * datasets.DATASETS[record["dataset"]["name"]].gaussians
            row["note"] = SOURCES.get(video, "") if native < 720 * 1280 else "at least 720p, resized to 720p"
        rows.append(row)
    return _save_table(pd.DataFrame(rows), "videos", profile)


def audit_table(profile: str) -> pd.DataFrame:
    """Averages that the paper prints in Tables VII and VIII, beside the means of its own rows."""
    rows = []
    for name, table in (("VII", paper.TABLE_7), ("VIII", paper.TABLE_8)):
        for method, pairs in paper.recomputed_means(table).items():
            for measure, (printed, mean) in zip(MEASURES, pairs):
                row = {"table": name, "system": method, "measure": measure, "printed": printed, "mean of its row": mean}
                rows.append(row | {"difference": mean - printed, "agrees": abs(mean - printed) < AGREES[measure]})
    return _save_table(pd.DataFrame(rows), "audit", profile, digits=4)


def seed_table(names: Iterable[str], profile: str, device: str, seeds: int = 3) -> pd.DataFrame:
    """Mean and spread of runs over seeds 0 .. seeds - 1."""
    rows = []
    for name in names:
        found = [run(name, profile, device, seed=seed) for seed in some(range(seeds), profile)]
        values = [record["psnr"] for record in found if record]
        row = {"run": name, "what": RUNS[name].about, "seeds": len(values), "mean PSNR": None, "spread": None}
        if values:
            row |= {"mean PSNR": float(np.mean(values)), "spread": max(values) - min(values)}
            row |= {"standard deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None}
        rows.append(row | {"note": "; ".join(filter(None, [*_reasons(found), _reduced(profile)]))})
    return _save_table(pd.DataFrame(rows), "seeds", profile, digits=3)


def run_table(names: Iterable[str], profile: str, device: str, name: str) -> pd.DataFrame:
    """Runs side by side, each against the first."""
    records = {name: run(name, profile, device) for name in names}
    first = next(iter(records.values()))
    rows = []
    for key, record in records.items():
        row = {"run": key, "what": RUNS[key].about, "PSNR": None, "against the first": None}
        if record:
            row |= {"PSNR": record["psnr"], "against the first": record["psnr"] - first["psnr"] if first else None}
            row |= {"worst frame": min(record["psnr_frames"]), "GoPs": record["gops"]}
            row |= {"Gaussians": record["gaussians"], "parameters": record["parameters"]}
            row["seconds"] = record["seconds"]["total"]
        rows.append(row | {"note": "; ".join(filter(None, [record.reason, _reduced(profile)]))})
    return _save_table(pd.DataFrame(rows), name, profile)


def table_4(records: dict[str, Record], profile: str, name: str = "table_4", where: str = "Bunny") -> pd.DataFrame:
    """Table IV, ablation of KFCI and of the two hashes. Keys: V1, V2, V3, V4, Ours; those given make the table."""
    return _save_table(_compare(records, paper.TABLE_4, profile, where), name, profile)


def table_5(records: dict[str, Record], profile: str, name: str = "table_5", where: str = "Bunny") -> pd.DataFrame:
    """Table V, encodings. Keys: positional, plane-based, spatio-temporal."""
    return _save_table(_compare(records, paper.TABLE_5, profile, where), name, profile)


def _compare(records: dict[str, Record], printed: dict, profile: str, where: str) -> pd.DataFrame:
    """`where` names what the records were fitted to; the paper prints Bunny and UVG."""
    whole = profile == "paper" and where == "Bunny"
    no_uvg = UVG_REASON if datasets.find("uvg/Beauty") is None else ""
    rows = []
    for key, record in records.items():
        bunny, uvg = printed[key]
        row = {"variant": key, f"paper {where}": bunny if where == "Bunny" else None}
        row |= {f"ours {where}": None, "difference": None}
        if record:
            difference = record["psnr"] - bunny if whole else None
            row |= {f"ours {where}": record["psnr"], "difference": difference, "8-bit": record["psnr_8bit"]}
            row |= {"MS-SSIM": record["ms_ssim"], "parameters": record["parameters"]}
            row |= {"steps": record["config"]["steps"], "seconds": record["seconds"]["total"]}
            row |= {"frames": record["frames"], "size": "{}x{}".format(*record["dataset"]["size"])}
            row["device"] = record["device"]
        if where == "Bunny":
            row |= {"paper UVG": uvg, "ours UVG": None}
        row["note"] = "; ".join(filter(None, [record.reason, _reduced(profile), no_uvg if where == "Bunny" else ""]))
        rows.append(row)
    return pd.DataFrame(rows)


def rate_table(curves: dict[str, Record], profile: str, name: str = "rates") -> pd.DataFrame:
    """Every point of every rate-distortion curve: what its file has, how good it is, how long both ways take."""
    names = {
        "bits a pixel": "bpp",
        "bytes": "bytes",
        "PSNR": "psnr",
        "MS-SSIM": "ms_ssim",
        "encoding, s": "encode_seconds",
        "entropy decoding, s": "entropy_decoding_seconds",
        "decoding, frames/s": "decode_fps",
        "file to frames, frames/s": "file_to_frames_fps",
    }
    rows = []
    for title, record in curves.items():
        for point in record["points"] if record else ():
            rows.append({"system": title, **{name: point.get(key) for name, key in names.items()}, "note": ""})
        if not record:
            rows.append({"system": title, **dict.fromkeys(names), "note": record.reason})
    frame = pd.DataFrame(rows).astype({name: "float" for name in names if name != "bytes"})
    frame["bits a pixel"] = frame["bits a pixel"].map(lambda v: None if pd.isna(v) else f"{v:.4f}")
    frame["bytes"] = frame["bytes"].astype("Int64")
    return _save_table(frame, name, profile)


def bd_table(curves: dict[str, Record], anchors: Iterable[str], profile: str, name: str = "bd_rates") -> pd.DataFrame:
    """BD-rate in PSNR of every curve against some of them, in percent; empty with the reason where it is undefined."""
    rows = []
    for title, record in curves.items():
        row, notes = {"system": title}, [] if record else [record.reason]
        for anchor in anchors:
            column = f"against {anchor}, %"
            row[column] = None
            if record and curves[anchor]:
                pairs = [[(p["bpp"], p["psnr"]) for p in c["points"]] for c in (curves[anchor], record)]
                try:
                    row[column] = bd_rate(*pairs)
                except ValueError as error:
                    notes.append(f"{anchor}: {str(error).split(', got')[0]}")
        rows.append(row | {"note": "; ".join(notes)})
    frame = pd.DataFrame(rows)
    numbers = [f"against {anchor}, %" for anchor in anchors]
    frame[numbers] = frame[numbers].astype(float)
    return _save_table(frame, name, profile, 1)


def recipe_table(curves: dict[str, Record], profile: str) -> pd.DataFrame:
    """What the paper's recipe costs: PSNR of the fitted models, with 8 bits for the field alone and no fine-tuning
    where that was measured, and in the fine-tuned files."""
    rows = []
    for title, record in curves.items():
        points = record["points"] if record else []
        for point, fit in zip(points, record["run"] if record else []):
            fitted = run(fit, profile, "cpu")
            row = {"recipe": title, "Gaussians a GoP": point["level"], "fitted": fitted["psnr"] if fitted else None}
            row |= {"8-bit field": point.get("psnr_8bit_field_rows"), "file": point["psnr"]}
            rows.append(row | {"lost": row["fitted"] and row["fitted"] - row["file"], "note": fitted.reason})
        if not record:
            rows.append({"recipe": title, "note": record.reason})
    numbers = ["fitted", "8-bit field", "file", "lost"]
    frame = pd.DataFrame(rows, columns=["recipe", "Gaussians a GoP", *numbers, "note"])
    frame[numbers] = frame[numbers].astype(float)
    frame["Gaussians a GoP"] = frame["Gaussians a GoP"].astype("Int64")
    return _save_table(frame, "paper_recipe", profile)


def section_table(record: Record, profile: str, name: str = "bytes_by_section") -> pd.DataFrame:
    """Where the bytes of a curve's files go, in bytes."""
    rows = [
        {"bits a pixel": f"{p['bpp']:.4f}", **p["sections"], "Gaussians kept": p.get("kept")}
        for p in (record["points"] if record else ())
    ]
    return _save_table(pd.DataFrame(rows), name, profile)


PRINTED = {  # columns of the paper's task tables: dataset -> place in a row
    "inpaint_random": (paper.TABLE_3, ("uvg/HoneyBee", "davis/blackswan", "davis/cows", "uvg/Bosphorus", "uvg/Beauty")),
    **{f"noise_{noise}": (paper.TABLE_6, ("uvg/HoneyBee",)) for noise in NOISES},
}
MORE = {
    "inpaint": {"holes": "psnr_holes", "composited": "psnr_composited"},
    "noise": {"composited": "psnr_composited"},
    "scale": {"sharpened": "psnr_sharpened", "back-projected": "psnr_back_projected", "small frames": "psnr_small"},
    "between": {"half-way": "psnr_half_way"},
}


def task_table(task: str, records: dict[str, dict[str, Record]], profile: str, name: str) -> pd.DataFrame:
    """PSNR of every system on every dataset of a task (dataset -> system -> record), beside what the paper prints.

    "holes" is inside the missing pixels alone, "composited" keeps the known pixels as they were, or under outliers what
    is near to what was restored. A column that no system has is left out; a record older than a figure is named.
    """
    printed, order = PRINTED.get(task, ({}, ()))
    column = list(NOISES).index(TASKS[task].level) if TASKS[task].kind == "noise" else None
    systems = list(dict.fromkeys(system for found in records.values() for system in found))
    rows = []
    given = ["given"] if TASKS[task].kind in ("inpaint", "noise") else []
    for system in [*given, *systems]:
        label = LABELS.get(system, "As given")
        row: dict = {"system": label}
        older: dict[str, list[str]] = {}
        for dataset, found in records.items():
            short = dataset.rsplit("/", 1)[-1]
            record = next((r for r in found.values() if r), None) if system == "given" else found.get(system)
            values = printed.get("Baseline" if system == "given" else label)
            if dataset in order:
                place = order.index(dataset) if column is None else column
                row[f"{short}: paper"] = values[place] if values else None
            key = "psnr_given" if system == "given" else "psnr"
            row[f"{short}: ours"] = record.data.get(key) if record else None
            figures = record.data if record and system != "given" else {}
            for title, more in MORE.get(TASKS[task].kind, {}).items():
                if any(more in r.data for r in found.values() if r):
                    row[f"{short}: {title}"] = figures.get(more)
                    if given and figures and more not in figures:  # of other kinds, some systems have no such figure
                        older.setdefault(title, []).append(short)
        notes = _reasons(found[system] for found in records.values() if system in found)
        notes += [f"{', '.join(of)}: recorded before {title} was measured" for title, of in older.items()]
        rows.append(row | {"note": "; ".join(filter(None, [*notes, _reduced(profile)]))})
    frame = pd.DataFrame(rows)
    numbers = [c for c in frame if c not in ("system", "note")]
    frame[numbers] = frame[numbers].astype(float)
    return _save_table(frame[["system", *numbers, "note"]], name, profile)


def _save_table(frame: pd.DataFrame, name: str, profile: str, digits: int = 2) -> pd.DataFrame:
    folder = results_folder(profile) / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    rounded = frame.copy()
    for column in rounded.select_dtypes("float"):
        rounded[column] = rounded[column].round(4 if "MS-SSIM" in column else digits)
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


def lever_table(family: str, base: str, profile: str = "paper", device: str = "cpu") -> pd.DataFrame:
    """What each lever of a family of runs ("levers", "hard") is worth against its base, from the records there are."""
    names = [f"{family}/{base}", *(n for n in RUNS if n.startswith(f"{family}/") and n != f"{family}/{base}")]
    records = {name: run(name, profile, device) for name in some(names, profile)}
    reference = records[names[0]]
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
