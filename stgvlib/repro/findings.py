"""What each notebook found, in sentences that are computed from its records, those against our method included.

A sentence whose records are missing is left out.
"""

from collections.abc import Iterable, Mapping
from statistics import mean

import pandas as pd
from IPython.display import Markdown

from stgvlib.repro import paper
from stgvlib.repro.curve_tables import rated
from stgvlib.repro.fits import run
from stgvlib.repro.published import PUBLISHED
from stgvlib.repro.records import Record
from stgvlib.repro.tables import reduced

OURS = ("ours (quality)", "ours (fast)", "ours, hashes alone")
Records = Mapping[str, Record]


def sentences(lines: Iterable[str], profile: str) -> Markdown:
    """A list of sentences, with a warning before those of a reduced profile."""
    lines = list(lines) or ["There are no records to conclude from."]
    if reduced(profile):
        lines.insert(0, f"Profile {profile} is reduced: these numbers show that the code runs, and not who is right.")
    return Markdown("\n".join(f"- {line}" for line in lines))


def named(dataset: str) -> str:
    """A dataset as sentences call it."""
    return dataset.rpartition("/")[2].replace("bunny", "Bunny")


def listed(parts: Iterable[str]) -> str:
    """a, b and c."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def spread(name: str, profile: str, seeds: int = 3) -> float | None:
    """Largest less smallest PSNR of a run over its seeds, dB; None with fewer than two records."""
    found = [run(name, profile, "cpu", seed=seed, make=False) for seed in range(seeds)]
    values = [record["psnr"] for record in found if record]
    return max(values) - min(values) if len(values) > 1 else None


def kfci(multi: Record, key: Record, profile: str, sequences: Iterable[str] = ("blackswan", "bmx-trees")) -> Markdown:
    """Of notebook 01: the two ways to begin, on Bunny and on DAVIS."""
    lines = []
    if multi and key:
        gain, printed = key["psnr"] - multi["psnr"], paper.TABLE_4["V2"][0] - paper.TABLE_4["V1"][0]
        lines.append(
            f"On Bunny, key-frame initialisation (V2) reaches {key['psnr']:.2f} dB and multi-frame initialisation (V1) "
            f"{multi['psnr']:.2f} dB: a difference of {gain:+.2f} dB. The paper prints {printed:+.2f} dB."
        )
        if (noise := spread("bunny/paper", profile)) is not None:
            size = "larger" if abs(gain) > noise else "not larger"
            lines.append(f"The difference is {size} than the spread of the paper's method over seeds, {noise:.2f} dB.")
        alone, shared = (record["history"]["coarse"][-1][1] for record in (key, multi))
        lines.append(
            f"After the coarse stage, the canonical Gaussians fit the key frame alone with {alone:.2f} dB, and all "
            f"frames of a group with {shared:.2f} dB."
        )
        off = {v: r["psnr"] - paper.TABLE_4[v][0] for v, r in {"V1": multi, "V2": key}.items()}
        lines.append(f"Our PSNR differs from the printed one by {off['V1']:+.2f} dB (V1) and {off['V2']:+.2f} dB (V2).")
    there = []
    for video in sequences:
        pair = [run(f"davis/{video}/{name}", profile, "cpu", make=False) for name in ("key_frame", "multi_frame")]
        there += [f"{pair[0]['psnr'] - pair[1]['psnr']:+.2f} dB on {video}"] if all(pair) else []
    if there:
        lines.append(f"On DAVIS, where the paper prints no such ablation, V2 differs from V1 by {listed(there)}.")
    return sentences(lines, profile)


def encodings(records: Records, profile: str) -> Markdown:
    """Of notebook 02: what each encoding gives on Bunny."""
    psnr, lines = {title: record["psnr"] for title, record in records.items() if record}, []

    def gain(a: str, b: str) -> float | None:
        return psnr[a] - psnr[b] if {a, b} <= set(psnr) else None

    both, printed = "2D and 3D hash", paper.TABLE_4
    if (more := gain(both, "Positional")) is not None:
        lines.append(
            f"Both hashes reach {psnr[both]:.2f} dB on Bunny, {more:+.2f} dB against the positional encoding. The "
            f"paper prints {printed['Ours'][0] - printed['V2'][0]:+.2f} dB."
        )
    for variant, title in {"V3": "2D hash alone", "V4": "3D hash alone"}.items():
        if (more := gain(title, "Positional")) is not None:
            other = printed[variant][0] - printed["V2"][0]
            word = "the same sign as" if (more > 0) == (other > 0) else "the opposite sign of"
            lines.append(
                f"The {title} changes the PSNR of the positional encoding by {more:+.2f} dB, {word} the paper's "
                f"{other:+.2f} dB."
            )
    if (more := gain(both, "Planes")) is not None:
        lines.append(f"Three feature planes instead of both hashes change the PSNR by {-more:+.2f} dB.")
    if (more := gain("Our preset", both)) is not None:
        ours, theirs = records["Our preset"], records[both]
        others = [value for title, value in psnr.items() if title != "Our preset"]
        size = "larger" if more > max(others) - min(others) else "not larger"
        lines.append(
            f"Our preset differs from both hashes by {more:+.2f} dB, with "
            f"{ours['parameters'] / theirs['parameters']:.2f} times the parameters and "
            f"{ours['seconds']['total'] / theirs['seconds']['total']:.2f} times the training time. The difference is "
            f"{size} than the one between the best and the worst encoding ({max(others) - min(others):.2f} dB)."
        )
    return sentences(lines, profile)


def systems(bunny: Records, videos: Mapping[str, Records], audit: pd.DataFrame, profile: str) -> Markdown:
    """Of notebook 03: ranks on Bunny, wins and losses over all videos, cost, and the paper's averages."""
    found, lines = {label: record for label, record in bunny.items() if record}, []
    peers = {
        label: record for label, record in found.items() if not label.startswith("ours") and "trainer" not in label
    }
    ours = {label: found[label] for label in OURS if label in found}
    if ours and peers:
        best, peer = (max(group, key=lambda label: group[label]["psnr"]) for group in (ours, peers))
        lines.append(
            f"On Bunny the best system is *{best}* with {ours[best]['psnr']:.2f} dB; the best other one is {peer} with "
            f"{peers[peer]['psnr']:.2f} dB."
            if ours[best]["psnr"] > peers[peer]["psnr"]
            else f"On Bunny {peer} is best with {peers[peer]['psnr']:.2f} dB; *{best}* has {ours[best]['psnr']:.2f} dB."
        )
        card = {
            label: r for label, r in found.items() if r["device"] == ours[best]["device"] and "trainer" not in label
        }
        quick = min(card, key=lambda label: card[label]["seconds"]["total"])
        fast = max(card, key=lambda label: card[label]["decode_fps_8bit"])
        lines += [
            f"{quick} trains fastest on Bunny: {card[quick]['seconds']['total']:.0f} s for {card[quick]['psnr']:.2f} "
            f"dB. *{best}* takes {ours[best]['seconds']['total']:.0f} s. Both ran on {ours[best]['device']}.",
            f"{fast} decodes fastest: {card[fast]['decode_fps_8bit']:,.0f} frames/s, rounded to 8 bits. *{best}* "
            f"decodes {ours[best]['decode_fps_8bit']:,.0f} frames/s.",
        ]
    won, lost = [], []
    for video, records in videos.items():
        here = {label: record["psnr"] for label, record in records.items() if record}
        others = [label for label in here if not label.startswith("ours") and "trainer" not in label]
        for label in OURS[:1] if others and OURS[0] in here else ():
            rival = max(others, key=here.get)
            won += [here[label] - here[rival]] if here[label] > here[rival] else []
            lost += [f"{video} ({rival}, {here[rival] - here[label]:.2f} dB)"] if here[label] <= here[rival] else []
    if won:
        lines.append(
            f"On {len(won)} of the {len(won) + len(lost)} other videos with records, *{OURS[0]}* is ahead of every "
            f"other method, by {min(won):.2f} to {max(won):.2f} dB{f'. It loses on {listed(lost)}' if lost else ''}."
        )
    pairs = {
        v: {la: r["psnr"] for la, r in rs.items() if la in OURS and r} for v, rs in {"Bunny": bunny, **videos}.items()
    }
    worse = [
        f"{v} ({of[OURS[2]] - of[OURS[0]]:.2f} dB)"
        for v, of in pairs.items()
        if of.get(OURS[2], 0) > of.get(OURS[0], 99)
    ]
    if worse:
        lines.append(f"*{OURS[0]}* is not our best preset everywhere: *{OURS[2]}* is ahead on {listed(worse)}.")
    lacks = [label for label, record in bunny.items() if not record]
    if lacks:
        lines.append(f"These systems have no record on Bunny and are not compared: {listed(lacks)}.")
    lines.append(
        f"{(~audit['agrees']).sum()} of {len(audit)} averages that the paper prints do not follow from its own rows."
    )
    return sentences(lines, profile)


