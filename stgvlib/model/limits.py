"""What a reader accepts of a fitted model, the same for .safetensors and .stgv (docs/FORMAT.md, "Limits").

Nothing of the size that a file asks for is allocated before it was compared with these tables and the file's size.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from stgvlib.config import FieldConfig, FitConfig, from_dict
from stgvlib.errors import StgvError
from stgvlib.model.video_model import VideoModel
from stgvlib.ops.splat import MOST_SIDE

MOST_FRAMES = 2**16 - 1  # of a GoP
MOST_CELLS = 2**20  # of an axis of a hash level
MOST_TICKS = 2**53  # of a video's length: whole numbers that every reader of JSON knows
HINTS = ("sample_aspect", "durations", "color", "poster")  # keys that say how frames are shown
NUMBERS = {2: "two", 4: "four"}
PAIRS = "pairs of a pixel and a Gaussian in a frame"
FIELD = {  # setting of a field -> least and most
    "levels": (1, 16),
    "log2_table_size": (1, 22),
    "base_resolution": (1, 4096),
    "growth": (1, 4),
    "spatial_features": (2, 4),
    "temporal_features": (2, 4),
    "time_frequencies": (0, 16),
    "position_frequencies": (0, 16),
    "width": (1, 1024),
    "head_layers": (1, 2),
    "polynomial": (0, 8),
}
BOUNDS = {  # what a file of N bytes may ask for: the larger of a constant and a multiple of N
    "pixels": (0, 1 << 14),  # of a frame
    "frames": (0, 1 << 4),
    "parameters": (1 << 22, 1 << 6),  # 16 MiB: the field of a short video may be all zeros in hardly any bytes
    "numbers that the field computes for a frame": (1 << 25, 1 << 10),
    PAIRS: (1 << 28, 1 << 18),
}


def check_bound(what: str, amount: float, size: int) -> None:
    """Raise StgvError where a file of `size` bytes may not ask for so many of BOUNDS."""
    if not amount <= allowed(what, size):
        raise StgvError(f"asks for {amount:,.0f} {what}, more than such a file can hold ({allowed(what, size):,})")


def allowed(what: str, size: int) -> int:
    always, a_byte = BOUNDS[what]
    return max(always, a_byte * size)


def whole(value, name: str, least: int = 0, most: int = 2**31 - 1) -> int:
    """A whole number of a file that has to lie in a range."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise StgvError(f"{name} must be a whole number from {least} to {most}, got {value!r:.40}")
    return value


def number(value, name: str, most: float = math.inf) -> float:
    """A number of a file that has to be above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most or value == math.inf:
        raise StgvError(f"{name} must be a number above 0 and at most {most:g}, got {value!r:.40}")
    return value


def fps_of(value) -> float:
    """Frames a second."""
    return number(value, "fps", 1000)


def sides(value) -> tuple[int, int]:
    """(height, width) in px."""
    if not isinstance(value, list) or len(value) != 2:
        raise StgvError(f"size must be two whole numbers, got {value!r:.40}")
    return tuple(whole(side, "a side", 1, MOST_SIDE) for side in value)


def lengths(value) -> list[int]:
    """Frames of each GoP."""
    if not isinstance(value, list) or not value:
        raise StgvError(f"frames must be a list of whole numbers, got {value!r:.40}")
    return [whole(frames, "frames of a GoP", 1, MOST_FRAMES) for frames in value]


def wholes(value, name: str, least: int, most: int, count: int) -> list[int]:
    """A list of `count` whole numbers in a range."""
    if not isinstance(value, (list, tuple)) or len(value) != count:
        raise StgvError(f"{name} must be {NUMBERS[count]} whole numbers, got {value!r:.40}")
    return [whole(part, f"a part of {name}", least, most) for part in value]


def durations_of(value, frames: int) -> dict:
    """How long each of `frames` frames is shown: `tick`, a fraction of a second as two numbers, and `runs`, which are
    frames, ticks that each of them is shown, frames, ticks ..."""
    if not isinstance(value, dict) or value.keys() != {"tick", "runs"} or not isinstance(value["runs"], list):
        raise StgvError(f"durations must be an object of tick and runs, got {value!r:.40}")
    tick, runs = wholes(value["tick"], "tick", 1, 2**31 - 1, 2), [whole(n, "a part of runs", 1) for n in value["runs"]]
    if len(runs) % 2 or sum(runs[::2]) != frames:
        raise StgvError(f"runs must be frames and ticks of {frames} frames, got {runs!r:.40}")
    if (ticks := sum(map(math.prod, zip(runs[::2], runs[1::2])))) > MOST_TICKS:
        raise StgvError(f"durations must be at most {MOST_TICKS} ticks together, got {ticks}")
    return {"tick": tick, "runs": runs}


def hints_of(about: dict, frames: int) -> dict:
    """Those of HINTS that `about` has, which say how its `frames` frames are shown; all of them in range."""
    checks = {
        "sample_aspect": lambda value: wholes(value, "sample_aspect", 1, 2**16 - 1, 2),
        "durations": lambda value: durations_of(value, frames),
        "color": lambda value: [*wholes(value, "color", 0, 255, 4)[:3], whole(value[3], "range of color", 0, 1)],
        "poster": lambda value: whole(value, "poster", 0, frames - 1),
    }
    return {name: checks[name](about[name]) for name in HINTS if name in about}


def field_of(values) -> FieldConfig:
    """Settings of a field, all of them in range."""
    return checked(from_dict(FieldConfig, values))


def checked(field: FieldConfig) -> FieldConfig:
    for name, (least, most) in FIELD.items():
        value = getattr(field, name)
        if not least <= value <= most:
            raise StgvError(f"{name} must be from {least} to {most}, got {value}")
    if not {field.spatial_features, field.temporal_features} <= {2, 4}:
        raise StgvError("hash features must be 2 or 4")
    if field.base_resolution * field.growth ** (field.levels - 1) > MOST_CELLS:
        raise StgvError("the finest level has too many cells")
    cells = field.time_cells
    if cells is not None and not (len(cells) == field.levels and all(0 < c <= MOST_CELLS for c in cells)):
        raise StgvError(f"time_cells must be one number a level, above 0 and at most {MOST_CELLS}")
    if field.lattice and not (len(field.lattice) == 3 and all(1 <= n <= 2**16 for n in field.lattice)):
        raise StgvError(f"lattice must be three numbers from 1 to 65536, or none, got {list(field.lattice)}")
    if field.polynomial and field.fade:
        raise StgvError("fade excludes polynomial")
    if field.position_scale is not None:
        number(field.position_scale, "position_scale", 2**16)
    return field


class _Unscaled(TorchFunctionMode):
    """A tensor times or minus a number is that tensor: on the meta device either imports torch's compiler, a second."""

    def __torch_function__(self, function, types, arguments=(), named=None):
        if function in (Tensor.mul, Tensor.sub):
            return arguments[0]
        return function(*arguments, **named or {})


