"""Judge a model against its video: quality, parameters, decoding speed."""

from collections.abc import Callable

import torch
from torch import nn

from stgvlib.errors import StgvError, size_text
from stgvlib.metrics import decode_fps, evaluate
from stgvlib.model.decoder import Decoder
from stgvlib.video.video import Video

FPS_PROTOCOL = (
    "one frame a call, float render without 8-bit rounding, warm, synchronised, first ten frames of the first GoP"
)


def judge(model: nn.Module, video: Video, decoder: Callable[..., Decoder] = Decoder) -> dict:
    """Quality and cost of a model on its video: `psnr` (dB, mean over frames), `psnr_8bit`, `ms_ssim`, `psnr_frames`,
    `parameters`, `height`, `width` (px), `decode_fps` and `decode_fps_8bit` (frames a second) and their protocols.

    `model` has `size`, `num_frames` and `num_parameters()`; `decoder(model, dtype=...)` gives its frames. Raises
    StgvError where model and video differ in size or length.

    Examples:
        >>> import numpy as np
        >>> from stgvlib import PAPER, VideoModel, judge, video_of
        >>> video = video_of(np.full((2, 16, 24, 3), 255, np.uint8))
        >>> black = VideoModel(PAPER, num_frames=[2], size=(16, 24), count=5)
        >>> found = judge(black, video)
        >>> found["psnr"], found["frames"], found["parameters"] == black.num_parameters()
        (0.0, 2, True)
    """
    if model.size != video.size or sum(model.num_frames) != video.num_frames:
        got, expected = (video.size, video.num_frames), (model.size, sum(model.num_frames))
        shapes = " against ".join(f"{size_text(size)} with {frames} frames" for size, frames in (got, expected))
        raise StgvError(f"video and model differ: {shapes} in the model; give the video that was fitted")
    single, whole = decoder(model, dtype=torch.float32), decoder(model, dtype=torch.uint8)
    quality = evaluate(single, video)
    numbers = [range(i, min(i + whole.batch, len(whole))) for i in range(0, len(whole), whole.batch)]
    seconds = 1.0
    if next(model.parameters()).device.type == "cpu":
        numbers, seconds = [[0]], 0.2
    calls = decode_fps(lambda i: whole.frames(numbers[i]), len(numbers), seconds)
    return quality | {
        "parameters": model.num_parameters(),
        "height": model.size[0],
        "width": model.size[1],
        "decode_fps": round(decode_fps(lambda i: single[i], min(model.num_frames[0], 10), seconds), 2),
        "fps_protocol": FPS_PROTOCOL,
        "decode_fps_8bit": round(calls * sum(len(n) for n in numbers) / len(numbers), 2),
        "fps_8bit_protocol": f"{len(numbers[0])} frames a call, 8-bit, warm, synchronised, whole video",
    }
