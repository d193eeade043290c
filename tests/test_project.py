"""The project holds together: imports point one way, requirements agree, notebooks are thin and clean."""

import ast
import csv
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).parent.parent
# The plan of the house: a room imports from its own and from those above it alone.
LAYERS = (
    ("errors", "config", "files", "device", "metrics"),  # what everyone may use
    ("video",),  # pictures in and out
    ("ops",),  # differentiable ops, three backends
    ("model",),  # a fitted video
    ("fitting",),  # video -> model
    ("codec",),  # model <-> file
    ("viewer", "cli"),  # the library's doors
    ("baselines",),  # systems to compare
    ("repro",),  # the paper's experiments
)
WITHIN = {  # rooms whose files have an order too: what is left is never imported from what is right of it
    "fitting": "progress processes optimizer plan resume placement motion stage_cuda stage batches gop_length fit",
    "repro": "paper sources records registry pictures fits classical curves tasks tables task_tables curve_tables "
    "figures work notebooks documents",
}
PROBES = {("device", "ops.cuda.compiler")}  # asks whether kernels can be compiled
VALID = {"fits": 124, "curves": 19, "block codecs": 9, "tasks": 160}
ONE_CALLER = {"scene_cuts": 1, "with_scenes": 1, "cut_gops": 1, "gaussian_count": 1, "choose": 1}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def modules():
    for path in sorted((ROOT / "stgvlib").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / "stgvlib").with_suffix("").parts)
        if not name.endswith(("__init__", "__main__")):
            yield name, path


def imports(path, top_level=False):
    """Modules of stgvlib, without the prefix, that a file imports anywhere, or at its top level."""
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "stgvlib":
            base = node.module.removeprefix("stgvlib").strip(".")
            names = [".".join(filter(None, (base, alias.name))) for alias in node.names]
            yield from (n if (ROOT / "stgvlib" / (n.replace(".", "/") + ".py")).is_file() else base for n in names)


def test_imports_point_one_way():
    floor = {room: i for i, rooms in enumerate(LAYERS) for room in rooms}
    for name, path in modules():
        room = name.split(".")[0]
        assert room in floor, f"{name} has no place in LAYERS"
        order = WITHIN.get(room, "").split()
        assert not order or path.stem in order, f"{name} has no place in WITHIN"
        for target in filter(None, imports(path)):
            there = target.split(".")[0]
            assert (name, target) in PROBES or floor[there] <= floor[room], f"{name} imports {target}"
            if order and there == room and "." in target:
                assert order.index(target.split(".")[1]) < order.index(path.stem), f"{name} imports {target}"


def test_imports_go_in_no_circle():
    graph = {name: {target for target in imports(path) if target} for name, path in modules()}
    left = set(graph)
    while free := {name for name in left if not graph[name] & left - {name}}:
        left -= free
    assert left <= {name for name, _ in PROBES} | {target for _, target in PROBES}, f"these import each other: {left}"


def test_no_decision_is_taken_twice():
    """Scenes, GoPs, Gaussians a GoP, the GoP length: each maker is called from one place."""
    text = {name: path.read_text() for name, path in modules()}
    for maker, callers in ONE_CALLER.items():
        calls = [n for n, t in text.items() for _ in re.findall(rf"(?<!def )\b{maker}\(", t)]
        assert len(calls) == callers, f"{maker} is called from {calls}"


def test_the_command_imports_nothing_heavy():
    """`stgv --help` and a typing error answer without torch, numba and OpenCV, and the command never loads repro."""
    code = "import sys, stgvlib.cli; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'cv2', 'numba')])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
    assert not [target for target in imports(ROOT / "stgvlib/cli.py") if target.startswith(("repro", "baselines"))]


def test_files_are_short_and_lines_hold_one_statement():
    total = 0
    for path in [*(ROOT / "stgvlib").rglob("*.py"), *(ROOT / "stgvlib").rglob("*.cu*")]:
        if "__pycache__" in path.parts:
            continue
        lines = path.read_text().splitlines()
        total += len(lines)
        assert len(lines) < 400, f"{path.name} has {len(lines)} lines"
        assert max(map(len, lines), default=0) <= 120, f"{path.name} has a line of {max(map(len, lines))} columns"
        if path.suffix != ".py":
            crowded = [line for line in lines if len(re.sub(r"for \(.*?\)|\{.*\}", "", line).split(";")) > 4]
            assert not crowded, f"{path.name}: {crowded[0]}"
    assert total < 12_400, f"stgvlib has {total} lines"


