"""Which columns each table shows, under which headers: after the paper's tables where it has one. Engine: layout.py."""

import re
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from itertools import groupby

import pandas as pd

from stgvlib.repro.layout import Column, Layout

PARTS = {"multi-frame": (), "V2": ("KFCI",), "V3": ("KFCI", "Sta."), "V4": ("KFCI", "Dyn.")}
PARTS |= {"Ours": ("KFCI", "Sta.", "Dyn.")}  # of the paper's method, by variant of Table IV
SHORT = {"Bosphorus": "Bosph.", "HoneyBee": "Honey.", "ReadySteadyGo": "Ready.", "ShakeNDry": "Shake."}
SHORT |= {"YachtRide": "Yacht.", "dance-twirl": "Dance", "bmx-trees": "Bmx", "blackswan": "Swan", "cows": "Cow"}
SHORT |= {"bunny": "Bunny", "camel": "Camel", "boat": "Boat", "mean": "Avg."}  # as the paper's headers do
DIGITS = {"MS-SSIM": 4, "bits a pixel": 4, "seconds": 1}
NAMES = {"Gaussians": "Gauss.", "parameters": "param.,\nM", "seconds": "training,\ns", "worst frame": "worst\nframe"}
NAMES |= {"against base": "against\nbase", "against the first": "against\nfirst", "key frames": "key\nframes"}
NUMBERS = ("PSNR", "MS-SSIM", "difference", "mean", "seconds")
ABSENT = re.compile("^not run|not on the machine")  # notes on why there is no record
STAND_INS = "Where a footnote names other frames than the paper's, its numbers and ours are not comparable."


def layout_of(name: str, frame: pd.DataFrame) -> list[tuple[pd.DataFrame, Layout]]:
    """The readable tables that a complete table becomes, each with its part of the data."""
    for pattern, make in LAYOUTS.items():
        if fnmatch(name, pattern):
            return make(name, frame)
    return [(frame, plain(name, frame))]


def plain(name: str, frame: pd.DataFrame, title: str = "", caption: str = "", best: str = "") -> Layout:
    """All columns as they are, for a table without a layout of its own."""
    rest = [c for c in frame if c not in ("note", "device", "outdated")]
    columns = []
    for c in rest:
        numeric = pd.api.types.is_numeric_dtype(frame[c]) and not pd.api.types.is_bool_dtype(frame[c])
        digits = DIGITS.get(c, _decimals(frame[c])) if numeric else None
        mega = {"digits": 2, "scale": 1e-6} if c == "parameters" else {}
        one = Column(c, NAMES.get(c, c), digits=digits, best="max" if c == best else "", signed="against" in c)
        columns.append(replace(one, **mega))
    return Layout(title or name.replace("_", " "), caption or "As recorded", tuple(columns))


def _decimals(values: pd.Series) -> int:
    """Decimals that a column was rounded to: none for integers, else 2 to 4."""
    if pd.api.types.is_integer_dtype(values):
        return 0
    return min(4, max(2, *(len(repr(float(v)).partition(".")[2]) for v in values.dropna()), 0))


def _systems(name: str, frame: pd.DataFrame) -> list:
    """Tables I and II."""
    dataset = {"table_1_uvg": "UVG", "table_1_davis": "DAVIS"}.get(name, "Bunny")
    many = dataset != "Bunny"
    columns = [Column("system", "system", wrap=13)]
    for measure, digits in (("PSNR", 2), ("MS-SSIM", 4)):
        group = f"{measure}, dB" if measure == "PSNR" else measure
        columns += [Column(f"paper {measure}", "paper", group, digits, "max")]
        columns += [Column(f"ours {measure}", "ours", group, digits, "max", True)]
        columns += [Column("difference", "differ-\nence", group, digits, signed=True)] if measure == "PSNR" else []
    columns += [Column("paper training, h", "paper", "training,\nmin", 1, scale=60)]
    columns += [Column("ours training, s", "ours", "training,\nmin", 1, scale=1 / 60)]
    columns += [Column("paper FPS", "paper", "frames/s", 0), Column("ours FPS, one a call", "ours", "frames/s", 0)]
    columns += [Column("ours FPS, 8-bit, best batch", "8-bit,\nbatch", "frames/s", 0)]
    caption = f"{'Means over the videos' if many else 'One video'} at the paper's number of parameters "
    caption += f"({_range(frame['parameters, M'])}). Paper: RTX 3090; ours: the device that a note names."
    return [(frame, Layout(f"Table {'I' if many else 'II'}. Systems on {dataset}", caption, tuple(columns)))]


