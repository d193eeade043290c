"""E-NeRV (Li et al. 2022): NeRV with the spatial and the temporal context apart.

Codes of the cells of a small map go through a transformer block, are multiplied by the frame's features, and go through
a second block. The map then goes up through NeRV's stages; what enters a stage is normalised (each channel over the
map), scaled and shifted by features of the time. The first stage has three times the channels, through a convolution
that is split in two at a quarter of them; each further one has half, but at least 96. Sizes are those of the published
configuration; `width` is the channels of the small map, and small budgets narrow the rest with it.
"""

import torch
from torch import Tensor, nn

from stgvlib.baselines.layers import TimeCode, Upsample, layout
from stgvlib.baselines.nerv import STRIDES

CODE, LEAST, EXPANSION, HEADS = 256, 96, 3, 8


class Block(nn.Module):
    """Attention among cells, then a two-layer MLP, each added to its input: [B, cells, code] -> the same."""

    def __init__(self, code: int, heads: int):
        super().__init__()
        self.heads, inner = heads, heads * (code // 4)
        self.queries_keys_values = nn.Linear(code, 3 * inner, bias=False)
        self.out = nn.Linear(inner, code)
        self.mlp = nn.Sequential(nn.Linear(code, code // 2), nn.GELU(), nn.Linear(code // 2, code))

    def forward(self, x: Tensor) -> Tensor:
        split = self.queries_keys_values(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(*split.unbind())  # [B, heads, cells, inner / heads]
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(x)


class Stage(nn.Module):
    """Instance norm, scale and shift from the time's features, upsampling."""

    def __init__(self, inputs: int, outputs: int, stride: int, time: int, first: bool):
        super().__init__()
        if first:
            middle = max(inputs // 4, 1)
            self.up = nn.Sequential(Upsample(inputs, middle, stride), nn.Conv2d(middle, outputs, 3, padding=1))
        else:
            self.up = Upsample(inputs, outputs, stride)
        self.affine = nn.Sequential(nn.Linear(time, 2 * inputs), nn.GELU())

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.affine(time)[:, :, None, None].chunk(2, 1)
        # By hand: torch's own instance norm, on a CPU, has a wrong gradient where channels come last in memory.
        variance, mean = torch.var_mean(x.float(), (2, 3), correction=0, keepdim=True)
        x = (x - mean) * torch.rsqrt(variance + 1e-5) * scale + shift
        return nn.functional.gelu(self.up(x))


class ENerv(nn.Module):
    def __init__(self, width: int, size: tuple[int, int], frames: int):
        super().__init__()
        self.size, self.num_frames = size, frames
        strides, self.grid = layout(size, ((5, 2, 2, 2, 2), *STRIDES))
        code = min(CODE, 8 * width)
        self.code = TimeCode()
        self.frame = _mlp(self.code.width, 2 * code, code)
        self.time = _mlp(self.code.width, code // 2, code // 2)
        self.space = _mlp(2 * self.code.width, code)
        self.blocks = nn.ModuleList([Block(code, 1), Block(code, HEADS)])
        self.fuse = _mlp(code, width)
        self.stages, channels = nn.ModuleList(), width
        for k, stride in enumerate(strides):
            outputs = EXPANSION * width if k == 0 else max(channels // 2, min(LEAST, EXPANSION * width))
            self.stages.append(Stage(channels, outputs, stride, code // 2, k == 0))
            channels = outputs
        self.head = nn.Conv2d(channels, 3, 1)

    def forward(self, frame: Tensor) -> Tensor:
        """Frames: int64 [B] -> [B, 3, H, W]."""
        codes = self.code(frame / self.num_frames)
        y, x = (torch.arange(n, device=frame.device) / n for n in self.grid)
        cells = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).view(-1, 2)
        space = self.blocks[0](self.space(self.code(cells).flatten(1))[None])  # [1, cells, code]
        mixed = self.fuse(self.blocks[1](space * self.frame(codes)[:, None]))
        mixed, time = mixed.transpose(1, 2).unflatten(2, self.grid), self.time(codes)
        for stage in self.stages:
            mixed = stage(mixed, time)
        return torch.sigmoid(self.head(mixed)[..., : self.size[0], : self.size[1]])


def _mlp(*widths: int) -> nn.Sequential:
    layers = [(nn.Linear(inputs, outputs), nn.GELU()) for inputs, outputs in zip(widths, widths[1:])]
    return nn.Sequential(*(layer for pair in layers for layer in pair))
