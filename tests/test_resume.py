"""An interrupted fit goes on, never mixes with another, and never touches others' files.

| case | source | test |
|---|---|---|
| frames after the first replaced, other settings, seed, device kind | FAULTS 3 | test_another_fits_work_is_refused |
| another version of stgvlib | FAULTS 3 | test_another_fits_work_is_refused |
| other code of the same version | FAULTS 3 | test_another_fits_work_is_refused, test_the_code_is_hashed |
| a part of another fit, an older version, or renamed | FAULTS 3 | test_a_foreign_part_is_refused |
| two fits to one output | FAULTS 3 | test_a_second_fit_to_one_output_is_refused |
| the lock of a killed process | FAULTS 3 | test_a_dead_process_holds_nothing |
| part cut off, or a bit flipped | FAULTS 3 | test_a_damaged_part_is_fitted_again |
| fit.json missing or damaged | FAULTS 5 | test_without_fit_json_finished_gops_are_taken_over |
| folder OUTPUT.parts of the user's | FAULTS 5 | test_others_files_stay, test_what_no_fit_wrote_is_refused |
| interrupted while a file is written | FAULTS 10 | test_an_interrupt_leaves_no_partial_file |
| Ctrl-C in the trials | FAULTS 13 | test_finished_trials_are_kept, test_a_chosen_length_is_not_chosen_again |
| kill -9 at any moment | FAULTS 3 | test_kills_at_random_moments; with torchrun: test_distributed.py |
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scenes import disc

from stgvlib.config import STGV
from stgvlib.errors import StgvError
from stgvlib.fitting import gop_length, plan
from stgvlib.fitting.fit import fit, fit_plans
from stgvlib.fitting.plan import plan_fits
from stgvlib.fitting.resume import Parts
from stgvlib.model.model_file import read_model, save_model
from stgvlib.repro import sources
from stgvlib.video.video import video_of
from stgvlib.video.write import write_video

SHORT = replace(STGV, gop_size=3, gaussians=20, coarse_steps=8, motion_steps=4, steps=12)  # three GoPs of nine frames
again = partial(fit, config=SHORT, resume=True)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def video():
    return video_of(disc())


@pytest.fixture(scope="module")
def whole(video):
    return fit(video, SHORT).model


@pytest.fixture(scope="module")
def begun_once(video, tmp_path_factory):
    """Two of three GoPs, as an interrupt in the third leaves them."""

    def stop(progress):
        if progress.gops[0] == 2:
            raise KeyboardInterrupt

    parts = tmp_path_factory.mktemp("begun") / "parts"
    with pytest.raises(KeyboardInterrupt):
        fit(video, SHORT, parts=parts, progress=stop)
    assert names(parts) == ["fit.json", "gop_0000.safetensors", "gop_0001.safetensors"]
    return parts


@pytest.fixture
def begun(begun_once, tmp_path):
    return shutil.copytree(begun_once, tmp_path / "m.safetensors.parts")


def state(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_resume_fits_only_what_is_missing(video, whole, begun):
    before = state(begun)
    with pytest.raises(StgvError, match="2 finished GoPs of an unfinished fit: add --resume to go on"):
        fit(video, SHORT, parts=begun)
    assert state(begun) == before
    result = again(video, parts=begun)
    assert same(result.model, whole) and result.losses["coarse"].shape == (8, 1)
    assert {name: state(begun)[name] for name in names(begun)[1:3]} == {n: before[n] for n in names(begun)[1:3]}


def test_another_fits_work_is_refused(video, begun, monkeypatch):
    replaced, before = video.read().copy(), state(begun)
    replaced[7, 3, 5] ^= 1
    with pytest.raises(StgvError, match=r"work of another fit \(pixels differ\)"):
        again(video_of(replaced), parts=begun)
    with pytest.raises(StgvError, match=r"another fit \(config, steps differ\)"):
        again(video, config=replace(SHORT, steps=13), parts=begun)
    with pytest.raises(StgvError, match=r"another fit \(seed differ\)"):
        again(video, parts=begun, seed=1)
    with pytest.raises(StgvError, match=r"another fit \(device differ\)"):
        Parts(begun, resume=True).begin(plan.plans_identity(plan_fits(video, SHORT), torch.device("cuda")))
    with monkeypatch.context() as patched, pytest.raises(StgvError, match=r"another fit \(stgvlib differ\)"):
        patched.setattr(plan, "__version__", "0.0.1")
        again(video, parts=begun)
    with monkeypatch.context() as patched, pytest.raises(StgvError, match=r"another fit \(code differ\)"):
        patched.setattr(plan, "code_hash", lambda: "other")
        again(video, parts=begun)
    assert state(begun) == before


def test_missing_pixels_are_part_of_the_identity(video):
    holes = np.zeros((9, 24, 40), bool)
    holes[4, 3, 5] = True
    there, gone = (plan.identity(v, SHORT, 0) for v in (video, video.with_(missing=holes)))
    assert [k for k in there if there[k] != gone[k]] == ["pixels"]


def test_the_code_is_hashed(monkeypatch):
    """Each file that a fit imports counts, but for those that say no more than where files lie and what errors are."""
    read = []
    monkeypatch.setattr(plan.Path, "read_bytes", lambda path: read.append(path) or b"")
    plan.code_hash.__wrapped__()
    needed = {sources.file_of(module) for module, _ in sources.reached("stgvlib.fitting.fit") if module}
    needed |= {sources.KERNELS / name for module, name in sources.reached("stgvlib.fitting.fit") if not module}
    assert {path.name for path in needed - set(read)} == {"errors.py", "files.py"}
    assert plan.code_hash() == plan.code_hash()


def test_a_foreign_part_is_refused(video, whole, begun):
    """Of another fit although fit.json is this one's; without a label, as before; under another number."""
    part, good = begun / "gop_0001.safetensors", (begun / "gop_0001.safetensors").read_bytes()
    other = Parts(begun)
    other.identity, other.done = {"seed": 1}, {1: whole.gop(1)}
    save_model(whole.gop(1), begun / "plain")
    for make in (lambda: other.keep(1), lambda: shutil.copy(begun / "plain", part)):
        make()
        before = state(begun)
        with pytest.raises(StgvError, match=r"holds gop_0001.safetensors of another fit \(by .*stgvlib"):
            again(video, parts=begun)
        assert state(begun) == before
    part.write_bytes(good)
    shutil.copy(part, begun / "gop_0002.safetensors")
    with pytest.raises(StgvError, match="holds gop_0002.safetensors of another fit"):
        again(video, parts=begun)


