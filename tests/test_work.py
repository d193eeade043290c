"""Missing records: listed with what they cost, and made by workers, of which one may die."""

import json

import pytest

from stgvlib.errors import StgvError
from stgvlib.repro import work
from stgvlib.repro.__main__ import main

DIES = """
import os
from dataclasses import replace
from stgvlib.baselines import GaussianSystem, register
from stgvlib.config import STGV

class Dies(GaussianSystem):
    def fit(self, *_, **__):
        os._exit(1)

register(Dies("dies", "A method whose process ends", "for a test", replace(STGV, preset="dies")))
"""


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("STGV_RESULTS", str(tmp_path))
    return tmp_path / "smoke" / "runs"


def test_a_worker_that_dies_costs_its_run_alone(results, tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason="needs the extra cluster")
    plugin = tmp_path / "dies.py"
    plugin.write_text(DIES)
    monkeypatch.setenv("STGV_SYSTEMS", str(plugin))  # for the workers
    monkeypatch.setattr(work, "experiments", lambda _: pytest.fail("names were given"))
    monkeypatch.setattr(work, "record_of", lambda *_, **__: None)  # here, where the plugin is not known
    said, wanted = [], ["tasks/noise_black/bunny/median", "tasks/noise_black/bunny/uniform", "bunny/dies"]
    failed = work.run_missing(wanted, "smoke", "cpu", workers=2, say=said.append)
    assert failed == ["bunny/dies"] and len(said) == 3
    assert any("bunny/dies: its worker died" in line for line in said)
    for name in wanted[:2]:
        record = json.loads((results / f"{name}.json").read_text())
        assert record["psnr"] > 20 and record["sources"] and record["versions"]["opencv"]


def test_what_is_missing_has_a_cost_and_a_reason(results, monkeypatch):
    names = work.experiments("smoke")
    assert {"bunny/stgv", "bunny/rate_stgv", "bunny/anchor_x265", "tasks/between/bunny/flow"} <= set(names)
    assert not [name for name in names if name.startswith("davis/cows/")], "smoke takes the first sequence"
    few = ["bunny/stgv", "tasks/noise_black/bunny/uniform", "tasks/noise_white/bunny/uniform"]
    monkeypatch.setattr(work, "experiments", lambda _: few)
    done = work.record_of("tasks/noise_black/bunny/uniform", "smoke", "cpu")
    left = {m.name: m for m in work.missing("smoke")}
    assert done and done.name not in left and left["bunny/stgv"].reason == "not run yet"
    assert left["tasks/noise_white/bunny/uniform"].seconds is not None and left["bunny/stgv"].seconds is None


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["run", "bunny/nope"], "no run is named 'bunny/nope'; near it: bunny/nerv"),
        (["run", "tasks/x/bunny/stgv"], "'x/bunny/stgv' is no run of a task"),
        (["run", "bunny/2dgs", "--scheduler", "tcp://127.0.0.1:1"], "tcp://127.0.0.1:1 does not answer: start one"),
        (["notebooks", "--only", "9"], "--only names 09, but the notebooks are 00_quickstart"),
    ],
)
def test_bad_input_is_one_line(results, capsys, monkeypatch, arguments, text):
    if "--scheduler" in arguments:
        pytest.importorskip("distributed", reason="needs the extra cluster")
        monkeypatch.setattr(work, "PATIENCE", "1s")
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--profile", "smoke"])
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 2 and said.startswith("stgvlib.repro: ") and text in said and "\n" not in said


def test_an_unknown_name_is_found_before_anything_runs(results):
    with pytest.raises(StgvError, match="no run is named"):
        work.run_missing(["tasks/noise_black/bunny/median", "bunny/nope"], "smoke", "cpu")
    assert not list(results.rglob("*.json"))


def test_an_interrupted_run_exits_as_shells_expect(monkeypatch, capsys):
    from stgvlib.repro import __main__ as commands
    from stgvlib.repro import work
    from stgvlib.signals import Stopped

    def stopped(*_, **__):
        raise Stopped(15)

    monkeypatch.setattr(work, "run_missing", stopped)
    with pytest.raises(SystemExit) as ended:
        commands.main(["run", "bunny/stgv"])
    assert ended.value.code == 128 + 15
    assert "finished records are kept" in capsys.readouterr().err
