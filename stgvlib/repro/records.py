"""The one door to results: `recorded` loads a record where it is valid and makes it where it is not.

A record is a JSON file below results/<profile>/runs. It is valid for one configuration, one set of frames, one seed and
one version of its experiment, which is raised when a change of the code changes what its figures mean. It names the
commit, the libraries, and a hash of the sources that decide its result: a record that other code made is used, but
`outdated`, which its table cell then shows.
"""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from stgvlib.config import Profile, profile
from stgvlib.device import device_name, driver_version, library_versions, resolve_device
from stgvlib.errors import StgvError
from stgvlib.files import results_folder, write_atomically
from stgvlib.repro.sources import sources_hash
from stgvlib.video.video import Video

SHARED = ("truth", "given", "key")  # pictures that do not depend on the system: one for all records in a folder
NOT_MADE = "not run yet"
HOLDS_DATA = {"dataset.name": str, "dataset.frames": int, "dataset.size": list, "dataset.sha256": str}
Frames = Callable[[dict | None], tuple[Video | None, dict | None, str]]


_reading = False  # whether records of the paper profile are only read in this process


def make_missing(allowed: bool) -> None:
    """Whether this process makes records of the paper profile that are missing, as it does unless it is told not to: a
    notebook that shows the committed ones does not. `refresh` and the other profiles make them in any case."""
    global _reading
    _reading = not allowed


class NotRun(Exception):
    """Raised by a maker that finds that it cannot run here; its text is the reason."""


@dataclass(frozen=True)
class Record:
    """A finished run (`data`), or the reason why there is none."""

    name: str
    path: Path
    data: dict | None
    reason: str = ""
    outdated: bool = False  # made by other code than today's

    def __bool__(self) -> bool:
        return self.data is not None

    def __getitem__(self, key: str):
        if self.data is None:
            raise StgvError(f"{self.name} has no record: {self.reason}")
        return self.data[key]

    def picture(self, key: str) -> Path:
        """Where one of the record's pictures lies, if it has it; those of the frames themselves serve the folder."""
        return self.path.with_name(f"{key}.png" if key in SHARED else f"{self.path.stem}.{key}.png")

    def image(self, key: str) -> np.ndarray:
        """One of the record's pictures: uint8 [H, W, 3] RGB."""
        path = self.picture(key)
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise StgvError(f"{path} is missing: run {self.name} again with refresh=True")
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


@dataclass(frozen=True)
class How:
    """How records are asked for, the same for every kind."""

    profile_name: str = "smoke"
    device: str = "auto"
    refresh: bool = False
    show_progress: bool = True
    make: bool = True  # False: only look

    @property
    def profile(self) -> Profile:
        return profile(self.profile_name)


@dataclass(frozen=True)
class Job:
    """What a maker gets."""

    name: str
    path: Path
    video: Video
    device: torch.device
    how: How
    digest: str  # of everything that decides the result
    key: dict  # what the record says of that


def recorded(
    name: str,  # below results/<profile>/runs
    key: Callable[[dict], tuple[dict, Any]],  # dataset -> (what the record says, settings that are hashed as "config")
    make: Callable[[Job], dict],
    version: int,  # of the experiment
    *,
    frames: Frames,  # record or None -> (video, what a record says of it, why there is none)
    holds: dict[str, type],  # what a record of this kind has at the least
    sources: Sequence[str],  # modules that decide the result
    how: How,
    needs_gpu: str = "",  # why the paper profile is not made on a CPU; empty: it is
    also: Callable[[dict], dict] | None = None,  # dataset -> what a valid record says besides
) -> Record:
    """The record of an experiment: loaded where valid, else made and written. One without data says why.

    A record that was damaged or edited by hand is named and left alone; `refresh` replaces it.
    """
    path = record_path(name, how.profile_name)
    found, damage = (None, "") if how.refresh else load_record(path, holds)
    if damage:
        return Record(name, path, None, damage)
    video, data, reason = frames(found)
    if data is None:
        return Record(name, path, None, reason)
    says, settings = key(data)
    digest = record_hash(says | {"config": settings, "record_version": version})
    required = {"hash": digest} | (also(data) if also else {})
    today = sources_hash(*sources)
    if found is not None and all(found.get(k) == v for k, v in required.items()):
        return Record(name, path, found, outdated=found.get("sources") != today)
    if video is None:
        return Record(name, path, None, reason)
    device = resolve_device(how.device)
    if needs_gpu and how.profile_name == "paper" and device.type == "cpu":
        return Record(name, path, None, needs_gpu)
    if not how.make or (_reading and how.profile_name == "paper" and not how.refresh):
        return Record(name, path, None, NOT_MADE)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"name": name, "profile": how.profile_name, **says, **required, "record_version": version}
    try:
        made = make(Job(name, path, video, device, how, digest, says))
        return save_record(name, path, record | {"sources": today, **stamp(device), **made})
    except NotRun as why:
        return Record(name, path, None, str(why))


