"""Which code a record's hash covers: what its run reaches, all of it, and nothing else."""

import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stgvlib import metrics
from stgvlib.config import PROFILES
from stgvlib.model.judge import judge
from stgvlib.repro import fits, sources
from stgvlib.repro.registry import named
from stgvlib.video.datasets import load_dataset

MODULE = """from stgvlib.metrics import psnr
SCALE = 2
def used():
    return psnr, SCALE
def beside():
    return 1
"""


def test_words_do_not_count():
    code = sources.code_of(Path(metrics.__file__))
    assert "def psnr" in code and "PSNR of one frame" not in code and "# px of the shorter" not in code
    hashes = {sources.sources_hash(f"stgvlib.{name}") for name in ("metrics", "fitting.fit", "config")}
    assert len(hashes) == 3


def test_only_what_is_reached_counts():
    """Definitions, not files: a network has no optical flow, a fit none of the codec's kernels."""
    network = sources.reached("stgvlib.baselines.inr", *fits.JUDGED_BY)
    fitted = sources.reached("stgvlib.fitting.fit", *fits.JUDGED_BY)
    assert ("stgvlib.baselines.nerv", "Nerv") in network and ("stgvlib.video.flow", "flow_of") not in network
    assert {("stgvlib.video.flow", "flow_of"), ("", "splat.cu"), ("", "half.cuh"), ("", "mlp.cuh")} <= fitted
    assert not {("", "rate.cu"), ("", "rate.cuh"), ("stgvlib.codec.bitstream", "parse")} & fitted
    files = sorted(sources.ROOT.rglob("*.py"))
    every = sources.reached(*(".".join(("stgvlib", *p.relative_to(sources.ROOT).with_suffix("").parts)) for p in files))
    assert {name for module, name in every if not module} == {path.name for path in sources.KERNELS.glob("*.cu*")}


def test_a_change_counts_where_it_is_reached(tmp_path, monkeypatch):
    """Of a module that begins with a function of another: that function, a value it reads, and nothing beside it."""
    files = {name: tmp_path / f"{name}.py" for name in ("mine", "begins")}
    monkeypatch.setattr(sources, "file_of", lambda name: files.get(name.removeprefix("stgvlib.")))
    files["begins"].write_text("from stgvlib.mine import used\ndef begin():\n    return used()\n")
    texts = [MODULE]
    for old, new in (
        ("return 1", "return 2"),
        ("    return psnr", "    # words\n    return psnr"),
        ("SCALE = 2", "SCALE = 3"),
    ):
        texts.append(texts[-1].replace(old, new))
    found = []
    for text in texts:
        files["mine"].write_text(text)
        for cached in (sources.reached, sources._parsed, sources._lines):
            cached.cache_clear()
        found.append(sources.sources_hash("stgvlib.begins"))
    for cached in (sources.reached, sources._parsed, sources._lines):
        cached.cache_clear()
    assert found[0] == found[1] == found[2] != found[3]


@pytest.mark.parametrize("name", ["quality", "paper", "nerv"])
def test_what_a_run_executes_is_reached(name):
    """Every function of stgvlib that a fit and its judging call is in the hash, by its definition's name."""
    run, executed = named(f"bunny/{name}"), set()
    system, expected = run.system, sources.reached(*fits.sources_of(run))
    video, config = load_dataset("bunny").with_(limit=4, resize=(180, 320)), system.configure(PROFILES["smoke"], None)
    if name != "nerv":
        config = replace(config, coarse_steps=9, motion_steps=2, steps=4, gaussians=20, gop_size=2)

    def note(frame, event, _):
        module, first = frame.f_globals.get("__name__", ""), frame.f_code.co_qualname.split(".")[0]
        if event == "call" and module.startswith("stgvlib.") and first not in ("<module>", "__create_fn__"):
            executed.add((module, first))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        model = system.fit(video, config, torch.device("cpu")).model
        judge(model, video, system.decoder)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    protocol = {"stgvlib.baselines.gaussian": "GaussianSystem"}  # says what is called, and decides nothing
    missing = executed - expected - set(protocol.items())
    assert len(executed) > 30 and not missing
