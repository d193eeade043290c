"""How much of the paper's tables has been measured: each printed number, by the frames that ours was measured on.

same frames     PSNR or MS-SSIM on the paper's own frames (frames.py)
stand-in        on frames that stand in for them
other frames    on another size of frames, or at a reduced profile
other hardware  training hours and FPS, on any frames: they are of another device than the paper's RTX 3090
missing         without a record, for a reason

An average counts by the least like of its videos. It counts where more than half of them have a record; its note says
how many.
"""

import re

import pandas as pd

from stgvlib.errors import StgvError
from stgvlib.repro import frames, paper
from stgvlib.repro.records import Record, record_path
from stgvlib.repro.tables import RUN_OF, part, reasons, save_table
from stgvlib.repro.tasks import LABELS, TASKS
from stgvlib.repro.work import record_of

OTHER_HARDWARE, MISSING = "other hardware", "missing"
KINDS = (frames.SAME, frames.STAND_IN, frames.OTHER, OTHER_HARDWARE, MISSING)
KEYS = {label: key for key, label in LABELS.items()} | RUN_OF
RTX = "3090"  # the paper's GPU
DATASETS_OF = re.compile(r"\S+/[\w, /-]*? (is|are)(?= not on )")  # the names in a reason


def coverage_table(profile: str) -> pd.DataFrame:
    """A row for each of the paper's tables, and one for all: how many of its numbers have been measured, on what.

    Written as results/<profile>/tables/coverage.csv, .md and .tex; coverage_numbers lists every number. Nothing
    is fitted.
    """
    each = numbers_table(profile)
    rows = []
    for table, found in [*each.groupby("table", sort=False), ("all", each)]:
        counts = found["kind"].value_counts()
        row = {"table": table, "numbers": len(found)} | {kind: int(counts.get(kind, 0)) for kind in KINDS}
        why = found.loc[found["kind"] == MISSING, "note"].str.replace(DATASETS_OF, "its frames are", regex=True)
        rows.append(row | {"reason": "; ".join(f"{n}: {text}" for text, n in why.value_counts().items())})
    return save_table(pd.DataFrame(rows), "coverage", profile)


def numbers_table(profile: str) -> pd.DataFrame:
    """Every printed number with its kind, and a note: why it is missing, how many of an average's videos there are."""
    records: dict[str, Record] = {}
    rows = []
    for number in paper.numbers():
        found = [_record(of, number, profile, records) for of in number.of]
        row = {"table": number.table, "row": number.row, "measure": number.measure, "of": number.title}
        row |= {"printed": number.value, "kind": _kind(number, found, profile)}
        missing = row["kind"] == MISSING
        rows.append(row | {"note": "; ".join(reasons(found)) if missing else part(sum(map(bool, found)), len(found))})
    return save_table(pd.DataFrame(rows), "coverage_numbers", profile, digits=4)


def _kind(number: paper.Number, found: list[Record], profile: str) -> str:
    there = [record for record in found if record]
    if 2 * len(there) <= len(found):
        return MISSING
    if number.measure in paper.HARDWARE and not all(RTX in record["device"] for record in there):
        return OTHER_HARDWARE
    kinds = [frames.kind(record) if profile == "paper" else frames.OTHER for record in there]
    return max(kinds, key=KINDS.index)


def _record(of: str, number: paper.Number, profile: str, records: dict[str, Record]) -> Record:
    """The record that has our figure for a part of a number, looked up once."""
    if number.table not in ("III", "VI"):
        names = [f"{of}/{KEYS.get(number.row)}"]
    elif number.row == "Baseline":  # the frames as given, which every method's record has
        names = [f"tasks/{of}/{method}" for method in TASKS[of.partition("/")[0]].systems]
    else:
        names = [f"tasks/{of}/{KEYS[number.row]}"]
    for name in names:
        if name not in records:
            try:
                records[name] = record_of(name, profile, "cpu", show_progress=False, make=False)
            except StgvError:
                records[name] = Record(name, record_path(name, profile), None, "not part of our comparison")
    return next((records[name] for name in names if records[name]), records[names[0]])
