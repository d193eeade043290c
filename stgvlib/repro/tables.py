"""Tables from run records: ours beside the paper's, never a number typed in. Figures: figures.py.

A table is written below results/<profile>/tables: complete as .csv, readable (layout.py) as .md and .tex. In the
complete table a cell without a record is empty and its note says why; where a record was made by other code than
today's, a column "outdated" says "all" or names the row's columns.
"""

from collections.abc import Iterable
from functools import partial

import numpy as np
import pandas as pd

from stgvlib.baselines.system import SYSTEMS
from stgvlib.files import write_atomically
from stgvlib.ops.encoding import HashGrid
from stgvlib.repro import frames, paper
from stgvlib.repro.fits import own_records, run, some
from stgvlib.repro.layout import sheet
from stgvlib.repro.layouts import layout_of
from stgvlib.repro.records import Record, results
from stgvlib.repro.registry import RUNS, named, system_runs
from stgvlib.repro.typeset import Table, to_html, to_latex

RUN_OF = {  # rows of Tables IV and V -> keys of our runs
    **{"V1": "multi_frame", "V2": "key_frame", "V3": "static", "V4": "dynamic", "Ours": "paper"},
    **{"positional": "key_frame", "plane-based": "planes", "spatio-temporal": "paper"},
}
PER_VIDEO = {  # group -> number of the paper's table, its videos, its rows
    "uvg": ("7", paper.UVG_VIDEOS, paper.TABLE_7),
    "davis": ("8", paper.DAVIS_VIDEOS, paper.TABLE_8),
}
AGREES = {"PSNR": 0.0051, "MS-SSIM": 0.00011}  # half a unit of the last printed digit, or a little more
MEASURES = {"PSNR": "psnr", "MS-SSIM": "ms_ssim"}


def table_1(group: str, records: dict[str, dict[str, Record]], profile: str) -> pd.DataFrame:
    """Table I for "uvg" or "davis": every system, means over the videos; records: video -> system -> record."""
    _, videos, printed = PER_VIDEO[group]
    by_system: dict[str, list[Record]] = {}
    for systems in records.values():
        for label, record in systems.items():
            by_system.setdefault(label, []).append(record)
    frame = _systems(by_system, paper.TABLE_1[group], profile, len(videos))
    if profile == "paper":
        extra = [_like_for_like(by_system[label], printed.get(label), videos) for label in frame["system"]]
        frame["note"] = ["; ".join(filter(None, pair)) for pair in zip(frame["note"], extra)]
    return save_table(frame, f"table_1_{group}", profile)


def _like_for_like(records: list[Record], printed: tuple | None, videos: tuple[str, ...]) -> str:
    """Where only some videos have the paper's frames: our mean PSNR over those, and the paper's."""
    same = {r["dataset"]["name"].rsplit("/", 1)[-1]: r["psnr"] for r in records if r and frames.kind(r) == frames.SAME}
    if not printed or not 0 < len(same) < len(videos):
        return ""
    theirs = np.mean([printed[0][videos.index(video)] for video in same])
    return f"on the paper's frames ({', '.join(same)}): ours {np.mean(list(same.values())):.2f}, paper {theirs:.2f}"


def table_2(records: dict[str, Record], profile: str) -> pd.DataFrame:
    """Table II: every system on Bunny."""
    printed = {label: (None, *row) for label, row in paper.TABLE_2.items()}
    return save_table(_systems({k: [r] for k, r in records.items()}, printed, profile, 1), "table_2", profile)


def _systems(records: dict[str, list[Record]], printed: dict, profile: str, videos: int) -> pd.DataFrame:
    """A row a system; ours are means over the videos that have a record."""
    rows = []
    for label, found in records.items():
        hours, fps, psnr, similarity = printed.get(label, (None,) * 4)
        there = [record for record in found if record]

        def mean(of, there=there):
            return float(np.mean([of(r) for r in there])) if there and of(there[0]) is not None else None

        row = {"system": label, "paper PSNR": psnr, "ours PSNR": mean(lambda r: r["psnr"]), "difference": None}
        alike = len(there) == videos and all(frames.kind(r) == frames.SAME for r in there)
        if alike and psnr is not None and profile == "paper":
            row["difference"] = row["ours PSNR"] - psnr
        row |= {"paper MS-SSIM": similarity, "ours MS-SSIM": mean(lambda r: r["ms_ssim"])}
        row |= {"parameters, M": mean(lambda r: r["parameters"] / 1e6), "paper training, h": hours}
        row |= {"ours training, s": mean(lambda r: r["seconds"]["total"]), "paper FPS": fps}
        row |= {"ours FPS, one a call": mean(lambda r: r["decode_fps"])}
        row |= {"ours FPS, 8-bit, best batch": mean(lambda r: r["decode_fps_8bit"])}
        row["best batch"] = ", ".join(dict.fromkeys(map(best_batch, there))) or None
        row |= {"videos": len(there), "device": ", ".join(dict.fromkeys(r["device"] for r in there)) or None}
        row["outdated"] = "all" if any(r.outdated for r in there) else ""
        row["note"] = _notes([*reasons(found), part(len(there), videos), *frames.marks(there)], profile)
        rows.append(row)
    return pd.DataFrame(rows)


