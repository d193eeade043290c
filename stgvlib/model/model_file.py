"""Write and read a fitted model as .safetensors."""

import json
from dataclasses import asdict
from pathlib import Path

import torch

from stgvlib.config import FitConfig, from_dict
from stgvlib.errors import StgvError
from stgvlib.files import write_atomically
from stgvlib.model.video_model import VideoModel


def save_model(model: VideoModel, path: str | Path, **extra) -> None:
    """Write a model as safetensors with its configuration, and `extra` (JSON), as metadata; `load_model` reads it.

    Raises StgvError when the file cannot be written; an existing file at `path` is then unchanged.

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
    metadata = {"format": "stgv-model", "version": "1", "about": json.dumps(about | extra)}
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomically(path, save(tensors, metadata))


def read_model(path: str | Path, device: torch.device | str = "cpu") -> tuple[VideoModel, dict]:
    """Read a model and its metadata. Raises StgvError for a missing, truncated or foreign file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise StgvError(f"{path} does not exist; expected a model that `stgv fit` wrote")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != "stgv-model":
                raise StgvError(f"{path} is a safetensors file, but no model that `stgv fit` wrote")
            if metadata.get("version") != "1":
                raise StgvError(f"{path} has model format {metadata.get('version')}, this stgvlib reads 1: update it")
            state = {name: file.get_tensor(name) for name in file.keys()}
        about = json.loads(metadata["about"])
        config = from_dict(FitConfig, about["config"])
        model = VideoModel(config, about["num_frames"], tuple(about["size"]), about["count"])
        model.load_state_dict(state)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise StgvError(f"{path} is damaged or no model that `stgv fit` wrote ({reason}); fit it again") from error
    return model.to(device), about
