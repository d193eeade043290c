"""Tables of the controls: one trainer for every representation, peers before and after their code was read closely,
quality over time. Settings: controls.py.
"""

import numpy as np
import pandas as pd

from stgvlib.baselines import SYSTEMS
from stgvlib.repro.controls import FIRST_VERSIONS, SAME_FIELDS, SAME_GOPS, SCHEDULES
from stgvlib.repro.fits import run, some
from stgvlib.repro.paper import DAVIS_VIDEOS
from stgvlib.repro.records import Record
from stgvlib.repro.tables import reasons, reduced, save_table
from stgvlib.repro.work import SEEDS


def same_trainer_table(profile: str, device: str, refresh: bool = False) -> pd.DataFrame:
    """PSNR of every representation under our trainer, the mean over seeds, a column a video, and the mean over videos.

    All have the paper's budget and the GoP length that `stgv` chose on the video. The note says how many seeds there
    are where not all have a record, and the largest difference between two seeds.
    """
    datasets, rows = some(SAME_GOPS, profile), []
    for field in some(SAME_FIELDS, profile):
        row, notes, old, spreads = {"representation": SAME_FIELDS[field][1]}, [], [], []
        for dataset in datasets:
            name = f"{dataset}/same_{field}"
            seeds = some((0, *SEEDS[name]), profile)
            records = [run(name, profile, device, refresh, seed=seed) for seed in seeds]
            found, video = [record["psnr"] for record in records if record], dataset.rpartition("/")[2]
            row[video] = float(np.mean(found)) if found else None
            spreads += [max(found) - min(found)] if len(found) > 1 else []
            notes += [f"{video}: {reason}" for reason in reasons(records)] if not found else []
            notes += [f"{video}: {len(found)} of {len(seeds)} seeds"] if 0 < len(found) < len(seeds) else []
            old += [video] if any(record.outdated for record in records) else []
        values = list(row.values())[1:]
        row["mean"] = float(np.mean(values)) if None not in values else None
        row["seeds differ by at most"] = max(spreads, default=None)
        notes = [*notes, reduced(profile)]
        rows.append(row | {"note": "; ".join(filter(None, notes)), "outdated": ", ".join(old)})
    return save_table(_numbers(rows, "representation"), "same_trainer", profile)


def first_versions_table(profile: str, device: str) -> pd.DataFrame:
    """PSNR of peers as they are now and as we had them first, on Bunny and DAVIS."""
    rows = []
    for dataset in ["bunny", *(f"davis/{video}" for video in some(DAVIS_VIDEOS, profile))]:
        row, notes, old = {"video": dataset.rpartition("/")[2]}, [], []
        for key in FIRST_VERSIONS:
            for name, column in ((key, SYSTEMS[key].label), (f"{key}_before", f"{SYSTEMS[key].label} before")):
                record = run(f"{dataset}/{name}", profile, device)
                row[column] = record["psnr"] if record else None
                notes += [f"{column}: {record.reason}"] if not record else []
                old += [column] if record.outdated else []
        rows.append(row | {"note": "; ".join([*notes, *filter(None, [reduced(profile)])]), "outdated": ", ".join(old)})
    return save_table(_numbers(rows, "video"), "first_versions", profile)


def over_time(dataset: str, profile: str, device: str) -> dict[str, list[Record]]:
    """Every system's records on a dataset with an eighth, a quarter, half and all of its schedule, by its label."""
    return {
        SYSTEMS[key].label: [
            *(run(f"{dataset}/{key}_{part}", profile, device) for part in some(SCHEDULES, profile)),
            run(f"{dataset}/{key}", profile, device),
        ]
        for key in some(SYSTEMS, profile)
    }


def time_table(dataset: str, records: dict[str, list[Record]], profile: str) -> pd.DataFrame:
    """PSNR and seconds of each system with parts of its schedule (`over_time`); cells with a record of another card
    than the first system's name it."""
    rows = []
    for label, parts in records.items():
        row, old = {"system": label}, []
        names = [*some(SCHEDULES, profile), "whole"]
        for part, record in zip(names, parts, strict=True):
            columns = f"{part} (dB)", f"{part} (s)"
            row |= dict(zip(columns, (record["psnr"], record["seconds"]["total"]) if record else (None, None)))
            old += columns if record.outdated else ()
        cards = dict.fromkeys(record["device"] for record in parts if record)
        notes = [*reasons(parts), reduced(profile)]
        row |= {"device": ", ".join(cards) or None, "note": "; ".join(filter(None, notes)), "outdated": ", ".join(old)}
        rows.append(row)
    return save_table(_numbers(rows, "system"), f"over_time_{dataset.rpartition('/')[2]}", profile)


def _numbers(rows: list[dict], title: str) -> pd.DataFrame:
    """A table whose empty columns are numbers too."""
    frame = pd.DataFrame(rows)
    numbers = [column for column in frame if column not in (title, "device", "note", "outdated")]
    return frame.astype(dict.fromkeys(numbers, float))