def _range(values: pd.Series) -> str:
    there = values.dropna().astype(float)
    if there.empty:
        return "none of ours recorded"
    low, high = f"{there.min():.1f}", f"{there.max():.1f}"
    return f"ours: {low if low == high else f'{low} to {high}'} million"


def _videos(name: str, frame: pd.DataFrame) -> list:
    """Tables VII and VIII: a block a measure, in it every system as printed and ours."""
    dataset = "UVG" if name == "table_7" else "DAVIS"
    videos = [c for c in frame if c not in ("system", "measure", "source", "note", "outdated")]
    sheets = []
    for letter, measure, digits in (("a", "PSNR", 2), ("b", "MS-SSIM", 4)):
        columns = [Column("system", "system", wrap=14), Column("source", "from")]
        columns += [Column(v, SHORT.get(v, v), "", digits, "max", v == "mean") for v in videos]
        title = f"Table {'VII' if dataset == 'UVG' else 'VIII'}{letter}. {measure} on every video of {dataset}"
        caption = ("In dB. " if measure == "PSNR" else "") + f"Each row's mean is of the videos it has. {STAND_INS}"
        layout = Layout(title, caption, tuple(columns), 2, ("source",))
        sheets.append((frame[frame["measure"] == measure], layout))
    return sheets


def _ablation(name: str, frame: pd.DataFrame) -> list:
    """Tables IV and V."""
    number, _, rest = name.removeprefix("table_").partition("_")
    where = "Bunny" if "ours Bunny" in frame else next(c for c in frame if c.startswith("ours "))[5:]
    shown = frame.copy()
    parts = ("KFCI", "Sta.", "Dyn.") if number == "4" else ()
    for part in parts:
        shown[part] = ["\u2713" if part in PARTS.get(v, ()) else " " for v in frame["variant"]]
    shown["variant"] = shown["variant"].replace("Ours", "STGV")
    columns = [Column("variant", "row" if parts else "encoding"), *(Column(p, p) for p in parts)]
    columns += [Column(f"paper {where}", "paper", where, 2, "max"), Column(f"ours {where}", "ours", where, 2, "max")]
    columns += [Column("difference", "differ-\nence", where, 2, signed=True)]
    columns += [Column("paper UVG", "paper", "UVG", 2, "max"), Column("ours UVG", "ours", "UVG", 2, "max", True)]
    columns += [Column("8-bit", "8-bit", f"ours, {where}", 2, "max")]
    columns += [Column("MS-SSIM", "MS-\nSSIM", f"ours, {where}", 4, "max")]
    columns += [Column("parameters", "param.,\nM", f"ours, {where}", 2, scale=1e-6)]
    what = "Key-frame initialisation (KFCI), static (Sta.) and dynamic (Dyn.) hash" if parts else "Encodings"
    caption = f"PSNR in dB of the paper's method; 8-bit: its parameters quantised to 8 bits. {STAND_INS}"
    roman = {"4": "IV", "5": "V"}[number]
    return [(shown, Layout(f"Table {roman}. {what} on {where}", caption, tuple(columns)))]