def ablations(
    gains: pd.DataFrame, same: pd.DataFrame, hard: pd.DataFrame, seeds: pd.DataFrame, profile: str
) -> Markdown:
    """Of notebook 04: the paper's steps, one trainer for all fields, our levers, seeds."""
    lines = []
    for step, row in gains.iterrows():
        printed, ours = row.iloc[0], row.iloc[1:].dropna()
        if len(ours):
            signs = sum((value > 0) == (printed > 0) for value in ours)
            each = listed(f"{value:+.2f} on {video}" for video, value in ours.items())
            lines.append(
                f"*{str(step)[:1].upper()}{str(step)[1:]}*: {each} dB. The paper prints {printed:+.2f} dB; "
                f"{signs} of {len(ours)} signs agree."
            )
    for video in [c for c in same.columns if c in ("bunny", "blackswan", "bmx-trees", "camel")][:2]:
        column = same.set_index("representation")[video].dropna()
        if len(column) > 1:
            lines.append(
                f"With one trainer, {len(column)} representations on {named(video)} lie within "
                f"{column.max() - column.min():.2f} dB. The best is *{column.idxmax()}*, the last *{column.idxmin()}*."
            )
    gained = hard.dropna(subset=["against base"]).sort_values("against base")
    if len(gained) > 2:
        last, first = gained.iloc[0], gained.iloc[-1]
        lines.append(
            f"Of {len(gained) - 1} changes on Bunny's hardest frames, *{first['what']}* gains most "
            f"({first['against base']:+.2f} dB) and *{last['what']}* loses most ({last['against base']:+.2f} dB)."
        )
    several = seeds[seeds["seeds"] > 1]
    if len(several):
        lines.append(
            f"Over seeds the PSNR spreads by at most {several['spread'].max():.3f} dB, in {len(several)} runs that have "
            "several."
        )
    return sentences(lines, profile)