def test_metrics_import_only_torch_and_numpy():
    tree = ast.parse((ROOT / "stgvlib" / "metrics.py").read_text())
    names = {alias.name for n in tree.body if isinstance(n, ast.Import) for alias in n.names}
    names |= {n.module for n in tree.body if isinstance(n, ast.ImportFrom)}
    assert {"torch"} < names <= {"torch", "numpy", "time", "collections.abc"}


def requirement(text):
    name, bound = re.match(r"([A-Za-z0-9_.-]+)\s*(.*)", text.split(";")[0]).groups()
    return name.lower().replace("_", "-"), bound.strip()


def pyproject():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [data["dependencies"], *data["optional-dependencies"].values()]
    return dict(requirement(r) for group in groups for r in group), data


def test_environment_has_pyprojects_names_and_bounds():
    """conda-forge calls a few packages otherwise."""
    import yaml

    conda = {"torch": "pytorch", "opencv-python": "py-opencv", "cuda-core": "cuda-core"}
    conda |= {"nvidia-cuda-nvrtc": "cuda-nvrtc", "cuda-bindings": "cuda-bindings"}
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(d["pip"] for d in listed if isinstance(d, dict))
    there = dict(requirement(d) for d in listed if isinstance(d, str)) | dict(
        requirement(d) for d in pip if d[0] != "-"
    )
    wanted, data = pyproject()
    assert there["python"] == data["requires-python"]
    for name, bound in wanted.items():
        assert there.get(conda.get(name, name)) == bound, f"{name}{bound} is {there.get(conda.get(name, name))}"
    assert {"gsplat", "tiny-cuda-nn"} <= set(there) and "-e ." in pip


def test_lock_pins_every_requirement():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"]
    locked = dict(requirement(line) for line in lines)
    wanted, _ = pyproject()
    assert all(bound.startswith("==") for bound in locked.values())
    assert locked["torch"] == "==2.13.0"
    for name, bound in wanted.items():
        least, pinned = bound.removeprefix(">="), locked[name].removeprefix("==")
        as_numbers = [[int(n) for n in re.findall(r"\d+", v)][:3] for v in (pinned, least)]
        assert as_numbers[0] >= as_numbers[1], f"{name} {pinned} is older than {least}"


