"""PSNR (float and 8-bit, in RGB and in YUV), MS-SSIM and decoding speed. Imports only torch and numpy; libraries of
MS-SSIM when used.

Peers (HNeRV, D2GV) compute the PSNR of each frame on the float render clamped to [0, 1] and average over frames. A file
or a screen has 8 bits, so the rounded value is reported beside it.
"""

import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

MS_SSIM_LEAST = 161  # px of the shorter side: five scales with an 11 px window
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales


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


def yuv_420(difference: Tensor) -> tuple[Tensor, Tensor]:
    """How the planes Y [H, W] and CbCr [2, ceil(H / 2), ceil(W / 2)] of two RGB frames differ that differ by
    [H, W, 3]: planes are linear in RGB.

    BT.709, limited range: white and black differ by 219 / 255 in Y. Chroma is the mean of 2x2 pixels (at an odd border,
    of those there are). Nothing is rounded.
    """
    red, green, blue = 0.2126, 0.7152, 0.0722
    luma = difference.new_tensor([red, green, blue]) * (219 / 255)
    to_blue = [-red, -green, 1 - blue], 2 * (1 - blue)
    to_red = [1 - red, -green, -blue], 2 * (1 - red)
    chroma = torch.stack([difference.new_tensor(row) * (224 / 255) / scale for row, scale in (to_blue, to_red)])
    small = torch.nn.functional.avg_pool2d(difference.permute(2, 0, 1)[None], 2, ceil_mode=True)[0]
    return difference @ luma, torch.einsum("pc,chw->phw", chroma, small)


def psnr_yuv(image: Tensor, target: Tensor) -> float:
    """PSNR of one frame in YUV, in dB, as video codecs are compared: (6 PSNR(Y) + PSNR(Cb) + PSNR(Cr)) / 8 of 4:2:0.

    Both are [H, W, 3] RGB in [0, 1] and become planes alike (`yuv_420`), so a codec that stores 4:2:0 and a
    model that renders RGB are measured alike. The peak is 255, of which limited range uses 219; for the same picture
    this is 4 to 5 dB above the PSNR in RGB (block codecs on Bunny and blackswan). Identical planes have 120 dB. Raises
    ValueError for other shapes.

    Examples:
        >>> import torch
        >>> from stgvlib.metrics import psnr_yuv
        >>> grey, lighter = torch.full((4, 6, 3), 0.5), torch.full((4, 6, 3), 0.6)
        >>> round(psnr_yuv(lighter, grey), 2)  # luma has 21.32 dB, and there is no chroma
        45.99
    """
    _same(image, target)
    luma, chroma = yuv_420(image.detach().float().clamp(0, 1) - target.float())
    errors = torch.stack([luma.square().mean(), *chroma.square().mean((1, 2))]).double()
    return (decibels(errors) @ errors.new_tensor([6, 1, 1]) / 8).item()


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
    pair = [v.detach().float().clamp(0, 1).permute(2, 0, 1)[None] for v in (image, target)]
    if image.device.type == "cpu":
        return _ms_ssim_cpu(*pair)
    from pytorch_msssim import ms_ssim as compute

    return compute(*pair, data_range=1).item()


def _ms_ssim_cpu(image: Tensor, target: Tensor) -> float:
    """The same as pytorch-msssim to six decimals, in a quarter of its time on a CPU: OpenCV's filter. [1, 3, H, W]."""
    import cv2

    window, product = cv2.getGaussianKernel(11, 1.5, cv2.CV_32F), 1.0

    def mean(values: np.ndarray) -> np.ndarray:  # under the window, where it lies inside
        return cv2.sepFilter2D(values, -1, window, window)[5:-5, 5:-5]

    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        a, b = (v[0].permute(1, 2, 0).contiguous().numpy() for v in (image, target))
        mean_a, mean_b = mean(a), mean(b)
        variances = mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
        found = (2 * (mean(a * b) - mean_a * mean_b) + 0.03**2) / (variances + 0.03**2)
        if scale == len(MS_SSIM_WEIGHTS) - 1:  # brightness counts at the coarsest scale alone
            found *= (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
        product = product * found.mean((0, 1), dtype=np.float64).clip(0) ** weight
        padding = [side % 2 for side in image.shape[2:]]
        image, target = (torch.nn.functional.avg_pool2d(v, 2, padding=padding) for v in (image, target))
    return float(product.mean())


def evaluate(rendered: Iterable[Tensor], targets: Iterable[np.ndarray], similarity: bool = True) -> dict:
    """Means over frames: `psnr` (dB, of the float frames clamped to [0, 1]), `psnr_8bit` (rounded to 8 bits first),
    `psnr_yuv` (dB, 6:1:1), `ms_ssim` (None when frames are too small); and `psnr_frames`, `frames`. Without
    `similarity`, which takes most of the time on a CPU, YUV PSNR and MS-SSIM are None.

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
        like = (psnr_yuv(image, target), ms_ssim(image, target)) if similarity else (None, None)
        rows.append((psnr(image, target), psnr(rounded, target), *like))
    if not rows:
        raise ValueError("evaluate needs at least one frame")
    floats, rounds, yuv, similarities = zip(*rows)
    return {
        "psnr": float(np.mean(floats)),
        "psnr_8bit": float(np.mean(rounds)),
        "psnr_yuv": None if yuv[0] is None else float(np.mean(yuv)),
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
