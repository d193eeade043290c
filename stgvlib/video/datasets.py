"""The paper's datasets: where they may lie, how their frames are prepared, and how to fetch them.

bunny          ships with the repository: 132 frames, rows 40..679 of 720, giving 640 x 1280 (paper, Sec. III)
bunny_720      its whole frames, 720 x 1280, as HNeRV-Boost's authors take them
davis/<seq>    six sequences, resized to 720p where the files are larger; smaller files are taken as they are
uvg/<seq>      seven sequences, 1080p yuv420p, every 4th frame, resized to 720p

Files are looked for in the repository's data/, in ./data and in $STGV_DATA. `stgv fetch davis|uvg` downloads them.
"""

import hashlib
import os
import zipfile
from dataclasses import dataclass
from difflib import SequenceMatcher
from glob import glob
from importlib.util import find_spec
from pathlib import Path

from stgvlib.errors import StgvError
from stgvlib.files import data_folders, repository
from stgvlib.video.video import Video, open_video

BUNNY_FRAMES_SHA256 = "52126f0b88bddddb25abea5e135a998b93636fa15d94b5acb1f7eb6958fa4fc5"  # 132 RGB24 frames, 720 rows
DAVIS_URL = "https://data.vision.ee.ethz.ch/csergi/share/davis/DAVIS-2017-trainval-Full-Resolution.zip"
UVG_URL = "https://ultravideo.fi/video/{}_1920x1080_120fps_420_8bit_YUV_RAW.7z"
ALIKE = 0.5  # of 0 to 1, how similar a name is to a dataset's that is meant for one
MAGIC = {".zip": b"PK\x03\x04", ".7z": b"7z\xbc\xaf\x27\x1c"}  # first bytes of an archive
SHA256 = {  # of archives, as others have published them: the servers give none, and of six of UVG none is known
    # tensorflow_datasets/video/davis/checksums.tsv of TensorFlow Datasets
    "DAVIS-2017-trainval-Full-Resolution.zip": "519494b320e7a333b98188e0f44e028f379c3312a1fc1a3e8bddd64b2c9ecfaf",
    # pts/svt-hevc-1.2.1/downloads.xml of the Phoronix Test Suite
    UVG_URL.rsplit("/", 1)[1].format("Bosphorus"): "e73a54088e88e6465f578625d185933e85c3209ab7105deb755a8b8918b78cab",
}


@dataclass(frozen=True)
class Dataset:
    """One video and its protocol: crop rows, take every `stride`-th frame, then resize."""

    name: str
    candidates: tuple[str, ...]  # glob patterns below a data folder, or absolute
    frames: int  # after subsampling
    gaussians: int  # a GoP, as published
    crop: tuple[int, int] | None = None
    stride: int = 1
    target: tuple[int, int] | None = None  # size that larger files are resized to
    fetch: str = ""  # the command that gets it


def _davis(name: str, frames: int) -> Dataset:
    places = (f"davis/JPEGImages/Full-Resolution/{name}", f"davis/JPEGImages/1080p/{name}", f"davis/{name}")
    places += (f"DAVIS/JPEGImages/Full-Resolution/{name}", f"DAVIS/JPEGImages/1080p/{name}")
    places += (f"davis/JPEGImages/480p/{name}", f"DAVIS/JPEGImages/480p/{name}")
    return Dataset(f"davis/{name}", places, frames, 40_000, target=(720, 1280), fetch="stgv fetch davis")


def _uvg(name: str, frames: int = 150) -> Dataset:
    places = (f"uvg/{name}_1920x1080*.yuv", f"UVG/{name}_1920x1080*.yuv")
    return Dataset(f"uvg/{name}", places, frames, 40_000, stride=4, target=(720, 1280), fetch="stgv fetch uvg")


DATASETS = {
    d.name: d
    for d in (
        Dataset("bunny", ("bunny/bigbuckbunny.mp4",), 132, 20_000, crop=(40, 680)),
        Dataset("bunny_720", ("bunny/bigbuckbunny.mp4",), 132, 20_000),
        _davis("dance-twirl", 90),
        _davis("camel", 90),
        _davis("bmx-trees", 80),
        _davis("blackswan", 50),
        _davis("cows", 104),
        _davis("boat", 75),
        _uvg("Beauty"),
        _uvg("Bosphorus"),
        _uvg("HoneyBee"),
        _uvg("Jockey"),
        _uvg("ReadySteadyGo"),
        _uvg("ShakeNDry", 75),
        _uvg("YachtRide"),
    )
}


