"""Tables of inpainting, denoising, super-resolution and interpolation, beside what the paper prints."""

import pandas as pd

from stgvlib.repro import paper
from stgvlib.repro.classical import NOISES
from stgvlib.repro.frames import marks
from stgvlib.repro.records import Record
from stgvlib.repro.tables import reasons, reduced, save_table
from stgvlib.repro.tasks import LABELS, TASKS

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
