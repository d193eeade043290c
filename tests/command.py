"""The `stgv` command for tests: in this process, or in one of its own."""

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

from stgvlib.cli import main

FAST = "--gaussians 50 --coarse-steps 20 --motion-steps 10 --steps 30 --device cpu --profile paper".split()


def stgv(*arguments, **options):
    """In this process, which has its imports behind it; with options of `subprocess.run` in one of its own."""
    if options:
        command = [sys.executable, "-m", "stgvlib", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    out, err, status = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([*map(str, arguments)])
        except SystemExit as stop:
            status = stop.code or 0
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def refused(*arguments, **options):
    """The one line of a refusal."""
    done = stgv(*arguments, **options)
    lines = [line for line in done.stderr.splitlines() if line.startswith("stgv: ")]
    assert done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]
