"""Recipes of docs/EXTENDING.md run as they stand; a method in one file is in Table II; bad input gives one line."""

import csv
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scenes import waves
from torch import nn

from stgvlib.baselines import SYSTEMS, GaussianSystem, InrConfig, NetworkSystem, register, unregister
from stgvlib.config import STGV
from stgvlib.errors import StgvError
from stgvlib.fitting.batches import FitResult
from stgvlib.repro import Run, run
from stgvlib.repro.controls import SAME_ROWS
from stgvlib.video.datasets import DATASETS, Dataset, load_dataset, register_dataset
from stgvlib.video.write import write_video

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs/EXTENDING.md").read_text()
BLOCKS = {re.match(r"# (\w+\.py)\n", block)[1]: block for block in re.findall(r"```python\n(.*?)```", TEXT, re.S)}


def python(folder: Path, *arguments: str, **environment: str) -> str:
    """What a fresh process prints whose current folder is `folder` and whose results lie in it."""
    env = os.environ | {"STGV_RESULTS": str(folder / "results"), "STGV_DATA": "", "STGV_SYSTEMS": ""} | environment
    ended = subprocess.run([sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def recipe(name: str, folder: Path) -> str:
    (folder / name).write_text(BLOCKS[name])
    return python(folder, name)


def record_of(folder: Path, name: str) -> dict:
    record = json.loads((folder / f"results/smoke/runs/{name}.json").read_text())
    assert math.isfinite(record["psnr"]) and record["psnr"] > 10
    return record


def rows_of(folder: Path, table: str) -> list[dict]:
    with (folder / f"results/smoke/tables/{table}.csv").open() as file:
        return list(csv.DictReader(file))


def test_there_are_five_recipes_and_the_table_leads_to_each():
    titles = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"\n## (.+)", TEXT)]
    assert re.findall(r"\]\(#(.+?)\)", TEXT) == titles and len(BLOCKS) == len(titles) == 5


def test_a_method_in_one_file_appears_in_table_2(tmp_path):
    printed = recipe("my_method.py", tmp_path)
    fitted = record_of(tmp_path, "bunny/flowless")
    assert fitted["about"] == "our preset, shorter, without optical flow" and "STGV, no flow" in printed
    assert fitted["config"]["coarse_steps"] == 100 and fitted["gop_size"] == 10 and fitted["gaussians"] == 1800
    (tmp_path / "results/smoke/tables/table_2.csv").unlink()
    elsewhere = tmp_path / "elsewhere"  # notebooks run in a folder of their own
    elsewhere.mkdir()
    child = [sys.executable, "-c", "from stgvlib.baselines import SYSTEMS; print(*SYSTEMS)"]
    code = f"""if True:
        import subprocess
        from stgvlib.repro import systems, tables
        tables.table_2(systems("bunny", "smoke", make=False), "smoke")
        subprocess.run({child}, cwd={str(elsewhere)!r}, check=True)
    """
    assert "flowless" in python(tmp_path, "-c", code, STGV_SYSTEMS="my_method.py").split()
    rows = {row["system"]: row for row in rows_of(tmp_path, "table_2")}
    own = rows.pop("STGV, no flow")
    assert float(own["ours PSNR"]) == round(fitted["psnr"], 2) and "outdated" not in own
    assert len(rows) == len(SYSTEMS) + len(SAME_ROWS) and all("not run yet" in row["note"] for row in rows.values())
    assert not any(row["ours PSNR"] for row in rows.values())


def test_a_network_of_your_own(tmp_path):
    printed = recipe("my_network.py", tmp_path)
    record = record_of(tmp_path, "bunny/time_mlp")
    assert f"{record['parameters']} parameters" in printed and record["config"]["preset"] == "time_mlp"
    code = "from stgvlib.repro import run; print(run('bunny/time_mlp', make=False).outdated)"
    assert python(tmp_path, "-c", code, STGV_SYSTEMS="my_network.py") == "False\n"
    (tmp_path / "my_network.py").write_text(BLOCKS["my_network.py"].replace("nn.GELU()", "nn.ReLU()"))
    assert python(tmp_path, "-c", code, STGV_SYSTEMS="my_network.py") == "True\n"


def test_a_dataset_of_your_own(tmp_path):
    assert recipe("my_dataset.py", tmp_path).startswith("(96, 160)\n")
    records = [record_of(tmp_path, f"waves/{key}") for key in ("fast", "d2gv")]
    rows = rows_of(tmp_path, "waves")
    assert [row["run"] for row in rows] == ["waves/fast", "waves/d2gv"]
    assert [float(row["PSNR"]) for row in rows] == [round(record["psnr"], 2) for record in records]


def test_an_experiment_of_your_own(tmp_path):
    recipe("my_experiment.py", tmp_path)
    names = sorted(path.stem for path in (tmp_path / "results/smoke/runs/mine/clip").glob("*.json"))
    counts = [record_of(tmp_path, f"mine/clip/{name}")["gaussians"] for name in names]
    assert sorted(counts) == [20, 80] and all(name.startswith("stgv_") for name in names)
    assert {row["what"] for row in rows_of(tmp_path, "mine")} == {"20 Gaussians", "80 Gaussians"}
    flicker = [float(row["flicker"]) for row in rows_of(tmp_path, "flicker")]
    assert len(flicker) == 2 and all(0 < value < 0.1 for value in flicker)
    assert json.loads((tmp_path / "results/smoke/runs/flicker/clip_20.json").read_text())["flicker"] > 0


def test_the_splat_op_alone(tmp_path):
    before, after = map(float, re.findall(r"([\d.]+) dB", recipe("my_model.py", tmp_path)))
    assert after > before + 15


