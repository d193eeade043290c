"""Tables of rate-distortion curves: points, BD-rates, what the paper's recipe costs, where a file's bytes go."""

from collections.abc import Iterable
from math import log10

import numpy as np
import pandas as pd

from stgvlib.baselines.block_codecs import BLOCK_CODECS
from stgvlib.metrics import bd_rate
from stgvlib.repro.fits import run
from stgvlib.repro.published import NOT_READ, PUBLISHED
from stgvlib.repro.records import Record
from stgvlib.repro.tables import outdated, save_table

MEASURES = {"PSNR": "psnr", "PSNR in YUV": "psnr_yuv", "MS-SSIM": "ms_ssim"}
OLDER = "a record is older than this measure"


def rated(points: Iterable[dict], measure: str = "psnr") -> list[tuple[float, float]]:
    """(bits a pixel, quality in dB) of a curve's points, as BD-rates need them; MS-SSIM as -10 log10(1 - MS-SSIM).

    Raises ValueError where points lack the measure.
    """
    found = [(p["bpp"], p.get(measure)) for p in points]
    if any(quality is None for _, quality in found):
        raise ValueError(OLDER)
    return [(rate, -10 * log10(1 - q)) for rate, q in found] if measure == "ms_ssim" else found


def rate_table(curves: dict[str, Record], profile: str, name: str = "rates") -> pd.DataFrame:
    """Every point of every rate-distortion curve: what its file has, how good it is, how long both ways take and on
    what. Block codecs are decoded by one thread; ours by the device, entropy decoding by one thread."""
    names = {"bits a pixel": "bpp", "bytes": "bytes"} | MEASURES
    names |= {
        "encoding, s": "encode_seconds",
        "encoding, CPU s": "encode_cpu_seconds",
        "entropy decoding, s": "entropy_decoding_seconds",
        "decoding, frames/s": "decode_fps",
        "file to frames, frames/s": "file_to_frames_fps",
    }
    rows = []
    for title, record in curves.items():
        for point in record["points"] if record else ():
            cells = {name: point.get(key) for name, key in names.items()}
            threads = record.data.get("threads")
            cells["threads"] = "{encoding} to encode, {decoding} to decode".format(**threads) if threads else None
            row = {"system": title, **cells, "device": record["device"], "note": "", "outdated": outdated(record)}
            if point.get("psnr_yuv") is None:
                row["note"] = f"no PSNR in YUV: {OLDER.replace('a record', 'its record')}"
            rows.append(row)
        if not record:
            rows.append({"system": title, **dict.fromkeys(names), "note": record.reason})
    frame = pd.DataFrame(rows).astype({name: "float" for name in names if name != "bytes"})
    frame["bits a pixel"] = frame["bits a pixel"].map(lambda v: None if pd.isna(v) else f"{v:.4f}")
    frame["bytes"] = frame["bytes"].astype("Int64")
    return save_table(frame, name, profile)


def bd_table(
    curves: dict[str, Record],
    anchors: Iterable[str],
    profile: str,
    name: str = "bd_rates",
    measure: str = "psnr",
) -> pd.DataFrame:
    """BD-rate of every curve against some of them, in percent, in one of MEASURES; empty with the reason where it is
    undefined."""
    rows = []
    for title, record in curves.items():
        row, notes = {"system": title}, [] if record else [record.reason]
        for anchor in anchors:
            column = f"against {anchor}, %"
            row[column], reason = _bd_rate(curves[anchor], record, measure) if record else (None, "")
            notes += [f"{anchor}: {reason}"] if reason and curves[anchor] else []
        old = [f"against {a}, %" for a in anchors if record.outdated or curves[a].outdated]
        old = [column for column in old if row[column] is not None]
        rows.append(row | {"note": "; ".join(notes), "outdated": ", ".join(old)})
    frame = pd.DataFrame(rows)
    numbers = [f"against {anchor}, %" for anchor in anchors]
    frame[numbers] = frame[numbers].astype(float)
    return save_table(frame, name, profile, 1)


def _bd_rate(anchor: Record, record: Record, measure: str) -> tuple[float | None, str]:
    """(BD-rate in percent, "") or (None, why there is none)."""
    if not anchor or not record:
        return None, (anchor if record else record).reason
    try:
        return bd_rate(*(rated(c["points"], measure) for c in (anchor, record))), ""
    except ValueError as error:
        return None, str(error).split(", got")[0]


def codec_table(videos: dict[str, dict[str, Record]], ours: str, profile: str) -> pd.DataFrame:
    """BD-rate of our curve against every block codec on every video, in each of MEASURES: positive where ours needs
    more bits. Where both have short groups that are decoded by themselves, random access is alike."""
    rows, numbers = [], [f"in {title}, %" for title in MEASURES]
    for video, curves in videos.items():
        record = curves[ours]
        fitted = run(record["run"][0], profile, "cpu", make=False) if record else record
        length = f"{fitted['frames'] / fitted['gops']:.3g}" if fitted else None
        for codec, setting in BLOCK_CODECS.items():
            anchor = curves[codec]
            row = {"video": video, "block codec": codec, "its groups, frames": setting.group or "whole video"}
            found = {title: _bd_rate(anchor, record, measure) for title, measure in MEASURES.items()}
            row |= {"our groups, frames": length} | {f"in {title}, %": value for title, (value, _) in found.items()}
            row["note"] = "; ".join(dict.fromkeys(reason for _, reason in found.values() if reason))
            old = record.outdated or anchor.outdated
            rows.append(row | {"outdated": ", ".join(c for c in numbers if old and row[c] is not None)})
    frame = pd.DataFrame(rows)
    frame[numbers] = frame[numbers].astype(float).round(1)
    return save_table(frame, "bd_rates_codecs", profile, 1)


def published_table(record: Record, dataset: str, profile: str) -> pd.DataFrame:
    """Points that others have published on a dataset, beside our curve at the same rate (linear in the logarithm of the
    rate between our points); figures that could not be read off say why."""
    ours = sorted(rated(record["points"])) if record else []
    rates, qualities = np.log([r for r, _ in ours]), [q for _, q in ours]
    rows = []
    for curve in (c for c in PUBLISHED if c.dataset == dataset):
        for rate, psnr in curve.points:
            row = {"system": curve.label, "bits a pixel": f"{rate:.4f}", "published PSNR": psnr, "outdated": ""}
            if ours:
                inside = rates[0] <= np.log(rate) <= rates[-1]
                row["ours PSNR"] = float(np.interp(np.log(rate), rates, qualities)) if inside else None
                row["difference"] = row["ours PSNR"] - psnr if inside else None
                row["outdated"] = "ours PSNR, difference" if record.outdated else ""
            row["note"] = f"read off: {curve.source}; theirs are {'x'.join(map(str, curve.size))}"
            rows.append(row | ({} if record else {"note": f"{row['note']}; ours: {record.reason}"}))
    rows += [{"system": figure, "note": reason, "outdated": ""} for figure, reason in NOT_READ.items()]
    numbers = ["published PSNR", "ours PSNR", "difference"]
    frame = pd.DataFrame(rows, columns=["system", "bits a pixel", *numbers, "note", "outdated"])
    frame[numbers] = frame[numbers].astype(float)
    return save_table(frame, f"published_{dataset}", profile)


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
