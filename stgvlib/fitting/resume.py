"""The folder of a fit's finished GoPs, one file each: what --resume takes over and several processes share."""

import json
import shutil
from pathlib import Path

from stgvlib.errors import StgvError
from stgvlib.model.model_file import read_model
from stgvlib.model.video_model import VideoModel


def part(parts: Path, gop: int) -> Path:
    return parts / f"gop_{gop:04d}.safetensors"


def started(parts: Path) -> dict | None:
    """The identity of the fit whose GoPs lie there, if there is one."""
    try:
        return json.loads((parts / "fit.json").read_text())
    except (OSError, ValueError):
        return None


def open_parts(parts: Path, identity: dict, gops: int, resume: bool) -> dict[int, VideoModel]:
    """Finished GoPs of an earlier run of the same fit; creates the folder for a new one."""
    about = parts / "fit.json"
    finished = [g for g in range(gops) if part(parts, g).is_file()]
    try:
        if about.is_file() and finished and not resume:
            raise StgvError(
                f"{parts} holds {len(finished)} of {gops} GoPs of an unfinished fit: "
                "add --resume to go on, or delete the folder to start over"
            )
        if not finished or not about.is_file():
            shutil.rmtree(parts, ignore_errors=True)
            parts.mkdir(parents=True)
            about.write_text(json.dumps(identity))
            return {}
        try:
            before = json.loads(about.read_text())
        except ValueError as error:
            raise StgvError(f"{about} is damaged; delete {parts} to start over") from error
    except OSError as error:
        raise StgvError(f"cannot use {parts}: {error.strerror}") from error
    if before != identity:
        differing = sorted(k for k in identity if before.get(k) != identity[k])
        raise StgvError(
            f"{parts} holds GoPs of another fit ({', '.join(differing)} differ): "
            "repeat its settings, or delete the folder to start over"
        )
    return finished_gops(parts, gops)


def finished_gops(parts: Path, gops: int) -> dict[int, VideoModel]:
    """The GoPs that were finished. One that was cut off while it was written is deleted, to be fitted again."""
    done = {}
    for g in range(gops):
        if part(parts, g).is_file():
            try:
                done[g] = read_model(part(parts, g))[0]
            except StgvError:
                part(parts, g).unlink()
    return done
