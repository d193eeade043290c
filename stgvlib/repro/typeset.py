"""Readable tables as HTML, for notebooks and Markdown on a code host, and as LaTeX with booktabs; pandas' Styler
writes both."""

import html
import re

import pandas as pd

from stgvlib.repro.layout import COMMAND, Cell, Sheet, sheet

LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
LATEX |= {"^": r"\textasciicircum{}", "\u2013": "--", "\u2212": "$-$", "\u2020": r"\textdagger{}", "\u2713": r"$\surd$"}
LATEX |= {"<": "$<$", ">": "$>$", "\u00d7": r"$\times$", "|": r"\textbar{}", "`": r"\textasciigrave{}"}
LATEX |= {"[": "{[}", "]": "{]}"}  # at the start of a row they would be an option


def _html(text: str) -> str:
    """Free text letter by letter, on lines of its own where it has them."""
    lines = [html.escape(line, quote=False).replace(COMMAND, f"<code>{COMMAND}</code>") for line in text.splitlines()]
    return "<br>".join(lines)


def _latex(text: str) -> str:
    lines = [
        "".join(LATEX.get(c, c) for c in line).replace(COMMAND, rf"\texttt{{{COMMAND}}}") for line in text.splitlines()
    ]
    return lines[0] if len(lines) == 1 else r"\shortstack[l]{" + r" \\ ".join(lines) + "}" if lines else ""


STYLES = {
    "html": (_html, {"": "{}", "bold": "<b>{}</b>", "underline": "<ins>{}</ins>"}, "<sup>{}</sup>"),
    "latex": (
        _latex,
        {"": "{}", "bold": r"\textbf{{{}}}", "underline": r"\underline{{{}}}"},
        r"\textsuperscript{{{}}}",
    ),
}


def _styler(made: Sheet, form: str):
    """A Styler of finished texts, its columns under their groups where there are any."""
    escape, styles, mark = STYLES[form]

    def finished(cell: Cell) -> str:
        marks = mark.format(",".join(escape(m) for m in cell.marks)) if cell.marks else ""
        below = "<br>" if form == "html" and len(cell.marks) > 3 else ""  # or they would widen the column
        return styles[cell.style].format(escape(cell.text)) + below + marks

    heads = [(escape(c.group), escape(c.title)) for c in made.columns]
    columns = pd.MultiIndex.from_tuples(heads) if any(g for g, _ in heads) else pd.Index([t for _, t in heads])
    rows = [[finished(cell) for cell in row] for row in made.rows]
    return pd.DataFrame(rows, columns=range(len(heads))).set_axis(columns, axis=1).style.hide(axis="index")


def to_html(made: Sheet) -> str:
    """HTML that a notebook and a code host's Markdown show alike: no style sheets, a line a row, no empty lines."""
    text = _styler(made, "html").to_html(exclude_styles=True, sparse_columns=True)
    rows = re.findall(r"<tr>(.*?)</tr>", text, re.S)
    heads = 2 if any(c.group for c in made.columns) else 1
    lines = [f"<p><b>{_html(made.layout.title)}.</b> {_html(made.layout.caption)}</p>", "<table>", "<thead>"]
    sides = ["left" if c.digits is None else "right" for c in made.columns]
    for n, row in enumerate(rows):
        cells = re.findall(r"<t[hd]\s*(colspan=\"\d+\")?[^>]*>(.*?)</t[hd]>", row, re.S)
        if n < heads:
            shown = [f'<th align="center"{span and f" {span}"}>{c.replace("&nbsp;", "")}</th>' for span, c in cells]
        else:
            shown = [f'<td align="{side}">{cell}</td>' for side, (_, cell) in zip(sides, cells, strict=True)]
        lines += ["</thead>", "<tbody>"] if n == heads else []
        lines.append(f"<tr>{''.join(shown)}</tr>")
    lines += ["</tbody>", "</table>"]
    notes = [f"<sup>{mark}</sup> {_html(text)}" if mark else _html(text) for mark, text in made.notes]
    lines += ["<p>" + "<br>\n".join(notes) + "</p>"] if notes else []
    return "\n".join(lines) + "\n"


def to_latex(made: Sheet, label: str) -> str:
    """A table environment with booktabs; as wide as the page at most."""
    caption = f"{_latex(made.layout.title)}. {_latex(made.layout.caption)}"
    sides = "".join("l" if c.digits is None else "r" for c in made.columns)
    text = _styler(made, "latex").to_latex(
        hrules=True, column_format=sides, caption=caption, label=label, position="t", multicol_align="c"
    )
    rules, start = [], 1
    for group, end in _spans([c.group for c in made.columns]):
        rules += [rf"\cmidrule(lr){{{start}-{end}}}"] * bool(group)
        start = end + 1
    text = text.replace("\\\\\n", "\\\\\n" + " ".join(rules) + "\n", 1) if rules else text
    notes = [(rf"\textsuperscript{{{_latex(mark)}}} " if mark else "") + _latex(note) for mark, note in made.notes]
    fits = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
    text = text.replace(r"\begin{tabular}", f"\\centering\n{fits}\n\\begin{{tabular}}").replace(
        r"\end{tabular}", "\\end{tabular}}\n" + "".join(f"\\par\\footnotesize {note}\n" for note in notes).rstrip("\n")
    )
    return f"% \\usepackage{{booktabs, graphicx}}\n{text}"


def _spans(groups: list[str]) -> list[tuple[str, int]]:
    """Each run of equal groups, with the number of its last column."""
    return [(g, n) for n, g in enumerate(groups, 1) if n == len(groups) or groups[n] != g]


class Table(pd.DataFrame):
    """A complete table that notebooks show as its readable one; a part with other columns is shown as it is."""

    _metadata = ["layouts"]  # from a complete table to the parts and layouts of its readable ones

    @property
    def _constructor(self) -> type:
        return Table

    def _repr_html_(self) -> str | None:
        try:
            return "\n".join(to_html(sheet(part, layout)) for part, layout in self.layouts(self))
        except (AttributeError, KeyError, TypeError):
            return super()._repr_html_()
