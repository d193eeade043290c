"""Fit and judge what registry.py names, and keep the records that every table and figure is made from.

`run("bunny/key_frame", "smoke")` loads results/smoke/runs/bunny/key_frame.json where it is valid, and fits where it is
not. `run(Run("clip.mp4", config, "my idea"))` does so for something that no list names, below runs/mine/.
"""

import time
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from stgvlib.baselines import SYSTEMS
from stgvlib.baselines.system import module_of
from stgvlib.config import Profile, changes, profile
from stgvlib.device import resolve_device
from stgvlib.errors import StgvError
from stgvlib.fitting.progress import ProgressBar, psnr_over_steps
from stgvlib.model.judge import judge
from stgvlib.repro.pictures import pictures_of
from stgvlib.repro.records import (
    HOLDS_DATA,
    How,
    Job,
    Record,
    load_record,
    record_hash,
    record_path,
    recorded,
    save_pictures,
)
from stgvlib.repro.registry import Run, named
from stgvlib.video import datasets
from stgvlib.video.video import Video

VERSION = 2  # raised when a change of the code changes what a fit gives
HOLDS = {"psnr": float, "psnr_8bit": float, "psnr_frames": list, "parameters": int, "decode_fps": float}
HOLDS |= {"seconds.total": float, "history": dict, "frames": int, "gops": int, "config": dict}
HOLDS |= {**HOLDS_DATA, "device": str, "about": str, "pictures": dict}
NEEDS_GPU = "not run: the paper profile needs a CUDA GPU"
JUDGED_BY = ("stgvlib.model.judge", "stgvlib.video.video")


def run(
    what: str | Run,
    profile_name: str = "smoke",
    device: str = "auto",
    refresh: bool = False,
    seed: int = 0,
    show_progress: bool = True,
    make: bool = True,
) -> Record:
    """The record of a run: loaded from results/<profile>/runs where it is valid, else fitted, judged and written.

    Args:
        what: a name such as "bunny/stgv" (registry.py lists them), or a `Run` of your own, kept below runs/mine.
        profile_name: smoke, quick or paper; the paper profile does not start on a CPU, where it takes days.
        device: auto, cpu, cuda or cuda:K.
        refresh: fit again although the record is valid.
        seed: of the fit; other seeds than 0 have records of their own.
        make: False only loads.

    Returns:
        A record: `record["psnr"]` (dB), `["ms_ssim"]`, `["parameters"]`, `["seconds"]`, ... A record without data is
        false and has a `reason`. One that other code made is `outdated`.

    Raises StgvError for an unknown name, and for a video that cannot be read.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from stgvlib import STGV, write_video
        >>> from stgvlib.repro import Run, run
        >>> from dataclasses import replace
        >>> clip = tempfile.mkdtemp()
        >>> frames = np.random.default_rng(0).integers(0, 256, (2, 64, 80, 3), np.uint8)
        >>> write_video(clip, frames)
        2
        >>> short = replace(STGV, gop_size=2, coarse_steps=100, motion_steps=0, steps=400, gaussians=20)
        >>> record = run(Run(clip, short, "twenty Gaussians"), "smoke", "cpu", show_progress=False)
        >>> record["frames"], record["gaussians"], record["dataset"]["size"]  # height, width in px
        (2, 20, [19, 24])
        >>> run(Run(clip, short, "other settings"), "quick", "cpu", make=False).reason
        'not run yet'
    """
    how = How(profile_name, device, refresh, show_progress, make)
    spec, name = (named(what), what) if isinstance(what, str) else (what, own_name(what))
    system, to = spec.system, how.profile

    def key(data: dict) -> tuple[dict, dict]:
        config = configured(spec, to, data)
        says = {"config": _whole(config), "dataset": data, "seed": seed, "record_version": VERSION}
        return says, changes(config) if is_dataclass(config) else config

    def make_record(job: Job) -> dict:
        config, began = configured(spec, to, job.key["dataset"]), time.perf_counter()
        with ProgressBar(name, show_progress) as bar:
            result = system.fit(job.video, config, job.device, seed, bar, job.path.with_suffix(".checkpoint"))
        model, coarse = result.model, result.coarse if spec.dataset == "bunny" else None  # figures of motion show Bunny
        # What was fitted before an interruption counts too.
        total = max(time.perf_counter() - began, sum(result.seconds.values()))
        seconds = {k: round(v, 2) for k, v in (result.seconds | {"total": total}).items()}
        period = model.num_frames[0]
        record = {"about": spec.about, "seconds": seconds, "gops": len(model.num_frames), "trials": result.trials}
        record |= {"gaussians": getattr(model, "count", None)}
        record |= {"gop_size": getattr(getattr(model, "config", None), "gop_size", None)}
        record["history"] = {stage: psnr_over_steps(losses, period) for stage, losses in result.losses.items()}
        record |= judge(model, job.video, system.decoder)
        record["pictures"] = {}
        if spec.crop and seed == 0:
            pictures, record["pictures"] = pictures_of(model, system.decoder(model), coarse, job.video, spec.crop)
            save_pictures(Record(name, job.path, record), pictures)
        # For what is made from the model (curves.py); git ignores it, and it may be deleted.
        system.save(model, job.path.with_suffix(""), hash=job.digest)
        return record

    return recorded(
        name if seed == 0 else f"{name}.seed{seed}",
        key,
        make_record,
        VERSION,
        frames=lambda found: frames_of(spec, to, found),
        holds=HOLDS,
        sources=sources_of(spec),
        how=how,
        needs_gpu=NEEDS_GPU,
    )


