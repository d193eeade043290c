"""Where data, results and caches lie, and files that appear only when they are complete."""

import atexit
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from stgvlib.errors import StgvError

PARTIAL = ".stgv-"  # how names of files begin that are being written
MOST_NAME = 240  # bytes of an output's name, which leaves room for the folder OUTPUT.parts


@contextmanager
def partial_file(path: Path, suffix: str = "") -> Iterator[Path]:
    """A new file beside `path`, with a name of its own, that becomes `path` when the block ends, and is removed when it
    fails. Raises StgvError where it cannot be created."""
    partial = path.with_name(f"{PARTIAL}{secrets.token_hex(6)}{suffix}")
    try:
        open(partial, "xb").close()
    except OSError as error:
        raise StgvError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write beside `path`, then rename. Raises StgvError (unwritable, full disk ...) and leaves nothing behind."""
    path = Path(path)
    try:
        with partial_file(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise StgvError(f"cannot write {path}: {error.strerror or error}") from error


def repository() -> Path:
    """The checkout that this package lies in; the current folder when it is installed elsewhere."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() else Path.cwd()


def data_folders() -> list[Path]:
    """Where datasets are looked for, in order."""
    named = [Path(os.environ["STGV_DATA"])] if os.environ.get("STGV_DATA") else []
    return list(dict.fromkeys([*named, repository() / "data", Path("data").resolve()]))


def cache_folder() -> Path:
    """Where compiled code is kept: $STGV_CACHE, else ~/.cache/stgvlib; where that cannot be written, a temporary folder
    of this process: cached code is run, so no folder of others is believed."""
    folder = Path(os.environ.get("STGV_CACHE") or Path.home() / ".cache" / "stgvlib")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        pass
    return folder if os.access(folder, os.W_OK) else _temporary_folder()


@cache
def _temporary_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="stgvlib-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


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
    if output.suffix in (".mp4", ".y4m", ".safetensors", ".stgv") and output.is_dir():
        raise StgvError(f"cannot write {output}: it is a folder")
    if len(os.fsencode(output.name)) > MOST_NAME:
        raise StgvError(f"cannot write {output}: its name is longer than {MOST_NAME} bytes, take a shorter one")


def check_output(output: Path, inputs: Iterable[str | Path | None] = (), overwrite: bool = False) -> None:
    """`check_writable`, and never onto an input, nor onto anything else without `overwrite`. Raises StgvError."""
    check_writable(output)
    for name in inputs:
        if name is not None and output.exists() and os.path.exists(name) and os.path.samefile(output, name):
            raise StgvError(f"{output} is the input itself: give the output another name")
    if output.is_dir():
        taken = any(output.iterdir())
    else:
        taken = os.path.lexists(output)
        if output.exists() and not output.is_file():
            raise StgvError(f"cannot write {output}: it is no regular file")
    if taken and not overwrite:
        raise StgvError(f"{output} exists: give another name, or add --overwrite to replace it")
