"""What is done to frames before they are fitted, and the classical ways of undoing it (paper, Sec. III-C, App. D).

Inpainting: masks whose pixels are left out of the loss. Denoising: noise models and filters. Super-resolution: a fitted
model rendered at a larger scale, against resampled pixels. Interpolation in time: a fitted model between its frames,
against averages and optical flow. Levels that the paper does not print are inferred from its baseline rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np

from stgvlib.errors import StgvError, size_text
from stgvlib.video.flow import dense_flow
from stgvlib.video.holes import check_mask
from stgvlib.video.video import Video, video_of

BOX = 50  # px, side of a box that is missing, in frames of 640 rows or more; smaller frames have smaller boxes
BOX_ROWS = 640
NOISES = ("white", "black", "salt_pepper")
WHITE_SIGMA = 0.045  # [inferred]
BLACK_PART = 0.01  # of all values [inferred]
SALT_PEPPER_PART = 0.005  # of all pixels, half of them white [inferred]
KERNELS = (3, 5, 7)  # px; the paper names no size
STRENGTHS = (5, 7, 9, 12, 16, 20)  # of non-local means, of luma and colour alike, of 255
PATCH = 5  # px, side of the patches that they compare
SEARCHED = {1: 7, 5: 5}  # frames -> px, side of the window that is searched: the best of 7 and 15; of 5, 7, 11 and 15
PROBE = 4  # of 255, by which a filter's given frame is changed to see what comes of it


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


@dataclass(frozen=True)
class Filter:
    """A filter of one frame, that may see those around it."""

    of: Callable[[np.ndarray, int | None], np.ndarray]  # (uint8 [T, H, W, 3], size) -> the middle frame [H, W, 3]
    sizes: tuple[int | None, ...] = KERNELS  # to choose from: kernels, px, or strengths; (None,): no choice
    frames: int = 1  # that it sees


def _square(size: int) -> np.ndarray:
    return np.ones((size, size), np.uint8)


def _non_local_means(frames: np.ndarray, strength: int) -> np.ndarray:
    count, pictures = len(frames), [np.ascontiguousarray(frame[..., ::-1]) for frame in frames]  # BGR
    settings = (None, strength, strength, PATCH, SEARCHED[1 if count == 1 else 5])
    if count == 1:
        return cv2.fastNlMeansDenoisingColored(pictures[0], *settings)[..., ::-1]
    return cv2.fastNlMeansDenoisingColoredMulti(pictures, count // 2, count, *settings)[..., ::-1]


def _wavelet(frame: np.ndarray) -> np.ndarray:
    denoised = _restoration().denoise_wavelet(frame, channel_axis=-1, convert2ycbcr=True, rescale_sigma=True)
    return np.rint(denoised * 255).astype(np.uint8)


def _restoration():
    try:
        from skimage import restoration
    except ImportError as error:
        raise StgvError("denoising needs scikit-image: pip install 'stgvlib[notebooks]'") from error
    return restoration


FILTERS = {
    "gaussian": Filter(lambda frames, size: cv2.GaussianBlur(frames[0], (size, size), 0)),
    "uniform": Filter(lambda frames, size: cv2.blur(frames[0], (size, size))),
    "median": Filter(lambda frames, size: cv2.medianBlur(frames[0], size)),
    "minimum": Filter(lambda frames, size: cv2.erode(frames[0], _square(size))),
    "maximum": Filter(lambda frames, size: cv2.dilate(frames[0], _square(size))),
    "nlm": Filter(_non_local_means, STRENGTHS),
    "nlm_5": Filter(_non_local_means, STRENGTHS, frames=5),
    "wavelet": Filter(lambda frames, _: _wavelet(frames[0]), (None,)),  # it estimates its threshold itself
}


def denoise(frames: np.ndarray, method: str, size: int | None) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] filtered by one of FILTERS, at one of its sizes. Raises StgvError for another name."""
    chosen = _filter(method)
    return np.stack([chosen.of(around(frames, i, chosen.frames), size) for i in range(len(frames))])


