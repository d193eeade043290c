"""Files that lie are refused in one line, within bounds of memory, and Gaussians of any values harm no memory.

| case | source | test |
|---|---|---|
| one Gaussian at (20.5, -1.3) with l = (3.4e38, 49, 61) | FAULTS 1 | test_the_smallest_that_crashed |
| 20,000 of any values, backward and hash encodings | FAULTS 1 | test_any_gaussian_stays_within_bounds |
| the same beside ordinary ones, on a GPU too | FAULTS 1 | test_ordinary_gaussians_beside_any_others |
| 500,000 huge Gaussians, 65 million frames | FAULTS 4 | test_small_files_take_little |
| memory of reading and rendering | FAULTS 4 | test_memory_is_bounded_by_the_file |
| heads that cover everything | FAULTS 4 | test_heads_are_bounded_too |
| description of another type or range | FAULTS 6 | test_descriptions_that_lie, test_configurations_that_lie |
| tensors missing, foreign, of another shape, NaN | FAULTS 6 | test_tensors_that_lie |
| escape sequences, `info --json` | FAULTS 6 | test_text_of_a_file_is_plain |
| mu or rgb of 3e38 in `encode`, an unfitted model | FAULTS 6 | test_what_is_too_large_to_be_coded |
| `encode x.stgv` | CASES D | test_an_encoded_file_is_one_under_any_name |
| mutated files, half of them with predicted GoPs; benchmarks/fuzz.py has more | FAULTS 1, 4, 6 | test_mutated_files |
| memory of a chain of all that the limits allow | | test_memory_is_bounded_by_the_file |
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

import hostile
import numpy as np
import pytest
import torch
from predicted_files import chained
from safetensors.torch import load_file, save_file
from scenes import FIELDS, TINY, random_model

from stgvlib.codec.bitstream import encode, parse, stream
from stgvlib.codec.load import load_model
from stgvlib.codec.quantize import adapted
from stgvlib.codec.steps import Steps
from stgvlib.config import PAPER, STGV, FieldConfig, FitConfig
from stgvlib.errors import StgvError
from stgvlib.model.decoder import Decoder
from stgvlib.model.model_file import save_model
from stgvlib.model.video_model import VideoModel
from stgvlib.ops.splat import splat, splat_pairs

HERE = Path(__file__).parent
MIB = 1 << 20
STATIC = FieldConfig(encoding="none")


def in_a_process(code: str, *arguments: str, **environment: str) -> str:
    """What Python code of this folder prints; fails where it does."""
    paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", code, *arguments]
    ended = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths} | environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, (ended.returncode, ended.stderr[-1000:])
    return ended.stdout


def test_any_gaussian_stays_within_bounds(tmp_path):
    """With checks of every index, which need code of their own."""
    code = "import hostile\nfor seed in range(10): hostile.try_gaussians(2_000, seed)\nprint('done')"
    found = in_a_process(
        code, NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=str(tmp_path), NUMBA_NUM_THREADS="1", NUMBA_OPT="1"
    )
    assert found == "done\n"


def test_the_smallest_that_crashed():
    """The ellipse of infinite width and slope covers no pixel that could be computed."""
    shape = torch.tensor([[[3.4e38, 49.0, 61.0]]])
    image = splat(torch.tensor([[[20.5, -1.3]]]), shape, torch.ones(1, 1, 3), (64, 64))
    assert torch.isfinite(image).all() and image.min() >= 0 and image.max() <= 1


@pytest.mark.parametrize("size", [(64, 64), (50, 130)])
def test_ordinary_gaussians_beside_any_others(device, size, monkeypatch):
    """20,000 Gaussians of any values and no colour change nothing of 50 ordinary ones."""
    if device.type == "cuda":
        from stgvlib.ops.cuda import compiler

        monkeypatch.setattr(compiler, "CHECK", True)
    extent = torch.tensor([size[1], size[0]])
    generator = torch.Generator().manual_seed(0)
    ordinary = [torch.rand(1, 50, n, generator=generator) for n in (2, 3, 3)]
    ordinary[0], ordinary[1] = ordinary[0] * extent, ordinary[1] * 3 + 0.5
    others = [*hostile.extreme_gaussians(20_000, 0)[:2], torch.zeros(1, 20_000, 3)]
    results = []
    for given in (ordinary, [torch.cat(both, 1) for both in zip(others, ordinary)]):
        leaves = [t.to(device).requires_grad_() for t in given]
        image = splat(*leaves, size)
        gradients = torch.autograd.grad(image.square().sum(), leaves)
        results.append([image, *(gradient[:, -50:] for gradient in gradients)])
    for alone, beside in zip(*results):
        torch.testing.assert_close(beside, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["stgv", "paper", "gsvr", "positional"])
def test_fields_of_any_gaussians(name, device):
    """Encodings of positions of any values, in the fused kernels of a GPU too, leave other Gaussians alone."""
    model = random_model(FIELDS[name], count=600).to(device)
    with torch.no_grad():
        before = model.deform(torch.tensor([0.3, 1.0], device=device))
        model.gaussians.mu[:, :500] = hostile.extremes(np.random.default_rng(0), (2, 500, 2)).to(device)
        after = model.deform(torch.tensor([0.3, 1.0], device=device))
    for one, other in zip(before, after):
        torch.testing.assert_close(other[:, 500:], one[:, 500:])


def described(model: VideoModel, path: Path, about=None, tensors=None, **lies) -> Path:
    """A model's file with another description or other tensors."""
    save_model(model, path, fps=25.0)
    right = {"size": [24, 40], "num_frames": [2, 3], "count": 40, "fps": 25.0, "config": about_config(path)}
    text = json.dumps(right | lies if about is None else about)
    metadata = {"format": "stgv-model", "version": "1", "about": text}
    save_file(load_file(path) | (tensors or {}), path, metadata)
    return path