def register_dataset(dataset: Dataset) -> Dataset:
    """Add a dataset of your own to `load_dataset`, to runs and to the comparison of systems; returns it.

    Raises StgvError where the name belongs to another dataset.

    Examples:
        >>> from stgvlib.video.datasets import DATASETS, Dataset, register_dataset
        >>> register_dataset(Dataset("mine", candidates=("clips/mine.mp4",), frames=90, gaussians=20_000)).name
        'mine'
        >>> del DATASETS["mine"]
    """
    if DATASETS.setdefault(dataset.name, dataset) != dataset:
        raise StgvError(f"dataset {dataset.name!r} is registered already: take another name")
    return dataset


def find(name: str) -> Path | None:
    """The file or folder of a dataset, or None."""
    for folder in data_folders():
        for pattern in DATASETS[name].candidates:
            for path in sorted(glob(pattern, root_dir=folder)):
                return folder / path
    return None


def load_dataset(name: str) -> Video:
    """A dataset's video under the paper's protocol (Sec. III): "bunny", "davis/<sequence>" or "uvg/<sequence>".

    Raises StgvError for an unknown name, for an incomplete download, and for a missing file; the last error names the
    command that fetches it.

    Examples:
        >>> from stgvlib import load_dataset
        >>> bunny = load_dataset("bunny")
        >>> bunny.num_frames, bunny.size  # height, width in px
        (132, (640, 1280))
    """
    if name not in DATASETS:
        raise StgvError(f"dataset must be one of {', '.join(_nearest(name))}, got {name!r}")
    dataset, path = DATASETS[name], find(name)
    if path is None:
        folders, hint = (
            " or ".join(map(str, data_folders())),
            f"; get it with: {dataset.fetch}" if dataset.fetch else "",
        )
        raise StgvError(f"{name} is missing: expected {dataset.candidates[0]} below {folders}{hint}")
    video = open_video(path).with_(crop=dataset.crop, stride=dataset.stride)
    if dataset.target and video.size[0] > dataset.target[0]:
        video = video.with_(resize=dataset.target)
    if video.num_frames != dataset.frames:
        raise StgvError(
            f"{path} gives {video.num_frames} frames, {name} has {dataset.frames}: is the download complete?"
        )
    return video


def _nearest(name: str) -> list[str]:
    """All datasets, those of the most similar names first."""
    return sorted(DATASETS, key=lambda known: -_likeness(known, name))


def _likeness(known: str, name: str) -> float:
    return SequenceMatcher(None, known.lower(), name.lower()).ratio()


def open_input(name: str) -> Video:
    """What a user names: a dataset, or a file or folder. Raises StgvError where it cannot be read."""
    if name in DATASETS:
        return load_dataset(name)
    if not os.path.exists(name) and _likeness((near := _nearest(name))[0], name) > ALIKE:
        raise StgvError(f"{name} is no file or folder, and no dataset: those are {', '.join(near)}")
    return open_video(name)


def as_fitted(name: str, frames: int, size: tuple[int, int]) -> Video:
    """An input as a model of `frames` frames of `size` (height, width) saw it: its first frames, resized. Raises
    StgvError where it has fewer."""
    video = open_input(name)
    if video.num_frames < frames:
        raise StgvError(f"{name} has {video.num_frames} frames, the model {frames}: give the video that was fitted")
    video = video.with_(limit=frames)
    return video if video.size == size else video.with_(resize=size)


def frames_sha256(video: Video) -> str:
    """SHA-256 of all frames as RGB24 in order: what a run record names its data by."""
    digest = hashlib.sha256()
    for i in range(video.num_frames):
        digest.update(video.read(i, i + 1).tobytes())
    return digest.hexdigest()