TASKS = {  # name of the table -> title, caption
    "table_3": ("Table III. Inpainting of random masks", ""),
    "inpainting_[fo][ib]*": ("Inpainting, {} mask", ""),
    "table_6_*": ("Table VI. Denoising, {} noise", "A fit never sees the clean frames; filters choose their kernel "
                  "with them, except for the blind figures. "),
    "super_resolution_*": ("Super-resolution by {}", "The frames were fitted at the smaller size. "),
    "between_frames": ("Frames between: every second frame was left out", ""),
}  # fmt: skip
MOST_NUMBERS = 7  # columns of a table of tasks, besides its two labels: more are wider than a code host's page
MEASURES = {
    "ours": "whole frame",
    "holes": "inside the holes",
    "composited": "known pixels kept",
    "blind": "blind",
    "half-way": "half-way frames",
    "sharpened": "sharpened",
    "back-projected": "back-projected",
    "small frames": "small frames",
}


def _task(name: str, frame: pd.DataFrame) -> list:
    """Tables III and VI and their like: a block a measure, in it every system on each video."""
    pattern = next(p for p in TASKS if fnmatch(name, p))
    title, caption = TASKS[pattern]
    which = name.removeprefix(pattern.rstrip("*")).replace("salt_pepper", "salt and pepper")
    names = dict.fromkeys(c.split(": ")[0] for c in frame if ": " in c)
    videos = [v for v in names if any(frame[c].notna().any() for c in frame if c.startswith(f"{v}: ours"))]
    gone = [v for v in names if v not in videos]
    rows = []
    for measure, words in MEASURES.items():
        if not any(c.endswith(f": {measure}") and frame[c].notna().any() for c in frame):
            continue
        for _, row in frame.iterrows():
            of = {v: row.get(f"{v}: {measure}") for v in videos}
            of |= {f"{v}: paper": row.get(f"{v}: paper") for v in videos if measure == "ours"}
            old = f", {row.get('outdated', '')}, "
            shown = [
                p
                for p in str(row["note"]).split("; ")
                if not (ABSENT.search(p) and all(_number(of[v]) for v in videos))
            ]
            note = "; ".join(shown) if _number(row["note"]) else ""
            rows.append({"measure": words, "system": row["system"], **of, "note": note})
            rows[-1]["outdated"] = ", ".join(v for v in videos if f", {v}: {measure}, " in old)
    last = sorted({row["measure"] for row in rows}, key=list(MEASURES.values()).index)
    rows = [r for r in rows if r["measure"] == last[0] or any(_number(r[v]) for v in videos)] if last else rows
    columns = [Column("measure", "PSNR, dB", wrap=16), Column("system", "system", wrap=22)]
    printed = any(f"{v}: paper" in frame for v in videos)
    for v in videos:
        columns += [Column(f"{v}: paper", "paper", SHORT.get(v, v), 2, "max")] if f"{v}: paper" in frame else []
        short = SHORT.get(v, v)
        columns += [Column(v, "ours", short, 2, "max") if printed else Column(v, short, "", 2, "max")]
    caption += STAND_INS if printed else ""
    if gone:
        left = [p for _, row in frame.iterrows() for p in str(row["note"]).split("; ") if ABSENT.search(p)]
        caption += (
            f" Without a record of ours: {', '.join(gone)} ({'; '.join(dict.fromkeys(left)) or 'no reason recorded'})"
        )
        caption += "; the paper's numbers are in the CSV." if any(f"{v}: paper" in frame for v in gone) else "."
    layout = Layout(
        title.format(which), " ".join(caption.split()) or "PSNR by system.", tuple(columns), 2, ("measure",)
    )
    if not videos:  # systems without a record, and why
        return [
            (
                frame,
                replace(layout, columns=(Column("system", "system"), Column("note", "no record", wrap=60)), labels=1),
            )
        ]
    (labels, numbers), blocks = (columns[:2], columns[2:]), [[]]
    for _, of_video in groupby(numbers, key=lambda column: column.source.removesuffix(": paper")):
        own = list(of_video)
        if len(blocks[-1]) + len(own) > MOST_NUMBERS:
            blocks.append([])
        blocks[-1] += own
    made = []
    for block in blocks:
        others = tuple(f"{v}: " for v in names if v not in {column.source for column in block})
        of_block = [r | {"note": "; ".join(p for p in r["note"].split("; ") if not p.startswith(others))} for r in rows]
        made.append((pd.DataFrame(of_block), replace(layout, columns=(*labels, *block))))
    return made


