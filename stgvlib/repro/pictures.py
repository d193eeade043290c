"""Pictures that figures need, kept beside records."""

import cv2
import numpy as np
import torch
from torch import nn

from stgvlib.metrics import to_uint8
from stgvlib.model.decoder import Decoder
from stgvlib.model.video_model import VideoModel
from stgvlib.ops.splat import splat
from stgvlib.video.video import Video

PICTURED = 9  # the frame that figures show: the last of the paper's first GoP, of every system the same


def pictures_of(
    model: nn.Module,
    decoder: Decoder,  # to 8 bits
    coarse: VideoModel | None,  # the first GoP as the coarse stage left it; None: only crops of the frame
    video: Video,
    crop: tuple[float, ...],  # top, bottom, left, right, in parts of the frame
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """What figures need: crops of frame PICTURED and of its ground truth; of Gaussians also the first key frame, the
    canonical frame, and maps of how far the picture is moved, in 8 bits, with their maximum in px."""
    (height, width), number = model.size, min(PICTURED, video.num_frames - 1)
    top, bottom, left, right = (round(v * s) for v, s in zip(crop, (height, height, width, width)))

    def cut(image: np.ndarray) -> np.ndarray:
        return image[top : max(bottom, top + 1), left : max(right, left + 1)]

    ranges = {}
    frames = {"frame": decoder[number].cpu().numpy(), "truth": video.read(number, number + 1)[0]}
    if coarse is not None:
        first = torch.zeros(1, dtype=torch.int64, device=coarse.gaussians.mu.device)
        frames["canonical"] = to_uint8(coarse.render(first, canonical=True)[0]).cpu().numpy()
        frames["key"] = video.read(0, 1)[0]
    pictures = {name: cut(image) for name, image in frames.items()}
    if coarse is None or model.field.hidden is None:
        return pictures, ranges
    gop, index = decoder.place(number)
    alone = model.gop(gop)
    for name, motion in motion_maps(alone, torch.tensor([index], device=alone.gaussians.mu.device)).items():
        ranges[name] = round(float(motion.max()), 3)
        small = cv2.resize(motion, None, fx=min(1, 480 / width), fy=min(1, 480 / width), interpolation=cv2.INTER_AREA)
        pictures[name] = np.round(255 * small / max(small.max(), 1e-9)).astype(np.uint8)
    return pictures, ranges


@torch.no_grad()
def motion_maps(model: VideoModel, frame: torch.Tensor) -> dict[str, np.ndarray]:
    """|delta mu| in px, less its median over the Gaussians (a shift of the whole picture), as [H, W] float32 pictures:
    of the whole field, and with one hash silenced at a time."""
    mu, cholesky = model.gaussians.pixels()
    field, t = model.field, model.times(frame)

    def show(delta: torch.Tensor) -> np.ndarray:
        length = (delta - delta.median(dim=1, keepdim=True).values).norm(dim=-1, keepdim=True)
        paint = torch.cat([length, torch.ones_like(length), torch.zeros_like(length)], -1)
        image = splat(mu, cholesky, paint, model.size)[0]
        return (image[..., 0] / image[..., 1].clamp(min=1e-3)).cpu().numpy()

    maps = {"motion": show(model.deform(t)[0] - mu)}
    if field.spatial is not None and field.temporal is not None:
        for name, other in (("motion_static", "temporal"), ("motion_dynamic", "spatial")):
            with field.silenced(other):
                maps[name] = show(field(mu, t)[0])
    return maps
