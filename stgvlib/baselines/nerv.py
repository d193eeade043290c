"""NeRV (Chen et al. 2021): a frame's time code through an MLP to a small feature map, then convolutions and pixel
shuffles up to the frame.

`width` is the channels of the smallest map (26 in NeRV-S). The stem is 512 wide and later stages have at least 96
channels, as published; both shrink below a width of 26, so that small budgets (the smoke profile) can be met.
"""

import torch
from torch import Tensor, nn

from stgvlib.baselines.layers import TimeCode, Upsample, layout

STRIDES = ((5, 4, 2, 2), (5, 2, 2, 2, 2), (5, 3, 2, 2), (4, 3, 2, 2), (3, 2, 2, 2))


class Nerv(nn.Module):
    def __init__(self, width: int, size: tuple[int, int], frames: int):
        super().__init__()
        self.size, self.num_frames = size, frames
        strides, self.grid = layout(size, STRIDES)
        stem, least = min(512, 20 * width), min(96, 4 * width)
        self.code = TimeCode()
        cells = self.grid[0] * self.grid[1]
        self.stem = nn.Sequential(
            nn.Linear(self.code.width, stem), nn.SiLU(), nn.Linear(stem, width * cells), nn.SiLU()
        )
        stages, channels = [], width
        for k, stride in enumerate(strides):
            outputs = width if k == 0 else max(channels // 2, least)
            stages += [Upsample(channels, outputs, stride), nn.SiLU()]
            channels = outputs
        self.stages = nn.Sequential(*stages)
        self.head = nn.Conv2d(channels, 3, 1)

    def forward(self, frame: Tensor) -> Tensor:
        """Frames: int64 [B] -> [B, 3, H, W]."""
        x = self.stem(self.code(frame / self.num_frames)).view(len(frame), -1, *self.grid)
        x = self.head(self.stages(x))[..., : self.size[0], : self.size[1]]
        return (torch.tanh(x) + 1) / 2