def fetch(group: str, folder: Path | None = None) -> list[Path]:
    """Download and unpack `davis` or `uvg` into the repository's data/. Interrupted downloads resume.

    Raises StgvError where the server, the disk or the archive fails. An archive gets its name when it was checked.
    """
    if group not in ("davis", "uvg"):
        raise StgvError(f"fetch takes davis or uvg, got {group!r}; bunny ships with the repository")
    if group == "uvg" and not find_spec("py7zr"):
        raise StgvError("unpacking UVG needs py7zr: pip install 'stgvlib[data]', then fetch again")
    target = (folder or repository() / "data") / group
    try:
        target.mkdir(parents=True, exist_ok=True)
        if group == "davis":
            _unpack(_download(DAVIS_URL, target), target.parent)
            return [target.parent / "DAVIS"]
        done = []
        for name in (d.name.split("/")[1] for d in DATASETS.values() if d.name.startswith("uvg/")):
            if find(f"uvg/{name}") is None:
                url = UVG_URL.format({"ReadySteadyGo": "ReadySetGo"}.get(name, name))
                _unpack(_download(url, target), target)
            done.append(find(f"uvg/{name}") or target)
        return done
    except OSError as error:
        raise StgvError(
            f"cannot write {error.filename or target}: {error.strerror or error}; fetch again to go on"
        ) from error


def _download(url: str, folder: Path) -> Path:
    """The archive of a URL. A .part file that an interrupted download left is gone on with."""
    import requests

    path = folder / url.rsplit("/", 1)[1]
    if path.exists():
        if not _fault(path, path.name):
            return path
        path.unlink()
    part, by_hand = path.with_name(f"{path.name}.part"), f"download it by hand and place it at {path}"
    have = part.stat().st_size if part.exists() else 0
    try:
        with requests.get(url, headers={"Range": f"bytes={have}-"} if have else {}, stream=True, timeout=30) as reply:
            if reply.status_code != 416:  # 416: the part is already whole
                reply.raise_for_status()
                chunks = reply.iter_content(1 << 16)
                first, kind = next(chunks, b""), reply.headers.get("Content-Type", "of no type")
                if reply.status_code == 200 and not first.startswith(MAGIC[path.suffix]):
                    raise StgvError(f"{url} answers with a page ({kind:.40}), not with an archive; {by_hand}")
                with open(part, "ab" if reply.status_code == 206 else "wb") as file:
                    file.write(first)
                    for chunk in chunks:
                        file.write(chunk)
    except requests.HTTPError as error:
        raise StgvError(f"{url} answers {error.response.status_code} {error.response.reason}; {by_hand}") from error
    except requests.RequestException as error:
        raise StgvError(f"cannot reach {url} ({type(error).__name__}); fetch again to go on, or {by_hand}") from error
    if fault := _fault(part, path.name):
        part.unlink()
        raise StgvError(f"{url} gave {fault}, which was deleted; fetch again, or {by_hand}")
    os.replace(part, path)
    return path


def _fault(path: Path, name: str) -> str:
    """What is wrong with an archive that is to have this name; empty: nothing. Its SHA-256 is read where it is known;
    else it must open, which needs the list of members at its end."""
    if expected := SHA256.get(name):
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        return "" if found == expected else f"a file of SHA-256 {found[:12]}..., expected {expected[:12]}..."
    try:
        with _opened(path, name):
            return ""
    except Exception:  # py7zr raises errors of many kinds
        return "an archive that does not open"


def _opened(path: Path, name: str):
    if name.endswith(".zip"):
        return zipfile.ZipFile(path)
    import py7zr

    return py7zr.SevenZipFile(path)


def _unpack(archive: Path, target: Path) -> None:
    """Into `target`, nowhere else. An archive that turns out to be damaged is deleted."""
    try:
        with _opened(archive, archive.name) as file:
            for name in file.namelist():
                if not (target / name).resolve().is_relative_to(target.resolve()):
                    raise StgvError(f"{archive} holds {name!r}, which lies outside of {target}: do not use it")
            file.extractall(target)
    except (OSError, StgvError):  # of the disk, not of the archive
        raise
    except Exception as error:
        archive.unlink()
        raise StgvError(f"{archive} is damaged ({type(error).__name__}) and was deleted: fetch again") from error
