"""A complete table made readable: the same layout as HTML (notebooks, Markdown files) and as LaTeX with booktabs.

A complete table (tables.py) has a column for everything, with notes, devices and marks of outdated records in columns
of their own. Here those become numbered footnotes, an empty cell a dash, rows without any value one line; numbers have
fixed decimals, and the best of a column is bold, the second best underlined, among cells that may be compared alone.
Which columns a table shows, under which headers: layouts.py. Both formats: typeset.py.
"""

import re
import textwrap
from dataclasses import dataclass, field

import pandas as pd

DASH, DAGGER = "\u2013", "\u2020"
COMMAND = "python -m stgvlib.repro status"
OUTDATED = f"made by other code than today's: {COMMAND} lists commits"
FRAMES = re.compile(r"stand-in|times as dense|^mean of \d+ of \d+ videos")  # notes on which rows must agree


@dataclass(frozen=True)
class Column:
    """A column to show."""

    source: str  # its name in the complete table
    title: str
    group: str = ""  # header above, shared with its neighbours
    digits: int | None = None  # decimals; None: text
    best: str = ""  # "max" or "min": mark the best and the second best
    alike: bool = False  # compare only rows on the same frames, as their notes say
    scale: float = 1.0  # to the unit of its header
    signed: bool = False
    wrap: int = 30  # characters a line of text


@dataclass(frozen=True)
class Layout:
    """How a complete table is shown."""

    title: str
    caption: str
    columns: tuple[Column, ...]
    labels: int = 1  # so many of the first columns name a row
    within: tuple[str, ...] = ()  # rows are compared with those alone that agree in these columns


@dataclass
class Cell:
    """One cell."""

    text: str
    style: str = ""  # "bold" or "underline"
    marks: list[str] = field(default_factory=list)


@dataclass
class Sheet:
    """A readable table, before it is HTML or LaTeX."""

    layout: Layout
    columns: list[Column]
    rows: list[list[Cell]]
    notes: list[tuple[str, str]]  # (mark, text)


def sheet(frame: pd.DataFrame, layout: Layout) -> Sheet:
    """Lay out a complete table. Raises KeyError where a label's column is missing."""
    labels = list(layout.columns[: layout.labels])
    if missing := [c.source for c in labels if c.source not in frame]:
        raise KeyError(missing)
    shown = [c for c in layout.columns[layout.labels :] if c.source in frame and frame[c.source].map(_filled).any()]
    numbers = [c for c in shown if c.digits is not None]
    empty = [c for c in layout.columns[layout.labels :] if c not in shown and c.source in frame]
    frame = frame.reset_index(drop=True)
    there = frame[[c.source for c in numbers]].map(_filled).any(axis=1) if numbers else frame.index == frame.index
    gone, frame = frame[~there], frame[there].reset_index(drop=True)
    parts = [_parts(row) for _, row in frame.iterrows()]
    same = {c: _text(frame[c.source][0], c) for c in numbers if not c.best and _constant(frame[c.source], c)}
    shown = [c for c in shown if c not in same]
    styles = {c.source: _ranked(frame, c, layout.within, parts) for c in numbers if c.best}
    old = frame["outdated"].astype(object).fillna("").astype(str) if "outdated" in frame else pd.Series("", frame.index)
    stale = [_stale(row, which, labels, numbers) for (_, row), which in zip(frame.iterrows(), old)]
    everywhere = sum(map(bool, stale)) > 1 and all(all(cells.values()) for cells in stale)
    marked, notes = _footnotes(parts)
    rows = []
    for n, row in frame.iterrows():
        cells = [Cell(_text(row[c.source], c), styles.get(c.source, {}).get(n, "")) for c in (*labels, *shown)]
        whole = stale[n] and all(stale[n].values())
        cells[layout.labels - 1].marks += marked[n] + ([DAGGER] if whole and not everywhere else [])
        for cell, column in zip(cells[layout.labels :], shown):
            cell.marks += [DAGGER] if stale[n].get(column.source) and not whole else []
        rows.append(cells)
    for above, row in reversed(list(zip(rows, rows[1:]))):  # a block's name once
        for n in range(layout.labels - 1):
            if [c.text for c in above[: n + 1]] == [c.text for c in row[: n + 1]]:
                row[n].text = ""
    notes += [("", f"{_name(c)}: {text} in all rows.") for c, text in same.items()]
    notes += [("", f"Columns without a value: {'; '.join(map(_name, empty))}.")] if empty else []
    notes += _legend(rows, labels + shown)
    notes += [("", f"All records: {OUTDATED}.")] if everywhere else []
    notes += [(DAGGER, f"Record {OUTDATED}.")] if any(DAGGER in cell.marks for row in rows for cell in row) else []
    return Sheet(layout, labels + shown, rows, notes + _absent(gone, labels))


def _filled(value) -> bool:
    return not pd.isna(value) and value != ""


def _name(column: Column) -> str:
    return " ".join(f"{column.group} {column.title}".replace("-\n", "").split())


def _constant(values: pd.Series, column: Column) -> bool:
    return len(values) > 2 and len({_text(value, column) for value in values}) == 1


