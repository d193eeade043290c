"""Tables of rate-distortion curves: points, BD-rates, what the paper's recipe costs, where a file's bytes go."""

from collections.abc import Iterable

import pandas as pd

from stgvlib.metrics import bd_rate
from stgvlib.repro.fits import run
from stgvlib.repro.records import Record
from stgvlib.repro.tables import outdated, save_table


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
            cells = {name: point.get(key) for name, key in names.items()}
            rows.append({"system": title, **cells, "note": "", "outdated": outdated(record)})
        if not record:
            rows.append({"system": title, **dict.fromkeys(names), "note": record.reason})
    frame = pd.DataFrame(rows).astype({name: "float" for name in names if name != "bytes"})
    frame["bits a pixel"] = frame["bits a pixel"].map(lambda v: None if pd.isna(v) else f"{v:.4f}")
    frame["bytes"] = frame["bytes"].astype("Int64")
    return save_table(frame, name, profile)


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
        old = [f"against {a}, %" for a in anchors if record.outdated or curves[a].outdated]
        old = [column for column in old if row[column] is not None]
        rows.append(row | {"note": "; ".join(notes), "outdated": ", ".join(old)})
    frame = pd.DataFrame(rows)
    numbers = [f"against {anchor}, %" for anchor in anchors]
    frame[numbers] = frame[numbers].astype(float)
    return save_table(frame, name, profile, 1)


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
            row |= {"lost": row["fitted"] and row["fitted"] - row["file"], "note": fitted.reason}
            rows.append(row | {"outdated": "all" if record.outdated or fitted.outdated else ""})
        if not record:
            rows.append({"recipe": title, "note": record.reason})
    numbers = ["fitted", "8-bit field", "file", "lost"]
    frame = pd.DataFrame(rows, columns=["recipe", "Gaussians a GoP", *numbers, "note", "outdated"])
    frame[numbers] = frame[numbers].astype(float)
    frame["Gaussians a GoP"] = frame["Gaussians a GoP"].astype("Int64")
    return save_table(frame, "paper_recipe", profile)


def section_table(record: Record, profile: str, name: str = "bytes_by_section") -> pd.DataFrame:
    """Where the bytes of a curve's files go, in bytes."""
    rows = [
        {
            "bits a pixel": f"{p['bpp']:.4f}",
            **p["sections"],
            "Gaussians kept": p.get("kept"),
            "outdated": outdated(record),
        }
        for p in (record["points"] if record else ())
    ]
    return save_table(pd.DataFrame(rows), name, profile)
