"""All experiments by their names, which of them lack a valid record, what they cost, and workers that run them.

A worker is a process with a GPU of its own. They are those of a cluster on this machine, or of a dask scheduler that
exists, so that dask-jobqueue or Kubernetes can give the machines; all must see the same results folder.
"""

import math
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median

import torch

from stgvlib.device import resolve_device
from stgvlib.errors import StgvError
from stgvlib.repro import curves, fits, tasks
from stgvlib.repro.controls import SAME_FIELDS, SAME_GOPS
from stgvlib.repro.fits import some
from stgvlib.repro.paper import DAVIS_VIDEOS, UVG_VIDEOS
from stgvlib.repro.records import NOT_MADE, Record, load_record, results
from stgvlib.repro.registry import RUNS, system_runs, timed_runs
from stgvlib.video.datasets import DATASETS

# Beside seed 0: three of the rows that claims rest on, two of the comparison of representations under one trainer.
SEEDS = {
    f"{dataset}/{key}": (1, 2) for dataset in SAME_GOPS for key in ("paper", "stgv", "quality", "fast", "d2gv", "hnerv")
} | {f"{dataset}/same_{field}": (1,) for dataset in SAME_GOPS for field in SAME_FIELDS}
COMPRESSED = ("blackswan", "boat", "bmx-trees")  # sequences of DAVIS that have curves
PATIENCE = "10s"  # how long a scheduler may take to answer
FAMILIES = ("levers", "hard", "choices")  # of runs, one table each


@dataclass(frozen=True)
class Missing:
    """An experiment without a valid record."""

    name: str
    reason: str
    seconds: float | None  # expected on the devices of like records; None: there are none


def experiments(profile_name: str) -> list[str]:
    """Names of all that a profile's notebooks ask for, as paths below results/<profile>/runs."""
    groups = {"davis": DAVIS_VIDEOS, "uvg": UVG_VIDEOS}
    videos = {f"{group}/{video}" for group, every in groups.items() for video in some(every, profile_name)}
    videos |= {"bunny", "bunny_720", "bunny_gop"}
    names = [name for name in [*system_runs(), *RUNS] if name.rpartition("/")[0] in videos]
    names = [name for name in names if "/same_" not in name]
    names += [f"{d}/same_{f}" for d in some(SAME_GOPS, profile_name) for f in some(SAME_FIELDS, profile_name)]
    names += some(timed_runs(), profile_name)
    for family in FAMILIES:
        names += some((name for name in RUNS if name.startswith(f"{family}/")), profile_name)
    names += [f"{name}.seed{seed}" for name, seeds in SEEDS.items() for seed in some((0, *seeds), profile_name)[1:]]
    names += [f"bunny/rate_{c}" for group in (curves.SYSTEMS_COMPARED, curves.PARTS) for c in some(group, profile_name)]
    compressed = [f"davis/{video}" for video in some(COMPRESSED, profile_name)]
    names += [f"{dataset}/rate_{c}" for dataset in compressed for c in ("stgv", *some(curves.CHAINED, profile_name))]
    names += [f"{dataset}/anchor_{codec}" for dataset in ("bunny", *compressed) for codec in curves.BLOCK_CODECS]
    for name, task in tasks.TASKS.items():
        fitted = some((s for s in task.systems if s in tasks.FITTED), profile_name)
        methods = [s for s in task.systems if s in fitted or s not in tasks.FITTED]
        names += [f"tasks/{name}/{d}/{s}" for d in some(task.datasets, profile_name) for s in methods]
    return list(dict.fromkeys(names))


def record_of(
    name: str,
    profile_name: str,
    device: str = "auto",
    refresh: bool = False,
    show_progress: bool = True,
    make: bool = True,
) -> Record:
    """The record of any experiment by its name. Raises StgvError for an unknown one."""
    dataset, _, last = name.rpartition("/")
    how = {"device": device, "refresh": refresh, "show_progress": show_progress, "make": make}
    if name.startswith("tasks/"):
        return tasks.run(name.removeprefix("tasks/"), profile_name, **how)
    if last.startswith("rate_"):
        return curves.curve(last.removeprefix("rate_"), dataset, profile_name, **how)
    if last.startswith("anchor_"):
        del how["device"]
        return curves.block_codec(last.removeprefix("anchor_"), dataset, profile_name, **how)
    base, _, seed = name.partition(".seed")
    return fits.run(base, profile_name, seed=int(seed or 0), **how)


def records(profile_name: str) -> Iterator[Record]:
    """Every experiment's record as it is, valid or not; nothing is run."""
    return (record_of(name, profile_name, show_progress=False, make=False) for name in experiments(profile_name))


def missing(profile_name: str) -> list[Missing]:
    """Experiments without a valid record, the longest first."""
    costs = Costs(profile_name)
    found = [Missing(r.name, r.reason, costs.of(r.name)) for r in records(profile_name) if not r]
    return sorted(found, key=lambda m: -(m.seconds or 0))