@lru_cache
def _shapes(field: FieldConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"), _Unscaled():  # allocates nothing
        model = VideoModel(FitConfig(field=field, steps=0), [1], (1, 1), 1)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def shapes(field: FieldConfig, gops: int, count: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a model by their names, without making one."""
    return {
        name: (gops, count if name.startswith("gaussians.") else shape[1], *shape[2:])
        for name, shape in _shapes(field).items()
    }


def model_of(
    config: FitConfig,
    frames: list[int],  # of each GoP
    size: tuple[int, int],
    count: int,
    file_size: int,  # bytes
    read: Callable[[str, tuple[int, ...]], Tensor],  # name, shape -> one of the model's tensors
) -> VideoModel:
    """A model of what a file says. Raises StgvError, and has read nothing, where the file asks for more than BOUNDS."""
    named = shapes(config.field, len(frames), count)
    layers = [shape[1:] for name, shape in named.items() if name.startswith("field.") and name.endswith("weight")]
    amounts = (math.prod(size), sum(frames), sum(map(math.prod, named.values())), count * sum(map(sum, layers)))
    for what, amount in zip(BOUNDS, amounts):  # pairs are counted when a frame is rendered
        check_bound(what, amount, file_size)
    model = VideoModel(config, frames[:1], size, 1)
    for name, parameter in model.named_parameters():
        parameter.data = read(name, named[name])
    model.num_frames, model.count = frames, count
    model.most_pairs = allowed(PAIRS, file_size)
    return model


def about_of(values) -> dict:
    """What a .safetensors file says of its model, without what a terminal would obey or JSON does not know."""
    if not isinstance(values, dict):
        raise StgvError(f"its description must be an object, got {values!r:.40}")
    about = plain(values)
    if reserved := about.keys() & {"bytes", "steps", "damaged", "predicted"}:
        raise StgvError(f"{sorted(reserved)} are said of .stgv files only")
    if "fps" in about:
        fps_of(about["fps"])
    if about.keys() & set(HINTS):
        about |= hints_of(about, sum(lengths(about.get("num_frames"))))
    seconds = about.get("seconds", {})
    if not isinstance(seconds, dict) or not all(isinstance(value, (int, float)) for value in seconds.values()):
        raise StgvError(f"seconds must be numbers by name, got {seconds!r:.40}")
    if not isinstance(about.get("device", ""), str):
        raise StgvError(f"device must be a name, got {about['device']!r:.40}")
    return about


def plain(value):
    """JSON with text that is `printable` and numbers that are finite."""
    if isinstance(value, dict):
        return {printable(name): plain(of) for name, of in value.items()}
    if isinstance(value, list):
        return [plain(of) for of in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise StgvError(f"{value} is no number that JSON knows")
    return printable(value) if isinstance(value, str) else value


def printable(text: str) -> str:
    """Text without control characters, which a terminal obeys."""
    return "".join(c for c in text if c.isprintable())