def about_config(path: Path) -> dict:
    data = path.read_bytes()
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(head["__metadata__"]["about"])["config"]


def small() -> VideoModel:
    return random_model(replace(STGV, field=TINY))


def refused(path: Path) -> str:
    with pytest.raises(StgvError) as error:
        load_model(path)
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize(
    ("lies", "told"),
    [
        ({"about": 5}, "its description must be an object, got 5"),
        ({"config": []}, r"settings of FitConfig must be an object, got \[\]"),
        ({"size": [48]}, r"size must be two whole numbers, got \[48\]"),
        ({"size": [0, 40]}, "a side must be a whole number from 1 to 32767, got 0"),
        ({"size": [40_000, 40]}, "a side must be a whole number from 1 to 32767, got 40000"),
        ({"size": [True, 40]}, "a side must be a whole number from 1 to 32767, got True"),
        ({"size": [32_767, 32_767]}, r"asks for 1,073,676,289 pixels, more than such a file can hold"),
        ({"num_frames": "a"}, "frames must be a list of whole numbers, got 'a'"),
        ({"num_frames": []}, "frames must be a list"),
        ({"num_frames": [2, 4.5]}, "frames of a GoP must be a whole number from 1 to 65535, got 4.5"),
        ({"num_frames": [2, -3]}, "got -3"),
        ({"count": 1e3}, "count must be a whole number"),
        ({"count": -1}, "count must be a whole number"),
        ({"fps": None}, "fps must be a number above 0 and at most 1000, got None"),
        ({"fps": -5}, "fps must be a number above 0 and at most 1000, got -5"),
        ({"fps": float("nan")}, "nan is no number that JSON knows"),
        ({"fps": float("inf")}, "inf is no number that JSON knows"),
        ({"fps": True}, "fps must be a number"),
        ({"damaged": 5}, r"\['damaged'\] are said of .stgv files only"),
        ({"seconds": 5}, "seconds must be numbers by name, got 5"),
        ({"device": ["a"]}, "device must be a name"),
        ({"sample_aspect": [4]}, "sample_aspect must be two whole numbers"),
        ({"sample_aspect": [4, 0]}, "a part of sample_aspect must be a whole number from 1 to 65535, got 0"),
        ({"durations": 5}, "durations must be an object of tick and runs, got 5"),
        ({"durations": {"tick": [1], "runs": []}}, r"tick must be two whole numbers, got \[1\]"),
        (
            {"durations": {"tick": [1, 25], "runs": [5, 0]}},
            "a part of runs must be a whole number from 1 to 2147483647",
        ),
        ({"durations": {"tick": [1, 25], "runs": [6, 1]}}, r"runs must be frames and ticks of 5 frames, got \[6, 1\]"),
        ({"color": [9, 16, 9, 2]}, "range of color must be a whole number from 0 to 1, got 2"),
        ({"poster": 5}, "poster must be a whole number from 0 to 4, got 5"),
    ],
)
def test_descriptions_that_lie(lies, told, tmp_path):
    message = refused(described(small(), tmp_path / "m.safetensors", **lies))
    assert "damaged or no model that `stgv fit` wrote" in message and message.endswith("; fit it again")
    with pytest.raises(StgvError, match=told):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("lies", "told"),
    [
        ({"field": None}, "settings of FieldConfig must be an object, got None"),
        ({"steps": True}, "steps must be int, got True"),
        ({"preset": 3}, "preset must be str, got 3"),
        ({"optimizer": "sgd"}, r"optimizer must be Literal\['adam', 'adan'\], got 'sgd'"),
        ({"betas": [0.9, "x"]}, "betas must be tuple"),
        ({"bogus\x1b": 1}, r"unknown settings \['bogus'\] for FitConfig"),
        ({"field": {"log2_table_size": 70}}, "log2_table_size must be from 1 to 22, got 70"),
        ({"field": {"width": 0}}, "width must be from 1 to 1024, got 0"),
        ({"field": {"width": 20_000}}, "width must be from 1 to 1024, got 20000"),
        ({"field": {"slope": 1}}, "slope must be at least 0 and below 1, got 1"),
        ({"field": {"slope": -0.5}}, "slope must be at least 0 and below 1, got -0.5"),
        ({"field": {"width": 1024}}, r"field.hidden.weight must be \(2, \d+, 1024\) of F32, got \(2, \d+, 8\)"),
        ({"field": {"levels": 2, "time_cells": [1e999, 2]}}, "inf is no number"),
        ({"field": {"time_cells": "all"}}, "time_cells must be"),
        ({"field": {"time_cells": [3]}}, "time_cells must be one number a level"),
        ({"field": {"growth": 10**400}}, "growth must be float"),
        ({"field": {"spatial": 1}}, "spatial must be bool, got 1"),
        ({"field": {"position_scale": 0}}, "position_scale must be a number above 0"),
    ],
)
def test_configurations_that_lie(lies, told, tmp_path):
    model, path = small(), tmp_path / "m.safetensors"
    save_model(model, path)
    config = about_config(path)
    if isinstance(lies.get("field"), dict):
        lies = {"field": config["field"] | lies["field"]}
    refused(described(model, path, config=config | lies))
    with pytest.raises(StgvError, match=told):
        load_model(path)