def own_name(spec: Run) -> str:
    """Where the record of a run of your own lies: mine/<video>/<system>_<hash of its settings and its video's path>."""
    config = spec.system.config
    settings = {"config": changes(config) if is_dataclass(config) else repr(config), "frames": spec.frames}
    if spec.dataset not in datasets.DATASETS:
        settings["video"] = str(Path(spec.dataset).resolve())
    return f"mine/{Path(spec.dataset).stem}/{spec.system.key}_{record_hash(settings)[:6]}"


def sources_of(spec: Run) -> tuple[str, ...]:
    """Modules that decide what a fit gives."""
    return (*getattr(spec.system, "sources", (module_of(type(spec.system)),)), *JUDGED_BY)


def digest_of(name: str, to: Profile, data: dict) -> str:
    """What a named run's record on a dataset is valid for."""
    config = configured(named(name), to, data)
    says = {"dataset": data, "seed": 0, "record_version": VERSION}
    return record_hash(says | {"config": changes(config) if is_dataclass(config) else config})


def configured(spec: Run, to: Profile, data: dict):
    """A run's configuration at a profile, on the frames that `data` describes."""
    if not spec.published_gaussians:
        return spec.system.configure(to, None)
    height, width = data["size"] if to.scale == 1 else datasets.load_dataset(spec.dataset).size
    return spec.system.configure(to, height * width / datasets.DATASETS[spec.dataset].gaussians)


def fitted(
    name: str, profile_name: str, device: str = "auto", show_progress: bool = True
) -> tuple[nn.Module | None, Record]:
    """A named run's model, fitted again where its file is gone, and its record; no model where the record says why."""
    record, target = run(name, profile_name, device, show_progress=show_progress), resolve_device(device)
    if record and (model := _kept_model(name, record, target)) is not None:
        return model, record
    if record.data is None or (profile_name == "paper" and target.type == "cpu"):
        gone = replace(record, data=None, reason="not run: its model has to be fitted again, on a GPU")
        return None, gone if record else record
    record = run(name, profile_name, device, refresh=True, show_progress=show_progress)
    return _kept_model(name, record, target) if record else None, record


def _kept_model(name: str, record: Record, device: torch.device) -> nn.Module | None:
    try:
        model, about = named(name).system.load(record.path.with_suffix(""), device)
    except StgvError:
        return None
    return model if about.get("hash") == record["hash"] else None


def systems(
    dataset: str,
    profile_name: str = "smoke",
    device: str = "auto",
    refresh: bool = False,
    make: bool = True,  # False: only the records that there are
) -> dict[str, Record]:
    """Records of every registered system on one dataset, by their labels in the tables; arguments as for `run`.

    Examples:
        >>> from stgvlib.repro import systems
        >>> records = systems("bunny", "smoke", "cpu", make=False)  # the default fits what has no record
        >>> list(records)[:4]
        ['SIREN', 'NeRV', 'E-NeRV', 'HNeRV']
    """
    return {s.label: run(f"{dataset}/{key}", profile_name, device, refresh, make=make) for key, s in SYSTEMS.items()}


def own_records(profile_name: str) -> list[Record]:
    """The records of runs of your own that there are."""
    folder = record_path("mine", profile_name).with_suffix("")
    records = []
    for path in sorted(folder.rglob("*.json")):
        name = str(path.relative_to(folder.parent).with_suffix(""))
        data, damage = load_record(path, HOLDS)
        records.append(Record(name, path, data, damage))
    return records


def some(names: Iterable, profile_name: str) -> list:
    """The first of the rows of a long table: as many as the profile runs."""
    return list(names)[: profile(profile_name).rows]


def video_for(spec: Run, to: Profile) -> Video:
    """A run's frames as a profile sees them."""
    place = datasets.find(spec.dataset) if spec.dataset in datasets.DATASETS else None
    video = _opened(spec.dataset, place) if place else datasets.open_input(spec.dataset)
    video = video.scaled(to.scale)
    limits = [n for n in (spec.frames, to.frames) if n is not None]
    return video.with_(limit=min(limits)) if limits else video


def frames_of(spec: Run, to: Profile, found: dict | None) -> tuple[Video | None, dict | None, str]:
    """(video, what a record says of it, why there is none). Where the frames are not on this machine, a record `found`
    speaks for them at full size: all but the frames is then checked. Reasons go into tables, so they name no folder.

    Raises StgvError for a video of your own that cannot be read.
    """
    dataset = datasets.DATASETS.get(spec.dataset)
    if dataset is None:
        video = video_for(spec, to)
        return video, _dataset(Path(spec.dataset).name, spec.dataset, video), ""
    try:
        video = video_for(spec, to)
        return video, _dataset(spec.dataset, str(datasets.find(spec.dataset)), video), ""
    except StgvError as error:
        reason = str(error)
    if datasets.find(spec.dataset) is None and dataset.fetch:
        reason = f"{spec.dataset} is not on the machine that ran this: {dataset.fetch}"
    if found is None or to.scale != 1:
        return None, None, reason
    return None, found["dataset"], f"its record is of other settings; {reason}"


@lru_cache(maxsize=4)
def _opened(name: str, place: Path) -> Video:
    """A dataset's video. Opening one counts its frames by decoding them, which hundreds of records would ask for."""
    return datasets.open_input(name)


_seen: dict[tuple, str] = {}  # SHA-256 of frames, which every system of a dataset asks for


def _dataset(name: str, path: str, video: Video) -> dict:
    """What a record says of its frames."""
    data = {"name": name, "frames": video.num_frames, "size": video.size}
    place = (path, *data.values())
    if place not in _seen:
        _seen[place] = datasets.frames_sha256(video)
    return data | {"sha256": _seen[place]}


def _whole(config) -> dict:
    return asdict(config) if is_dataclass(config) else {"settings": repr(config)}
