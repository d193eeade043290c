"""The laboratory: the paper's experiments, their records, and the tables, figures and documents made from them.

    from stgvlib.repro import Run, report, run

    run(Run("clip.mp4", STGV, "my clip"), "quick")  # fits, judges, keeps a record below results/quick/runs/mine
    report("quick")  # beside the systems

`run` also takes the names of registry.py, such as "bunny/stgv". `python -m stgvlib.repro --help` lists the commands.
"""

from stgvlib.repro.fits import run, systems
from stgvlib.repro.registry import Run
from stgvlib.repro.tables import report

__all__ = ["Run", "report", "run", "systems"]
