"""What the implicit video networks share: time codes, upsampling blocks, and which strides fit a frame size."""

import math

import torch
from torch import Tensor, nn


class TimeCode(nn.Module):
    """t [...] in [0, 1] -> [..., 80]: sin and cos of 1.25^k pi t for k < 40 (NeRV, Sec. 3.1)."""

    width = 80

    def __init__(self):
        super().__init__()
        self.register_buffer("bases", 1.25 ** torch.arange(40) * math.pi, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[..., None] * self.bases
        return torch.cat([angles.sin(), angles.cos()], -1)


class Upsample(nn.Sequential):
    """Convolution to stride^2 times the channels, then pixel shuffle: [B, C, h, w] -> [B, out, h s, w s]."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int = 3):
        super().__init__(nn.Conv2d(inputs, outputs * stride**2, kernel, padding=kernel // 2), nn.PixelShuffle(stride))


def layout(size: tuple[int, int], candidates: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], tuple[int, int]]:
    """(strides, (rows, columns) of the smallest feature map) whose product covers `size` with the fewest pixels too
    many; what is too many is cut off at the right and the bottom."""

    def grid(strides: tuple[int, ...]) -> tuple[int, int]:
        factor = math.prod(strides)
        return -(-size[0] // factor), -(-size[1] // factor)

    strides = min(candidates, key=lambda s: math.prod(grid(s)) * math.prod(s) ** 2)
    return strides, grid(strides)
