"""NeRV (Chen et al. 2021): a frame's time code to a small map, then convolutions and pixel shuffles up to the frame.

This is NeRV as HNeRV's code trains it, since its Bunny figure at 640 x 1280 is HNeRV's: one layer from 160 codes to the
smallest map, every stage half as wide as the one before but at least 12 channels, GELU, L2, Adam 1e-3, two frames a
step. NeRV's own code has a 512-wide stem, at least 96 channels, and 0.7 L1 + 0.3 (1 - SSIM). `width` is the channels of
the smallest map.
"""

import torch
from torch import Tensor, nn

from stgvlib.baselines.layers import TimeCode, Upsample, layout

STRIDES = ((5, 4, 2, 2), (5, 2, 2, 2, 2), (5, 3, 2, 2), (4, 3, 2, 2), (3, 2, 2, 2))
LEAST = 12  # channels


class Nerv(nn.Module):
    def __init__(self, width: int, size: tuple[int, int], frames: int):
        super().__init__()
        self.size, self.num_frames = size, frames
        strides, self.grid = layout(size, STRIDES)
        self.code = TimeCode()
        self.stem = nn.Sequential(nn.Linear(self.code.width, width * self.grid[0] * self.grid[1]), nn.GELU())
        stages, channels = [], width
        for stride in strides:
            outputs = max(round(channels / 2), LEAST)
            stages += [Upsample(channels, outputs, stride), nn.GELU()]
            channels = outputs
        self.stages = nn.Sequential(*stages)
        self.head = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, frame: Tensor) -> Tensor:
        """Frames: int64 [B] -> [B, 3, H, W]."""
        x = self.stem(self.code(frame / self.num_frames)).view(len(frame), -1, *self.grid)
        x = self.head(self.stages(x))[..., : self.size[0], : self.size[1]]
        return (torch.tanh(x) + 1) / 2