def compression(curves: Records, ours: str, rates: pd.DataFrame, source: float | None, profile: str) -> Markdown:
    """Of notebook 05: our curve against block codecs, the paper's recipe and networks."""
    lines, column = [], "in PSNR, %"
    for video, rows in rates.dropna(subset=[column]).groupby("video", sort=False):
        rows = rows.set_index("block codec")[column].sort_values()
        beaten = rows[rows < 0]
        fewer = f"fewer bits only than {listed(beaten.index)}" if len(beaten) else "fewer bits than none of them"
        lines.append(
            f"On {named(video)} our files need {rows.iloc[-1]:+.0f} % bits against {rows.index[-1]} at the same PSNR "
            f"(BD-rate). Of {len(rows)} block codecs, ours need {fewer}."
        )
    for title, record in curves.items():
        if record and "its own recipe" in title and len(record["points"]) > 1 and curves[ours]:
            value = bd(record, curves[ours])
            if value is not None:
                lines.append(f"Against *{title}*, our recipe needs {value:+.0f} % bits.")
    if source and curves[ours]:
        above = [point for point in curves[ours]["points"] if point["bpp"] > source]
        lines.append(
            f"{len(above)} of our {len(curves[ours]['points'])} files of Bunny are larger than the H.264 file that its "
            f"frames come from ({source:.3f} bits a pixel)."
        )
    known = sum(curve.dataset == "bunny" for curve in PUBLISHED)
    lines.append(
        f"{known} curves of others on Bunny are published as figures and drawn beside ours; they were not run here."
    )
    return sentences(lines, profile)


