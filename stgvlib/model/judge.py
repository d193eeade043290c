"""Judge a model against its video: quality, parameters, decoding speed."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from stgvlib.errors import StgvError, size_text
from stgvlib.metrics import decode_fps, evaluate
from stgvlib.model.decoder import Decoder
from stgvlib.video.video import Video

BATCHES = (1, 2, 4, 8, 16, 32)  # frames a call
SECONDS = 0.25  # of each measurement
LONGEST = 0.15  # s a call: no batch is tried that would take more


def judge(model: nn.Module, video: Video, decoder: Callable[..., Decoder] = Decoder) -> dict:
    """Quality and cost of a model on its video: `psnr` (dB, mean over frames), `psnr_8bit`, `ms_ssim`, `psnr_frames`,
    `parameters`, `height`, `width` (px), and of `decoding_speed`, in frames a second, `decode_fps`, `decode_fps_8bit`
    and more.

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
    quality = evaluate(decoder(model, dtype=torch.float32), video)
    about = {"parameters": model.num_parameters(), "height": model.size[0], "width": model.size[1]}
    return quality | about | decoding_speed(model, decoder)


def decoding_speed(
    model: nn.Module,
    decoder: Callable[..., Decoder] = Decoder,
    batches: Sequence[int] = BATCHES,
    seconds: float = SECONDS,
    longest: float = LONGEST,
) -> dict:
    """Frames a second, warm: `decode_fps` of float frames and `decode_fps_8bit_single` of 8-bit ones, one a call;
    `decode_batches`, 8-bit, by frames a call, and their highest, `decode_fps_8bit`. `fps_protocol` and
    `fps_8bit_protocol` say how it was measured: which batches were tried, and whether a call is a CUDA graph.

    `batches` grow from 1, and end where the video does, where memory does, or where a call would take more than
    `longest` s. A CPU decodes one frame a call.

    Examples:
        >>> from stgvlib import PAPER, VideoModel
        >>> from stgvlib.model.judge import decoding_speed
        >>> found = decoding_speed(VideoModel(PAPER, num_frames=[2], size=(16, 24), count=5), seconds=0.01)
        >>> list(found["decode_batches"]), found["fps_8bit_protocol"]
        (['1'], '8-bit, warm, the GPU waited for once a pass over the video; frames a call tried: 1; no CUDA graph')
    """
    single, frames = decoder(model, dtype=torch.float32), sum(model.num_frames)
    one_a_call = decode_fps(lambda i: single[i], min(model.num_frames[0], 10), seconds)
    if next(model.parameters()).device.type == "cpu":
        batches = batches[:1]
    tried, end, way = {}, "", ""
    for batch in batches:
        if batch > frames:
            end = f" (the video has {frames})"
        elif tried and batch / max(tried.values()) > longest:
            end = f" ({batch} would take over {longest} s)"
        if end:
            break
        whole = decoder(model, dtype=torch.uint8)
        try:
            calls = decode_fps(
                lambda i, at=whole, n=batch: at.frames(range(i * n, i * n + n)), frames // batch, seconds
            )
        except torch.cuda.OutOfMemoryError:
            if not tried:
                raise
            end = f" ({batch} need more memory)"
            break
        tried[str(batch)], way = round(calls * batch, 2), _way(whole)
    return {
        "decode_fps": round(one_a_call, 2),
        "fps_protocol": "one frame a call, float render without 8-bit rounding, warm, the GPU waited for after ten, "
        f"first ten frames of the first GoP; {_way(single)}",
        "decode_fps_8bit": max(tried.values()),
        "decode_fps_8bit_single": tried.get("1"),
        "decode_batches": tried,
        "fps_8bit_protocol": "8-bit, warm, the GPU waited for once a pass over the video; "
        f"frames a call tried: {', '.join(tried)}{end}; {way}",
    }


def _way(decoder: Decoder) -> str:
    """A system of one's own need not say how it decodes."""
    return getattr(decoder, "way", "CUDA graph not stated")