def test_a_second_fit_to_one_output_is_refused(video, whole, tmp_path):
    refused = []

    def second(_):
        with pytest.raises(StgvError) as error:
            fit(video, replace(SHORT, steps=1), parts=tmp_path / "m.safetensors.parts")
        refused.append(str(error.value))

    assert same(fit(video, SHORT, parts=tmp_path / "m.safetensors.parts", progress=second).model, whole)
    assert set(refused) == {f"another `stgv fit` is writing {tmp_path / 'm.safetensors'} (process {os.getpid()})"}
    assert len(refused) >= 6 and "lock" not in names(tmp_path / "m.safetensors.parts")


def test_a_dead_process_holds_nothing(video, whole, begun):
    """What kill -9 leaves: the lock file with its number, and a file that it was writing."""
    (begun / "lock").write_text("4194304")
    (begun / ".stgv-a1b2").write_bytes(b"half")
    assert same(again(video, parts=begun).model, whole)
    assert names(begun) == ["fit.json", *(f"gop_000{g}.safetensors" for g in range(3))]


def test_a_damaged_part_is_fitted_again(video, whole, begun):
    for name, damage in (("gop_0000", lambda data: data[: len(data) // 2]), ("gop_0001", flipped)):
        path = begun / f"{name}.safetensors"
        path.write_bytes(damage(path.read_bytes()))
    read_model(begun / "gop_0001.safetensors")  # only its checksum tells
    result = again(video, parts=begun)
    assert same(result.model, whole) and result.losses["coarse"].shape == (8, 3)


def flipped(data):
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("{")])
def test_without_fit_json_finished_gops_are_taken_over(video, whole, begun, damage):
    damage(begun / "fit.json")
    before = state(begun)
    with pytest.raises(StgvError, match="2 finished GoPs"):
        fit(video, SHORT, parts=begun)
    with pytest.raises(StgvError, match="gop_0000.safetensors of another fit"):
        again(video, parts=begun, seed=1)
    assert state(begun) == before
    result = again(video, parts=begun)
    assert same(result.model, whole) and result.losses["coarse"].shape == (8, 1)


def test_others_files_stay(video, tmp_path):
    """A folder of the user's with the name of the parts: used, and left as it was."""
    folder = tmp_path / "m.safetensors.parts"
    folder.mkdir()
    mine = {
        "notes.txt": "mine",
        "gop_of_mine.safetensors": "mine",
        ".gop_notes": "mine",
        "diverged_0007.safetensors": "x",
    }
    for name, text in mine.items():
        (folder / name).write_text(text)
    with Parts(folder) as parts:
        fit_plans(plan_fits(video, SHORT), "cpu", parts)
        assert parts.finished == 3 and (folder / "lock").read_text() == str(os.getpid())
        parts.keep_diverged(1, parts.done[1])
        parts.remove()
    assert {path.name: path.read_text() for path in folder.iterdir()} == mine
    with Parts(tmp_path / "ours") as parts:
        fit_plans(plan_fits(video, SHORT), "cpu", parts)
        parts.remove()
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    "name, text", [("fit.json", "{}"), ("fit.json", ""), ("lock", "my door"), ("gop_0000.safetensors", "weights")]
)
@pytest.mark.parametrize("resume", [False, True])
def test_what_no_fit_wrote_is_refused(video, tmp_path, name, text, resume):
    (tmp_path / name).write_text(text)
    with pytest.raises(StgvError, match=f"{name}.* move it away") as error:
        fit(video, SHORT, parts=tmp_path, resume=resume)
    assert "\n" not in str(error.value) and names(tmp_path) == [name] and (tmp_path / name).read_text() == text


