"""The folder of a fit's finished work, OUTPUT.parts: what --resume takes over and several processes share.

`fit.json` says which fit it is (`plan.identity`) and holds the trials that are finished; every finished GoP is a model
file that carries the identity, its number and a checksum. One fit at a time holds the folder, by a lock that the system
releases when the process ends, however it ends. A file that no fit wrote is never changed.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from stgvlib import __version__
from stgvlib.errors import StgvError
from stgvlib.files import PARTIAL, write_atomically
from stgvlib.model.model_file import read_model, save_model
from stgvlib.model.video_model import VideoModel

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # Windows
    import msvcrt

    LOCK_EX = LOCK_NB = 0

    def flock(file: BinaryIO, _: int) -> None:
        file.seek(1 << 30)  # no byte of the file itself, so that others can read it
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)


GOPS, DIVERGED = "gop_[0-9]*.safetensors", "diverged_[0-9]*.safetensors"
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # of some network file systems


class Parts:
    """The finished work of one fit, held in a `with` block; raises StgvError where another fit holds it.

    Of several processes only the `first` holds it, reads and deletes; the others write finished GoPs.
    """

    def __init__(self, folder: str | Path, resume: bool = False, first: bool = True):
        self.folder, self.resume, self.first = Path(folder), resume, first
        self.identity: dict = {}
        self.done: dict[int, VideoModel] = {}  # number -> model
        self.trials: dict[int, tuple[float, float]] = {}  # frames of a GoP -> dB, seconds
        self._lock: BinaryIO | None = None

    def __enter__(self) -> "Parts":
        if self.first:
            with self._usable():
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock = self._hold(self.folder / "lock")
        return self

    def __exit__(self, *_) -> None:
        if self._lock is None:
            return
        with suppress(OSError):  # others' files are in it, or it is gone
            (self.folder / "lock").unlink()
            self.folder.rmdir()
        self._lock.close()

    @property
    def key(self) -> str:
        """The identity's hash, which every part carries."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def finished(self) -> int:
        """GoPs in the folder."""
        return len(list(self.folder.glob(GOPS)))

    def begin(self, identity: dict) -> None:
        """Take over what an earlier run of this fit has finished.

        A damaged GoP is deleted, to be fitted again. Raises StgvError for another fit's work, and for this one's where
        `resume` is false.
        """
        self.identity = identity
        if not self.first:
            return
        with self._usable():
            for cut_off in self.folder.glob(f"{PARTIAL}*"):  # by an earlier run: this one's processes write nothing yet
                cut_off.unlink(missing_ok=True)
            before, trials = self._read_about()
            paths = sorted(self.folder.glob(GOPS))
            if before not in (None, identity) and (paths or trials):
                differing = ", ".join(sorted(k for k in identity | before if before.get(k) != identity.get(k)))
                self._refuse(f"holds work of another fit ({differing} differ): repeat its settings")
            damaged = [path for path in paths if not self._take(path)]
            if before is None and damaged and not self.done:
                self._refuse(f"holds {damaged[0].name}, which cannot be read: move it away")
            if (paths or trials) and not self.resume:
                more = f" and {len(trials)} trial{'s'[: len(trials) > 1]}" if trials else ""
                self._refuse(f"holds {len(paths)} finished GoPs{more} of an unfinished fit: add --resume to go on")
            for path in damaged:
                path.unlink()
            self.trials = trials if before == identity else {}
            self.write_about()

    def keep(self, gop: int) -> None:
        """Write a GoP of `done`."""
        self._save(self._path(gop), gop, self.done[gop])

    def keep_diverged(self, gop: int, model: VideoModel) -> Path:
        """Write the last good state of a GoP that diverged."""
        path = self.folder / f"diverged_{gop:04d}.safetensors"
        self._save(path, gop, model)
        return path

    def write_about(self) -> None:
        """Write identity and finished trials."""
        about = {"identity": self.identity, "trials": self.trials}
        write_atomically(self.folder / "fit.json", json.dumps(about).encode())

    def collect(self, gops: int) -> list[int]:
        """Read what the other processes have finished; returns the numbers of GoPs that nobody has."""
        return [g for g in range(gops) if g not in self.done and not self._take(self._path(g))]

    def remove(self) -> None:
        """Delete what the fit wrote, once its model is written; `with` deletes the folder if nothing else is in it."""
        with self._usable():
            for g in self.done:
                self._path(g).unlink(missing_ok=True)
            for path in self.folder.glob(DIVERGED):
                with suppress(StgvError):
                    if "checksum" in read_model(path)[1]:
                        path.unlink()
            (self.folder / "fit.json").unlink(missing_ok=True)

    def _path(self, gop: int) -> Path:
        return self.folder / f"gop_{gop:04d}.safetensors"

    def _save(self, path: Path, gop: int, model: VideoModel) -> None:
        label = {"stgvlib": __version__, "identity": self.key, "gop": gop}
        save_model(model, path, **label, checksum=_checksum(model, label))

    def _take(self, path: Path) -> bool:
        """Read a part into `done`; False where it is damaged. Raises StgvError where it is another fit's."""
        try:
            model, about = read_model(path)
        except StgvError:
            return False
        label = {name: about.get(name) for name in ("stgvlib", "identity", "gop")}
        if "checksum" in about and about["checksum"] != _checksum(model, label):
            return False
        if "checksum" not in about or label["identity"] != self.key or self._path(label["gop"]) != path:
            written = f"stgvlib {label['stgvlib']}" if "checksum" in about else "an older stgvlib or by hand"
            self._refuse(f"holds {path.name} of another fit (by {written}): repeat its settings")
        self.done[label["gop"]] = model
        return True

    def _read_about(self) -> tuple[dict | None, dict[int, tuple[float, float]]]:
        """Identity and trials of fit.json; (None, {}) where there is none, or a damaged one beside finished GoPs."""
        path = self.folder / "fit.json"
        if not path.exists():
            return None, {}
        try:
            about = json.loads(path.read_bytes())
            return dict(about["identity"]), {int(n): (float(a), float(b)) for n, (a, b) in about["trials"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            if not self.finished:
                self._refuse("holds a fit.json that is damaged or that `stgv fit` did not write: move it away")
            return None, {}

    def _refuse(self, why: str) -> None:
        raise StgvError(f"{self.folder} {why}, or delete the folder to start over")

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StgvError(f"cannot use {self.folder}: {error.strerror or error}") from error

    def _hold(self, path: Path) -> BinaryIO:
        """Lock a file that names this process."""
        while True:
            file = open(path, "a+b")
            file.seek(0)
            owner = file.read(20)
            try:
                flock(file, LOCK_EX | LOCK_NB)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    file.close()
                    output = str(self.folder).removesuffix(".parts")
                    who = f"process {owner.decode(errors='replace')}" if owner else "it has just started"
                    raise StgvError(f"another `stgv fit` is writing {output} ({who})") from error
            # Whoever held it before may have deleted it since it was opened.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
            file.close()
        if owner and not owner.isdigit():
            self._refuse("holds a file `lock` that `stgv fit` did not write: move it away")
        file.truncate(0)
        file.write(b"%d" % os.getpid())
        file.flush()
        return file


def _checksum(model: VideoModel, label: dict) -> str:
    """Of tensors, settings and label: 32 hexadecimal digits."""
    about = {"config": asdict(model.config), "size": model.size, "num_frames": model.num_frames, "count": model.count}
    digest = hashlib.sha256(json.dumps(about | label, sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