def bd(anchor: Record, record: Record) -> float | None:
    """BD-rate in percent; None where two curves share too little."""
    from stgvlib.metrics import bd_rate

    try:
        return bd_rate(rated(anchor["points"]), rated(record["points"]))
    except ValueError:
        return None


def tasks(kinds: Mapping[str, tuple[Mapping[str, Records], str]], profile: str) -> Markdown:
    """Of notebook 06. `kinds`: in words -> (dataset -> system -> record, the measure); ours against the best other."""
    from stgvlib.repro.tasks import LABELS

    lines = []
    for kind, (datasets, measure) in kinds.items():
        ahead, behind = [], []
        for dataset, records in datasets.items():
            values = {system: r.data.get(measure) for system, r in records.items() if r}
            values = {system: value for system, value in values.items() if value is not None}
            mine = {system: value for system, value in values.items() if system.startswith("stgv")}
            others = {system: value for system, value in values.items() if system not in mine}
            if mine and others:
                best, rival = max(mine, key=mine.get), max(others, key=others.get)
                gain = mine[best] - others[rival]
                (ahead if gain > 0 else behind).append((gain, f"{gain:+.2f} dB on {named(dataset)} ({LABELS[rival]})"))
        told = [f"ours is ahead of the best other method by {listed(text for _, text in ahead)}"] if ahead else []
        told += [f"ours is behind by {listed(text for _, text in behind)}"] if behind else []
        if told:
            gains = [gain for gain, _ in (*ahead, *behind)]
            lines.append(f"**{kind}**: {'; '.join(told)}; {mean(gains):+.2f} dB in the mean.")
    return sentences(lines, profile)


def quickstart(shipped: dict, fitted: dict, decoded: dict, size: int, record: Record, profile: str) -> Markdown:
    """Of notebook 00: `judge` of the file that ships, of a short fit, and of that fit from its file of `size` bytes;
    and the record of the whole video."""
    pixels = fitted["frames"] * fitted["width"] * fitted["height"]
    lines = [
        f"`bunny.stgv` shows {shipped['frames']} frames of {shipped['width']}x{shipped['height']} with "
        f"{shipped['psnr']:.2f} dB against the video that it was fitted to.",
        f"The fit of {fitted['frames']} frames of {fitted['width']}x{fitted['height']} in this notebook reaches "
        f"{fitted['psnr']:.2f} dB with {fitted['parameters']:,} parameters.",
        f"Its file has {size:,} bytes, {8 * size / pixels:.2f} bits a pixel. The decoded file has "
        f"{decoded['psnr']:.2f} dB: rounding costs {fitted['psnr'] - decoded['psnr']:.2f} dB.",
    ]
    if record:
        height, width = record["dataset"]["size"]
        lines.append(
            f"The record of all {record['frames']} frames at {width}x{height} has {record['psnr']:.2f} dB after "
            f"{record['seconds']['total']:.0f} s of fitting on {record['device']}."
        )
    return sentences(lines, profile)