def test_tensors_that_lie(tmp_path):
    path, rgb = tmp_path / "m.safetensors", small().gaussians.rgb.detach()
    for bad, told in (
        (rgb.double(), r"gaussians.rgb must be \(2, 40, 3\) of F32, got \(2, 40, 3\) of F64"),
        (rgb[:, :39].clone(), r"got \(2, 39, 3\) of F32"),
        (torch.where(rgb > 0.2, torch.nan, rgb), "gaussians.rgb has numbers that are not finite"),
        (torch.where(rgb > 0.2, torch.inf, rgb), "gaussians.rgb has numbers that are not finite"),
    ):
        described(small(), path, tensors={"gaussians.rgb": bad})
        with pytest.raises(StgvError, match=told):
            load_model(path)
    described(small(), path, tensors={"extra\x1b[2J": rgb.clone()})
    assert "(it has unexpected extra[2J)" in refused(path)
    tensors = load_file(described(small(), path))
    del tensors["field.hidden.bias"]
    save_file(tensors, path, {"format": "stgv-model", "version": "1", "about": json.dumps(hostile_about(path))})
    assert "(it lacks field.hidden.bias)" in refused(path)
    path.write_bytes(described(small(), path).read_bytes() + b"more")
    assert "damaged" in refused(path)


def hostile_about(path: Path) -> dict:
    return {"size": [24, 40], "num_frames": [2, 3], "count": 40, "config": about_config(path)}


