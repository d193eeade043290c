"""The laboratory: the paper's experiments, their records, and the tables, figures and documents made from them.

    from stgvlib import STGV
    from stgvlib.repro import Run, report, run, systems

    run(Run("clip.mp4", STGV, "my clip"), "quick")  # fits, judges, writes a record below results/quick/runs/mine
    report("quick")  # a table of such runs
    run("bunny/stgv", "quick")  # a named run: registry.py lists them
    systems("bunny", "quick")  # every registered system

`python -m stgvlib.repro --help` lists the commands, docs/EXTENDING.md has recipes for an experiment of your own.
"""

from importlib import import_module

_PLACE_OF = {"Run": "registry", "report": "tables", "run": "fits", "systems": "fits"}

__all__ = sorted(_PLACE_OF)


def __getattr__(name: str):
    if name not in _PLACE_OF:
        raise AttributeError(f"module 'stgvlib.repro' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"stgvlib.repro.{_PLACE_OF[name]}"), name)
    return value
