"""What a .stgv file costs, in lines for a user: size, quality, bytes by section and by frame."""

import math

import torch

from stgvlib.codec.bitstream import Content, parse
from stgvlib.metrics import evaluate
from stgvlib.model.decoder import Decoder
from stgvlib.video.video import Video


def report(data: bytes, video: Video | None = None, device: torch.device | str = "cpu") -> list[str]:
    """Lines on the bytes of a .stgv file, in two columns. With its `video`, decoded frames are judged on `device`.

    Frames of damaged GoPs count as black. Raises StgvError where nothing can be read, ValueError where the frames are
    not as many or as large as the video's.

    Examples:
        >>> from stgvlib import PAPER, VideoModel
        >>> from stgvlib.codec.bitstream import stream
        >>> from stgvlib.codec.report import report
        >>> lines = report(stream(VideoModel(PAPER, num_frames=[3, 2], size=(16, 24), count=5)))
        >>> [line.split()[0] for line in lines]
        ['size', 'header', 'position', 'shape', 'color', 'field', 'a', 'key']
    """
    content = parse(data, device=device)
    frames = sum(content.model.num_frames)
    pixels = frames * math.prod(content.model.size)
    rows = [("size", f"{len(data):,} bytes, {8 * len(data) / pixels:.4f} bits a pixel")]
    if video is not None:
        judged = evaluate(Decoder(content.model, dtype=torch.float32), video)
        similarity = "" if judged["ms_ssim"] is None else f", MS-SSIM {judged['ms_ssim']:.4f}"
        rows.append(("quality", f"PSNR {judged['psnr']:.2f} dB{similarity}"))
    sections = [(name, size) for name, size in content.bytes.items() if size]
    width = len(f"{len(data):,}")
    rows += [(name, f"{size:{width},} bytes {100 * size / len(data):5.1f} %") for name, size in sections]
    rows.append(("a frame", f"{len(data) / frames:,.0f} bytes, the mean of {frames}"))
    rows += [(kind, text) for kind in ("key", "predicted") if (text := _cost(content, kind))]
    return [f"{name:10} {text}" for name, text in rows]


def _cost(content: Content, kind: str) -> str:
    """What GoPs of a kind cost; empty where there are none."""
    found = [(gop, length) for gop, length in zip(content.gops, content.model.num_frames) if gop["kind"] == kind]
    if not found:
        return ""
    size, frames = sum(gop["bytes"] for gop, _ in found), sum(length for _, length in found)
    text = f"{len(found)} GoP{'s' * (len(found) > 1)} of {size / len(found):,.0f} bytes, {size / frames:,.0f} a frame"
    changed = sum(gop["changed"] for gop, _ in found) / len(found)
    return text + (f", {100 * changed:.1f} % of Gaussians change" if kind == "predicted" else "")
