"""Readable tables: no wider than a page, honest marks, LaTeX that holds together.

Widths are those of GitHub's Markdown at 16 px: letters and digits of its sans-serif font are about 8.2 px wide on
average, marks 6 px, and a cell has 26 px of padding and a border.
"""

import html
import re

import numpy as np
import pandas as pd
import pytest

from stgvlib.files import repository
from stgvlib.repro import layouts, typeset
from stgvlib.repro.layout import COMMAND, DAGGER, DASH, Column, Layout, sheet

PAGE, CHARACTER, MARK, PADDING = 858, 8.2, 6.0, 27
TABLES = repository() / "results/paper/tables"
NAMES = sorted(path.stem for path in TABLES.glob("*.csv"))
ROW = re.compile(r"<tr>(.*?)</tr>", re.S)
CELL = re.compile(r'<t[hd][^>]*?(?: colspan="(\d+)")?>(.*?)</t[hd]>', re.S)


def width(table):
    """Pixels of a table: of each column its longest line, or what a header above several needs."""
    columns, wide = {}, []
    for row in ROW.findall(table):
        place = 0
        for span, cell in CELL.findall(row):
            pixels = PADDING + max(map(line_width, cell.split("<br>")))
            if span:
                wide.append((range(place, place + int(span)), pixels))
            else:
                columns[place] = max(columns.get(place, 0), pixels)
            place += int(span or 1)
    return sum(columns.values()) + sum(max(0, w - sum(columns[n] for n in span)) for span, w in wide)


def line_width(line):
    marks = "".join(re.findall(r"<sup>(.*?)</sup>", line))
    text = html.unescape(re.sub(r"<sup>.*?</sup>|<[^>]+>", "", line))
    return len(text) * CHARACTER + len(marks) * MARK


def cells(line):
    """Cells of a row of LaTeX: `&` within braces or behind a backslash parts none, \\multicolumn counts for several."""
    depth, found = 0, [""]
    for token in re.findall(r"\\.|[^\\]", line, re.S):
        depth += (token == "{") - (token == "}")
        assert depth >= 0, line
        if token == "&" and not depth:
            found.append("")
        else:
            found[-1] += token
    assert depth == 0, line
    return sum(int((re.match(r"\s*\\multicolumn\{(\d+)\}", cell) or [0, 1])[1]) for cell in found)


@pytest.mark.parametrize("name", NAMES)
def test_no_table_is_wider_than_the_page(name):
    tables = re.findall(r"<table>.*?</table>", (TABLES / f"{name}.md").read_text(), re.S)
    assert tables and max(map(width, tables)) <= PAGE


@pytest.mark.parametrize("name", NAMES)
def test_latex_holds_together(name):
    """Balanced braces and environments, as many cells a row as columns, nothing that LaTeX takes for a command."""
    text = (TABLES / f"{name}.tex").read_text()
    assert text.isascii(), re.findall(r"[^\x00-\x7f]", text)
    body = re.sub(r"^%.*\n", "", text, flags=re.M)
    plain = re.sub(r"\\[\\{}&%$#_]", "", body)
    assert plain.count("{") == plain.count("}") and plain.count("$") % 2 == 0
    assert not re.search(r"[#^~]", plain) and not re.search(r"(?<!\\)%(?!\n)", plain)
    for kind in ("table", "tabular"):
        assert text.count(rf"\begin{{{kind}}}") == text.count(rf"\end{{{kind}}}") > 0
    for columns, rows in re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.S):
        lines = [line for line in rows.split("\\\\\n") if not line.strip().startswith(r"\bottomrule")]
        for line in lines:
            line = re.sub(r"\\(toprule|midrule|cmidrule\(lr\)\{[\d-]+\})\s*", "", line)
            assert cells(line) == len(columns), line


@pytest.mark.parametrize("name", NAMES)
def test_files_are_made_from_the_complete_table(name):
    """Nothing was changed by hand: the CSV alone gives the readable table."""
    frame = pd.read_csv(TABLES / f"{name}.csv")
    whole = [c for c in ("parameters", "Gaussians", "GoPs", "steps", "frames", "bytes") if c in frame]
    frame[whole] = frame[whole].astype("Int64")
    sheets = [sheet(part, layout) for part, layout in layouts.layout_of(name, frame)]
    assert "\n".join(map(typeset.to_html, sheets)) == (TABLES / f"{name}.md").read_text()