def _stale(row: pd.Series, which: str, labels: list[Column], numbers: list[Column]) -> dict[str, bool]:
    """A row's measured numbers, and whether the record of each is outdated."""
    if "paper" in [row[c.source] for c in labels]:
        return {}
    ours = [c.source for c in numbers if "paper" not in (c.title, c.group) and _filled(row[c.source])]
    return {source: which == "all" or f", {source}, " in f", {which}, " for source in ours}


def _text(value, column: Column) -> str:
    if not _filled(value):
        return DASH
    if column.digits is None:
        lines = textwrap.wrap(str(value).replace("_", "_ "), column.wrap, break_on_hyphens=False)
        return "\n".join(lines).replace("_ ", "_")
    number = round(float(value) * column.scale, column.digits) + 0.0  # no negative zero
    return f"{number:{'+' if column.signed else ''},.{column.digits}f}".replace("-", "\u2212")


def _parts(row: pd.Series) -> list[str]:
    """What is to be said of a row: the parts of its note, and its device."""
    note, device = (row.get(name) for name in ("note", "device"))
    said = str(note).split("; ") if _filled(note) else []
    return said + ([f"measured on {' '.join(str(device).split())}"] if _filled(device) else [])


def _ranked(frame: pd.DataFrame, column: Column, within: tuple[str, ...], parts: list[list[str]]) -> dict[int, str]:
    """Rows of the best and the second best value, as they are printed, among rows that may be compared."""
    groups: dict[tuple, dict[int, float]] = {}
    for n, value in frame[column.source].items():
        if _filled(value):
            said = [p for p in parts[n] if FRAMES.search(p)]
            key = tuple(str(frame.at[n, name]) for name in within), tuple(said) if column.alike else ()
            groups.setdefault(key, {})[n] = round(float(value) * column.scale, column.digits)
    largest: dict[tuple, dict[int, float]] = {}
    for (apart, _), values in groups.items():
        largest[apart] = max(largest.get(apart, {}), values, key=len)
    styles = {}
    for values in largest.values():
        order = sorted(set(values.values()), reverse=column.best == "max")
        if len(values) > 1 and len(order) > 1:
            names = dict(zip(order, ("bold", "underline") if len(values) > 2 else ("bold",)))
            styles |= {n: names[value] for n, value in values.items() if value in names}
    return styles


def _footnotes(parts: list[list[str]]) -> tuple[list[list[str]], list[tuple[str, str]]]:
    """(numbers of each row, footnotes): what the same rows say is one footnote, what all say has no number."""
    said: dict[str, list[int]] = {}
    for n, row in enumerate(parts):
        for part in dict.fromkeys(row):
            said.setdefault(part, []).append(n)
    together: dict[tuple[int, ...], list[str]] = {}
    for part, rows in said.items():
        together.setdefault(tuple(rows), []).append(part)
    marked: list[list[str]] = [[] for _ in parts]
    notes, general = [], []
    for rows, texts in together.items():
        text = "; ".join(texts)
        text = f"{text[0].upper()}{text[1:]}." if re.match("[a-z]+ ", text) else f"{text}."
        if len(rows) == len(parts):
            general.append(("", text if len(parts) == 1 else f"All rows: {text[0].lower()}{text[1:]}"))
            continue
        notes.append((str(len(notes) + 1), text))
        for n in rows:
            marked[n].append(notes[-1][0])
    return marked, [*notes, *general]


def _legend(rows: list[list[Cell]], columns: list[Column]) -> list[tuple[str, str]]:
    """What dashes, bold and underlined numbers mean in this table."""
    empty = [column for n, column in enumerate(columns) if any(row[n].text == DASH for row in rows)]
    kinds = {"paper": "not printed there", "difference": "one is missing or on other frames than the paper's"}
    said = [
        f'under "{kind}", {why}'
        for kind, why in kinds.items()
        if any(kind in (c.source, c.title, c.group) for c in empty)
    ]
    if [c for c in empty if c.digits is not None and not {c.source, c.title, c.group} & set(kinds)]:
        said.append("else" * bool(said) + " no record or not measured".lstrip(" " * (not said)))
    legend = [("", f"{DASH}: {'; '.join(said)}.")] if said else []
    if any(cell.style for row in rows for cell in row):
        alike = " among rows on the same frames" if any(c.alike for c in columns) else ""
        legend.append(("", f"Bold: the best of a column{alike}; underlined: the second best."))
    return legend


def _absent(gone: pd.DataFrame, labels: list[Column]) -> list[tuple[str, str]]:
    """One line for the rows without a value, by their reason."""
    reasons: dict[str, dict[str, None]] = {}
    for _, row in gone.iterrows():
        name = ", ".join(str(row[c.source]) for c in labels if c.source != "measure")
        reasons.setdefault("; ".join(_parts(row)) or "no record", {})[name] = None
    said = [f"{'; '.join(names)} ({reason})" for reason, names in reasons.items()]
    return [("", f"Rows without a value: {'; '.join(said)}.")] if said else []
