"""Execute the notebooks with papermill and list what they made: what `run_all.sh` calls."""

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from pathlib import Path
from tempfile import TemporaryFile

from stgvlib.device import device_name, resolve_device
from stgvlib.errors import StgvError
from stgvlib.files import repository
from stgvlib.repro.records import results

MOST_TOGETHER = 4  # notebooks
LONGEST = "03"  # number of the notebook that takes longest
WIDGET = "application/vnd.jupyter.widget-view+json"


def notebooks(only: str) -> list[Path]:
    """The numbered notebooks, all or those whose number is in `only` ("01,02"). Raises StgvError for a wrong number."""
    found = sorted((repository() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    wanted = [n.strip().zfill(2) for n in only.split(",") if n.strip()]
    if unknown := [n for n in wanted if n not in {path.name[:2] for path in found}]:
        there = ", ".join(path.stem for path in found)
        raise StgvError(f"--only names {', '.join(unknown)}, but the notebooks are {there or 'missing'}")
    return [path for path in found if not wanted or path.name[:2] in wanted]


def execute(path: Path, folder: Path, profile: str, device: str, refresh: bool, make: bool = True) -> str | None:
    """Run one notebook; the executed copy is kept in `folder` also when it fails. Returns the error, or None."""
    import papermill

    parameters = {"profile": profile, "device": device, "refresh": refresh, "make": make}
    if unknown := set(parameters) - set(papermill.inspect_notebook(str(path))):
        return f"its parameters cell lacks {', '.join(sorted(unknown))}"
    failure = None
    try:
        papermill.execute_notebook(
            str(path),
            str(folder / path.name),
            parameters=parameters,
            cwd=str(path.parent),
            progress_bar=False,
            extra_arguments=["--IPKernelApp.log_level=ERROR"],  # it warns that it talks to this process unencrypted
        )
    except papermill.PapermillExecutionError as error:
        failure = f"cell {error.exec_count}: {error.ename}: {error.evalue}"
    except RuntimeError as error:  # nbclient's: out of memory, or killed
        failure = f"no cell: {error}"
    _reproducible(folder / path.name)
    return failure


def _reproducible(copy: Path) -> None:
    """An executed copy without what differs from one run or machine to the next (times, absolute paths, the injected
    cell's id), so that one that is regenerated from the same records is the same file; and without the state of
    widgets, which needs a kernel: their still pictures remain."""
    import nbformat

    notebook = nbformat.read(copy, nbformat.NO_CONVERT)
    for part in (notebook, *notebook.cells):
        part.metadata.pop("execution", None)
        for key in ("start_time", "end_time", "duration"):
            part.metadata.get("papermill", {}).pop(key, None)
        if "injected-parameters" in part.metadata.get("tags", ()):
            part.id = "injected-parameters"
        for output in part.get("outputs", ()):
            output.get("data", {}).pop(WIDGET, None)
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, copy)
    text = copy.read_text().replace(str(repository()) + os.sep, "")
    there, here = (os.path.relpath(copy.parent.parent, place) for place in (repository() / "notebooks", copy.parent))
    copy.write_text(text.replace(f"]({Path(there).as_posix()}/", f"]({Path(here).as_posix()}/"))  # links to figures


def execute_all(profile: str, device: str, only: str, refresh: bool, make: bool = True) -> int:
    """Execute the notebooks and list what they made; returns the exit status. Without `make`, records of the paper
    profile are only read. Raises StgvError for bad arguments."""
    chosen, where = notebooks(only), resolve_device(device)
    folder = results(profile)
    copies = folder / "notebooks"
    copies.mkdir(parents=True, exist_ok=True)
    print(f"profile {profile} on {device_name(where)}, into {folder}")
    began, arguments = time.time(), (copies, profile, device, refresh, make)
    # Runs of the other profiles fill a machine, and are timed.
    together = min(os.cpu_count() or 1, MOST_TOGETHER, len(chosen)) if (profile, where.type) == ("smoke", "cpu") else 1
    try:
        for path, error in _side_by_side(chosen, together, arguments) if together > 1 else _in_turn(chosen, arguments):
            if error:
                text = f"FAILED\n\n{path.name} failed in {error}\nthe executed copy: {copies / path.name}"
                print(text, file=sys.stderr)
                return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted; finished runs are kept in {folder / 'runs'}: run the same command to go on")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # also for what is said while this process ends
        return 130
    print(f"\n{'made':52} {'when':>8}")
    suffixes = (".csv", ".md", ".tex", ".png", ".jpg", ".ipynb", ".json")
    for file in sorted(f for f in folder.rglob("*") if f.suffix in suffixes):
        if "runs" in file.parts and file.suffix == ".png":
            continue
        fresh = "now" if file.stat().st_mtime >= began else "before"
        print(f"{str(file.relative_to(folder)):52} {fresh:>8}")
    return 0


def _in_turn(chosen: list[Path], arguments: tuple) -> Iterator[tuple[Path, str | None]]:
    for path in chosen:
        print(f"  {path.stem} ...", end=" ", flush=True)
        error, seconds, noise = _quietly(path, *arguments)
        sys.stderr.write(noise)
        if not error:
            print(f"{seconds:.0f} s")
        yield path, error


def _side_by_side(chosen: list[Path], together: int, arguments: tuple) -> Iterator[tuple[Path, str | None]]:
    """Processes that have a part of the cores each, and the notebook that takes longest first."""
    print(f"  {len(chosen)} notebooks, {together} at once", flush=True)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // together)))
    with ProcessPoolExecutor(together, get_context("spawn")) as pool:
        order = sorted(chosen, key=lambda path: path.name[:2] != LONGEST)
        running = {pool.submit(_quietly, path, *arguments): path for path in order}
        try:
            for future in as_completed(running):
                error, seconds, noise = future.result()
                sys.stderr.write(noise)
                print(f"  {running[future].stem} ... {'' if error else f'{seconds:.0f} s'}", flush=True)
                yield running[future], error
        except BaseException:  # a notebook failed, or Ctrl-C: a process that was interrupted would take the next one
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.terminate()  # its kernel ends by itself
            raise


def _quietly(path: Path, *arguments) -> tuple[str | None, float, str]:
    """The error of a notebook, its seconds, and what kernels said beside their cells: nothing of it where they were
    interrupted."""
    started, terminal = time.perf_counter(), os.dup(2)
    with TemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)
        try:
            error = execute(path, *arguments)
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
        noise.seek(0)
        return error, time.perf_counter() - started, noise.read().decode(errors="replace")
