import pytest

from stgvlib.errors import StgvError
from stgvlib.repro import notebooks


def test_notebooks_are_picked_by_number():
    assert [path.name[:2] for path in notebooks.notebooks("3, 01")] == ["01", "03"]
    assert len(notebooks.notebooks("")) == 6
    with pytest.raises(StgvError, match="--only names 09, but the notebooks are 01_kfci, "):
        notebooks.notebooks("01,9")


def test_an_executed_copy_is_the_same_file_every_time(tmp_path, monkeypatch):
    """No times, no absolute paths; one that fails is kept, and names the cell."""
    pytest.importorskip("papermill")
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    parameters = new_code_cell("profile = 'smoke'\ndevice = 'cpu'\nrefresh = False", metadata={"tags": ["parameters"]})
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
    assert "lacks device, refresh" in notebooks.execute(path, tmp_path / "copies", "quick", "cpu", False)
