"""Notebooks are picked, executed and interrupted as one command.

| case | source | test |
|---|---|---|
| Ctrl-C in the batch run: 20 lines of traceback | CASES D, FAULTS 10 | test_an_interruption_is_one_line |
| a typo in `profile` leaves results/papr | CASES D | test_an_unknown_profile_leaves_no_folder |
"""

import os
import subprocess
import sys

import pytest

from stgvlib.errors import StgvError
from stgvlib.repro import notebooks


def test_notebooks_are_picked_by_number():
    assert [path.name[:2] for path in notebooks.notebooks("3, 01")] == ["01", "03"]
    assert len(notebooks.notebooks("")) == 7
    with pytest.raises(StgvError, match="--only names 09, but the notebooks are 00_quickstart, 01_kfci, "):
        notebooks.notebooks("01,9")


def test_an_executed_copy_is_the_same_file_every_time(tmp_path, monkeypatch):
    """No times, no absolute paths; one that fails is kept, and names the cell."""
    pytest.importorskip("papermill")
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    parameters = new_code_cell(
        "profile = 'smoke'\ndevice = 'cpu'\nrefresh = False\nmake = False", metadata={"tags": ["parameters"]}
    )
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path, copies = tmp_path / "tiny.ipynb", []
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr(notebooks, "repository", lambda: tmp_path)
    for body in ("print(profile, device)", "print(profile, device)", "1 / 0"):
        nbformat.write(new_notebook(cells=[parameters, new_code_cell(body, id="body")], metadata=kernel), path)
        failure = notebooks.execute(path, tmp_path / "copies", "quick", "cpu", False)
        copies.append((tmp_path / "copies" / path.name).read_text())
        if body == "1 / 0":
            assert "ZeroDivisionError" in failure and "cell 3" in failure and "ZeroDivisionError" in copies[-1]
        else:
            assert failure is None and "quick cpu" in copies[-1]
    assert copies[0] == copies[1] and '_time"' not in copies[0] and str(tmp_path) not in copies[0]
    parameters.source = "profile = 'smoke'"
    nbformat.write(new_notebook(cells=[parameters], metadata=kernel), path)
    assert "lacks device, make, refresh" in notebooks.execute(path, tmp_path / "copies", "quick", "cpu", False)


INTERRUPTED = """
import os, signal, sys, time
os.write(2, b"Traceback of a kernel\\n")
os.kill({parent}, signal.SIGINT)
time.sleep(60)
"""
BATCH = """
import sys
from pathlib import Path
from stgvlib.repro import notebooks, __main__
notebooks.repository = lambda: Path(sys.argv[1])
__main__.main(["notebooks", "--device", "cpu", *sys.argv[2:]])
"""


def batch(folder, *arguments):
    environment = os.environ | {"STGV_RESULTS": str(folder / "results")}
    command = [sys.executable, "-c", BATCH, str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.parametrize("others", [0, 1])
def test_an_interruption_is_one_line(tmp_path, others):
    """Within a cell, where kernels and their clients have much to say, alone and beside another notebook, and in the
    first second."""
    pytest.importorskip("papermill")
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    parameters = new_code_cell(
        "profile = 'smoke'\ndevice = 'cpu'\nrefresh = False\nmake = False", metadata={"tags": ["parameters"]}
    )
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (tmp_path / "notebooks").mkdir()
    stop = new_code_cell(INTERRUPTED.format(parent="os.getppid()"))
    nbformat.write(new_notebook(cells=[parameters, stop], metadata=kernel), tmp_path / "notebooks" / "01_tiny.ipynb")
    for number in range(others):
        waits = new_notebook(cells=[parameters, new_code_cell("import time; time.sleep(50)")], metadata=kernel)
        nbformat.write(waits, tmp_path / "notebooks" / f"0{number + 2}_waits.ipynb")
    ended = batch(tmp_path)
    assert ended.returncode == 130 and ended.stderr == ""
    assert ended.stdout.splitlines()[1] == ("  2 notebooks, 2 at once" if others else "  01_tiny ... ")
    assert ended.stdout.splitlines()[2:] == [""] * others + [
        f"interrupted; finished runs are kept in {tmp_path / 'results/smoke/runs'}: run the same command to go on"
    ]
    (tmp_path / "tyro.py").write_text("raise KeyboardInterrupt")  # where the first second goes
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', os.getcwd())}"}
    early = [sys.executable, "-m", "stgvlib.repro", "notebooks"]
    ended = subprocess.run(early, capture_output=True, text=True, env=environment)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")


def test_an_unknown_profile_leaves_no_folder(tmp_path, monkeypatch):
    """Whether a command, papermill -p or a cell of a notebook has the typo."""
    from stgvlib.repro import figures, fits, tables, tasks, work

    ended = batch(tmp_path, "--profile", "papr")
    assert ended.returncode == 2 and "papr" in ended.stderr and not (tmp_path / "results").exists()
    monkeypatch.setenv("STGV_RESULTS", str(tmp_path / "results"))
    for ask in (
        lambda: notebooks.execute_all("papr", "cpu", "", False),
        lambda: figures.method_figure("papr"),
        lambda: tables.audit_table("papr"),
        lambda: tables.report("papr"),
        lambda: fits.systems("bunny", "papr", "cpu"),
        lambda: tasks.records("inpaint_random", "papr", "cpu", False),
        lambda: work.missing("papr"),
    ):
        with pytest.raises(StgvError, match="profile must be one of smoke, quick, paper, got 'papr'"):
            ask()
    assert list(tmp_path.iterdir()) == []
