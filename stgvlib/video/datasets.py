"""The paper's datasets: where they may lie, how their frames are prepared, and how to fetch them.

bunny          ships with the repository: 132 frames, rows 40..679 of 720, giving 640 x 1280 (paper, Sec. III)
davis/<seq>    six sequences, resized to 720p where the files are larger; smaller files are taken as they are
uvg/<seq>      seven sequences, 1080p yuv420p, every 4th frame, resized to 720p

Files are looked for in the repository's data/, in ./data and in $STGV_DATA. `stgv fetch davis|uvg` downloads them.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from stgvlib.errors import StgvError
from stgvlib.files import data_folders, repository
from stgvlib.video.video import Video, open_video

BUNNY_FRAMES_SHA256 = "52126f0b88bddddb25abea5e135a998b93636fa15d94b5acb1f7eb6958fa4fc5"  # 132 RGB24 frames, 720 rows
DAVIS_URL = "https://data.vision.ee.ethz.ch/csergi/share/davis/DAVIS-2017-trainval-Full-Resolution.zip"
UVG_URL = "https://ultravideo.fi/video/{}_1920x1080_120fps_420_8bit_YUV_RAW.7z"


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
        raise StgvError(f"dataset must be one of {', '.join(DATASETS)}, got {name!r}")
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


def open_input(name: str) -> Video:
    """What a user names: a dataset, or a file or folder. Raises StgvError where it cannot be read."""
    return load_dataset(name) if name in DATASETS else open_video(name)


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
    """Download and unpack `davis` or `uvg` into the repository's data/. Interrupted downloads resume."""
    if group not in ("davis", "uvg"):
        raise StgvError(f"fetch takes davis or uvg, got {group!r}; bunny ships with the repository")
    target = (folder or repository() / "data") / group
    target.mkdir(parents=True, exist_ok=True)
    if group == "davis":
        _download(DAVIS_URL, target)
        shutil.unpack_archive(target / Path(DAVIS_URL).name, target.parent)
        return [target.parent / "DAVIS"]
    done = []
    for name in (d.name.split("/")[1] for d in DATASETS.values() if d.name.startswith("uvg/")):
        if find(f"uvg/{name}") is None:
            url = UVG_URL.format({"ReadySteadyGo": "ReadySetGo"}.get(name, name))
            _unpack_7z(_download(url, target))
        done.append(find(f"uvg/{name}") or target)
    return done


def _download(url: str, folder: Path) -> Path:
    """Through pooch, with a downloader that keeps a .part file and asks only for the rest of it."""
    import pooch
    import requests

    name = url.rsplit("/", 1)[1]

    def resume(url, output_file, _):
        part = folder / f"{name}.part"
        have = part.stat().st_size if part.exists() else 0
        with requests.get(url, headers={"Range": f"bytes={have}-"} if have else {}, stream=True, timeout=30) as reply:
            if reply.status_code != 416:  # 416: the part is already whole
                reply.raise_for_status()
                with open(part, "ab" if reply.status_code == 206 else "wb") as file:
                    for chunk in reply.iter_content(1 << 20):
                        file.write(chunk)
        os.replace(part, output_file)

    try:
        return Path(pooch.retrieve(url, None, name, folder, downloader=resume))
    except requests.RequestException as error:
        reason = type(error).__name__
        raise StgvError(
            f"cannot reach {url} ({reason}); download it by hand and place it at {folder / name}"
        ) from error


def _unpack_7z(archive: Path) -> None:
    try:
        import py7zr
    except ImportError as error:
        raise StgvError(
            f"unpacking {archive.name} needs py7zr (pip install py7zr), or unpack it yourself there"
        ) from error
    with py7zr.SevenZipFile(archive) as file:
        file.extractall(archive.parent)
