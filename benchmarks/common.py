"""Timing, and the one tidy table of all benchmarks, results.csv: a row for each name, config and device.

To import it gives a script --help, which is its docstring, and errors of stgvlib as one line with exit status 2.
"""

import csv
import os
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch

from stgvlib.device import device_name
from stgvlib.errors import StgvError
from stgvlib.repro.records import commit

RESULTS = Path(__file__).parent / "results.csv"
COLUMNS = ("name", "config", "device", "value", "p10", "p90", "unit", "floor", "commit", "date")

if {"-h", "--help"} & set(sys.argv[1:]):
    print(sys.modules["__main__"].__doc__)
    sys.exit()


def _tell(kind: type, error: BaseException, trace) -> None:
    if not issubclass(kind, StgvError):
        return sys.__excepthook__(kind, error, trace)
    print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr, flush=True)
    os._exit(2)


sys.excepthook = _tell


def measure(
    function: Callable[[], object], device: torch.device, seconds: float = 2.0, captured: bool = True
) -> tuple[float, float, float]:
    """(median, p10, p90) in milliseconds of one call, warm. On a GPU a sample is ten replays of the call as a CUDA
    graph (if `captured`), between events: what a training step pays, without Python."""
    for _ in range(3):
        function()
    if device.type == "cuda" and captured:
        function = graph(function)
    samples = []
    began = time.perf_counter()
    while len(samples) < 10 or (time.perf_counter() - began < seconds and len(samples) < 200):
        if device.type == "cuda":
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for _ in range(10):
                function()
            stop.record()
            stop.synchronize()
            samples.append(start.elapsed_time(stop) / 10)
        else:
            start = time.perf_counter()
            function()
            samples.append((time.perf_counter() - start) * 1e3)
    cuts = statistics.quantiles(samples, n=10)
    return statistics.median(samples), cuts[0], cuts[-1]


def graph(function: Callable[[], object]) -> Callable[[], None]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        function()
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        function()
    return captured.replay


def report(name: str, config: str, device: torch.device, value, unit: str, floor: float | None = None) -> None:
    """Print a measurement and put it in results.csv in place of the last one of the same name, config and device.

    value: a number, or (median, p10, p90). floor: what the bytes or operations alone would take, in the same unit.
    """
    median, low, high = value if isinstance(value, tuple) else (value, value, value)
    row = dict.fromkeys(COLUMNS, "")
    revision, dirty = commit()
    row |= {"name": name, "config": config, "device": device_name(device), "unit": unit}
    row["commit"] = revision + ("+dirty" if dirty else "")
    row |= {key: f"{number:.5g}" for key, number in (("value", median), ("p10", low), ("p90", high))}
    row |= {"floor": "" if floor is None else f"{floor:.3g}", "date": datetime.now(UTC).date().isoformat()}
    rows = []
    if RESULTS.exists():
        with open(RESULTS, newline="") as file:
            rows = [r for r in csv.DictReader(file) if any(r[k] != row[k] for k in ("name", "config", "device"))]
    with open(RESULTS, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted([*rows, row], key=lambda r: (r["name"], r["config"], r["device"])))
    against = "" if floor is None else f"   floor {floor:.3g} {unit}"
    print(f"{name:28} {config:44} {median:10.4g} {unit}  (p10 {low:.4g}, p90 {high:.4g}){against}", flush=True)