def around(frames: np.ndarray, number: int, count: int) -> np.ndarray:
    """Frame `number` in the middle of its `count` nearest, an odd number. At the ends of a clip the window is shifted,
    so that it has as many frames; a clip that is shorter gives its largest odd number of frames."""
    count = min(count, len(frames) - 1 + len(frames) % 2)
    start = min(max(number - count // 2, 0), len(frames) - count)
    others = [i for i in range(start, start + count) if i != number]
    return frames[[*others[: count // 2], number, *others[count // 2 :]]]


def best_size(frames: np.ndarray, method: str, clean: np.ndarray) -> int | None:
    """The size that gives the first frame the least error against the clean one: more than a filter could know."""
    chosen = _filter(method)
    seen = around(frames, 0, chosen.frames)
    return _least(chosen, lambda size: float(np.square(chosen.of(seen, size).astype(float) - clean[0]).mean()))


def blind_size(frames: np.ndarray, method: str) -> int | None:
    """The size that should give the first frame the least error, without the clean one: by Stein's unbiased estimate of
    the squared error, its divergence measured along one random direction (Ramani, Blu and Unser 2008).

    The estimate holds for Gaussian noise, of a deviation that the median of wavelet coefficients tells. Outliers are
    rare, so that this is near 0 for them, and the size that changes least is chosen.
    """
    chosen = _filter(method)
    seen = around(frames, 0, chosen.frames)
    probed, middle = seen.copy(), len(seen) // 2
    given = seen[middle].astype(float)
    variance = _restoration().estimate_sigma(given, average_sigmas=True, channel_axis=-1) ** 2
    probed[middle] = np.clip(given + np.random.default_rng(0).choice((-PROBE, PROBE), given.shape), 0, 255)
    step = probed[middle] - given

    def risk(size: int) -> float:
        out, moved = (chosen.of(some, size).astype(float) for some in (seen, probed))
        divergence = (step * (moved - out)).mean() / np.square(step).mean()
        return float(np.square(out - given).mean() + 2 * variance * divergence)

    return _least(chosen, risk)


def _least(chosen: Filter, error: Callable[[int], float]) -> int | None:
    return chosen.sizes[0] if len(chosen.sizes) == 1 else min(chosen.sizes, key=error)


def _filter(method: str) -> Filter:
    if method not in FILTERS:
        raise StgvError(f"filter must be one of {', '.join(FILTERS)}, got {method!r}")
    return FILTERS[method]


RESIZERS = {"bicubic": cv2.INTER_CUBIC, "lanczos": cv2.INTER_LANCZOS4}


def upscale(frames: np.ndarray, size: tuple[int, int], method: str) -> np.ndarray:
    """Frames resampled to (height, width) by one of RESIZERS."""
    if method not in RESIZERS:
        raise StgvError(f"resizer must be one of {', '.join(RESIZERS)}, got {method!r}")
    return np.stack([cv2.resize(frame, size[::-1], interpolation=RESIZERS[method]) for frame in frames])


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


def average(frames: np.ndarray) -> np.ndarray:
    """Means of neighbouring frames: uint8 [T, H, W, 3] -> [T - 1, H, W, 3]."""
    return ((frames[:-1].astype(np.uint16) + frames[1:] + 1) // 2).astype(np.uint8)


def flow(frames: np.ndarray) -> np.ndarray:
    """Neighbouring frames warped half-way to each other by OpenCV's dense inverse search (Kroeger et al. 2016), and
    averaged: [T, H, W, 3] -> [T - 1, H, W, 3]."""
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]].astype(np.float32)

    def half_way(frame: np.ndarray, motion: np.ndarray) -> np.ndarray:
        """What lies at p - motion / 2 in `frame` comes to p."""
        places = x - motion[..., 0] / 2, y - motion[..., 1] / 2
        return cv2.remap(frame, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    pairs = []
    for i in range(len(frames) - 1):
        there, back = (dense_flow(gray[a], gray[b]) for a, b in ((i, i + 1), (i + 1, i)))
        pairs.append(np.stack([half_way(frames[i], there), half_way(frames[i + 1], back)]))
    return np.concatenate([average(pair) for pair in pairs])


def psnr_of(frames: Sequence[np.ndarray], clean: Sequence[np.ndarray]) -> float:
    """Mean over frames of the PSNR, dB; uint8 [H, W, 3] each."""
    errors = [np.square(a.astype(np.float64) - b).mean() for a, b in zip(frames, clean, strict=True)]
    return float(np.mean([10 * np.log10(255**2 / max(e, 1e-10)) for e in errors]))


@dataclass
class Spoiled:
    """What a system gets, and what its result is judged against."""

    given: Video
    clean: np.ndarray  # uint8 [T, H, W, 3]
    baseline: float | None  # PSNR of what was given against it, where both are as large and long
    missing: np.ndarray | None = None  # bool [T, H, W]


def spoil(kind: str, level: str, video: Video, seed: int = 0) -> Spoiled:
    """Clean frames as a task gives them: `kind` inpaint, noise, scale or between; `level` the mask, noise or factor.

    Raises StgvError when they are too few or too small."""
    clean = video.read()
    if kind == "inpaint":
        missing = check_mask(MASKS[level](len(clean), video.size, seed), len(clean), video.size)
        given = clean.copy()
        given[missing] = 0
        return Spoiled(video_of(given).with_(missing=missing), clean, psnr_of(given, clean), missing)
    if kind == "noise":
        given = add_noise(clean, level, seed)
        return Spoiled(video_of(given), clean, psnr_of(given, clean))
    if kind == "scale":
        factor = Fraction(level)  # both sizes are whole: of 3/2 the sides are cropped to multiples of 3
        units = [side // factor.numerator for side in video.size]
        if min(units) < 1:
            raise StgvError(f"frames of {size_text(video.size)} are too small to be shrunk {level} times")
        (height, width), size = (tuple(n * unit for unit in units) for n in (factor.numerator, factor.denominator))
        clean = clean[:, :height, :width]
        small = [cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA) for frame in clean]
        return Spoiled(video_of(np.stack(small)), clean, None)
    if len(clean) < 3:
        raise StgvError(f"interpolation in time needs three frames or more, got {len(clean)}")
    odd = len(clean) - (len(clean) + 1) % 2  # the last frame is one that is given
    return Spoiled(video_of(clean[:odd:2]), clean[1:odd:2], None)
