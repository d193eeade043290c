"""Tables of inpainting, denoising, super-resolution and interpolation, beside what the paper prints."""

import pandas as pd

from stgvlib.repro import paper
from stgvlib.repro.classical import NOISES
from stgvlib.repro.frames import marks
from stgvlib.repro.records import Record
from stgvlib.repro.tables import reasons, reduced, save_table
from stgvlib.repro.tasks import FITTED, FROM_FLOW, LABELS, TASKS

PRINTED = {  # columns of the paper's task tables: dataset -> place in a row
    "inpaint_random": (paper.TABLE_3, ("uvg/HoneyBee", "davis/blackswan", "davis/cows", "uvg/Bosphorus", "uvg/Beauty")),
    **{f"noise_{noise}": (paper.TABLE_6, ("uvg/HoneyBee",)) for noise in NOISES},
}
MORE = {
    "inpaint": {"holes": "psnr_holes", "composited": "psnr_composited"},
    "noise": {"blind": "psnr_blind", "composited": "psnr_composited"},
    "scale": {"sharpened": "psnr_sharpened", "back-projected": "psnr_back_projected", "small frames": "psnr_small"},
    "between": {"half-way": "psnr_half_way"},
}


def task_table(task: str, records: dict[str, dict[str, Record]], profile: str, name: str) -> pd.DataFrame:
    """PSNR of every system on every dataset of a task (dataset -> system -> record), beside what the paper prints.

    "holes" is inside the missing pixels alone, "composited" keeps the known pixels as they were, or under outliers what
    is near to what was restored. "Blind" is with a filter's kernel chosen without the clean frames, which a fit never
    sees. A column that no system has is left out; a record older than a figure is named.
    """
    printed, order = PRINTED.get(task, ({}, ()))
    column = list(NOISES).index(TASKS[task].level) if TASKS[task].kind == "noise" else None
    systems = list(dict.fromkeys(system for found in records.values() for system in found))
    rows, more_of = [], MORE.get(TASKS[task].kind, {})
    given = ["given"] if TASKS[task].kind in ("inpaint", "noise") else []
    for system in [*given, *systems]:
        label = LABELS.get(system, "As given")
        row: dict = {"system": label}
        older: dict[str, list[str]] = {}
        old: list[str] = []
        for dataset, found in records.items():
            short = dataset.rsplit("/", 1)[-1]
            record = next((r for r in found.values() if r), None) if system == "given" else found.get(system)
            values = printed.get("Baseline" if system == "given" else label)
            if dataset in order:
                place = order.index(dataset) if column is None else column
                row[f"{short}: paper"] = values[place] if values else None
            key = "psnr_given" if system == "given" else "psnr"
            row[f"{short}: ours"] = record.data.get(key) if record else None
            old += [f"{short}: {what}" for what in ("ours", *more_of)] if record and record.outdated else []
            figures = record.data if record and system != "given" else {}
            if figures and system in FITTED:
                figures = figures | {"psnr_blind": record["psnr"]}
            for title, more in more_of.items():
                if any(more in r.data for r in found.values() if r):
                    row[f"{short}: {title}"] = figures.get(more)
                    if given and figures and more not in figures:  # of other kinds, some systems have no such figure
                        older.setdefault(title, []).append(short)
        notes = reasons(found[system] for found in records.values() if system in found)
        notes += marks(found[system] for found in records.values() if system in found)
        notes += [f"{', '.join(of)}: recorded before {title} was measured" for title, of in older.items()]
        row["outdated"] = ", ".join(column for column in old if row.get(column) is not None)
        rows.append(row | {"note": "; ".join(filter(None, [*notes, reduced(profile)]))})
    frame = pd.DataFrame(rows)
    numbers = [c for c in frame if c not in ("system", "note", "outdated")]
    frame[numbers] = frame[numbers].astype(float)
    return save_table(frame[["system", *numbers, "note", "outdated"]], name, profile)


def flow_table(masks: dict[str, dict[str, dict[str, Record]]], profile: str, name: str) -> pd.DataFrame:
    """What flow alone gives inside the holes, and what each representation adds when it is fitted to the frames that
    flow filled, beside the same with holes left out of its loss: PSNR, dB; mask -> dataset -> system -> record."""
    rows, fill = [], "fitted to filled frames"
    for mask, group in masks.items():
        for dataset, found in group.items():
            for system in (s for s in FROM_FLOW if s in found):
                base = system.removesuffix("_flow")
                used = {"flow alone": found.get("flow"), fill: found[system]}
                used |= {"left out": found.get(base) if base != system else None}
                row = {"mask": mask, "video": dataset.rsplit("/", 1)[-1], "representation": LABELS[base]}
                row |= {column: record["psnr_holes"] if record else None for column, record in used.items()}
                old = [column for column, record in used.items() if record and record.outdated]
                row["adds to flow"] = row[fill] - row["flow alone"] if used[fill] and used["flow alone"] else None
                old += ["adds to flow"] if {"flow alone", fill} & set(old) and row["adds to flow"] is not None else []
                notes = [*reasons(r for r in used.values() if r is not None), reduced(profile)]
                rows.append(row | {"note": "; ".join(filter(None, notes)), "outdated": ", ".join(old)})
    columns = ["mask", "video", "representation", "left out", "flow alone", fill, "adds to flow", "note", "outdated"]
    frame = pd.DataFrame(rows, columns=columns)
    frame[columns[3:7]] = frame[columns[3:7]].astype(float)
    return save_table(frame, name, profile)
