"""Records that are damaged, were edited, or hold markup.

| case | source | test |
|---|---|---|
| `[]`, `5`, nesting, NaN, other bytes: tracebacks | FAULTS 7 | test_a_file_that_is_no_record_is_named_everywhere |
| a PSNR that was typed in | FAULTS 7 | test_a_record_that_was_edited_..., test_status_counts_... |
| `|` and markup of a device's name in Markdown | FAULTS 7 | test_free_text_is_no_markup |
"""

import json
import re

import pandas as pd
import pytest
from small_runs import run

from stgvlib.errors import StgvError
from stgvlib.repro import documents, fits, layout, tables, typeset, work
from stgvlib.repro.__main__ import status
from stgvlib.repro.records import NotRun, escaped, load_record, save_record


@pytest.mark.parametrize(
    "edit, reason",
    [
        (lambda text: "{", "static.json is no JSON"),
        (lambda text: re.sub(r'"psnr": [0-9.]+', '"psnr": 99.0', text), "was edited, its checksum differs"),
    ],
)
def test_a_record_that_was_edited_is_named_and_left_alone(results, edit, reason):
    path = run("bunny/static").path
    path.write_text(edit(path.read_text()))
    record, text = run("bunny/static"), path.read_text()
    assert not record and reason in record.reason and "run it again with refresh" in record.reason
    table = tables.run_table(["bunny/static"], "smoke", "cpu", "edited")
    assert pd.isna(table.loc[0, "PSNR"]) and reason in table.loc[0, "note"] and path.read_text() == text
    assert run("bunny/static", refresh=True)["psnr"] < 50


@pytest.mark.parametrize(
    "content, reason",
    [
        ("[]", "holds a list, expected an object"),
        ("5", "holds a int, expected an object"),
        ("null", "holds a NoneType, expected an object"),
        ("[" * 100_000, "is no JSON (maximum recursion depth"),
        ('{"a":' * 900 + "1" + "}" * 900, "lacks psnr"),
        ('{"psnr": NaN}', "is no JSON (NaN is no number of JSON)"),
        ('{"psnr": 40.0, "x": -Infinity}', "is no JSON (-Infinity is no number of JSON)"),
        ('{"psnr": "good"}', "has 'good' as psnr, expected float"),
        ('{"psnr": true}', "has True as psnr, expected float"),
        ('{"psnr": 1.0, "dataset": {"name": "bunny"}}', "lacks dataset.size"),
        ('{"psnr": 1.0, "dataset": "bunny"}', "lacks dataset.size"),
        ('{"psnr": 1.0, "dataset": {"size": 4}}', "has 4 as dataset.size, expected list"),
        (b"\xff\xfe\xfa", "is no JSON"),
        (None, "cannot be read (Is a directory)"),
    ],
)
def test_a_file_that_is_no_record_is_named_everywhere(results, content, reason, monkeypatch):
    """By what loads a record, estimates costs, reports and fills documents."""
    path = results / "runs" / "mine" / "clip" / "x.json"
    path.parent.mkdir(parents=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    data, damage = load_record(path, {"psnr": float, "dataset.size": list})
    assert data is None and reason in damage and damage.startswith("x.json ") and "\n" not in damage
    assert work.Costs("smoke").of("bunny/paper") is None
    (record,) = fits.own_records("smoke")
    assert not record and record.reason.startswith("x.json ")
    assert tables.report("smoke").loc[0, "note"] == record.reason
    if "psnr" not in reason and "dataset" not in reason:  # documents need no more than the number
        monkeypatch.setattr(documents, "repository", lambda: results)
        there = results / "results/paper/runs"
        there.parent.mkdir(parents=True)
        (results / "runs/mine").rename(there)
        with pytest.raises(StgvError, match=re.escape(reason)):
            documents.value("clip/x:psnr")


def test_a_result_that_is_not_finite_is_not_kept(results):
    with pytest.raises(NotRun, match="a number of its result is not finite"):
        save_record("x", results / "x.json", {"psnr": float("nan")})
    assert not results.exists()


def test_status_counts_records_without_checksums(results, monkeypatch, capsys):
    made = run("bunny/static")
    monkeypatch.setattr(work, "experiments", lambda _: [made.name])
    status("smoke")
    assert capsys.readouterr().out == "1 valid records: 1 of today's code, 0 of other code\n"
    old = {key: value for key, value in made.data.items() if key != "checksum"}
    made.path.write_text(json.dumps(old | {"psnr": 99.0}))
    status("smoke")
    assert "1 of them are older than checksums: numbers changed by hand are not noticed" in capsys.readouterr().out
    made.path.write_text(json.dumps(made.data | {"psnr": 99.0}))
    status("smoke")
    assert "not valid: bunny/static: static.json was edited, its checksum differs" in capsys.readouterr().out


def test_free_text_is_no_markup(results, monkeypatch):
    """A device's name, as tables and documents show it; ordinary text stays as it is."""
    device = "GPU | 80 GB\n<img src=x> `rm` [a](http://b) *c* R&D \\"
    shown = "GPU \\| 80 GB &lt;img src=x&gt; \\`rm\\` \\[a\\](http://b) \\*c\\* R&amp;D \\\\"
    frame = pd.DataFrame([{"run": device, "PSNR": 40.0}])
    text = typeset.to_html(layout.sheet(frame, layout.Layout("x", "", (layout.Column("run", "run", wrap=99),))))
    assert "GPU | 80 GB &lt;img src=x&gt; `rm` [a](http://b) *c* R&amp;D \\</td>" in text
    save_record("x", results / "results/paper/runs/x.json", {"device": device, "psnr": 40.0})
    monkeypatch.setattr(documents, "repository", lambda: results)
    assert documents.value("x:device | s") == shown and documents.value("x:psnr | .1f") == "40.0"
    plain = "NVIDIA H100 80GB HBM3, 2 cores (a_b/c-d) 100 %"
    assert escaped(plain) == plain