def test_text_of_a_file_is_plain(tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(small(), path, device="\x1b[31mred\x1b]0;title\x07\n\u202e", seconds={"fit\x1b[2J": 1.5}, title="a\x00b")
    about = load_model(path)[1]
    assert about["device"] == "[31mred]0;title" and about["seconds"] == {"fit[2J": 1.5} and about["title"] == "ab"
    json.dumps(about, allow_nan=False)


def constant(count, size, scale, frames=(1,), field=STATIC) -> VideoModel:
    """All Gaussians in one place: hardly any bytes as .stgv."""
    model = VideoModel(FitConfig(parametrization="pixel", steps=0, field=field), list(frames), size, count)
    with torch.no_grad():
        model.gaussians.mu += 20
        model.gaussians.cholesky += torch.tensor([scale, 0.0, scale])
    return model


def test_small_files_take_little(tmp_path):
    huge = stream(constant(500_000, (100, 32_767), 1e6))
    assert len(huge) < 300
    with pytest.raises(StgvError, match="its Gaussians cover more pixels than a file of its size can hold"):
        Decoder(parse(huge).model)[0]
    with pytest.raises(StgvError, match="asks for 65,535,000 frames, more than such a file can hold"):
        parse(stream(constant(1, (16, 24), 1.0, [65_535] * 1000)))
    save_model(constant(1, (16, 24), 1.0, [65_535] * 2), tmp_path / "m.safetensors")
    assert "asks for 131,070 frames, more than such a file can hold" in refused(tmp_path / "m.safetensors")
    model = constant(1, (16, 24), 1.0, [100] * 30, FieldConfig(width=2, levels=1, log2_table_size=1))
    decoder = Decoder(parse(stream(model)).model)
    assert len(decoder) == 3000 and [decoder.place(n) for n in (0, 99, 100, 2999)] == [
        (0, 0),
        (0, 99),
        (1, 0),
        (29, 99),
    ]


def test_heads_are_bounded_too(tmp_path):
    """The canonical Gaussians are small; the shape head makes them cover everything."""
    field = FieldConfig(levels=1, log2_table_size=1, width=2, time_frequencies=0, deform_shape=True)
    model = constant(100_000, (1500, 1500), 1.0, field=field)
    small, path = stream(model), tmp_path / "m.stgv"
    with torch.no_grad():
        model.field.shape_head.bias += 1e4
    path.write_bytes(stream(model))
    assert path.stat().st_size < 2 * len(small)
    Decoder(parse(small).model)[0]
    assert Decoder(model).model.most_pairs == float("inf"), "a model in memory asks for what it likes"
    with pytest.raises(StgvError, match="its Gaussians cover more pixels"):
        Decoder(load_model(path)[0])[0]


def test_pairs_are_those_inside_the_ellipses():
    generator = torch.Generator().manual_seed(0)
    mu = torch.rand(40, 1, 2, generator=generator) * 400
    cholesky = torch.rand(40, 1, 3, generator=generator) * 20 + 10
    covered = (splat(mu, cholesky, torch.ones(40, 1, 3), (400, 400)) > 0)[..., 0].sum().item()
    assert covered < splat_pairs(mu.view(1, 40, 2), cholesky.view(1, 40, 3), (400, 400)) < 1.3 * covered


MEMORY = """
import resource, sys, hostile, torch
hostile.try_gaussians(5, 0)  # compiled
most = lambda: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
first = most()
tall = torch.tensor([[1.0, 5.0]]), torch.tensor([[1.0, 0.0, 1e6]]), torch.ones(1, 3)
hostile.splat(*(v.expand(1, 100_000, -1) for v in tall), (2000, 1))
print(most() - first)
for name in sys.argv[1:]:
    hostile.Decoder(hostile.load_model(name)[0])[0]
    print(most() - first)
assert "torch._dynamo" not in sys.modules, "reading a model takes a second more"
"""


def test_memory_is_bounded_by_the_file(tmp_path):
    """docs/FORMAT.md: 512 MiB, 10 KiB for each byte of the file, 40 bytes a pixel. Lists of bands: 40 a Gaussian."""
    models = (
        constant(500_000, (100, 2000), 1.0),
        constant(80_000, (100, 100), 1.0, field=replace(TINY, width=64)),
        constant(5_000, (3000, 2), 1e3),
    )
    names = [str(tmp_path / f"{k}.stgv") for k in range(len(models))]
    bounds = [80 * 100_000]  # the tensors themselves too
    for model, name in zip(models, names):
        bounds.append(512 * MIB + 10_240 * encode(model, name) + 40 * model.size[0] * model.size[1])
    chain_of = constant(80_000, (100, 100), 1.0, [1, 1, 1], replace(TINY, width=64))
    names.append(str(tmp_path / "chain.stgv"))
    size = Path(names[-1]).write_bytes(chained(chain_of, "KPP", part=0.0, most=0))
    bounds.append(512 * MIB + 10_240 * size + 40 * 100 * 100)
    for found, bound in zip(map(int, in_a_process(MEMORY, *names).split()), bounds, strict=True):
        assert found < bound


def test_what_is_too_large_to_be_coded():
    for name, value in (("mu", 3e38), ("mu", -3e38), ("rgb", 3e38), ("motion", 3e38), ("rgb", 1e12)):
        model = random_model(replace(STGV, motion_steps=0, field=replace(TINY, polynomial=2)))
        with torch.no_grad():
            getattr(model.gaussians, name)[1, 0] = value
        with pytest.raises(StgvError, match="numbers up to .* are too large to be coded; take larger steps"):
            stream(model)
    model = small()
    with torch.no_grad():
        model.field.hidden.weight[1] = 3e38
    with pytest.raises(StgvError, match="GoP 1: hidden.weight of the field has numbers too large"):
        stream(model)
    for config in (PAPER, STGV):
        model = VideoModel(config, [3, 2], (16, 24), 5)
        found = parse(stream(model, adapted(model, Steps())))
        assert found.damaged == {} and (torch.stack(list(Decoder(found.model))) == 0).all()


def test_an_encoded_file_is_one_under_any_name(tmp_path):
    """`encode x.stgv y.stgv` finds the same integers again; a model file's first bytes say which kind it is."""
    size = encode(small(), tmp_path / "x.stgv", sample_aspect=(4, 3))
    model, about = load_model(tmp_path / "x.stgv")
    assert about["sample_aspect"] == [4, 3]
    encode(model, tmp_path / "y.model", Steps(**about["steps"]), about["fps"], about["sample_aspect"])
    assert (tmp_path / "y.model").read_bytes() == (tmp_path / "x.stgv").read_bytes()
    assert load_model(tmp_path / "y.model")[1]["bytes"]["header"] > 0 and size < 4000
    data = bytearray((tmp_path / "x.stgv").read_bytes())
    data[20] ^= 1
    (tmp_path / "x.stgv").write_bytes(data)
    assert refused(tmp_path / "x.stgv").endswith("checksum; encode it again")


def test_mutated_files(tmp_path):
    """Each gives a frame or one line, whatever the file says."""
    read = 0
    cases = chain(hostile.hostile_streams(0, 1000), hostile.hostile_models(0, 300, tmp_path))
    for number, (kind, data) in enumerate(cases):
        path = tmp_path / f"case.{kind.split()[0]}"
        path.write_bytes(data)
        try:
            read += hostile.try_file(path)
        except Exception as error:
            raise AssertionError(f"case {number}, {kind}: {error!r}") from error
    assert 600 < read < 1000, "some are harmless, others are not"
