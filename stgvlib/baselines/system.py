"""A system: one way of representing a video that is fitted, saved, decoded and compared. `register` adds one, from a
notebook too, and every table of systems then has its row (docs/EXTENDING.md).
"""

import importlib
import importlib.util
import re
import sys
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from stgvlib.config import Profile
from stgvlib.errors import StgvError
from stgvlib.fitting.batches import FitResult
from stgvlib.fitting.progress import Callback
from stgvlib.video.video import Video


class System(Protocol):
    """Protocol of a system: a class with these attributes and methods can be compared (docs/EXTENDING.md, recipe 2).

    The fitted model is a torch module with `size` (height, width in px), `num_frames` (a list, frames of each GoP) and
    `num_parameters()`, the count of numbers that a decoder needs. A system may also have `sources`, the names of the
    modules that decide a fit's result; default: the module of its class.
    """

    key: str  # in names of records: small letters, digits, underscores
    label: str  # in tables
    about: str  # in a few words, for tables
    config: Any  # frozen dataclass: what decides the result of a fit, besides video and seed

    def configure(self, profile: Profile, pixels_per_gaussian: float | None) -> Any:
        """`config` at a profile's size. The parameter budget is what the paper's method has on the video with one
        Gaussian for so many px (`model.budget.paper_budget`); None: as in `config`."""

    def fit(
        self,
        video: Video,
        config: Any,
        device: torch.device,
        seed: int = 0,
        progress: Callback | None = None,
        checkpoint: Path | None = None,  # where an interrupted fit may keep what it has
    ) -> FitResult:
        """Fit a video."""

    def save(self, model: nn.Module, path: Path, **about: Any) -> None:
        """Write a model, with what is known about it. `path` has no suffix yet."""

    def load(self, path: Path, device: torch.device) -> tuple[nn.Module, dict]:
        """(model, what `save` was given about it). Raises StgvError for a missing or damaged file."""

    def decoder(self, model: nn.Module, dtype: torch.dtype = torch.uint8) -> Any:
        """An object like `model.decoder.Decoder`: `len`, `[i]`, iteration, `frames(numbers)` and `batch`."""


METHODS = ("configure", "fit", "save", "load", "decoder")
SYSTEMS: dict[str, System] = {}  # by key, in the order of tables


def register(system: System) -> System:
    """Add a system to every comparison, after those that are registered; returns it.

    Raises StgvError where an attribute or method of the protocol is missing, for a key that is no file name, and where
    key or label belong to another system.

    Examples:
        >>> from dataclasses import replace
        >>> from stgvlib import STGV
        >>> from stgvlib.baselines import GaussianSystem, register, unregister
        >>> wide = GaussianSystem("wide", "STGV, wide", "64 px a unit", replace(STGV, position_rate=0.4))
        >>> register(wide).label
        'STGV, wide'
        >>> unregister("wide")
    """
    name = getattr(system, "label", None) or getattr(system, "key", None) or type(system).__name__
    if lacking := [attribute for attribute in ("key", "label", "about", "config") if not hasattr(system, attribute)]:
        raise StgvError(f"system {name!r} lacks {', '.join(lacking)}: see stgvlib.baselines.System")
    if lacking := [method for method in METHODS if not callable(getattr(system, method, None))]:
        raise StgvError(f"system {name!r} lacks the method {', '.join(lacking)}: see stgvlib.baselines.System")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", str(system.key)):
        raise StgvError(f"a system's key must be small letters, digits and underscores, got {system.key!r}")
    for other in SYSTEMS.values():
        if other.key == system.key or other.label == system.label:
            raise StgvError(f"system {other.label!r} ({other.key}) is registered already: take another key and label")
    SYSTEMS[system.key] = system
    return system


def unregister(key: str) -> None:
    """Remove a system, such as that of a notebook cell that runs twice. An unknown key is ignored.

    Examples:
        >>> from stgvlib.baselines import SYSTEMS, unregister
        >>> unregister("nothing")
        >>> "nothing" in SYSTEMS
        False
    """
    SYSTEMS.pop(key, None)


def as_system(config: Any) -> System:
    """The system that fits a configuration: `config` itself where it is a system; else the registered system with a
    configuration of the same type, first of the same preset, with its configuration replaced.

    Raises StgvError where there is none.

    Examples:
        >>> from dataclasses import replace
        >>> from stgvlib import STGV
        >>> from stgvlib.baselines import as_system
        >>> system = as_system(replace(STGV, gop_size=8))
        >>> system.key, system.config.gop_size
        ('stgv', 8)
    """
    if all(callable(getattr(config, method, None)) for method in METHODS):
        return config
    alike = [s for s in SYSTEMS.values() if type(s.config) is type(config) and (s.config == config or is_dataclass(s))]
    if not alike:
        kinds = ", ".join(sorted({type(system.config).__name__ for system in SYSTEMS.values()}))
        raise StgvError(f"no system fits a {type(config).__name__}: expected {kinds}, or a registered System")
    preset = getattr(config, "preset", None)
    system = min(alike, key=lambda s: (s.config != config, getattr(s.config, "preset", None) != preset))
    return system if system.config == config else replace(system, config=config)


def load_systems(names: str) -> str:
    """Import the modules and .py files, separated by commas, that register systems ($STGV_SYSTEMS). Returns the list
    with absolute paths, for processes that run in another folder. A file that is the running script is left out.

    Raises StgvError for a file that does not exist.
    """
    script = getattr(sys.modules["__main__"], "__file__", None)
    absolute = []
    for name in filter(None, names.split(",")):
        path = Path(name).resolve()
        absolute.append(str(path) if path.suffix == ".py" else name)
        if path.suffix != ".py":
            importlib.import_module(name)
        elif not path.is_file():
            raise StgvError(f"STGV_SYSTEMS names {name}, which does not exist; expected a .py file or a module")
        elif script is None or Path(script).resolve() != path:
            spec = importlib.util.spec_from_file_location(path.stem, path)
            sys.modules[path.stem] = module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
    return ",".join(absolute)


def module_of(thing: Any) -> str:
    """The module that defines a class or function; of a script the name under which others import it."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    return Path(script).stem if thing.__module__ == "__main__" and script else thing.__module__
