"""PSNR (float and 8-bit), MS-SSIM and decoding speed. Imports only torch and numpy; the field's MS-SSIM when used.

Peers (HNeRV, D2GV) compute the PSNR of each frame on the float render clamped to [0, 1] and average over frames. A file
or a screen has 8 bits, so the rounded value is reported beside it.
"""

import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

MS_SSIM_LEAST = 161  # px of the shorter side: five scales with an 11 px window


def psnr(image: Tensor, target: Tensor) -> float:
    """PSNR of one frame in dB: -10 log10 of the mean squared error over pixels and channels.

    Both are [H, W, 3] in [0, 1]; the image is clamped first. Identical frames give inf. Raises ValueError for other
    shapes.

    Examples:
        >>> import torch
        >>> from stgvlib import psnr
        >>> round(psnr(torch.full((4, 6, 3), 0.6), torch.full((4, 6, 3), 0.5)), 2)
        20.0
    """
    _same(image, target)
    error = (image.clamp(0, 1).double() - target.double()).square().mean()
    return (-10 * torch.log10(error)).item()


def decibels(mse: Tensor) -> Tensor:
    """PSNR in dB of mean squared errors of values in [0, 1]; at most 120."""
    return -10 * torch.log10(mse.clamp(min=1e-12))


def to_uint8(image: Tensor) -> Tensor:
    """[..., 3] in [0, 1] -> uint8, clamped and rounded."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def ms_ssim(image: Tensor, target: Tensor) -> float | None:
    """MS-SSIM of one frame (Wang et al. 2003) as pytorch-msssim computes it, with data_range 1.

    Both are [H, W, 3] in [0, 1], clamped first. None where a side is 160 px or less. Raises ValueError for other
    shapes.

    Examples:
        >>> import torch
        >>> from stgvlib import ms_ssim
        >>> image = torch.rand(161, 200, 3)
        >>> round(ms_ssim(image, image), 4), ms_ssim(image[:160], image[:160])
        (1.0, None)
    """
    _same(image, target)
    if min(image.shape[:2]) < MS_SSIM_LEAST:
        return None
    from pytorch_msssim import ms_ssim as compute

    pair = (v.float().clamp(0, 1).permute(2, 0, 1)[None] for v in (image, target))
    return compute(*pair, data_range=1).item()


def evaluate(rendered: Iterable[Tensor], targets: Iterable[np.ndarray], similarity: bool = True) -> dict:
    """Means over frames: `psnr` (dB, of the float frames clamped to [0, 1]), `psnr_8bit` (rounded to 8 bits first),
    `ms_ssim` (None when frames are too small, or without `similarity`, which takes most of the time on a CPU); and
    `psnr_frames`, `frames`.

    rendered: float [H, W, 3] each, in units of the brightness range; targets: uint8 [H, W, 3] each. Raises ValueError
    when the two differ in length.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from stgvlib import evaluate
        >>> found = evaluate([torch.full((4, 6, 3), 0.1)] * 2, [np.zeros((4, 6, 3), np.uint8)] * 2)
        >>> round(found["psnr"], 2), round(found["psnr_8bit"], 2), found["frames"]
        (20.0, 19.83, 2)
    """
    rows = []
    for image, target in zip(rendered, targets, strict=True):
        target = torch.as_tensor(target).to(image.device).float() / 255
        rounded = to_uint8(image).float() / 255
        rows.append((psnr(image, target), psnr(rounded, target), ms_ssim(image, target) if similarity else None))
    if not rows:
        raise ValueError("evaluate needs at least one frame")
    floats, rounds, similarities = zip(*rows)
    return {
        "psnr": float(np.mean(floats)),
        "psnr_8bit": float(np.mean(rounds)),
        "ms_ssim": None if similarities[0] is None else float(np.mean(similarities)),
        "psnr_frames": [round(v, 3) for v in floats],
        "frames": len(rows),
    }


def bd_rate(anchor: Sequence[tuple[float, float]], test: Sequence[tuple[float, float]]) -> float:
    """Bjontegaard's delta rate with Akima interpolation: how much more rate `test` needs for the quality of `anchor`,
    in percent, negative where it needs less. Curves are (rate, quality) pairs.

    Raises ValueError where a curve has under four points, is not rising, or both share less than a fifth of the range
    of qualities that they span together.
    """
    import bjontegaard

    curves = [sorted(curve) for curve in (anchor, test)]
    for curve in curves:
        qualities = [q for _, q in curve]
        if len(curve) < 4 or any(b <= a for a, b in zip(qualities, qualities[1:])):
            raise ValueError(f"a curve needs four points or more, rising with the rate, got {curve}")
    (a_least, a_most), (t_least, t_most) = ((curve[0][1], curve[-1][1]) for curve in curves)
    shared = min(a_most, t_most) - max(a_least, t_least)
    if shared < 0.2 * (max(a_most, t_most) - min(a_least, t_least)):
        span = f"{a_least:.2f} to {a_most:.2f} and {t_least:.2f} to {t_most:.2f}"
        raise ValueError(f"the curves share too few qualities to be compared: {span}")
    (a_rate, a_quality), (t_rate, t_quality) = (zip(*curve) for curve in curves)
    options = {"method": "akima", "require_matching_points": False, "min_overlap": 0}  # overlap is checked above
    return float(bjontegaard.bd_rate(a_rate, a_quality, t_rate, t_quality, **options))


def decode_fps(render: Callable[[int], Tensor], frames: int, seconds: float = 1.0) -> float:
    """Calls of `render(i)` a second, warm, for about `seconds` of wall time: passes over i < `frames`, or over as many
    of them as there is time for; the GPU is waited for after each pass.

    Each call must return finished frames; what it includes (8-bit rounding or not) is the caller's to state.
    """

    def wait(frame: Tensor) -> None:
        if frame.is_cuda:
            torch.cuda.synchronize(frame.device)

    wait(render(0))  # compiles, captures
    began = time.perf_counter()
    wait(render(min(1, frames - 1)))
    once = time.perf_counter() - began
    a_pass = min(frames, max(1, int(seconds / max(once, 1e-9))))
    began, done, spent = time.perf_counter(), 0, 0.0
    while done == 0 or spent < seconds:
        for i in range(a_pass):
            frame = render(i)
        wait(frame)
        done, spent = done + a_pass, time.perf_counter() - began
    return done / spent


def _same(image: Tensor, target: Tensor) -> None:
    if image.shape != target.shape or image.dim() != 3 or image.shape[-1] != 3:
        raise ValueError(f"frames must both be [H, W, 3], got {tuple(image.shape)} and {tuple(target.shape)}")
