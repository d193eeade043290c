"""The laboratory: the paper's experiments, their records, and the tables, figures and documents made from them.

    from stgvlib import STGV
    from stgvlib.repro import Run, report, run, systems

    run(Run("clip.mp4", STGV, "my clip"), "quick")  # fits, judges, writes a record below results/quick/runs/mine
    report("quick")  # a table of such runs
    run("bunny/stgv", "quick")  # a named run: registry.py lists them
    systems("bunny", "quick")  # every registered system

`python -m stgvlib.repro --help` lists the commands, docs/EXTENDING.md has recipes for an experiment of your own.
"""

from stgvlib.repro.fits import run, systems
from stgvlib.repro.registry import Run
from stgvlib.repro.tables import report

__all__ = ["Run", "report", "run", "systems"]
