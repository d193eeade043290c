"""Fill the numbers and tables of README.md and docs/ from records, in place: documents are made, not typed.

A number:   <!--{{bunny/stgv:psnr | .2f}}-->40.80<!--/-->
A table:    <!--table                                   (its template, then what it gives, then the end mark)
            | | PSNR, dB |
            |---|---|
            for paper="preset `paper`" stgv="preset `stgv`": | $2 | {{bunny/$1:psnr}} |
            -->
            ...
            <!--/table-->
Or `<!--table file=levers-->` for results/paper/tables/levers.md, `<!--table step-->` for that of profile_step.py.

A reference is a record below results/paper/runs and a path into it, or a cell of a table, with _ for spaces:
bunny/rate_stgv:points.2.bytes, bd_rates.csv:ROW:COLUMN. `*` stands for every record that fits, or every item of a list:
davis/*/stgv:psnr, bunny/rate_stgv:points.*.psnr. Around references stand + - * / ( ), item by item where there are
several, and mean, min, max, abs, round, bd_rate(ANCHOR:points, CURVE:points) in percent, bd_rate_yuv, bd_rate_ms_ssim.
benchmark("decode to uint8", "16 a call") is a value of benchmarks/results.csv: its name, and what else its row has. In
a table a value without a record is empty.
"""

import ast
import csv
import operator
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from statistics import mean

import numpy as np

from stgvlib.errors import StgvError
from stgvlib.files import repository
from stgvlib.metrics import bd_rate
from stgvlib.repro.curve_tables import rated
from stgvlib.repro.records import escaped, load_record

DOCUMENTS = ("README.md", "data/README.md", "docs/*.md")
REFERENCE = re.compile(r"[\w*][\w*/-]*(?:\.csv|\.seed\d)?:(?:[\w.-]|(?<=\.)\*|,_|:|%)+")
NUMBER = re.compile(r"(<!--\{\{(.+?)\}\}-->)(.*?)(<!--/-->)")
TABLE = re.compile(r"^( *)<!--table(.*?)-->\n.*?^ *<!--/table-->$", re.S | re.M)
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def benchmark(name: str, *others: str) -> float:
    """The value of the one row of benchmarks/results.csv of this name whose configuration or device has all others."""
    with (repository() / "benchmarks/results.csv").open(newline="") as file:
        named = [row for row in csv.DictReader(file) if row["name"] == name]
    rows = [row for row in named if all(other in row["config"] or other in row["device"] for other in others)]
    if len(rows) != 1:
        raise NoRecord(f"benchmarks/results.csv has {len(rows)} rows of {', '.join((name, *others))}")
    return float(rows[0]["value"])


FUNCTIONS: dict[str, Callable] = {
    **{"benchmark": benchmark, "mean": mean, "min": min, "max": max, "abs": abs, "round": round},
    **{
        f"bd_rate{suffix}": lambda *curves, measure=measure: bd_rate(*(rated(curve, measure) for curve in curves))
        for suffix, measure in {"": "psnr", "_yuv": "psnr_yuv", "_ms_ssim": "ms_ssim"}.items()
    },
}


class NoRecord(StgvError):
    """A reference to a record that does not exist."""


def main(check: bool = False) -> int:
    """Fill every document; returns the exit status. With `check` nothing is written, and a difference gives 1.

    Raises StgvError that names file and line of an expression that cannot be filled.
    """
    root, stale = repository(), []
    for path in sorted(p for pattern in DOCUMENTS for p in root.glob(pattern)):
        text = path.read_text()
        made = fill(text, str(path.relative_to(root)))
        if made != text:
            stale.append(path.relative_to(root))
            pairs = zip(text.splitlines(), made.splitlines())
            line = next((n for n, (a, b) in enumerate(pairs, 1) if a != b), len(made.splitlines()))
            print(f"{stale[-1]}:{line} {'differs from' if check else 'filled from'} the records")
            if not check:
                path.write_text(made)
    if stale and check:
        print("fill the documents: python -m stgvlib.repro documents", file=sys.stderr)
    return int(check and bool(stale))


