"""Write and read a fitted model as .safetensors."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from stgvlib.config import FitConfig, from_dict
from stgvlib.errors import StgvError
from stgvlib.files import write_atomically
from stgvlib.model import limits
from stgvlib.model.video_model import VideoModel

NO_MODEL = "no model that `stgv fit` wrote"


def save_model(model: VideoModel, path: str | Path, **extra) -> None:
    """Write a model as safetensors with its configuration, and `extra` (JSON), as metadata; `load_model` reads it.

    Raises StgvError for `extra` that a reader refuses (`fps` above 1,000 ...), and when the file cannot be written; an
    existing file at `path` is then unchanged.

    Examples:
        >>> import tempfile
        >>> from stgvlib import PAPER, VideoModel, load_model, save_model
        >>> path = tempfile.mkdtemp() + "/small.safetensors"
        >>> save_model(VideoModel(PAPER, num_frames=[2], size=(16, 24), count=5), path, title="five Gaussians")
        >>> load_model(path)[1]["title"]
        'five Gaussians'
    """
    from safetensors.torch import save

    about = {"config": asdict(model.config), "size": model.size, "num_frames": model.num_frames, "count": model.count}
    described = json.dumps(about | extra)
    limits.about_of(json.loads(described))  # or `read_model` would refuse it
    metadata = {"format": "stgv-model", "version": "1", "about": described}
    tensors = {name: value.detach().cpu().float().contiguous() for name, value in model.state_dict().items()}
    write_atomically(path, save(tensors, metadata))


def read_model(path: str | Path, device: torch.device | str = "cpu") -> tuple[VideoModel, dict]:
    """Read a model and its metadata. Raises StgvError for a missing, truncated or foreign file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise StgvError(f"{path} does not exist; expected a model that `stgv fit` wrote")
    try:
        with safe_open(path, "pt") as file:  # checks that the tensors fill the file
            metadata = file.metadata() or {}
            version = limits.printable(metadata.get("version", "none"))
            if metadata.get("format") != "stgv-model":
                raise StgvError(f"is a safetensors file, but {NO_MODEL}")
            if version != "1":
                raise StgvError(f"has model format {version:.20}, this stgvlib reads 1: update it")
            try:
                about = limits.about_of(json.loads(metadata.get("about", "null")))
                model = _model(file, about, path.stat().st_size)
            except (ValueError, RecursionError, StgvError) as error:
                raise StgvError(f"is damaged or {NO_MODEL} ({str(error):.200}); fit it again") from error
    except (SafetensorError, OSError) as error:
        raise StgvError(
            f"{path} is damaged or {NO_MODEL} ({limits.printable(str(error)):.200}); fit it again"
        ) from error
    except StgvError as error:
        raise StgvError(f"{path} {error}") from error
    return model.to(device), about


def _model(file, about: dict, size: int) -> VideoModel:
    """The model of an open file of `size` bytes. Names, shapes and types in its head are compared before it is read."""
    config = from_dict(FitConfig, about.get("config"))
    frames, count = limits.lengths(about.get("num_frames")), limits.whole(about.get("count"), "count")
    expected = limits.shapes(limits.checked(config.field), len(frames), count)
    found = {name: file.get_slice(name) for name in file.keys()}
    for what, names in (("lacks", expected.keys() - found.keys()), ("has unexpected", found.keys() - expected.keys())):
        if names:
            raise StgvError(f"it {what} {limits.printable(', '.join(sorted(names)[:4])):.150}")
    for name, shape in expected.items():
        there = tuple(found[name].get_shape()), found[name].get_dtype()
        if there != (shape, "F32"):
            raise StgvError(f"{name} must be {shape} of F32, got {there[0]} of {there[1]}")

    def read(name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = file.get_tensor(name)
        if not torch.isfinite(tensor).all():
            raise StgvError(f"{name} has numbers that are not finite")
        return tensor

    return limits.model_of(config, frames, limits.sides(about.get("size")), count, size, read)