def best_batch(record: Record) -> str:
    """Frames a call of `decode_fps_8bit`; older records tried one batch, which their protocol names first."""
    tried = record.data.get("decode_batches")
    return max(tried, key=tried.get) if tried else record["fps_8bit_protocol"].partition(" ")[0]


def reasons(records: Iterable[Record]) -> list[str]:
    """Each reason once; datasets that are missing for the same one in one sentence."""
    found: dict[str, list[str]] = {}
    for reason in dict.fromkeys(record.reason for record in records if not record):
        what, are, rest = reason.partition(" is not on the machine")
        found.setdefault(are + rest if are else reason, []).append(what if are else "")
    return [
        f"{', '.join(names)}{reason.replace(' is ', ' are ', 1) if len(names) > 1 else reason}"
        for reason, names in found.items()
    ]


def reduced(profile: str) -> str:
    if profile == "paper":
        return ""
    return f"profile {profile}: smaller frames, fewer steps, not comparable with the paper"


def part(there: int, videos: int) -> str:
    return f"mean of {there} of {videos} videos" if 0 < there < videos else ""


def _notes(notes: Iterable[str], profile: str) -> str:
    return "; ".join(filter(None, [*notes, reduced(profile)]))


def video_table(group: str, records: dict[str, dict[str, Record]], profile: str) -> pd.DataFrame:
    """Tables VII ("uvg") and VIII ("davis"): every system on every video, printed and ours in turn. Our mean is over
    the videos that have a record."""
    number, videos, printed = PER_VIDEO[group]
    labels = list(dict.fromkeys(label for systems in records.values() for label in systems))
    rows = []
    for label in labels:
        for place, (measure, key) in enumerate(MEASURES.items()):
            if label in printed:
                values = printed[label][place][:-1]
                row = {"system": label, "measure": measure, "source": "paper"} | dict(zip(videos, values))
                rows.append(row | {"mean": sum(values) / len(values), "note": "mean recomputed from the row"})
            found = {video: records.get(video, {}).get(label) for video in videos}
            there = {video: r[key] for video, r in found.items() if r and r[key] is not None}  # small: no MS-SSIM
            row = {"system": label, "measure": measure, "source": "ours"} | dict.fromkeys(videos) | there
            row["mean"] = float(np.mean(list(there.values()))) if there else None
            notes = [*reasons(r for r in found.values() if r is not None), part(len(there), len(videos))]
            notes += ["not part of this profile"] if None in found.values() else []
            notes += frames.marks(r for r in found.values() if r)
            old = [video for video, record in found.items() if record and record.outdated]
            old += ["mean"] if old else []
            rows.append(row | {"note": _notes(notes, profile), "outdated": ", ".join(old)})
    return save_table(pd.DataFrame(rows), f"table_{number}", profile, digits=4)


def size_table(records: dict[str, dict[str, Record]], profile: str) -> pd.DataFrame:
    """What was fitted of each video: frame size, frames, and what to know of the files that it came from."""
    rows = []
    for video, systems in records.items():
        record = next((r for r in systems.values() if r), None)
        row = {"video": video, "size": None, "frames": None, "note": "; ".join(reasons(systems.values()))}
        if record:
            row |= {"size": "{}x{}".format(*record["dataset"]["size"]), "frames": record["frames"]}
            of_files = {frames.OTHER: frames.FILES.get(video), frames.SAME: "at least 720p, resized to 720p"}
            row["note"] = "; ".join(filter(None, [frames.mark(record), of_files.get(frames.kind(record))]))
        rows.append(row)
    return save_table(pd.DataFrame(rows), "videos", profile)


