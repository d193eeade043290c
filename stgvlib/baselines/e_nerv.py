"""E-NeRV (Li et al. 2022): NeRV with the spatial and the temporal context apart.

A grid of spatial codes goes through one transformer block, is modulated by the frame's time code, and then up through
NeRV's stages; in each, an instance norm is followed by a scale and a shift from the time code. The first stage's
convolution is split in two through a quarter of the channels. `width` is the channels of the smallest map; the widths
of code, block and stages below follow it for small budgets and are the ones named here otherwise.
"""

import torch
from torch import Tensor, nn

from stgvlib.baselines.layers import TimeCode, Upsample, layout
from stgvlib.baselines.nerv import STRIDES

CODE, LEAST, HEADS = 256, 96, 8


class Stage(nn.Module):
    """Upsampling, instance norm, scale and shift from the time's features."""

    def __init__(self, inputs: int, outputs: int, stride: int, time: int, first: bool):
        super().__init__()
        if first:
            middle = max(outputs // 4, 4)
            self.up = nn.Sequential(Upsample(inputs, middle, stride), nn.Conv2d(middle, outputs, 3, padding=1))
        else:
            self.up = Upsample(inputs, outputs, stride)
        self.affine = nn.Linear(time, 2 * outputs)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.affine(time)[:, :, None, None].chunk(2, 1)
        x = self.up(x)
        # Instance norm by hand: torch's own, on a CPU, has a wrong gradient where channels come last in memory.
        variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        return nn.functional.silu((x - mean) * torch.rsqrt(variance + 1e-5) * (1 + scale) + shift)


class ENerv(nn.Module):
    def __init__(self, width: int, size: tuple[int, int], frames: int):
        super().__init__()
        self.size, self.num_frames = size, frames
        strides, self.grid = layout(size, STRIDES)
        code = min(CODE, HEADS * max(1, width // 4))
        self.code = TimeCode()
        self.time = nn.Sequential(nn.Linear(self.code.width, code), nn.SiLU(), nn.Linear(code, code), nn.SiLU())
        self.space = nn.Linear(2 * self.code.width, code)
        self.block = nn.TransformerEncoderLayer(
            code, HEADS, code, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.fuse = nn.Sequential(nn.Linear(code, code), nn.SiLU(), nn.Linear(code, width), nn.SiLU())
        self.stages, channels = nn.ModuleList(), width
        for k, stride in enumerate(strides):
            outputs = width if k == 0 else max(channels // 2, min(LEAST, width))
            self.stages.append(Stage(channels, outputs, stride, code, k == 0))
            channels = outputs
        self.head = nn.Conv2d(channels, 3, 1)

    def forward(self, frame: Tensor) -> Tensor:
        """Frames: int64 [B] -> [B, 3, H, W]."""
        time = self.time(self.code(frame / self.num_frames))  # [B, code]
        y, x = (torch.arange(n, device=frame.device) / n for n in self.grid)
        where = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).view(-1, 2)
        space = self.block(self.space(self.code(where).flatten(1))[None])  # [1, cells, code]
        mixed = self.fuse(space * time[:, None]).transpose(1, 2).reshape(len(frame), -1, *self.grid)
        for stage in self.stages:
            mixed = stage(mixed, time)
        return (torch.tanh(self.head(mixed)[..., : self.size[0], : self.size[1]]) + 1) / 2
