"""What is done to frames before they are fitted, and the classical ways of undoing it (paper, Sec. III-C, App. D).

Inpainting: masks whose pixels are left out of the loss. Denoising: noise models and filters. Super-resolution: a fitted
model rendered at a larger scale, against resampled pixels. Interpolation in time: a fitted model between its frames,
against averages and optical flow. Levels that the paper does not print are inferred from its baseline rows.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from stgvlib.errors import StgvError
from stgvlib.model.video_model import VideoModel
from stgvlib.ops.splat import MIN_SCALE, splat
from stgvlib.video.video import Video, open_video

BOX = 50  # px, side of a box that is missing, in frames of 640 rows or more; smaller frames have smaller boxes
BOX_ROWS = 640
NOISES = ("white", "black", "salt_pepper")
WHITE_SIGMA = 0.045  # [inferred]
BLACK_PART = 0.01  # of all values [inferred]
SALT_PEPPER_PART = 0.005  # of all pixels, half of them white [inferred]
OUTLIER = 0.1  # difference from a fit, of 0 to 1, beyond which a given value is taken for an outlier
KERNELS = (3, 5, 7)  # px; the paper names no size
MOST_PIXELS = 2**28  # of a frame that is rendered: 3 GB in float32


def random_boxes(frames: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Five boxes a frame at random places (paper, Sec. III-C): bool [T, H, W], true where pixels are missing."""
    draw, side = np.random.default_rng(seed), _side(size)
    missing = np.zeros((frames, *size), bool)
    for frame in missing:
        for _ in range(5):
            top, left = (draw.integers(0, length - side + 1) for length in size)
            frame[top : top + side, left : left + side] = True
    return missing