def _number(value) -> bool:
    return value is not None and not pd.isna(value)


def _rates(name: str, frame: pd.DataFrame) -> list:
    where = name.removeprefix("rates").strip("_") or "Bunny"
    columns = [Column("system", "system", wrap=15), Column("bits a pixel", "bits a\npixel", digits=4)]
    columns += [Column("bytes", "size,\nkB", digits=0, scale=1e-3), Column("PSNR", "RGB", "PSNR, dB", 2)]
    columns += [Column("PSNR in YUV", "YUV", "PSNR, dB", 2), Column("MS-SSIM", "MS-SSIM", digits=4)]
    columns += [
        Column("encoding, s", "enc.,\ns", digits=1),
        Column("entropy decoding, s", "entropy\ndec., s", digits=2),
    ]
    columns += [Column("decoding, frames/s", "dec.", "frames/s", 0)]
    columns += [Column("file to frames, frames/s", "all", "frames/s", 0)]
    caption = "Every point of every curve. Frames/s: decoding alone, and all from file to frames."
    said = frame["threads"].map(lambda v: f"threads: {v}" if _number(v) else "") if "threads" in frame else ""
    notes = (
        [("; ".join(filter(None, pair))) for pair in zip(frame["note"].astype(object).fillna(""), said)]
        if len(said)
        else None
    )
    shown = frame.assign(note=notes) if notes else frame
    blocks = Layout(f"Rate and distortion on {where}", caption, tuple(columns), 2)
    return [(shown, blocks)]


def _bd_rates(name: str, frame: pd.DataFrame) -> list:
    """Against the codecs and ours in one table, against the paper's recipe in another."""
    measure = {"bd_rates_yuv": "PSNR in YUV", "bd_rates_ms_ssim": "MS-SSIM"}.get(name, "PSNR")
    anchors = [c for c in frame if c.startswith("against ")]
    codecs = [c for c in anchors if "," not in c.removesuffix(", %")]
    ours = [c for c in anchors if c not in codecs and "own recipe" not in c]
    sheets = []
    for against, what in ((codecs + ours, "block codecs and ours"), ([c for c in anchors if "own" in c], "recipes")):
        if against:
            columns = [Column("system", "system", wrap=24)]
            columns += [Column(c, _anchor(c), "against", 1, signed=True) for c in against]
            caption = "BD-rate in percent: how many more bits the row's system needs than the column's at the same "
            caption += f"{measure}; negative: fewer. Best values are not marked: each column has another anchor."
            sheets.append(
                (_without_reasons(frame, against), Layout(f"BD-rates against {what}", caption, tuple(columns)))
            )
    return sheets


def _anchor(column: str) -> str:
    """ "against x265_psnr, %" -> "x265\npsnr"."""
    name = column.removeprefix("against ").removesuffix(", %").removeprefix("STGV, ")
    return name.replace("_", "\n").replace(", ", ",\n").replace("codebooks of", "codebooks\nof")


def _without_reasons(frame: pd.DataFrame, against: list[str]) -> pd.DataFrame:
    """Notes of the anchors that are shown, each reason once without its qualities, which the CSV has."""
    names = [c.removeprefix("against ").removesuffix(", %") for c in against]
    notes = []
    for note in frame["note"].astype(object).fillna(""):
        parts = [p for p in note.split("; ") if p and (": " not in p or any(p.startswith(f"{n}: ") for n in names))]
        shared = [p.partition(": ")[0] for p in parts if "too few qualities" in p]
        few = [f"shares too few qualities with {', '.join(shared)}"] if shared else []
        notes.append("; ".join([*(p for p in parts if "too few qualities" not in p), *few]))
    return frame.assign(note=notes)


