"""Where data, results and caches lie, and files that appear only when they are complete."""

import os
import tempfile
from pathlib import Path

from stgvlib.errors import StgvError


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write beside `path`, then rename. Raises StgvError (unwritable, full disk ...) and leaves nothing behind."""
    path = Path(path)
    partial = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            partial = file.name
            file.write(data)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except OSError as error:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)
        raise StgvError(f"cannot write {path}: {error.strerror or error}") from error


def repository() -> Path:
    """The checkout that this package lies in; the current folder when it is installed elsewhere."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() else Path.cwd()


def data_folders() -> list[Path]:
    """Where datasets are looked for, in order."""
    named = [Path(os.environ["STGV_DATA"])] if os.environ.get("STGV_DATA") else []
    return list(dict.fromkeys([*named, repository() / "data", Path("data").resolve()]))


def results_folder(profile_name: str) -> Path:
    """results/<profile> of the checkout, or below $STGV_RESULTS."""
    root = os.environ.get("STGV_RESULTS")
    return (Path(root) if root else repository() / "results") / profile_name


def check_writable(output: Path) -> None:
    """Find out before an hour of fitting, not after it, that the result cannot be written."""
    folder = output.parent
    if not folder.is_dir():
        raise StgvError(f"cannot write {output}: the folder {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise StgvError(f"cannot write {output}: no permission to write in {folder}")
    if output.suffix and output.is_dir():
        raise StgvError(f"cannot write {output}: it is a folder")
