"""The paper's datasets: where they may lie, how their frames are prepared, and how to fetch them.

bunny          ships with the repository: 132 frames, rows 40..679 of 720, giving 640 x 1280 (paper, Sec. III)
bunny_720      its whole frames, 720 x 1280, as HNeRV-Boost's authors take them
davis/<seq>    six sequences, resized to 720p where the files are larger; smaller files are taken as they are
uvg/<seq>      seven sequences, 1080p yuv420p, every 4th frame, resized to 720p; where those files are missing, a
               stand-in: a folder of PNGs, or part of a frame (data/README.md)

Files are looked for in the repository's data/, in ./data and in $STGV_DATA. `stgv fetch davis|uvg` downloads them.
A dataset may have several sources, in order of preference; `load_dataset` notes what it found where it is a stand-in.
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
from stgvlib.video.picture_source import IMAGE_SUFFIXES
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
class Source:
    """One form in which a dataset may lie here, and how its frames are prepared: rows `crop`, `columns`, every
    `stride`-th frame, then a resize to `target` where frames are larger."""

    candidates: tuple[str, ...]  # glob patterns below a data folder, or absolute
    frames: int  # after subsampling
    crop: tuple[int, int] | None = None  # first row, one past the last
    columns: tuple[int, int] | None = None  # first column, one past the last
    stride: int = 1
    target: tuple[int, int] | None = None  # height, width that larger frames are resized to
    size: tuple[int, int] | None = None  # height, width that its frames must have; None: any
    note: str = ""  # what a stand-in is. Records hold it and are valid for it: other words make them again


@dataclass(frozen=True)
class Dataset:
    """One video and its protocol, as `Source` has it, and sources that may stand in for its files, best first."""

    name: str
    candidates: tuple[str, ...]  # glob patterns below a data folder, or absolute
    frames: int  # after subsampling
    gaussians: int  # a GoP, as published
    crop: tuple[int, int] | None = None
    stride: int = 1
    target: tuple[int, int] | None = None  # size that larger files are resized to
    fetch: str = ""  # the command that gets it
    stand_ins: tuple[Source, ...] = ()

    @property
    def sources(self) -> tuple[Source, ...]:
        own = Source(self.candidates, self.frames, self.crop, stride=self.stride, target=self.target)
        return (own, *self.stand_ins)

    def pixels_per_gaussian(self, size: tuple[int, int], stand_in: bool = False) -> float:
        """Pixels of a frame for one Gaussian of a GoP: the published number on a frame of `size` (height, width in px).
        A stand-in, which may be a small part of a frame, keeps the density of the dataset's own `target`."""
        height, width = self.target if stand_in and self.target else size
        return height * width / self.gaussians


class _Part:
    """Some columns of another source's frames, with a note of what they are."""

    def __init__(self, whole, columns: tuple[int, int] | None, note: str):
        self.whole, self.columns = whole, slice(*(columns or (0, whole.size[1])))
        self.size, self.notes = (whole.size[0], self.columns.stop - self.columns.start), (*whole.notes, note)

    def __getattr__(self, name: str):
        return getattr(self.whole, name)

    def read(self, indices: list[int]) -> list:
        return [frame[:, self.columns] for frame in self.whole.read(indices)]


def _davis(name: str, frames: int) -> Dataset:
    places = (f"davis/JPEGImages/Full-Resolution/{name}", f"davis/JPEGImages/1080p/{name}", f"davis/{name}")
    places += (f"DAVIS/JPEGImages/Full-Resolution/{name}", f"DAVIS/JPEGImages/1080p/{name}")
    places += (f"davis/JPEGImages/480p/{name}", f"DAVIS/JPEGImages/480p/{name}")
    return Dataset(f"davis/{name}", places, frames, 40_000, target=(720, 1280), fetch="stgv fetch davis")


def _uvg(name: str, *stand_ins: Source, frames: int = 150) -> Dataset:
    places = (f"uvg/{name}_1920x1080*.yuv", f"UVG/{name}_1920x1080*.yuv")
    copy = Source(_folders(name), 132, size=(720, 1280), note="stand-in: 1280x720, 132 frames of a public copy")
    return Dataset(
        f"uvg/{name}",
        places,
        frames,
        40_000,
        stride=4,
        target=(720, 1280),
        fetch="stgv fetch uvg",
        stand_ins=(copy, *stand_ins),
    )


