"""Lay out the pages of the site in build/docs, for mkdocs (mkdocs.yml): `./run_all.sh docs` calls it.

Files keep their places in the repository, so that links between them hold. Notebooks are the executed ones. Made here:
a page of the API, a page that lists each folder of tables and notebooks, and the player's pages of the clips that ship.
"""

import shutil
import subprocess
from pathlib import Path

import stgvlib
from stgvlib.cli_player import export

ROOT = Path(__file__).parent.parent
SITE = ROOT / "build/docs"
TAKEN = "*.md LICENSE CITATION.cff docs data/*.md data/*/make.py results/paper/tables/*.md results/paper/figures"

WIDE = (
    ".md-grid { max-width: 80rem } .md-typeset table:not([class]) :is(th, td) { padding: 0.4em 0.6em; min-width: 0 }\n"
)


def main() -> None:
    shutil.rmtree(SITE, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *TAKEN.split()], cwd=ROOT, text=True, stdout=-1
    )
    for name in listed.stdout.splitlines():
        copy(ROOT / name, SITE / name)
    for path in (ROOT / "results/paper/notebooks").glob("*.ipynb"):
        copy(path, SITE / "notebooks" / path.name)
    index(SITE / "results/paper/tables", "Tables", "*.md")
    index(SITE / "notebooks", "Notebooks", "*.ipynb")
    copy(SITE / "notebooks/index.md", SITE / "results/paper/notebooks/index.md")
    moved = SITE / "results/paper/notebooks/index.md"
    moved.write_text(moved.read_text().replace("](", "](../../../notebooks/"))
    (SITE / "api.md").write_text(api())
    (SITE / "site.css").write_text(WIDE)
    play = [
        "# Play",
        "Clips that ship with the project, in the [player](docs/PLAYER.md). It needs a browser with WebGL2.",
    ]
    for path in sorted((ROOT / "data").glob("*/*.stgv")):
        (SITE / "player").mkdir(exist_ok=True)
        export(path, SITE / f"player/{path.stem}.html")
        frame = f'<iframe src="player/{path.stem}.html" title="{path.stem}" width="100%" height="520"></iframe>'
        play += [f"## {path.stem}", frame, f"[The page alone](player/{path.stem}.html)"]
    (SITE / "play.md").write_text("\n\n".join(play) + "\n")


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def index(folder: Path, title: str, pattern: str) -> None:
    """A page that lists a folder."""
    links = [f"- [{path.stem}]({path.name})" for path in sorted(folder.glob(pattern))]
    (folder / "index.md").write_text("\n".join([f"# {title}", "", *links, ""]))


def api() -> str:
    """The public names, each with its docstring by mkdocstrings."""
    names = [name for name in stgvlib.__all__ if not name.startswith("_")]
    values = [getattr(stgvlib, name) for name in names]
    places = sorted(f"{value.__module__}.{name}" for name, value in zip(names, values) if callable(value))
    presets = "`QUALITY`, `FAST`, `STGV` and `PAPER` are `FitConfig`s; `PRESETS` and `PROFILES` list them by name."
    return "\n\n".join(["# API", presets, *(f"::: {place}" for place in places)]) + "\n"


if __name__ == "__main__":
    main()
