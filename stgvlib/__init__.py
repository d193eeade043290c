"""STGV: a video as one set of deformed 2D Gaussians a GoP. Fit, render, judge, compress.

    from stgvlib import STGV, Decoder, fit, open_video

    result = fit(open_video("clip.mp4"), STGV, device="cuda")
    frame = Decoder(result.model)[0]  # uint8 [H, W, 3]

Names are loaded when they are first used, so that importing stgvlib costs nothing. Systems to compare are in
`stgvlib.baselines`, the paper's experiments and records in `stgvlib.repro`.
"""

import os
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from stgvlib.files import cache_folder

os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # our own errors say what is wrong, once
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait slow down a busy machine
if not os.access(os.path.dirname(__file__), os.W_OK):  # where Numba would keep compiled code
    os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_folder()))

_PLACES = {
    "config": ("FAST", "PAPER", "PRESETS", "PROFILES", "QUALITY", "STGV", "FieldConfig", "FitConfig"),
    "errors": ("StgvError",),
    "video.video": ("Video", "open_video", "video_of"),
    "video.write": ("write_video",),
    "video.datasets": ("load_dataset",),
    "ops.splat": ("splat", "splat_mse"),
    "model.video_model": ("VideoModel",),
    "model.model_file": ("save_model",),
    "model.decoder": ("Decoder",),
    "model.judge": ("judge",),
    "metrics": ("evaluate", "ms_ssim", "psnr"),
    "fitting.fit": ("fit",),
    "fitting.batches": ("FitResult",),
    "fitting.progress": ("Progress", "ProgressBar"),
    "codec.steps": ("Steps",),
    "codec.chains": ("compress_video",),
    "codec.fine_tune": ("compress",),
    "codec.bitstream": ("decode", "encode"),
    "codec.load": ("load_model",),
    "player.widget": ("view",),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}

__all__ = sorted([*_PLACE_OF, "__version__"])

try:
    __version__ = version("stgvlib")
except PackageNotFoundError:  # sources that were not installed
    __version__ = "unknown"


def __getattr__(name: str):
    if name not in _PLACE_OF:
        raise AttributeError(f"module 'stgvlib' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"stgvlib.{_PLACE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
