"""STGV: a video as one set of deformed 2D Gaussians a GoP. Fit, render, judge.

from stgvlib import STGV, fit, open_video
result = fit(open_video("clip.mp4"), STGV, device="cuda")
frame = Decoder(result.model)[0]
"""

from stgvlib.config import PAPER, PROFILES, STGV, FieldConfig, FitConfig
from stgvlib.errors import StgvError
from stgvlib.fitting.fit import fit
from stgvlib.metrics import evaluate, ms_ssim, psnr
from stgvlib.model.decoder import Decoder
from stgvlib.model.video_model import VideoModel, load_model, save_model
from stgvlib.model.viewer import view
from stgvlib.ops.splat import splat
from stgvlib.video.datasets import load
from stgvlib.video.video import Video, open_video, write_video

__all__ = [
    "PAPER",
    "PROFILES",
    "STGV",
    "Decoder",
    "FieldConfig",
    "FitConfig",
    "StgvError",
    "Video",
    "VideoModel",
    "evaluate",
    "fit",
    "load",
    "load_model",
    "ms_ssim",
    "open_video",
    "psnr",
    "save_model",
    "splat",
    "view",
    "write_video",
]