def fill(text: str, name: str = "text") -> str:
    """A document with its numbers and tables as records give them now."""

    def located(match: re.Match, make: Callable[[], str]) -> str:
        try:
            return make()
        except StgvError as error:
            raise StgvError(f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {error}") from error

    def table(match: re.Match) -> str:
        indent, template = match.groups()
        rows = located(match, lambda: _table(template)).strip().splitlines()
        body = "\n".join(indent + row.strip() if row.strip() else "" for row in rows)
        return f"{indent}<!--table{template}-->\n{body}\n{indent}<!--/table-->"

    def number(match: re.Match) -> str:
        before = text[text.rfind("\n", 0, match.start()) + 1 : match.start()].strip()
        if not before:
            raise StgvError(f"{name}: {match[1]} begins a line, which Markdown takes for a block: put a word before it")
        if before.startswith("|") and "|" in match[2]:
            raise StgvError(f"{name}: {match[1]} is in a table, which Markdown splits at its '|': make it a <!--table")
        return match[1] + located(match, lambda: value(match[2])) + match[4]

    text = TABLE.sub(table, text)
    return NUMBER.sub(number, text)


def value(expression: str, empty: bool = False) -> str:
    """An expression's value as text: "bunny/stgv:psnr - bunny/paper:psnr | .2f". With `empty`, "" without a record."""
    formula, _, form = expression.partition("|")
    found: list = []

    def refer(match: re.Match) -> str:
        found.append(lookup(match[0]))
        return f"_{len(found) - 1}"

    try:
        tree = ast.parse(REFERENCE.sub(refer, formula).strip(), mode="eval").body
        made = _evaluate(tree, found)
        return format(escaped(made) if isinstance(made, str) else made, form.strip() or ".2f")
    except NoRecord:
        if empty:
            return ""
        raise
    except (SyntaxError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise StgvError(f"{{{{{expression.strip()}}}}} cannot be filled: {error}") from error


def lookup(reference: str):
    """What a reference stands for: a number or text, or with `*` an array."""
    path, _, keys = reference.partition(":")
    if path.endswith(".csv"):
        return _cell(path, *keys.replace("_", " ").split(":"))
    runs = repository() / "results/paper/runs"
    files = sorted(runs.glob(f"{path}.json"))
    if not files:
        raise NoRecord(f"{reference} names no record below results/paper/runs")
    values = []
    for file in files:
        try:
            values += _items(_read(file), keys.split("."))
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise NoRecord(f"{reference}: {file.stem}.json has no {keys}") from error
    return np.array(values) if "*" in reference else values[0]


def _items(value, keys: list[str]) -> list:
    """The value below a path of keys; of a list a key `*` takes every item."""
    if not keys:
        return [value]
    if keys[0] == "*":
        return [item for part in value for item in _items(part, keys[1:])]
    return _items(value[int(keys[0]) if isinstance(value, list) else keys[0]], keys[1:])


@lru_cache
def _read(file: Path) -> dict:
    record, damage = load_record(file)
    if damage:
        raise StgvError(damage)
    return record


def _cell(name: str, row: str, column: str) -> float:
    with (repository() / "results/paper/tables" / name).open(newline="") as file:
        rows = [line for line in csv.DictReader(file) if next(iter(line.values())) == row]
    if not rows or column not in rows[0] or not rows[0][column]:
        raise NoRecord(f"{name} has no cell {row!r}, {column!r}")
    return float(rows[0][column])


def _evaluate(node: ast.expr, found: list):
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str)):
        return node.value
    if isinstance(node, ast.Name) and re.fullmatch(r"_\d+", node.id):
        return found[int(node.id[1:])]
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_evaluate(node.left, found), _evaluate(node.right, found))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand, found)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        values = [_evaluate(argument, found) for argument in node.args]
        return FUNCTIONS[node.func.id](*([values] if node.func.id == "mean" and len(values) > 1 else values))
    raise ValueError(f"{ast.unparse(node)!r} is not allowed")


def _table(template: str) -> str:
    if template.strip().startswith("file="):
        path = repository() / "results/paper/tables" / f"{template.strip().removeprefix('file=')}.md"
        if not path.is_file():
            raise StgvError(f"{path.name} is not among results/paper/tables")
        return path.read_text()
    if template.strip() == "step":
        script = [sys.executable, str(repository() / "benchmarks/profile_step.py"), "table"]
        return subprocess.run(script, capture_output=True, text=True, check=True).stdout
    rows = []
    for line in template.strip().splitlines():
        items, row = [""], line.strip()
        if row.startswith("for "):
            head, _, row = row.removeprefix("for ").partition(": |")
            row = f"|{row}"
            try:
                items = shlex.split(head)
            except ValueError as error:
                raise StgvError(f"the row 'for {head}: |...' cannot be read: {error}") from error
        for item in items:
            first, _, second = item.partition("=")
            cells = row.replace("$1", first).replace("$2", second or first)
            filled = re.sub(r"\{\{(.+?)\}\}", lambda m: value(m[1], empty=True), cells)
            rows.append(filled.replace(" ()", ""))  # of a number in brackets without a record
    return "\n".join(rows)
