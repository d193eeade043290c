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
    """Of notebook 03: ranks on Bunny, cost, wins and losses over all videos, and the paper's averages."""
    found, lines = {label: record for label, record in bunny.items() if record and "trainer" not in label}, []
    psnr = {label: record["psnr"] for label, record in found.items()}
    best, peer = (_best(psnr, ours) for ours in (True, False))
    if best and peer:
        order = f"ahead of {peer}" if psnr[best] > psnr[peer] else f"behind {peer}"
        lines.append(
            f"On Bunny our best preset is *{best}* with {psnr[best]:.2f} dB, {order}, the best other system, with "
            f"{psnr[peer]:.2f} dB."
        )
        quick, second, *_ = sorted(found, key=lambda label: found[label]["seconds"]["total"])
        fast = max(found, key=lambda label: found[label]["decode_fps_8bit"])
        lines.append(
            f"The shortest training on Bunny is that of {_seconds(quick, found)}, the next that of "
            f"{_seconds(second, found)}; *{best}* takes {found[best]['seconds']['total']:.0f} s. {fast} decodes "
            f"fastest, {found[fast]['decode_fps_8bit']:,.0f} frames/s in 8 bits ({found[fast]['device']})."
        )
    won, lost, worse = [], [], []
    main, other = OURS[0], OURS[2]
    for video, records in {"Bunny": bunny, **videos}.items():
        psnr = {label: record["psnr"] for label, record in records.items() if record and "trainer" not in label}
        rival = _best(psnr, False)
        if rival and main in psnr:
            gain = psnr[main] - psnr[rival]
            won += [gain] if gain > 0 else []
            lost += [f"{video} ({rival}, {-gain:.2f} dB)"] if gain <= 0 else []
        if psnr.get(other, 0) > psnr.get(main, 99):
            worse.append(f"{video} ({psnr[other] - psnr[main]:.2f} dB)")
    if won or lost:
        by = f", by {min(won):.2f} to {max(won):.2f} dB" if won else ""
        lines.append(
            f"*{main}* is ahead of every other system with a record on {len(won)} of {len(won) + len(lost)} videos{by}"
            f"{f'. It loses on {listed(lost)}' if lost else ''}."
        )
    if worse:
        lines.append(f"*{main}* is not our best preset everywhere: *{other}* is ahead on {listed(worse)}.")
    if lacks := [label for label, record in bunny.items() if not record]:
        lines.append(f"Systems without a record on Bunny are not compared: {listed(lacks)}.")
    wrong = (~audit["agrees"]).sum()
    lines.append(f"{wrong} of {len(audit)} averages that the paper prints do not follow from its own rows.")
    return sentences(lines, profile)


def _best(psnr: Mapping[str, float], ours: bool) -> str | None:
    """The label with the highest PSNR among our presets, or among all others."""
    labels = [label for label in psnr if (label in OURS) == ours]
    return max(labels, key=psnr.get) if labels else None


def _seconds(label: str, records: Records) -> str:
    record = records[label]
    return f"{label} ({record['seconds']['total']:.0f} s, {record['psnr']:.2f} dB, {record['device']})"


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
    videos = same.set_index("representation")
    videos = videos[[video for video in ("bunny", "blackswan", "bmx-trees", "camel") if video in videos]]
    column = videos[videos.count().idxmax()].dropna()
    if len(column) > 1:
        lines.append(
            f"With one trainer, {len(column)} representations on {named(column.name)} lie within "
            f"{column.max() - column.min():.2f} dB. The best is *{column.idxmax()}*, the last *{column.idxmin()}*."
        )
    gained, several = hard.dropna(subset=["against base"]).sort_values("against base"), seeds[seeds["seeds"] > 1]
    if len(gained) > 2:
        last, first = gained.iloc[0], gained.iloc[-1]
        noise = f" Seeds spread by at most {several['spread'].max():.3f} dB." if len(several) else ""
        lines.append(
            f"Of {len(gained) - 1} changes on Bunny's hardest frames, *{first['what']}* gains most "
            f"({first['against base']:+.2f} dB) and *{last['what']}* loses most ({last['against base']:+.2f} dB)."
            f"{noise}"
        )
    return sentences(lines, profile)


def compression(curves: Records, ours: str, rates: pd.DataFrame, source: float | None, profile: str) -> Markdown:
    """Of notebook 05: our curve against block codecs and the paper's recipe, and the rate of the source."""
    lines, column = [], "in PSNR, %"
    for video, rows in rates.dropna(subset=[column]).groupby("video", sort=False):
        needed = rows.set_index("block codec")[column].sort_values()
        beaten = listed(needed[needed < 0].index) if (needed < 0).any() else "none of them"
        lines.append(
            f"On {named(video)} our files need {_more(needed.iloc[-1])} than {needed.index[-1]} at the same PSNR "
            f"(BD-rate). Among the {len(needed)} block codecs with a curve, ours needs fewer bits than {beaten}."
        )
    recipes = {title: r for title, r in curves.items() if r and "its own recipe" in title and len(r["points"]) > 1}
    against = {title: bd(record, curves[ours]) for title, record in recipes.items() if curves[ours]}
    against = {title: value for title, value in against.items() if value is not None}
    if against:
        best = max(against, key=against.get)
        lines.append(
            f"Our recipe needs {_more(against[best])} than *{best}*, the best of {len(against)} comparable curves "
            "of the paper's recipe."
        )
    if source and curves[ours]:
        above = [point for point in curves[ours]["points"] if point["bpp"] > source]
        lines.append(
            f"{len(above)} of our {len(curves[ours]['points'])} files of Bunny are larger than the H.264 file that its "
            f"frames come from ({source:.3f} bits a pixel)."
        )
    return sentences(lines, profile)


def _more(percent: float) -> str:
    return f"{abs(percent):.0f} % {'more' if percent > 0 else 'fewer'} bits"


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
                (ahead if gain > 0 else behind).append(
                    (gain, f"{abs(gain):.2f} dB on {named(dataset)} ({LABELS[rival]})")
                )
        told = [f"ours is ahead of the best other method by {listed(text for _, text in ahead)}"] if ahead else []
        told += [f"ours is behind the best other method by {listed(text for _, text in behind)}"] if behind else []
        if told:
            gains = [gain for gain, _ in (*ahead, *behind)]
            lines.append(f"**{kind}**: {'; '.join(told)}. The mean difference is {mean(gains):+.2f} dB.")
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