COLUMNS = (Column("system", "system"), Column("paper", "paper", "PSNR, dB", 2, "max"))
COLUMNS += (Column("ours", "ours", "PSNR, dB", 2, "max", True), Column("time", "s", digits=1, best="min"))


def made(rows, columns=COLUMNS, **more):
    return sheet(pd.DataFrame(rows), Layout("A title", "A caption", columns, **more))


def row(system, paper=None, ours=None, time=None, note="", **more):
    values = {"paper": paper, "ours": ours, "time": time}
    return {"system": system, **{k: np.nan if v is None else v for k, v in values.items()}, "note": note, **more}


def test_best_and_second_are_among_cells_that_may_be_compared():
    """A mean of fewer videos is not compared, however high; equal figures as printed share their place."""
    rows = [row("a", 30, 31.001, 2), row("b", 32, 33, 3), row("c", 31, 33.004, 1)]
    rows.append(row("d", ours=40, note="mean of 1 of 6 videos"))
    styles = [[cell.style for cell in line] for line in made(rows).rows]
    assert styles == [
        ["", "", "underline", "underline"],
        ["", "bold", "bold", ""],
        ["", "underline", "bold", "bold"],
        ["", "", "", ""],
    ]
    apart = made(rows[:2], within=("system",))
    assert not any(cell.style for line in apart.rows for cell in line)


def test_reasons_and_devices_are_footnotes_and_an_empty_cell_a_dash():
    rows = [row("a", 30, 31, note="cows: stand-in", device="a card"), row("b", 32, 33, note="cows: stand-in")]
    rows += [row("c", 31, note="not run; cows: stand-in"), row("d", note="no GPU"), row("e", note="no GPU")]
    shown = made(rows)
    assert [cell.text for cell in shown.rows[2]] == ["c", "31.00", DASH]  # a column without values is left out
    assert [line[0].marks for line in shown.rows] == [["1"], [], ["2"]]
    notes = [f"{mark} {text}".strip() for mark, text in shown.notes]
    assert notes[:3] == ["1 Measured on a card.", "2 Not run.", "All rows: cows: stand-in."]
    assert notes[-1] == "Rows without a value: d; e (no GPU)."
    text = typeset.to_html(shown)
    assert '<th align="center" colspan="2">PSNR, dB</th>' in text and "\n\n" not in text
    assert "<b>A title.</b> A caption" in text and '<td align="left">c<sup>2</sup></td>' in text


def test_outdated_records_are_said_once():
    """A dagger a row or cell; one sentence where it holds for all."""
    rows = [row("a", 30, 31, 1, outdated="all"), row("b", 32, 33, 2, outdated="ours"), row("c", 31, outdated="")]
    shown = made(rows)
    assert shown.rows[0][0].marks == [DAGGER] and shown.rows[1][2].marks == [DAGGER] and not shown.rows[1][3].marks
    assert [mark for mark, text in shown.notes if COMMAND in text] == [DAGGER]
    shown = made([*rows[:1], rows[1] | {"outdated": "all"}, rows[2]])
    assert not any(cell.marks for line in shown.rows for cell in line)
    assert [text for _, text in shown.notes if COMMAND in text][0].startswith("All records")


def test_free_text_is_escaped_in_both_formats():
    name = "<b>a_b</b> & 50 % {x} \\ ^ ~ # $ `c`"
    shown = made([row(name, 30), row("b", 31)])
    assert "&lt;b&gt;a_b&lt;/b&gt; &amp; 50 % {x}" in typeset.to_html(shown)
    text = typeset.to_latex(shown, "tab:x")
    assert r"$<$b$>$a\_b$<$/b$>$ \& 50 \% \{x\}" in text and r"\label{tab:x}" in text and r"\cmidrule" in text


def test_a_notebook_shows_the_readable_table():
    """A part with other columns is shown as it is, and the complete table stays a data frame."""
    table = typeset.Table([row("a", 30, 31, 1), row("b", 32, 33, 2)])
    table.layouts = lambda frame: [(frame, Layout("A title", "", COLUMNS))]
    assert "<b>A title.</b>" in table._repr_html_() and "<b>A title.</b>" in table[table["ours"] > 32]._repr_html_()
    assert "A title" not in table.set_index("system")._repr_html_() and list(table["ours"]) == [31, 33]