def fixed_boxes(frames: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """HNeRV's variant: five boxes at the same places in all frames, the middle and half-way to each corner."""
    side, missing = _side(size), np.zeros((frames, *size), bool)
    for y, x in ((0.25, 0.25), (0.25, 0.75), (0.5, 0.5), (0.75, 0.25), (0.75, 0.75)):
        top, left = round(y * size[0] - side / 2), round(x * size[1] - side / 2)
        missing[:, top : top + side, left : left + side] = True
    return missing


def object_mask(frames: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """One object: an ellipse of a fifth of the height that crosses the frame from left to right."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    radius, missing = size[0] / 10, np.zeros((frames, *size), bool)
    for i, frame in enumerate(missing):
        centre = size[1] * (0.2 + 0.6 * i / max(frames - 1, 1))
        frame[((x - centre) / (1.5 * radius)) ** 2 + ((y - size[0] / 2) / radius) ** 2 < 1] = True
    return missing


MASKS: dict[str, Callable[..., np.ndarray]] = {
    "random": random_boxes,
    "fixed": fixed_boxes,
    "object": object_mask,
}


def _side(size: tuple[int, int]) -> int:
    side = round(BOX * min(1, size[0] / BOX_ROWS))
    if not 1 <= side <= min(size):
        raise StgvError(f"frames of {size[0]}x{size[1]} are too small for boxes of {side} px")
    return side


def check_mask(missing: np.ndarray, frames: int, size: tuple[int, int]) -> np.ndarray:
    """A mask as bool [T, H, W]. Raises StgvError where it does not match the video, or leaves nothing to fit."""
    if missing.shape != (frames, *size):
        raise StgvError(
            f"the mask is {'x'.join(map(str, missing.shape))}, expected {frames} frames of {size[0]}x{size[1]}: "
            "one picture a frame, white where pixels are missing"
        )
    if missing.reshape(frames, -1).all(1).any():
        whole = int(missing.reshape(frames, -1).all(1).argmax())
        raise StgvError(f"the mask hides all of frame {whole}: leave some pixels to fit")
    return missing.astype(bool)


def read_mask(name: str, video: Video, frames: int | None = None) -> np.ndarray:
    """The mask in a folder of pictures or a video, its first `frames` frames, as `video` is seen: bool [T, H, W], True
    where pixels are missing. Raises StgvError where it does not match."""
    given = open_video(name)
    if frames is not None:
        given = given.with_(limit=frames)
    if given.size != video.source.size and given.size != video.size:
        raise StgvError(
            f"the mask is {given.size[1]}x{given.size[0]}, expected {video.source.size[1]}x{video.source.size[0]}: "
            "one picture a frame as large as the video's, white where pixels are missing"
        )
    white = [(frame.max(-1) > 127).astype(np.uint8) for frame in given.read()]
    shown = [cv2.resize(frame, video.size[::-1], interpolation=cv2.INTER_AREA) > 0 for frame in white]
    return check_mask(np.stack(shown), video.num_frames, video.size)


def add_noise(frames: np.ndarray, kind: str, seed: int = 0) -> np.ndarray:
    """uint8 [T, H, W, 3] with one of NOISES: white (Gaussian), black (values set to 0), salt_pepper (whole pixels)."""
    if kind not in NOISES:
        raise StgvError(f"noise must be one of {', '.join(NOISES)}, got {kind!r}")
    out = frames.copy()
    for i, frame in enumerate(out):  # frame by frame: a generator a frame, and little memory
        draw = np.random.default_rng((seed, i))
        if kind == "white":
            noisy = frame + draw.normal(0, 255 * WHITE_SIGMA, frame.shape)
            frame[:] = np.clip(np.rint(noisy), 0, 255)
        elif kind == "black":
            frame[draw.random(frame.shape) < BLACK_PART] = 0
        else:
            chance = draw.random(frame.shape[:2])
            frame[chance < SALT_PEPPER_PART / 2] = 0
            frame[chance > 1 - SALT_PEPPER_PART / 2] = 255
    return out


def _square(size: int) -> np.ndarray:
    return np.ones((size, size), np.uint8)


def _wavelet(frame: np.ndarray) -> np.ndarray:
    from skimage.restoration import denoise_wavelet

    return np.rint(denoise_wavelet(frame, channel_axis=-1, convert2ycbcr=True, rescale_sigma=True) * 255)


FILTERS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {  # uint8 [H, W, 3], size -> [H, W, 3]
    "gaussian": lambda frame, size: cv2.GaussianBlur(frame, (size, size), 0),
    "uniform": lambda frame, size: cv2.blur(frame, (size, size)),
    "median": lambda frame, size: cv2.medianBlur(frame, size),
    "minimum": lambda frame, size: cv2.erode(frame, _square(size)),
    "maximum": lambda frame, size: cv2.dilate(frame, _square(size)),
}
STRONGER: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # without a size to choose
    "nlm": lambda frame: cv2.fastNlMeansDenoisingColored(frame, None, 7, 7, 5, 15),
    "wavelet": _wavelet,
}


def denoise(frames: np.ndarray, method: str, clean: np.ndarray) -> tuple[np.ndarray, int | None]:
    """(frames filtered by one of FILTERS or STRONGER, kernel size or None). Of KERNELS the size that gives the first
    frame the least error against the clean one: the filters get the best of it."""
    if method in STRONGER:
        return np.stack([STRONGER[method](frame).astype(np.uint8) for frame in frames]), None
    if method not in FILTERS:
        raise StgvError(f"filter must be one of {', '.join((*FILTERS, *STRONGER))}, got {method!r}")

    def error(size: int) -> float:
        return float(np.square(FILTERS[method](frames[0], size).astype(float) - clean[0]).mean())

    size = min(KERNELS, key=error)
    return np.stack([FILTERS[method](frame, size) for frame in frames]), size


def composited(restored: np.ndarray, given: np.ndarray, missing: np.ndarray | None = None) -> np.ndarray:
    """Given frames in which only what is missing is replaced by the restored, uint8 [..., H, W, 3] both: the pixels of
    `missing` [..., H, W], or without it the values that differ by more than OUTLIER."""
    if missing is None:
        return np.where(np.abs(restored.astype(np.int16) - given) > 255 * OUTLIER, restored, given)
    return np.where(missing[..., None], restored, given)


RESIZERS = {"bicubic": cv2.INTER_CUBIC, "lanczos": cv2.INTER_LANCZOS4}


def upscale(frames: np.ndarray, size: tuple[int, int], method: str) -> np.ndarray:
    """Frames resampled to (height, width) by one of RESIZERS."""
    if method not in RESIZERS:
        raise StgvError(f"resizer must be one of {', '.join(RESIZERS)}, got {method!r}")
    return np.stack([cv2.resize(frame, size[::-1], interpolation=RESIZERS[method]) for frame in frames])


def check_scale(scale: float, size: tuple[int, int]) -> float:
    """A scale to render at. Raises StgvError for what cannot be rendered."""
    if not 0 < scale < float("inf"):
        raise StgvError(f"scale must be above 0, got {scale}")
    if size[0] * size[1] * scale**2 > MOST_PIXELS:
        most = (MOST_PIXELS / (size[0] * size[1])) ** 0.5
        raise StgvError(
            f"scale {scale:g} makes frames that do not fit in memory; at {size[0]}x{size[1]} take {most:.1f}"
        )
    return scale


@torch.no_grad()
def render_scaled(model: VideoModel, frame: Tensor, size: tuple[int, int], sharpen: bool = True) -> Tensor:
    """Frames `frame[g]` of every GoP at another size (height, width), [G, H, W, 3], not clamped.

    A pixel of the fitted frames is a mean over its square, so the fitted Gaussians are blurred by that square, whose
    variance is 1/12 px^2. With `sharpen`, what the smaller pixels lack of it is taken out of every covariance, that is
    1/12 (1 - 1/s^2) px^2 at scale s on each axis, at the same integral over the Gaussian.
    """
    mu, cholesky, rgb = model.deform(model.times(frame))
    ratio = model.size_ratio(size)  # of x, of y
    if sharpen:
        l1, l2, l3 = cholesky.unbind(-1)
        less = ((1 - 1 / ratio.square()) / 12).clamp(min=0)
        xx = (l1.square() - less[0]).clamp(min=(0.5 * l1).square())  # never more than half of an axis
        xy = l1 * l2
        yy = l2.square() + l3.square() - less[1]
        new1 = xx.sqrt()
        new2 = xy / new1
        new3 = (yy - new2.square()).clamp(min=(0.5 * l3).square()).sqrt().clamp(min=MIN_SCALE / ratio[1])
        new1 = new1.clamp(min=MIN_SCALE / ratio[0])
        rgb = rgb * ((l1 * l3) / (new1 * new3))[..., None]
        cholesky = torch.stack([new1, new2, new3], -1)
    return splat(mu * ratio, cholesky * ratio[[0, 1, 1]], rgb, size)


def back_project(frames: np.ndarray, small: np.ndarray, rounds: int = 2) -> np.ndarray:
    """Frames [T, s h, s w, 3] made to agree with the small ones [T, h, w, 3], uint8 each: what means over s x s pixels
    lack of the small frames is added, interpolated (Irani and Peleg 1991). What the small frames cannot decide stays
    as it was."""
    size, out = small.shape[1:3][::-1], []
    for frame, target in zip(frames, small, strict=True):
        large = frame.astype(np.float32)
        for _ in range(rounds):
            missing = target - cv2.resize(large, size, interpolation=cv2.INTER_AREA)
            large += cv2.resize(missing, frame.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        out.append(np.clip(np.rint(large), 0, 255).astype(np.uint8))
    return np.stack(out)


def between(model: VideoModel, number: int) -> tuple[int, float]:
    """(GoP, fractional frame in it) half-way between frames `number` and `number + 1`: where two GoPs meet, just before
    the later one's first frame."""
    if not 0 <= number < sum(model.num_frames) - 1:
        raise StgvError(f"frame {number} of {sum(model.num_frames)} has no successor")
    g = 0
    while number >= model.num_frames[g]:
        number, g = number - model.num_frames[g], g + 1
    return (g, number + 0.5) if number + 1 < model.num_frames[g] else (g + 1, -0.5)


@torch.no_grad()
def render_half_way(model: VideoModel, number: int) -> Tensor:
    """The frame between `number` and `number + 1`, [H, W, 3], not clamped: every Gaussian half-way between what it is
    in both. Where two GoPs meet no Gaussian is in both, and the frame is the mean of the two."""
    g, place = between(model, number)
    device = model.gaussians.mu.device
    if place < 0:
        last, first = (torch.tensor([i], device=device) for i in (model.num_frames[g - 1] - 1, 0))
        return (model.gop(g - 1).render(last)[0] + model.gop(g).render(first)[0]) / 2
    alone = model.gop(g)
    ends = (alone.deform(alone.times(torch.tensor([place + d], device=device))) for d in (-0.5, 0.5))
    return splat(*((a + b) / 2 for a, b in zip(*ends)), model.size)[0]


def average(frames: np.ndarray) -> np.ndarray:
    """Means of neighbouring frames: uint8 [T, H, W, 3] -> [T - 1, H, W, 3]."""
    return ((frames[:-1].astype(np.uint16) + frames[1:] + 1) // 2).astype(np.uint8)


def flow(frames: np.ndarray) -> np.ndarray:
    """Neighbouring frames warped half-way to each other by OpenCV's dense inverse search (Kroeger et al. 2016), and
    averaged: [T, H, W, 3] -> [T - 1, H, W, 3]."""
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]].astype(np.float32)

    def half_way(frame: np.ndarray, motion: np.ndarray) -> np.ndarray:
        """What lies at p - motion / 2 in `frame` comes to p."""
        places = x - motion[..., 0] / 2, y - motion[..., 1] / 2
        return cv2.remap(frame, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    pairs = []
    for i in range(len(frames) - 1):
        there, back = (search.calc(gray[a], gray[b], None) for a, b in ((i, i + 1), (i + 1, i)))
        pairs.append(np.stack([half_way(frames[i], there), half_way(frames[i + 1], back)]))
    return np.concatenate([average(pair) for pair in pairs])


def psnr_of(frames: Sequence[np.ndarray], clean: Sequence[np.ndarray]) -> float:
    """Mean over frames of the PSNR, dB; uint8 [H, W, 3] each."""
    errors = [np.square(a.astype(np.float64) - b).mean() for a, b in zip(frames, clean, strict=True)]
    return float(np.mean([10 * np.log10(255**2 / max(e, 1e-10)) for e in errors]))