def results(profile_name: str) -> Path:
    """The results folder of a profile. Raises StgvError for an unknown one, before anything makes the folder."""
    return results_folder(profile(profile_name).name)


def record_path(name: str, profile_name: str) -> Path:
    return results(profile_name) / "runs" / f"{name}.json"


def load_record(path: Path, holds: dict[str, type] | None = None) -> tuple[dict | None, str]:
    """(a record, "") or (None, what is wrong with it); (None, "") where there is none. `holds`: the types of what it
    must have, "dataset.size" being what "dataset" has. Whether it was edited shows where it has a checksum."""
    again = "restore it, or run it again with refresh"
    try:
        record = json.loads(path.read_bytes(), parse_constant=_refuse)
        if not isinstance(record, dict):
            return None, f"{path.name} holds a {type(record).__name__}, expected an object: {again}"
        for name, kind in (holds or {}).items():
            value = record
            for key in name.split("."):
                if not isinstance(value, dict) or key not in value:
                    return None, f"{path.name} lacks {name}: {again}"
                value = value[key]
            if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
                return None, f"{path.name} has {value!r:.20} as {name}, expected {kind.__name__}: {again}"
        if "checksum" in record and record["checksum"] != _checksum(record):
            return None, f"{path.name} was edited, its checksum differs: {again}"
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"{path.name} cannot be read ({error.strerror}): {again}"
    except (ValueError, RecursionError) as error:
        return None, f"{path.name} is no JSON ({str(error)[:60]}): {again}"
    return record, ""


def _refuse(constant: str):
    raise ValueError(f"{constant} is no number of JSON")


def save_record(name: str, path: Path, record: dict) -> Record:
    """Write a record with the checksum of its contents. Raises NotRun where a number is not finite, as after a fit that
    diverged: JSON has no such numbers."""
    try:
        record = json.loads(json.dumps(record, allow_nan=False))
    except ValueError as error:
        raise NotRun(f"not kept: a number of its result is not finite ({error})") from error
    record["checksum"] = _checksum(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
    return Record(name, path, record)


def escaped(text: str) -> str:
    """Free text of a record, such as a device's name, as Markdown shows it letter by letter, on one line."""
    text = re.sub(r"([\\`*~\[\]|])", r"\\\1", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def save_pictures(record: Record, pictures: dict[str, np.ndarray]) -> None:
    """Write pictures [H, W, 3] RGB or [H, W] beside a record, as its `image` reads them."""
    record.path.parent.mkdir(parents=True, exist_ok=True)
    for key, picture in pictures.items():
        _, encoded = cv2.imencode(".png", picture[..., ::-1] if picture.ndim == 3 else picture)
        write_atomically(record.picture(key), encoded.tobytes())


def record_hash(key: dict) -> str:
    """What a record is valid for: settings (those that differ from the defaults), frames, seed and version."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def _checksum(record: dict) -> str:
    return record_hash({name: value for name, value in record.items() if name != "checksum"})


def stamp(device: torch.device) -> dict:
    """What made a record, where and when."""
    revision, dirty = commit()
    made = {"commit": revision, "dirty": dirty, "date": datetime.now(UTC).isoformat(timespec="seconds")}
    versions = library_versions() | {"opencv": cv2.__version__}
    if device.type == "cuda":
        versions["driver"] = driver_version()
    return made | {"device": device_name(device), "versions": versions}


@lru_cache
def commit() -> tuple[str, bool | None]:
    """(commit, whether sources differ from it): $STGV_COMMIT where it is set (sources outside their checkout), with
    "+dirty" after it where they differ; else git's."""
    if given := os.environ.get("STGV_COMMIT"):
        return given.removesuffix("+dirty"), given.endswith("+dirty")

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", str(Path(__file__).parents[1]))
        return git("rev-parse", "--short=12", "HEAD"), bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "unknown", None
