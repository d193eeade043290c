"""What the implicit video networks share: time codes, upsampling blocks, and which strides fit a frame size."""

import math

import torch
from torch import Tensor, nn


class TimeCode(nn.Module):
    """t [...] in [0, 1] -> [..., 160]: sin and cos of 1.25^k pi t for k < 80 (NeRV, Sec. 3.1, which has 40; the code of
    HNeRV and E-NeRV has 80)."""

    width = 160

    def __init__(self):
        super().__init__()
        self.register_buffer("bases", 1.25 ** torch.arange(self.width // 2) * math.pi, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[..., None] * self.bases
        return torch.cat([angles.sin(), angles.cos()], -1)


class Upsample(nn.Module):
    """Convolution to stride^2 times the channels, then pixel shuffle: [B, C, h, w] -> [B, out, h s, w s].

    Channels come last in memory and the convolution's are ordered (s, s, out), so that the shuffle moves whole rows.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int = 3):
        super().__init__()
        self.stride = stride
        self.convolution = nn.Conv2d(inputs, outputs * stride**2, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(x.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
        blocks = x.unflatten(-1, (self.stride, self.stride, -1)).transpose(2, 3)  # [B, h, s, w, s, out]
        return blocks.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def layout(size: tuple[int, int], candidates: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], tuple[int, int]]:
    """(strides, (rows, columns) of the smallest feature map) whose product covers `size` with the fewest pixels too
    many; what is too many is cut off at the right and the bottom."""

    def grid(strides: tuple[int, ...]) -> tuple[int, int]:
        factor = math.prod(strides)
        return -(-size[0] // factor), -(-size[1] // factor)

    strides = min(candidates, key=lambda s: math.prod(grid(s)) * math.prod(s) ** 2)
    return strides, grid(strides)