def _codecs(name: str, frame: pd.DataFrame) -> list:
    columns = [Column("video", "video"), Column("block codec", "block codec")]
    columns += [Column("its groups, frames", "codec", "frames a group")]
    columns += [Column("our groups, frames", "ours", "frames a group", 1)]
    columns += [Column(f"in {m}, %", m, "BD-rate, %", 1, signed=True) for m in ("PSNR", "PSNR in YUV", "MS-SSIM")]
    caption = "How many more bits ours needs than the codec at the same quality; negative: fewer."
    return [(frame, Layout("BD-rate of ours against block codecs", caption, tuple(columns), 2))]


def _runs(title: str, caption: str) -> Callable:
    def make(name: str, frame: pd.DataFrame) -> list:
        made = plain(name, frame, title.format(name.removeprefix("flow_")), caption, "PSNR")
        order = [replace(c, wrap={"run": 12, "what": 20}.get(c.source, 30)) for c in made.columns]
        shown = frame.assign(run=frame["run"].str.rpartition("/")[2])
        return [(shown, replace(made, columns=tuple(order), labels=2))]

    return make


def _over_time(name: str, frame: pd.DataFrame) -> list:
    columns = [Column("system", "system", wrap=22)]
    for part in ("eighth", "quarter", "half", "whole"):
        columns += [Column(f"{part} (dB)", "dB", f"{part} of the steps", 2, "max")]
        columns += [Column(f"{part} (s)", "s", f"{part} of the steps", 1)]
    where = name.removeprefix("over_time_")
    return [(frame, Layout(f"PSNR and training time on {where} by length of the schedule", "", tuple(columns)))]


def _named(title: str, caption: str = "", best: str = "", labels: int = 1, titles: dict | None = None) -> Callable:
    """All columns under `titles` in place of their names."""

    def make(name: str, frame: pd.DataFrame) -> list:
        made = plain(name, frame, title, caption, best)
        columns = [replace(c, **(titles or {}).get(c.source, {})) for c in made.columns]
        return [(frame, replace(made, caption=caption, columns=tuple(columns), labels=labels))]

    return make


PRINTED = {"PSNR": ".2f", "MS-SSIM": ".4f"}  # decimals in the paper; others as they are


def _audit(name: str, frame: pd.DataFrame) -> list:
    """A table a measure, with the decimals that the paper prints."""
    sheets = []
    frame = frame.assign(agrees=frame["agrees"].map({True: "yes", False: "no"}))
    for measure, digits in (("PSNR", 2), ("MS-SSIM", 4)):
        columns = [Column("table", "table"), Column("system", "system"), Column("of", "of")]
        columns += [Column("printed", "printed", digits=digits), Column("mean", "mean", digits=4)]
        columns += [Column("difference", "difference", digits=4, signed=True), Column("agrees", "agrees")]
        title = f"Averages of {measure} that the paper prints, beside the means of its rows"
        part = frame[frame["measure"] == measure]
        sheets.append((part, Layout(title, "Agrees: within the printed decimals.", tuple(columns), 3)))
    return sheets


def _numbers(name: str, frame: pd.DataFrame) -> list:
    """Coverage number by number; a printed number is text here, for every measure has its own decimals."""
    printed = [format(float(v), PRINTED.get(m, "g")) for v, m in zip(frame["printed"], frame["measure"])]
    columns = [Column(c, c) for c in ("table", "row", "measure")]
    columns += [Column("of", "of", wrap=24), Column("printed", "printed"), Column("kind", "measured on")]
    caption = "The kinds are explained in the table of coverage."
    return [(frame.assign(printed=printed), Layout("Every number of the paper's tables", caption, tuple(columns), 4))]


