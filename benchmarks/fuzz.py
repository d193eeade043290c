"""Files that lie and Gaussians of any values, by the hundred thousand: how many end other than in a frame or one line.

Usage: python benchmarks/fuzz.py [stgv | safetensors | gaussians] [CASES]    (exit status 1 where there is a failure)

Without a name all three: 100,000 .stgv files, half of them with right checksums, 5,000 .safetensors, 1,000,000
Gaussians forward and backward, and through the hash encodings. Cases are drawn from fixed seeds by tests/hostile.py.
They run in processes that may have docs/FORMAT.md's bound of memory more than they begin with, and ten seconds a case.
A failure is a crash, a hang, an exception other than StgvError, or memory over the bound; results.csv has their number.
"""

import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "tests"))

CASES = {"stgv": 100_000, "safetensors": 5_000, "gaussians": 1_000_000}
BATCH = 2_000  # Gaussians of a case
PROCESS = 5_000  # cases of a process
SECONDS = 10  # of a case
BOUND = 512 << 20  # bytes of memory: docs/FORMAT.md's for small files


def within_bounds() -> None:
    """From now on memory over the bound is refused, and a case that hangs raises."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + BOUND
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def stop(*_) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)


def worker(what: str, first: int, last: int) -> None:
    """Run cases; a line for each that failed, and one with its number before each, which survives a crash."""
    import hostile

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"case.{what}"
        hostile.try_gaussians(10, 0)  # compiled before memory counts
        files = {"stgv": hostile.hostile_streams, "safetensors": hostile.hostile_models, "gaussians": None}[what]
        given = (first, last, Path(folder)) if what == "safetensors" else (first, last)
        cases = files(*given) if files else ((what, b"") for _ in range(first, last))
        for number, (kind, data) in enumerate(cases, first):
            if number == first:
                within_bounds()
            print(f"case {number}", flush=True)
            signal.alarm(SECONDS)
            try:
                if files:
                    path.write_bytes(data)
                    hostile.try_file(path)
                else:
                    hostile.try_gaussians(BATCH, number)
            except Exception as error:
                line = traceback.extract_tb(error.__traceback__)[-1]
                print(f"failed {number} {kind}: {error!r:.200} at {Path(line.filename).name}:{line.lineno}", flush=True)
            signal.alarm(0)


def failures(what: str, cases: int) -> list[str]:
    found, first = [], 0
    while first < cases:
        last = min(cases, first + PROCESS)
        command = [sys.executable, __file__, "--worker", what, str(first), str(last)]
        ended = subprocess.run(command, capture_output=True, text=True)
        lines = ended.stdout.splitlines()
        found += [line for line in lines if line.startswith("failed")]
        begun = [int(line.split()[1]) for line in lines if line.startswith("case")]
        first = last
        if ended.returncode:
            first = begun[-1] + 1 if begun else last
            found.append(f"failed {first - 1} {what}: exit status {ended.returncode} {ended.stderr[-300:]}")
        print(f"{what}: {first:,} of {cases:,} cases, failures: {len(found)}", flush=True)
    return found


def main() -> int:
    from common import report

    chosen = sys.argv[1:2] or list(CASES)
    found = []
    for what in chosen:
        total = int(sys.argv[2]) if len(sys.argv) > 2 else CASES[what]
        began = time.perf_counter()
        failed = failures(what, total // (BATCH if what == "gaussians" else 1))
        print("\n".join(failed))
        seconds = time.perf_counter() - began
        about = f"{total:,} {what if what == 'gaussians' else '.' + what}, seeds from 0"
        if total == CASES[what]:
            report("fuzzing, failures", about, torch.device("cpu"), len(failed), "failures")
        print(f"{seconds:.0f} s")
        found += failed
    return 1 if found else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        sys.exit(main())
