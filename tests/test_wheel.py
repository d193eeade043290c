"""The wheel is whole: installed outside the checkout, its `stgv` runs, with kernels and player inside."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel that pip builds from a copy of the sources, so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.check_output(["git", "ls-files", "stgvlib", "pyproject.toml", "README.md", "LICENSE"], cwd=ROOT)
    for name in listed.decode().splitlines():
        (folder / "sources" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "sources" / name).write_bytes((ROOT / name).read_bytes())
    build = "-m pip wheel -q --no-deps --no-build-isolation --disable-pip-version-check -w".split()
    done = subprocess.run([sys.executable, *build, folder, folder / "sources"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("stgvlib-*.whl"))


def test_kernels_and_player_are_inside(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder, kinds in (("ops/cuda", ("*.cu", "*.cuh")), ("player", ("*.js", "*.css", "*.html"))):
        for kind in kinds:
            files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "stgvlib" / folder).glob(kind)}
            assert files and files <= inside
    assert not [name for name in inside if not name.startswith(("stgvlib/", "stgvlib-"))]


def test_the_installed_command_runs_outside_the_checkout(wheel, tmp_path):
    """Installed beside this environment's packages, and found before its own stgvlib."""
    place = tmp_path / "installed"
    install = "-m pip install -q --no-deps --no-compile --disable-pip-version-check --target".split()
    subprocess.run([sys.executable, *install, place, wheel], check=True, capture_output=True)
    env = os.environ | {"PYTHONPATH": str(place), "NUMBA_OPT": "1"}  # it compiles its kernels anew

    def stgv(*arguments):
        code = (
            "import stgvlib, sys; from stgvlib.__main__ import main; print(stgvlib.__file__, file=sys.stderr); main()"
        )
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0 and str(place) in done.stderr, done.stderr
        return done.stdout

    assert "export" in stgv("--help")
    assert "132" in stgv("info", ROOT / "data/bunny/bunny.stgv")
    stgv("export", ROOT / "data/bunny/bunny.stgv", "bunny.html")
    page = (tmp_path / "bunny.html").read_text()
    assert "<script" in page and len(page) < 1_600_000
