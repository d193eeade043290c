"""SIREN (Sitzmann et al. 2020): an MLP with sine activations from (x, y, t) to RGB; three hidden layers, omega 30.

At 3.2M parameters the layers are 1,024 wide. Coordinates are pixel centres in [-1, 1].
"""

import math

import torch
from torch import Tensor, nn

OMEGA = 30.0
HIDDEN = 3  # layers of width x width
CHUNK = 2**18  # pixels that are rendered at once


class Siren(nn.Module):
    def __init__(self, width: int, size: tuple[int, int], frames: int):
        super().__init__()
        self.size, self.num_frames = size, frames
        self.layers = nn.ModuleList(nn.Linear(i, width) for i in [3] + [width] * HIDDEN)
        self.last = nn.Linear(width, 3)
        with torch.no_grad():
            for k, layer in enumerate([*self.layers, self.last]):
                bound = 1 / 3 if k == 0 else math.sqrt(6 / width) / OMEGA
                layer.weight.uniform_(-bound, bound)

    def colors(self, points: Tensor) -> Tensor:
        """(x, y, t) in [-1, 1], [P, 3] -> RGB [P, 3]."""
        for layer in self.layers:
            points = torch.sin(OMEGA * layer(points))
        return (self.last(points) + 1) / 2

    def points(self, frame: Tensor, pixel: Tensor) -> Tensor:
        """Coordinates of pixels (row-major number) of frames: int64 [P] each -> [P, 3]."""
        height, width = self.size
        x, y = (pixel % width + 0.5) / width, (pixel // width + 0.5) / height
        return torch.stack([x, y, frame / max(self.num_frames - 1, 1)], -1) * 2 - 1

    def forward(self, frame: Tensor) -> Tensor:
        """Whole frames: int64 [B] -> [B, 3, H, W]."""
        height, width = self.size
        pixel = torch.arange(height * width, device=frame.device)
        shown = []
        for number in frame:
            parts = [self.colors(self.points(number.expand(len(p)), p)) for p in pixel.split(CHUNK)]
            shown.append(torch.cat(parts).view(height, width, 3).permute(2, 0, 1))
        return torch.stack(shown)