def _folders(name: str) -> tuple[str, ...]:
    return f"uvg/{name}", f"UVG/{name}"


def _centre(name: str, frames: int) -> Source:
    note = f"stand-in: 512x512, centre crop, every 4th frame, {frames} frames"
    return Source(_folders(name), frames, size=(512, 512), note=note)


BOSPHORUS = Source(
    ("uvg/Bosphorus_720p_left.mp4",),
    150,
    columns=(0, 1280),
    stride=4,
    size=(720, 1280),
    note="stand-in: 1280x720, H.264 crf 20, every 4th frame, 150 frames",
)
HONEYBEE = Source(
    ("uvg/HoneyBee_540p_top.mp4",),
    100,
    crop=(0, 540),
    stride=8,
    size=(540, 960),
    note="stand-in: 960x540, H.264 crf 30, 100 frames",
)
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
        _uvg("Beauty", _centre("Beauty", 36)),
        _uvg("Bosphorus", BOSPHORUS),
        _uvg("HoneyBee", HONEYBEE),
        _uvg("Jockey", _centre("Jockey", 36)),
        _uvg("ReadySteadyGo"),
        _uvg("ShakeNDry", _centre("ShakeNDry", 35), frames=75),
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


def locate(name: str) -> tuple[Source, Path] | None:
    """The best source of a dataset that is here, and its file or folder. Sources that lie in the same place are folders
    of different numbers of pictures: a folder belongs to the source with its number, else to the best of them."""
    sources = DATASETS[name].sources
    for source in sources:
        others = {s.frames for s in sources if s.candidates == source.candidates} - {source.frames}
        for folder in data_folders():
            for path in (folder / p for pattern in source.candidates for p in sorted(glob(pattern, root_dir=folder))):
                if not (others and path.is_dir() and _pictures(path) in others):
                    return source, path
    return None


def _pictures(folder: Path) -> int:
    return sum(f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith(".") for f in folder.iterdir())


def find(name: str) -> Path | None:
    """The file or folder of a dataset, or None."""
    found = locate(name)
    return found and found[1]


def note_of(name: str) -> str:
    """What stands in for a dataset here; empty where its own files are here, or nothing."""
    found = locate(name)
    return found[0].note if found else ""


def load_dataset(name: str) -> Video:
    """A dataset's video under the paper's protocol (Sec. III): "bunny", "davis/<sequence>" or "uvg/<sequence>". Where a
    stand-in was found, its `notes` say so.

    Raises StgvError for an unknown name, for an incomplete download, for frames of another size than a stand-in's, and
    for a missing file; the last error names the command that fetches it.

    Examples:
        >>> from stgvlib import load_dataset
        >>> bunny = load_dataset("bunny")
        >>> bunny.num_frames, bunny.size  # height, width in px
        (132, (640, 1280))
    """
    if name not in DATASETS:
        raise StgvError(f"dataset must be one of {', '.join(_nearest(name))}, got {name!r}")
    dataset, found = DATASETS[name], locate(name)
    if found is None:
        folders, hint = (
            " or ".join(map(str, data_folders())),
            f"; get it with: {dataset.fetch}" if dataset.fetch else "",
        )
        places = " or ".join(dict.fromkeys(source.candidates[0] for source in dataset.sources))
        raise StgvError(f"{name} is missing: expected {places} below {folders}{hint}")
    source, path = found
    video = open_video(path)
    if source.note:
        video = video.with_(source=_Part(video.source, source.columns, f"{name} is a {source.note}"))
    video = video.with_(crop=source.crop, stride=source.stride)
    if source.target and video.size[0] > source.target[0]:
        video = video.with_(resize=source.target)
    if video.num_frames != source.frames:
        expected = [str(s.frames) for s in dataset.sources if s.candidates == source.candidates]
        raise StgvError(
            f"{path} gives {video.num_frames} frames, {name} has {' or '.join(expected)}: is the download complete?"
        )
    if source.size not in (None, video.size):
        (height, width), (rows, columns) = video.size, source.size
        raise StgvError(f"{path} has frames of {width}x{height}, expected {columns}x{rows} ({source.note})")
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
            if find(f"uvg/{name}") is None or note_of(f"uvg/{name}"):  # a stand-in
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