class Mean(nn.Module):
    """The mean of all frames, as EXTENDING.md asks of a fitted model."""

    def __init__(self, image: torch.Tensor, frames: int):  # [H, W, 3]
        super().__init__()
        self.image, self.size, self.num_frames = nn.Parameter(image), tuple(image.shape[:2]), [frames]

    def num_parameters(self) -> int:
        return self.image.numel()


class MeanDecoder:
    batch = 4

    def __init__(self, model: Mean, dtype: torch.dtype):
        self.model, self.dtype = model, dtype

    def __len__(self) -> int:
        return self.model.num_frames[0]

    def __getitem__(self, number: int) -> torch.Tensor:
        return self.frames([number])[0]

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def frames(self, numbers) -> torch.Tensor:
        image = self.model.image.detach()
        image = (image * 255).round().byte() if self.dtype == torch.uint8 else image
        return image.expand(len(numbers), *image.shape)


class MeanSystem:
    """A full System with no more than the table of recipe 2 names."""

    key, label, about, config = "mean", "Mean frame", "the mean of all frames", {"power": 1}

    def configure(self, profile, pixels_per_gaussian):
        return self.config

    def fit(self, video, config, device, seed=0, progress=None, checkpoint=None):
        image = torch.from_numpy(video.read()).float().mean(0) / 255
        return FitResult(Mean(image.to(device), video.num_frames), None, {}, {"training": 0.0})

    def save(self, model, path, **about):
        torch.save({"about": about, "image": model.image, "frames": model.num_frames[0]}, path.with_suffix(".pt"))

    def load(self, path, device):
        found = torch.load(path.with_suffix(".pt"), map_location=device)
        return Mean(found["image"], found["frames"]), found["about"]

    def decoder(self, model, dtype=torch.uint8):
        return MeanDecoder(model, dtype)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder; what a test registers is taken out again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STGV_RESULTS", str(tmp_path / "results"))
    systems, datasets = list(SYSTEMS), list(DATASETS)
    yield tmp_path
    for key in set(SYSTEMS) - set(systems):
        unregister(key)
    for name in set(DATASETS) - set(datasets):
        del DATASETS[name]


def test_a_full_system_needs_no_more_than_the_recipe_names(folder):
    write_video("clip", waves(3))
    record = run(Run("clip", MeanSystem(), "mean"), "smoke", "cpu", show_progress=False)
    assert record.path.parent == folder / "results/smoke/runs/mine/clip" and record.path.stem.startswith("mean_")
    small = torch.from_numpy(np.array(record["dataset"]["size"])).prod() * 3
    assert record["parameters"] == small and math.isfinite(record["psnr"]) and not record.outdated
    assert MeanSystem().load(record.path.with_suffix(""), "cpu")[1] == {"hash": record["hash"]}


def lacking(name: str) -> SimpleNamespace:
    kept = {n: getattr(MeanSystem(), n) for n in dir(MeanSystem) if not n.startswith("_") and n != name}
    return SimpleNamespace(**kept)


BAD = {
    "a label that exists": (
        lambda: register(GaussianSystem("mine", "STGV", "", STGV)),
        "system 'STGV' (paper) is registered already: take another key and label",
    ),
    "a key that exists": (
        lambda: register(GaussianSystem("stgv", "mine", "", STGV)),
        "system 'ours, hashes alone' (stgv) is registered already: take another key and label",
    ),
    "a key for no file name": (
        lambda: register(GaussianSystem("My method", "mine", "", STGV)),
        "a system's key must be small letters, digits and underscores, got 'My method'",
    ),
    "a system without a method": (
        lambda: register(lacking("load")),
        "system 'Mean frame' lacks the method load: see stgvlib.baselines.System",
    ),
    "a system without a label": (
        lambda: register(lacking("label")),
        "system 'mean' lacks label: see stgvlib.baselines.System",
    ),
    "a network of a published name": (
        lambda: NetworkSystem("nerv", "mine", "", InrConfig(), nn.Module),
        "the network 'nerv' is a published one: take another key",
    ),
    "a network that is not there": (
        lambda: NetworkSystem("mine", "mine", "", InrConfig("mine")),
        "network 'mine' is unknown: expected siren, nerv, e_nerv, hnerv, hnerv_boost",
    ),
    "a path that does not exist": (
        lambda: run(Run("nowhere.mp4", STGV, "")),
        "nowhere.mp4 does not exist; expected a video file or a folder of PNG or JPEG frames",
    ),
    "a run of no system": (
        lambda: run(Run("bunny", lacking("fit"), "")),
        "no system fits a SimpleNamespace: expected FitConfig, InrConfig, or a registered System",
    ),
    "a name of no run": (lambda: run("bunny/nothing"), "no run is named 'bunny/nothing'; near it: "),
    "a dataset that exists": (
        lambda: register_dataset(Dataset("bunny", ("x",), 1, 1)),
        "dataset 'bunny' is registered already: take another name",
    ),
    "a dataset of no file": (
        lambda: load_dataset(register_dataset(Dataset("gone", ("/nowhere/gone.mp4",), 1, 1)).name),
        "gone is missing: expected /nowhere/gone.mp4",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line(what, folder):
    attempt, text = BAD[what]
    with pytest.raises(StgvError) as raised:
        attempt()
    assert str(raised.value).startswith(text) and len(str(raised.value).splitlines()) == 1
    assert not (folder / "results").exists()


def test_a_file_of_systems_that_does_not_exist_is_named(tmp_path):
    code = "import stgvlib.baselines"
    env = os.environ | {"STGV_SYSTEMS": "gone.py"}
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ended.stderr.splitlines()[-1].endswith(
        "STGV_SYSTEMS names gone.py, which does not exist; expected a .py file or a module"
    )