class Costs:
    """Seconds that an experiment is expected to take: the median of its like, for each pixel that is fitted."""

    def __init__(self, profile_name: str):
        self.of_last: dict[str, list[float]] = {}
        self.sizes: dict[str, float] = {}
        root = results(profile_name) / "runs"
        for path in sorted(root.rglob("*.json")):
            record, _ = load_record(path)
            try:
                data, name = record["dataset"], str(path.relative_to(root).with_suffix(""))
                pixels = data["frames"] * math.prod(data["size"])
                spent = record["seconds"]["total"] if "seconds" in record else None
                spent = sum(p["encode_seconds"] for p in record["points"]) if spent is None else spent
            except (KeyError, TypeError):  # damaged, or of another version
                continue
            self.sizes[data["name"]] = pixels
            self.of_last.setdefault(_like(name), []).append(spent / pixels)

    def of(self, name: str) -> float | None:
        dataset = next((d for d in DATASETS if d in name), "bunny")
        pixels = self.sizes.get(dataset, DATASETS[dataset].frames * 720 * 1280)
        like = self.of_last.get(_like(name))
        return median(like) * pixels if like else None


def _like(name: str) -> str:
    """What experiments of about the same cost share: their method, or of levers the family."""
    first, _, last = name.partition(".seed")[0].rpartition("/")
    return first if first in FAMILIES else last


def run_missing(
    names: Iterable[str] | None,  # None: all that is missing
    profile_name: str,
    device: str = "auto",
    workers: int | None = None,  # None: one a GPU
    scheduler: str = "",
    refresh: bool = False,
    say=lambda text: print(text, file=sys.stderr, flush=True),
) -> list[str]:
    """Make records, the longest first; returns the names of those that failed.

    One worker runs in this process; several need the extra "cluster". A run that fails, or whose worker dies, costs
    itself alone. Raises StgvError for an unknown name, and for a scheduler that does not answer.
    """
    costs = Costs(profile_name)
    if names is None:
        todo = [m.name for m in missing(profile_name) if m.reason == NOT_MADE]
    else:
        todo = list(names)
        for name in todo:
            record_of(name, profile_name, show_progress=False, make=False)
        todo.sort(key=lambda name: -(costs.of(name) or 0))
    if not todo:
        say(f"profile {profile_name}: nothing to run")
        return []
    workers = workers or max(1, torch.cuda.device_count() if resolve_device(device).type == "cuda" else 1)
    arguments = (profile_name, device, refresh)
    if workers == 1 and not scheduler:
        outcomes = ((name, *_make(name, *arguments)) for name in todo)
    else:
        outcomes = _on_cluster(todo, arguments, workers, scheduler)
    failed, began = [], time.perf_counter()
    left = {name: costs.of(name) or 0.0 for name in todo}
    for done, (name, problem, seconds) in enumerate(outcomes, 1):
        del left[name]
        expected = sum(left.values()) / workers or (time.perf_counter() - began) / done * len(left)
        rest = f", about {max(1, round(expected / 60))} min left" if left else ""
        say(f"[{done}/{len(todo)}] {name}: {problem or f'{seconds:.0f} s'}{rest}")
        failed += [name] if problem else []
    return failed


def _make(name: str, profile_name: str, device: str, refresh: bool, worker: int | None = None) -> tuple[str, float]:
    """(what went wrong or "", seconds), in a worker or here."""
    began = time.perf_counter()
    if worker is not None and resolve_device(device) == torch.device("cuda"):
        torch.cuda.set_device(worker % torch.cuda.device_count())
    try:
        record = record_of(name, profile_name, device, refresh, show_progress=worker is None)
    except StgvError as error:
        return str(error), 0.0
    return record.reason, time.perf_counter() - began


def _in_worker(name: str, *arguments) -> tuple[str, float]:
    from distributed import get_worker

    number = str(get_worker().name).rpartition("-")[2]
    return _make(name, *arguments, worker=int(number) if number.isdigit() else 0)


def _on_cluster(todo: list[str], arguments: tuple, workers: int, scheduler: str) -> Iterator[tuple[str, str, float]]:
    """(name, what went wrong or "", seconds) of each, as they end; a worker has one run at a time."""
    try:
        import dask
        from distributed import Client, LocalCluster, as_completed
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise StgvError("several workers need dask.distributed: pip install 'stgvlib[cluster]'") from error
    dask.config.set({"distributed.scheduler.allowed-failures": 0, "distributed.scheduler.worker-ttl": None})
    if scheduler:
        try:
            client, cluster = Client(scheduler, timeout=PATIENCE), None
        except (OSError, ValueError) as error:
            what = f"scheduler {scheduler} does not answer"
            raise StgvError(f"{what}: start one with `dask scheduler`, or leave out --scheduler") from error
        workers = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
    else:
        cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs="CRITICAL")
        client = Client(cluster)
    waiting = iter(todo)
    try:
        running = as_completed()
        for name in [name for _, name in zip(range(workers), waiting)]:
            running.add(client.submit(_in_worker, name, *arguments, key=name, pure=False, retries=0))
        for future in running:
            try:
                problem, seconds = future.result()
            except KilledWorker:
                problem, seconds = "its worker died", 0.0
            except Exception as error:  # of any kind: the others go on
                problem, seconds = f"{type(error).__name__}: {error}", 0.0
            if (name := next(waiting, None)) is not None:
                running.add(client.submit(_in_worker, name, *arguments, key=name, pure=False, retries=0))
            yield future.key, problem, seconds
    finally:
        client.close()
        if cluster is not None:
            cluster.close()