def audit_table(profile: str) -> pd.DataFrame:
    """Averages that the paper prints in Tables I to VIII, beside the means of the rows that they are said to average;
    and a row that repeats another."""
    rows = []
    for number, mean, source in paper.averages():
        row = {"table": number.table, "system": number.row, "measure": number.measure, "of": number.title}
        row |= {"printed": number.value, "mean": mean, "difference": mean - number.value}
        agrees = abs(mean - number.value) < AGREES.get(number.measure, AGREES["PSNR"])
        rows.append(row | {"agrees": agrees, "note": f"mean of its row in Table {source}"})
    for measure, value in zip(MEASURES, paper.TABLE_2["SIREN"][1:]):
        row = {"table": "II", "system": "SIREN", "measure": measure, "of": "bunny", "printed": value, "agrees": False}
        rows.append(row | {"note": "repeats SIREN's UVG row of Table I"})
    return save_table(pd.DataFrame(rows), "audit", profile, digits=4)


def seed_table(names: Iterable[str], profile: str, device: str, seeds: int = 3) -> pd.DataFrame:
    """Mean and spread of runs over seeds 0 .. seeds - 1."""
    rows = []
    for name in names:
        found = [run(name, profile, device, seed=seed) for seed in some(range(seeds), profile)]
        values = [record["psnr"] for record in found if record]
        row = {"run": name, "what": named(name).about, "seeds": len(values), "mean PSNR": None, "spread": None}
        if values:
            row |= {"mean PSNR": float(np.mean(values)), "spread": max(values) - min(values)}
            row |= {"standard deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None}
        row["outdated"] = "all" if any(record.outdated for record in found) else ""
        rows.append(row | {"note": _notes(reasons(found), profile)})
    return save_table(pd.DataFrame(rows), "seeds", profile, digits=3)


def run_table(names: Iterable[str], profile: str, device: str, name: str) -> pd.DataFrame:
    """Runs side by side, each against the first."""
    records = {name: run(name, profile, device) for name in names}
    first = next(iter(records.values()))
    rows = []
    for key, record in records.items():
        row = {"run": key, "what": named(key).about, "PSNR": None, "against the first": None}
        if record:
            row |= {"PSNR": record["psnr"], "against the first": record["psnr"] - first["psnr"] if first else None}
            row |= {"worst frame": min(record["psnr_frames"]), "GoPs": record["gops"]}
            row |= {"Gaussians": record["gaussians"], "parameters": record["parameters"]}
            row["seconds"] = record["seconds"]["total"]
        row["outdated"] = outdated(record)
        rows.append(row | {"note": _notes([record.reason], profile)})
    return save_table(pd.DataFrame(rows), name, profile)


def table_4(records: dict[str, Record], profile: str, name: str = "table_4", where: str = "Bunny") -> pd.DataFrame:
    """Table IV, ablation of KFCI and of the two hashes. Keys: V1, V2, V3, V4, Ours; those given make the table."""
    return save_table(_compare(records, paper.TABLE_4, profile, where), name, profile)


def table_5(records: dict[str, Record], profile: str, name: str = "table_5", where: str = "Bunny") -> pd.DataFrame:
    """Table V, encodings. Keys: positional, plane-based, spatio-temporal."""
    return save_table(_compare(records, paper.TABLE_5, profile, where), name, profile)


def _compare(records: dict[str, Record], printed: dict, profile: str, where: str) -> pd.DataFrame:
    """`where` names what the records were fitted to. The paper prints Bunny and UVG: with Bunny come the means over the
    sequences of UVG that have a record; nothing is fitted for them."""
    rows = []
    for key, record in records.items():
        bunny, uvg = printed[key]
        row = {"variant": key, f"paper {where}": bunny if where == "Bunny" else None}
        row |= {f"ours {where}": None, "difference": None}
        if record:
            difference = record["psnr"] - bunny if profile == "paper" and where == "Bunny" else None
            row |= {f"ours {where}": record["psnr"], "difference": difference, "8-bit": record["psnr_8bit"]}
            row |= {"MS-SSIM": record["ms_ssim"], "parameters": record["parameters"]}
            row |= {"steps": record["config"]["steps"], "seconds": record["seconds"]["total"]}
            row |= {"frames": record["frames"], "size": "{}x{}".format(*record["dataset"]["size"])}
            row |= {"device": record["device"], "outdated": outdated(record)}
        notes = [record.reason, *frames.marks([record])]
        if where == "Bunny":
            runs = [f"uvg/{video}/{RUN_OF[key]}" for video in some(paper.UVG_VIDEOS, profile)]
            found = [run(name, profile, "cpu", make=False) for name in runs]
            there = [each["psnr"] for each in found if each]
            row |= {"paper UVG": uvg, "ours UVG": float(np.mean(there)) if there else None}
            about = [*reasons(found), part(len(there), len(paper.UVG_VIDEOS)), *frames.marks(found)]
            notes += [f"UVG: {'; '.join(filter(None, about))}"]
            if not record.outdated and any(each.outdated for each in found):
                row["outdated"] = "ours UVG"
        rows.append(row | {"note": _notes(notes, profile)})
    return pd.DataFrame(rows)


def outdated(record: Record) -> str:
    return "all" if record.outdated else ""


def save_table(frame: pd.DataFrame, name: str, profile: str, digits: int = 2) -> pd.DataFrame:
    folder = results(profile) / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    rounded = frame.copy()
    for column in rounded.select_dtypes("float"):
        rounded[column] = rounded[column].round(4 if "MS-SSIM" in column else digits)
    for column in {"parameters", "steps", "frames", "Gaussians", "GoPs"} & set(rounded.columns):
        rounded[column] = rounded[column].astype("Int64")
    if "outdated" in rounded:
        last = rounded.pop("outdated").fillna("")
        if last.any():
            rounded["outdated"] = last
    write_atomically(folder / f"{name}.csv", rounded.to_csv(index=False).encode())
    made = Table(rounded)
    made.layouts = partial(layout_of, name)
    sheets = [sheet(part, layout) for part, layout in made.layouts(made)]
    write_atomically(folder / f"{name}.md", "\n".join(map(to_html, sheets)).encode())
    latex = [to_latex(one, f"tab:{name}" + f"-{n}" * (len(sheets) > 1)) for n, one in enumerate(sheets, 1)]
    write_atomically(folder / f"{name}.tex", "\n".join(latex).encode())
    return made


def lever_table(family: str, base: str, profile: str = "paper", device: str = "cpu") -> pd.DataFrame:
    """What each lever of a family of runs ("levers", "hard") is worth against its base, from the records there are."""
    names = [f"{family}/{base}", *(n for n in RUNS if n.startswith(f"{family}/") and n != f"{family}/{base}")]
    records = {name: run(name, profile, device) for name in some(names, profile)}
    reference = records[names[0]]
    rows = []
    for name, record in records.items():
        row = {"run": name, "what": named(name).about, "PSNR": None, "against base": None}
        if record:
            key_frames = record["history"]["coarse"][-1][1]
            row |= {"PSNR": record["psnr"], "key frames": key_frames, "worst frame": min(record["psnr_frames"])}
            row["against base"] = record["psnr"] - reference["psnr"] if reference else None
            row |= {"Gaussians": record["gaussians"], "GoPs": record["gops"], "parameters": record["parameters"]}
            row["seconds"] = record["seconds"]["total"]
        row |= {"note": record.reason, "outdated": outdated(record)}
        rows.append(row)
    return save_table(pd.DataFrame(rows).sort_values("PSNR", ascending=False, kind="stable"), family, profile)


def report(profile: str = "smoke") -> pd.DataFrame:
    """Table of your own runs (results/<profile>/runs/mine), each video's beside the systems that have a record of the
    same frames: PSNR (dB), MS-SSIM, parameters, training time (s), decoded frames a second.

    Written as results/<profile>/tables/mine.csv, .md and .tex. Nothing is fitted.

    Examples:
        >>> from stgvlib.repro import report
        >>> list(report("smoke").columns)[:5]
        ['video', 'run', 'what', 'PSNR', 'MS-SSIM']
    """
    rows = []
    own = own_records(profile)
    videos = dict.fromkeys(record["dataset"]["name"] if record else "" for record in own)
    for dataset in videos:
        mine = [record for record in own if (record["dataset"]["name"] if record else "") == dataset]
        others = [
            run(f"{dataset}/{key}", profile, "cpu", make=False)
            for key in SYSTEMS
            if f"{dataset}/{key}" in system_runs()
        ]
        frames = {record["dataset"]["sha256"] for record in mine if record}
        others = [record for record in others if record and record["dataset"]["sha256"] in frames]
        for record in [*others, *mine]:
            row = {"video": dataset, "run": record.name, "note": record.reason, "outdated": outdated(record)}
            if record:
                row |= {"what": record["about"], "PSNR": record["psnr"], "MS-SSIM": record["ms_ssim"]}
                row |= {"parameters": record["parameters"], "seconds": record["seconds"]["total"]}
                row["8-bit frames/s"] = record["decode_fps_8bit"]
            rows.append(row)
    columns = ["video", "run", "what", "PSNR", "MS-SSIM", "parameters", "seconds", "8-bit frames/s", "note", "outdated"]
    frame = pd.DataFrame(rows, columns=columns)
    return save_table(frame.astype({"PSNR": float, "MS-SSIM": float, "seconds": float}), "mine", profile)


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