def test_there_are_notebooks():
    assert [p.name[:2] for p in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_thin_clean_and_checked(path):
    nbformat = pytest.importorskip("nbformat", reason="needs the notebooks extra")
    book = nbformat.read(path, 4)
    cells = [c for c in book.cells if c.cell_type == "code"]
    lengths = sorted(len(c.source.splitlines()) for c in cells)
    assert lengths[len(lengths) // 2] <= 6 and lengths[-1] <= 20 and sum(lengths) < 180
    assert book.cells[0].source.startswith("# ")
    parameters = cells[0]
    assert parameters.metadata.tags == ["parameters"] and 'profile = "smoke"' in parameters.source
    assert "assert" in cells[-1].source
    for cell in cells:
        assert cell.outputs == [] and cell.execution_count is None
        assert not re.search(r"^\s*(def|class) ", cell.source, re.M) and "sys.path" not in cell.source


def test_figures_in_the_documents_are_the_records():
    """Rows of docs/REPRODUCTION.md that name a record carry that record's PSNR and parameters."""
    rows = re.findall(
        r"\(`(\w+)\.json`\) \| [\d.]+ \| ([\d.]+) \| ([\d.]+)M", (ROOT / "docs/REPRODUCTION.md").read_text()
    )
    assert len(rows) == 5
    for name, psnr, parameters in rows:
        record = json.loads((ROOT / f"results/paper/runs/bunny/{name}.json").read_text())
        assert f"{record['psnr']:.2f}" == psnr and f"{record['parameters'] / 1e6:.2f}" == parameters
    systems = re.findall(
        r"\(`(\w+)\.json`\) \| ([\d.]*) ?\| ([\d.]+) \| (\d+) s \| ([\d,.]+) \|",
        (ROOT / "docs/REPRODUCTION.md").read_text(),
    )
    assert len(systems) == 12
    for name, _, psnr, seconds, speed in systems:
        record = json.loads((ROOT / f"results/paper/runs/bunny/{name}.json").read_text())
        assert (psnr, seconds) == (f"{record['psnr']:.2f}", f"{record['seconds']['total']:.0f}")
        assert float(speed.replace(",", "")) == float(f"{record['decode_fps_8bit']:.3g}")
        assert "H100" in record["device"]  # one machine type for all
    first, second, third = sorted(systems, key=lambda row: -float(row[2]))[:3]
    assert first[0] == "stgv" and second[0] == "fast" and float(second[2]) > float(third[2])
    assert min(systems, key=lambda row: int(row[3]))[0] == "fast"
    for name in ("paper", "stgv", "fast"):
        record = json.loads((ROOT / f"results/paper/runs/bunny/{name}.json").read_text())
        speed = f"{round(record['decode_fps_8bit'], -2):,.0f}"
        row = f"| preset `{name}` | {record['psnr']:.2f} | {record['seconds']['total']:.0f} s | {speed} |"
        assert row in (ROOT / "README.md").read_text()


def test_figures_of_lengths_in_the_documents_are_the_records():
    def record(name):
        return json.loads((ROOT / f"results/paper/runs/bunny/{name}.json").read_text())

    text, lengths = (
        (ROOT / "docs/REPRODUCTION.md").read_text(),
        ("gop_5", "gop_10", "stgv", "gop_20", "gop_33", "gop_all"),
    )
    for title, told in (
        ("PSNR", lambda r: f"{r['psnr']:.2f}"),
        ("worst frame", lambda r: f"{min(r['psnr_frames']):.1f}"),
        ("Gaussians a GoP", lambda r: f"{r['gaussians']:,}"),
    ):
        assert f"| {title} | {' | '.join(told(record(name)) for name in lengths)} |" in text
    assert (
        f"{record('paper')['psnr']:.2f} dB with both" in text and f"{record('middle')['psnr']:.2f} dB with both" in text
    )
    for name, told in (
        ("stgv", "Three seeds have {:.2f} dB in the mean, within {:.3f}"),
        ("paper", "{:.2f}, within {:.3f}"),
    ):
        seeds = [record(stem)["psnr"] for stem in (name, f"{name}.seed1", f"{name}.seed2")]
        assert told.format(mean(seeds), max(seeds) - min(seeds)) in text


def test_figures_of_the_codec_in_the_documents_are_the_records():
    def points(name):
        return json.loads((ROOT / f"results/paper/runs/bunny/rate_{name}.json").read_text())["points"]

    reproduction, readme = ((ROOT / name).read_text() for name in ("docs/REPRODUCTION.md", "README.md"))
    assert "| PSNR | " + " | ".join(f"{p['psnr']:.2f}" for p in points("stgv")) + " |" in reproduction
    for name in ("paper_recipe", "paper_recipe_64", "paper_recipe_256", "paper_recipe_1024"):
        assert " | ".join(f"{p['psnr']:.2f}, {p['bytes'] / 1e6:.2f}" for p in points(name)) in reproduction
    with (ROOT / "results/paper/tables/bd_rates.csv").open() as file:
        ours = next(csv.DictReader(file))
    against = {column.removeprefix("against ").removesuffix(", %"): value for column, value in ours.items()}
    x264, x265, av1 = (f"{float(against[codec]):.0f} %" for codec in ("x264", "x265", "av1"))
    assert f"{x264} more bits than x264, {x265} more than x265 and {av1} more than" in reproduction
    best = float(against["STGV, its own recipe, codebooks of 256"])
    assert f"**yes**: {-best:.0f} % fewer bits, ahead of every other" in reproduction
    fitted = json.loads((ROOT / "results/paper/runs/bunny/paper.json").read_text())["psnr"]
    lost = fitted - points("paper_recipe_1024")[1]["psnr"]
    rows = points("paper_recipe_rows")[0]
    assert f"{rows['psnr_8bit_field_rows']:.2f} dB instead of {rows['psnr_fitted']:.2f}" in reproduction
    assert f"**{rows['psnr']:.2f} dB, {rows['psnr_fitted'] - rows['psnr']:.2f} lost**" in reproduction
    assert f"**with 1,024 {lost:.2f} (0.5 was aimed at)**" in reproduction
    seconds = [round(p["fine_tuning_seconds"]) for p in points("stgv")]
    assert f"| fine-tuning, s | {' | '.join(map(str, seconds))} |" in reproduction
    assert f"that is {-best:.0f} %\nfewer bits" in readme and f"and {x265} more than x265" in readme
    with (ROOT / "results/paper/tables/bd_rates_parts.csv").open() as file:
        rates = [row["against STGV, our preset, our recipe, %"] for row in csv.DictReader(file)]
    for part, rate in zip(("rounded", "kept", "fixed", "one_step", "no_rate"), rates[1:]):
        if rate:
            curve = ", ".join(f"{p['psnr']:.2f}" for p in points(f"stgv_{part}"))
            assert f"(`rate_stgv_{part}.json`) | +{float(rate):.0f} % | {curve}" in reproduction
    words = " ".join(reproduction.split())
    for curve in ("bunny/rate_paper", "bunny/rate_d2gv", "davis/bmx-trees/rate_stgv"):
        record = json.loads((ROOT / f"results/paper/runs/{curve}.json").read_text())
        for point in record["points"]:
            assert re.search(rf"{point['psnr']:.2f} (dB )?in {point['bytes'] / 1e6:.2f}\b", words), (
                curve,
                point["level"],
            )
    told = points("stgv")[2]
    assert f"{told['psnr']:.1f} dB in {told['bytes'] / 1e6:.2f} MB" in readme


def test_figures_of_tasks_in_the_documents_are_the_records():
    """Tables of denoising and super-resolution in docs/REPRODUCTION.md: a cell is a record's, and empty without one."""
    text, found = (ROOT / "docs/REPRODUCTION.md").read_text(), 0
    systems = {
        "preset `stgv`": "stgv",
        "with Huber's loss": "stgv_robust",
        "with a smooth field": "stgv_smooth",
        "preset `paper`": "paper",
        "D2GV": "d2gv",
        "Gaussian filter": "gaussian",
        "median filter": "median",
    }

    def record(task, dataset, system):
        path = ROOT / f"results/paper/runs/tasks/{task}/{dataset}/{system}.json"
        return json.loads(path.read_text()) if path.exists() else {}

    for kind, system, *cells in re.findall(r"\| ([\w ]+): (.+?) \| ([\d.]*) ?\| ([\d.]*) ?\| ([\d.]*) ?\|\n", text):
        for dataset, cell in zip(("bunny", "davis/blackswan", "davis/boat"), cells):
            if kind != "none":
                value = record(f"noise_{kind.replace(' and ', '_')}", dataset, systems[system]).get("psnr")
                assert cell == (f"{value:.2f}" if value else ""), (kind, system, dataset)
                found += 1
    datasets = {"Bunny": "bunny", "blackswan": "davis/blackswan", "boat": "davis/boat"}
    for name, scale, row in re.findall(r"\| (Bunny|blackswan|boat), (twice|three times).*? \| ([\d. |]+) \|\n", text):
        task = "scale_2" if scale == "twice" else "scale_3"
        records = [record(task, datasets[name], system) for system in ("stgv", "bicubic", "lanczos")]
        values = [r["psnr"] for r in records] + [r["psnr_back_projected"] for r in records] + [records[0]["psnr_small"]]
        assert row == " | ".join(f"{v:.2f}" for v in values), (name, scale)
        found += 1
    assert found == 3 * 19 + 6
    systems |= {"optical flow alone": "flow", "OpenCV's inpainting": "telea", "NeRV": "nerv"}
    holes = ("random/bunny", "random/davis/blackswan", "random/davis/cows", "fixed/bunny", "object/bunny")
    table = text[text.index("| holes that stay |") :]
    for label, row in re.findall(r"\| (.+?) \|((?:[\d.; ]*\|){5})\n", table[: table.index("\n\n") + 1]):
        for place, cell in zip(holes, row.split("|")):
            task, _, dataset = place.partition("/")
            its = record(f"inpaint_{task}", dataset, systems[label])
            measures = ("psnr", "psnr_holes", "psnr_composited")
            assert cell.strip() == ("; ".join(f"{its[m]:.2f}" for m in measures) if its else ""), (label, place)
            found += 1
    assert found == 3 * 19 + 6 + 6 * 5
    rows = {
        f"`{system}`{what}": (system, measure)
        for system in ("stgv", "stgv_steady")
        for what, measure in ((" at the time between", "psnr"), (", Gaussians half-way", "psnr_half_way"))
    }
    rows |= {"average of the neighbours": ("average", "psnr"), "| optical flow": ("flow", "psnr")}
    for label, (system, measure) in rows.items():
        values = [record("between", dataset, system)[measure] for dataset in datasets.values()]
        assert f"{label} | {' | '.join(f'{v:.2f}' for v in values)} |" in text, label
    told = {("scale_2", "bunny"): "{:.2f} (agreeing {:.2f}; its fit of the small frames {:.2f})"}
    told |= {
        ("scale_3", "bunny"): "{:.2f} ({:.2f}; {:.2f}) three",
        ("scale_2", "davis/boat"): "{:.2f} ({:.2f}; {:.2f}) on boat",
    }
    for (task, dataset), sentence in told.items():
        its = record(task, dataset, "paper")
        assert sentence.format(its["psnr"], its["psnr_back_projected"], its["psnr_small"]) in text, (task, dataset)


def test_figures_of_davis_in_the_documents_are_the_records():
    """Both tables of docs/REPRODUCTION.md, and the means in README.md."""
    from stgvlib.repro import fits as experiments
    from stgvlib.repro.paper import DAVIS_VIDEOS, TABLE_8
    from stgvlib.repro.registry import ABLATED

    reproduction, readme = ((ROOT / name).read_text() for name in ("docs/REPRODUCTION.md", "README.md"))
    found = {key: [] for key in ("2dgs", "gaussian_video", "gsvr", "d2gv", "hnerv", "paper", "fast", "stgv")}
    for video, printed in zip(DAVIS_VIDEOS, TABLE_8["STGV"][0]):
        records = {key: experiments.run(f"davis/{video}/{key}", "paper", "cpu") for key in found}
        told = {key: (record["psnr"], record["seconds"]["total"]) for key, record in records.items()}
        ours = " | ".join("{:.2f} | {:.0f}".format(*told[key]) for key in ("paper", "stgv"))
        assert f"| {video} | {printed:.2f} | {ours} | {records['stgv']['gop_size']} |" in reproduction
        assert f"| {video} | " + " | ".join("{:.2f} ({:.0f})".format(*pair) for pair in told.values()) in reproduction
        others = [pair for key, pair in told.items() if key not in ("stgv", "fast")]
        assert max(psnr for psnr, _ in others) < told["fast"][0] < told["stgv"][0]
        assert told["fast"][1] < min(seconds for _, seconds in (*others, told["stgv"]))
        for key, pair in told.items():
            found[key].append(pair)
    means = {key: tuple(map(mean, zip(*pairs))) for key, pairs in found.items()}
    assert "| mean | " + " | ".join("{:.2f} ({:.0f})".format(*pair) for pair in means.values()) in reproduction
    for variant in ("multi_frame", "key_frame", "static", "dynamic", "planes", "paper"):
        records = [experiments.run(f"davis/{video}/{variant}", "paper", "cpu") for video in ABLATED]
        cells = " | ".join(f"{r['psnr']:.2f} | {r['parameters'] / 1e6:.2f}M" for r in records)
        assert f"(`{variant}.json`) | {cells} |" in reproduction
    assert f"| the paper | {mean(TABLE_8['STGV'][0]):.2f} | |" in readme
    for key in ("paper", "stgv", "fast"):
        assert "| preset `{}` | {:.2f} | {:.0f} s |".format(key, *means[key]) in readme


def test_tables_in_the_documents_are_made_from_what_was_measured(tmp_path, monkeypatch):
    """docs/REPRODUCTION.md holds the levers' table as records give it now, docs/PERFORMANCE.md that of results.csv."""
    from stgvlib.repro import tables as report

    made = subprocess.run(
        [sys.executable, ROOT / "benchmarks/profile_step.py", "table"], capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() in (ROOT / "docs/PERFORMANCE.md").read_text()
    monkeypatch.setenv("STGV_RESULTS", str(tmp_path))
    for family, base in (("levers", "sketch"), ("hard", "base")):
        shutil.copytree(ROOT / "results/paper/runs" / family, tmp_path / "paper/runs" / family)
        report.lever_table(family, base)
        table = (tmp_path / f"paper/tables/{family}.md").read_text().strip()
        assert table in (ROOT / "docs/REPRODUCTION.md").read_text()


def test_committed_records_are_valid_for_this_code():
    """Every record that was valid when this list was made still is, with frames at hand or without."""
    from stgvlib.repro.work import record_of

    listed = json.loads((ROOT / "tests/valid_records.json").read_text())
    assert {kind: len(names) for kind, names in listed.items()} == VALID
    for names in listed.values():
        for name in names:
            record = record_of(name, "paper", "cpu", show_progress=False, make=False)
            assert record, f"{name} is not valid any more: {record.reason}"


@pytest.mark.parametrize("arguments, status, told", [(["--help"], 0, "Usage: bench_deform.py"), (["gpu"], 2, "'gpu'")])
def test_a_benchmark_says_what_it_is_and_what_is_wrong(arguments, status, told):
    script = [sys.executable, ROOT / "benchmarks/bench_deform.py", *arguments]
    ended = subprocess.run(script, capture_output=True, text=True)
    assert ended.returncode == status and told in ended.stdout + ended.stderr
    assert status == 0 or len(ended.stderr.splitlines()) == 1
