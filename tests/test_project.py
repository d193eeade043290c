"""The project holds together: imports point one way, requirements agree, notebooks are thin and clean."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The plan of the house: a room imports from its own and from those above it alone.
LAYERS = (
    ("errors", "signals", "config", "files", "device", "metrics"),  # what everyone may use
    ("video",),  # pictures in and out
    ("ops",),  # differentiable ops, three backends
    ("model",),  # a fitted video
    ("fitting",),  # video -> model
    ("codec",),  # model <-> file
    ("player", "cli_fit", "cli_player", "cli"),  # the library's doors
    ("baselines",),  # systems to compare
    ("repro",),  # the paper's experiments
)
WITHIN = {  # rooms whose files have an order too: what is left is never imported from what is right of it
    "fitting": "progress processes optimizer plan resume placement motion stage_cuda stage batches gop_length "
    "estimate fit",
    "repro": "paper published sources records controls frames registry pictures fits classical curves tasks layout "
    "layouts typeset tables task_tables curve_tables looks crops figures work redraw film control_tables coverage show "
    "findings try_it notebooks documents",
}
PROBES = {("device", "ops.cuda.compiler")}  # asks whether kernels can be compiled
# 8,817 in one flat folder at commit 4045339; since then workers, sources of records, documents, systems as a protocol,
# checks of launches; then one reader for all video, limits and checks of both formats, resume that cannot mix; then
# the controls of a fair trial: sources of a dataset, coverage of the paper's numbers, conventions of peers; then a
# lattice of displacements, fading, and MLPs of two widths; then layouts of readable tables in two formats; then
# grey Gaussians, and the player's pages; then what notebooks show: sentences from records, charts with hover, sliders;
# then figures: crops where systems differ, labels at points, alternative texts, the README's moving picture; then
# GoPs that are predicted, and fits for a file; then how frames are displayed (times, colours, a poster), file reports;
# kernels that learn differences, predictions on a GPU, and notebooks side by side; then which definitions a record's
# run reaches; then a render for training, on tensor cores.
CODE_LINES = 15_900
VALID = {"fits": 191, "curves": 18, "block codecs": 36, "tasks": 151}
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
    """Files under 400 lines, lines within 120 columns; code, without words and empty lines, does not grow unseen."""
    from stgvlib.repro.sources import code_of

    total = 0
    for path in [*(ROOT / "stgvlib").rglob("*.py"), *(ROOT / "stgvlib").rglob("*.cu*")]:
        if "__pycache__" in path.parts:
            continue
        lines = path.read_text().splitlines()
        total += len(code_of(path).splitlines())
        assert len(lines) < 400, f"{path.name} has {len(lines)} lines"
        assert max(map(len, lines), default=0) <= 120, f"{path.name} has a line of {max(map(len, lines))} columns"
        if path.suffix != ".py":
            crowded = [line for line in lines if len(re.sub(r"for \(.*?\)|\{.*\}", "", line).split(";")) > 4]
            assert not crowded, f"{path.name}: {crowded[0]}"
    assert total < CODE_LINES, f"stgvlib has {total} lines of code: remove as many as you add, or say why in CODE_LINES"


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


def test_lock_pins_every_requirement_with_hashes():
    """run_all.sh installs with --require-hashes; two parts of the file are for one build of torch each (FAULTS 8)."""
    text = (ROOT / "requirements.lock").read_text()
    blocks = re.findall(r"^([\w.-]+==[^\n]*?)\\((?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+)$", text, re.M)
    words = re.sub(r"^#.*\n", "", text, flags=re.M).split()
    assert len(blocks) == len(re.findall(r"^\w", text, re.M)) > 150
    assert not [
        word for word in words if "//" in word or word.startswith("-") and not word.startswith("--hash=sha256:")
    ]
    parts = {build: [h for h, _ in blocks if f'extra == "{build}"' in h] for build in ("cpu-build", "cuda-build")}
    assert parts["cpu-build"] == ['torch==2.13.0+cpu ; extra == "cpu-build" ']
    assert {"nvidia-cublas", "nvidia-cudnn-cu13", "triton"} < {requirement(h)[0] for h in parts["cuda-build"]}
    locked = dict(requirement(head) for head, _ in blocks if "extra ==" not in head)
    wanted, _ = pyproject()
    assert all(re.fullmatch(r"==[\w.]+", bound) for bound in locked.values())
    assert locked["torch"] == "==2.13.0" and not set(locked) & {requirement(h)[0] for h in parts["cuda-build"]}
    for name, bound in wanted.items():
        least, pinned = bound.removeprefix(">="), locked[name].removeprefix("==")
        as_numbers = [[int(n) for n in re.findall(r"\d+", v)][:3] for v in (pinned, least)]
        assert as_numbers[0] >= as_numbers[1], f"{name} {pinned} is older than {least}"


def test_floors_lie_above_known_faults():
    """CVE-2024-34062, CVE-2024-35195, CVE-2024-43805 (FAULTS 8)."""
    wanted, _ = pyproject()
    assert (wanted["tqdm"], wanted["requests"], wanted["jupyterlab"]) == (">=4.66.3", ">=2.32", ">=4.2.5")


def test_there_are_notebooks():
    assert [p.name[:2] for p in NOTEBOOKS] == ["00", "01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_thin_clean_and_checked(path):
    nbformat = pytest.importorskip("nbformat", reason="needs the notebooks extra")
    book = nbformat.read(path, 4)
    cells = [c for c in book.cells if c.cell_type == "code"]
    lengths = sorted(len(c.source.splitlines()) for c in cells)
    assert lengths[len(lengths) // 2] <= 6 and lengths[-1] <= 20 and sum(lengths) < 180
    assert book.cells[0].source.startswith("# ")
    parameters = cells[0]
    assert parameters.metadata.tags == ["parameters"] and 'environ.get("STGV_PROFILE", "paper")' in parameters.source
    assert "assert" in cells[-1].source and "try_it(" in cells[-3].source and "findings." in cells[-2].source
    assert any("make_missing(make)" in cell.source for cell in cells)
    for cell in cells:
        assert cell.outputs == [] and cell.execution_count is None
        assert not re.search(r"^\s*(def|class) ", cell.source, re.M) and "sys.path" not in cell.source


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