def test_a_file_in_the_folders_place_is_refused(video, tmp_path):
    (tmp_path / "parts").write_text("mine")
    with pytest.raises(StgvError, match="cannot use .*parts: File exists"):
        fit(video, SHORT, parts=tmp_path / "parts")


def test_an_interrupt_leaves_no_partial_file(video, whole, tmp_path, monkeypatch):
    replaced = os.replace

    def interrupted(source, target):
        if "gop_0001" in str(target):
            raise KeyboardInterrupt
        replaced(source, target)

    parts = tmp_path / "parts"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", interrupted)
        fit(video, SHORT, parts=parts)
    assert names(parts) == ["fit.json", "gop_0000.safetensors"]
    assert same(again(video, parts=parts).model, whole)


@pytest.fixture
def trying(monkeypatch):
    """Lengths that are tried, a configuration that tries them, and a log of the trials that run."""
    ran, trial = [], gop_length.fit_gops

    def counted(plan, *args, **kwargs):
        ran.append(plan.config.gop_size)
        return trial(plan, *args, **kwargs)

    monkeypatch.setattr(gop_length, "fit_gops", counted)
    monkeypatch.setattr(plan, "TRIED", (2, 3, 4))
    return replace(SHORT, gop_size="auto", steps=160), ran


def test_finished_trials_are_kept(video, trying, tmp_path):
    config, ran = trying
    whole = fit(video, config, parts=tmp_path / "whole")
    assert ran[:2] == [3, 4] and set(whole.trials) == set(ran)
    after = ran[1:]

    def stop(progress):
        if progress.stage == "trying GoPs of 4":
            raise KeyboardInterrupt

    parts = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        fit(video, config, parts=parts, progress=stop)
    assert set(json.loads((parts / "fit.json").read_text())["trials"]) == {"3"}
    with pytest.raises(StgvError, match="0 finished GoPs and 1 trial .* add --resume"):
        fit(video, config, parts=parts)
    ran.clear()
    resumed = fit(video, config, parts=parts, resume=True)
    assert ran == after and resumed.trials == whole.trials and same(resumed.model, whole.model)
    assert resumed.seconds["trials"] == sum(
        s for _, s in json.loads((parts / "fit.json").read_text())["trials"].values()
    )


@pytest.mark.parametrize("lost", [False, True], ids=["trials", "GoPs alone"])
def test_a_chosen_length_is_not_chosen_again(video, trying, tmp_path, lost):
    """Other trials could choose another one."""
    (config, ran), parts = trying, tmp_path / "parts"
    whole = fit(video, config, parts=parts)
    (parts / "gop_0001.safetensors").unlink()
    if lost:
        (parts / "fit.json").unlink()
    ran.clear()
    resumed = fit(video, config, parts=parts, resume=True)
    assert ran == [] and same(resumed.model, whole.model) and resumed.trials == ({} if lost else whole.trials)


def test_kills_at_random_moments(tmp_path):
    """Three kills with -9, each of a run that goes on where the one before ended. benchmarks/kill_and_resume.py: 20."""
    write_video(tmp_path / "clip", disc())
    steps = "--preset stgv --profile paper --gop-size 3 --gaussians 20 --coarse-steps 20 --motion-steps 4".split()
    steps += ["--steps", "60"]
    command = [sys.executable, "-m", "stgvlib", "fit", str(tmp_path / "clip")]
    output, lock, moments = tmp_path / "m.safetensors", tmp_path / "m.safetensors.parts" / "lock", random.Random(0)
    begin = partial(subprocess.Popen, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for _ in range(3):
        began, running = time.time(), begin([*command, str(output), *steps, "--device", "cpu", "--resume"])
        while running.poll() is None and not (lock.exists() and lock.stat().st_mtime > began):
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 1))
        running.send_signal(signal.SIGKILL)
        running.communicate()
        if output.exists():  # it ended before
            break
    runs = [] if output.exists() else [begin([*command, str(output), *steps, "--device", "cpu", "--resume"])]
    runs.append(begin([*command, str(tmp_path / "whole.safetensors"), *steps, "--device", "cpu"]))
    for run in runs:
        assert run.wait(200) == 0, run.stderr.read()
    assert same(read_model(output)[0], read_model(tmp_path / "whole.safetensors")[0])
    assert names(tmp_path) == ["clip", "m.safetensors", "whole.safetensors"]
