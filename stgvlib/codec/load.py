"""Read a fitted model from either of its files: .safetensors of a fit, or .stgv of the codec."""

from dataclasses import asdict
from pathlib import Path

import torch

from stgvlib.codec import bitstream
from stgvlib.errors import StgvError
from stgvlib.files import data_folders
from stgvlib.model.model_file import read_model
from stgvlib.model.video_model import VideoModel


def find_model(path: str | Path) -> Path:
    """Where a model's file lies: at `path`, or, of a bare name that is no file here, among those that ship in
    data/bunny. Raises StgvError that lists these where there is none."""
    path = Path(path)
    if path.exists() or path.name != str(path):
        return path
    ships = {p.name: p for folder in reversed(data_folders()) for p in sorted((folder / "bunny").glob("*.stgv"))}
    if path.name in ships:
        return ships[path.name]
    known = f"the models that ship are {', '.join(ships)}" if ships else "no model ships with this installation"
    raise StgvError(f"{path} does not exist; expected a model that `stgv fit` or `stgv encode` wrote; {known}")


def load_model(path: str | Path, device: torch.device | str = "cpu") -> tuple[VideoModel, dict]:
    """(the model, what its file says of it): a .safetensors file of `stgv fit`, or an .stgv file of `stgv encode`.

    A file's first bytes say which it is. A bare name that is no file here may be one that ships: "bunny.stgv". Of an
    .stgv file, `damaged` names the GoPs that could not be read, whose frames are black. Raises StgvError for a missing,
    truncated or foreign file.

    Examples:
        >>> import tempfile
        >>> from stgvlib import PAPER, VideoModel, load_model, save_model
        >>> path = tempfile.mkdtemp() + "/small.safetensors"
        >>> save_model(VideoModel(PAPER, num_frames=[2], size=(16, 24), count=5), path, fps=25)
        >>> model, about = load_model(path)
        >>> model.size, about["fps"]
        ((16, 24), 25)
    """
    path = find_model(path)
    if path.suffix != ".stgv" and not bitstream.is_stream(path):
        return read_model(path, device)
    content = bitstream.decode(path, device=device)
    about = {"fps": content.fps, "bytes": content.bytes, "steps": asdict(content.steps)}
    about |= {"damaged": content.damaged, "predicted": content.predicted} | content.hints
    return content.model, about