def _seeds(name: str, frame: pd.DataFrame) -> list:
    columns = [Column("run", "run"), Column("what", "what"), Column("seeds", "seeds", digits=0)]
    columns += [Column("mean PSNR", "mean", "PSNR, dB", 3), Column("spread", "spread", "PSNR, dB", 3)]
    columns += [Column("standard deviation", "standard\ndeviation", "PSNR, dB", 3)]
    caption = "Spread: the largest less the smallest; of one seed there is none."
    several = frame.assign(spread=frame["spread"].where(frame["seeds"] > 1))
    return [(several, Layout("Runs with several seeds", caption, tuple(columns), 2))]


def _coverage(name: str, frame: pd.DataFrame) -> list:
    columns = [Column("table", "table"), Column("numbers", "numbers", digits=0)]
    kinds = ("same frames", "stand-in", "other frames", "other hardware", "missing")
    columns += [Column(k, k.replace(" ", "\n"), "measured on", 0) for k in kinds[:-1]]
    columns += [Column("missing", "missing", digits=0)]
    caption = "How many of the numbers that the paper's tables print have been measured, and on which frames."
    caption += " A footnote counts the missing ones by reason."
    return [
        (frame.rename(columns={"reason": "note"}), Layout("Coverage of the paper's tables", caption, tuple(columns)))
    ]


SMALL = "A clip at small size; the worst frame is that of the lowest PSNR."
LAYOUTS: dict[str, Callable] = {
    "table_[12]*": _systems,
    "table_[78]": _videos,
    "table_[45]*": _ablation,
    **dict.fromkeys(TASKS, _task),
    "rates*": _rates,
    "bd_rates_codecs": _codecs,
    "bd_rates*": _bd_rates,
    "over_time_*": _over_time,
    "coverage": _coverage,
    "flow_*": _runs("With and without optical flow on {}", "PSNR in dB; against the first row."),
    "choices": _runs("Choices that the paper leaves open", f"PSNR in dB, sorted. {SMALL}"),
    "hard": _runs("Levers on a clip with much motion", f"PSNR in dB, sorted. {SMALL}"),
    "levers": _runs("Levers on Bunny", f"PSNR in dB, sorted. {SMALL}"),
    "gop_length": _runs("Length of the groups of pictures on Bunny", "PSNR in dB; against the first row."),
    "parent": _runs("The paper's method and its parent on Bunny", "PSNR in dB; against the first row."),
    "key_frame_position": _runs("Position of the key frame on Bunny", "PSNR in dB; against the first row."),
    "seeds": _seeds,
    "same_trainer": _named("One trainer for every representation", "PSNR in dB, means over seeds.",
                           titles={"seeds differ by at most": {"title": "seeds differ\nby at most"}}),
    "first_versions": _named("Peers before and after their code was read closely", "PSNR in dB.",
                             titles={"GaussianVideo before": {"title": "GaussianVideo\nbefore"},
                                     "D2GV before": {"title": "D2GV\nbefore"}}),
    "videos": _named("Videos as they were fitted", "Frame sizes in px, height times width."),
    "audit": _audit,
    "coverage_numbers": _numbers,
    "paper_recipe": _named("What the paper's recipe of compression costs", "PSNR in dB."),
    "published_bunny": _named("Points that others published on Bunny", "PSNR in dB; ours at the same rate, between our "
                              "points.", titles={"bits a pixel": {"title": "bits a\npixel", "digits": 4},
                                                 "published PSNR": {"title": "published"},
                                                 "ours PSNR": {"title": "ours"},
                                                 "difference": {"signed": True}}),
    "bytes_by_section": _named("Where the bytes of our files on Bunny go", "Bytes of each section.",
                               titles={"bits a pixel": {"digits": 4}}),
    "inpainting_flow": _named("What a fit adds to optical flow", "PSNR in dB inside the holes.", labels=3,
                              titles={"fitted to filled frames": {"title": "fitted to\nfilled frames"},
                                      "adds to flow": {"signed": True}}),
}  # fmt: skip
