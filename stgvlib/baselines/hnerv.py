"""HNeRV (Chen et al. 2023): a ConvNeXt encoder makes an embedding of each frame; a decoder, evenly wide, turns it back.

What is sent, and counted, is the decoder and the embeddings (16 channels; 2 x 4 cells on 640 x 1280). The decoder's
kernels are 1, 3, 5, 5, 5; each stage has 1 / 1.2 of the channels before it, but at least 12. `width` is the channels
before the first stage.
"""

import math

import torch
from torch import Tensor, nn

from stgvlib.baselines.layers import Upsample, layout

STRIDES = ((5, 4, 4, 2, 2), (5, 4, 3, 2, 2), (5, 4, 2, 2, 2), (5, 3, 2, 2, 2), (4, 3, 2, 2, 2))
EMBEDDING, ENCODER = 16, 64  # channels
REDUCTION, LEAST = 1.2, 12


class ConvNext(nn.Module):
    """Downsampling by `stride`, then one ConvNeXt block (Liu et al. 2022)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.down = nn.Conv2d(inputs, outputs, stride, stride)
        self.depth = nn.Conv2d(outputs, outputs, 7, padding=3, groups=outputs)
        self.before = nn.LayerNorm(inputs) if inputs > 3 else nn.Identity()
        self.mlp = nn.Sequential(  # over channels
            nn.LayerNorm(outputs), nn.Linear(outputs, 4 * outputs), nn.GELU(), nn.Linear(4 * outputs, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.before(x.movedim(1, -1)).movedim(-1, 1))
        return x + self.mlp(self.depth(x).movedim(1, -1)).movedim(-1, 1)


class HNerv(nn.Module):
    """Frames by number, int64 [B] -> [B, 3, H, W]. `size` is (height, width) in px."""

    strides, stage = STRIDES, ConvNext  # candidates; a stage of the encoder

    def __init__(self, width: int, size: tuple[int, int], frames: int):
        super().__init__()
        self.size, self.num_frames = size, frames
        strides, grid = layout(size, self.strides)
        self.padded = grid[0] * math.prod(strides), grid[1] * math.prod(strides)
        widths = [3] + [ENCODER] * (len(strides) - 1) + [EMBEDDING]
        self.encoder = nn.Sequential(*(self.stage(i, o, s) for i, o, s in zip(widths, widths[1:], strides)))
        self.register_buffer("embeddings", torch.zeros(frames, EMBEDDING, *grid))  # what is sent; `embed` fills it
        self.make_decoder(width, strides)

    def make_decoder(self, width: int, strides: tuple[int, ...]) -> None:
        stages, channels = [nn.Conv2d(EMBEDDING, width, 1), nn.GELU()], width
        for k, stride in enumerate(strides):
            outputs = max(round(channels / REDUCTION), LEAST)
            stages += [Upsample(channels, outputs, stride, min(1 + 2 * k, 5)), nn.GELU()]
            channels = outputs
        self.decoder = nn.Sequential(*stages, nn.Conv2d(channels, 3, 3, padding=1))

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, 16, h, w]; frames are padded with their edge to whole cells."""
        height, width = images.shape[2:]
        padding = (0, self.padded[1] - width, 0, self.padded[0] - height)
        return self.encoder(nn.functional.pad(images, padding, mode="replicate"))

    @torch.no_grad()
    def embed(self, frames: Tensor, image: Tensor) -> None:
        """Keep the embeddings of frames (int64 [B]) whose pictures are `image` [B, 3, H, W]."""
        self.embeddings[frames] = self.encode(image)

    def decode(self, embedding: Tensor, frame: Tensor) -> Tensor:
        """Embeddings [B, 16, h, w] of frames, int64 [B], to pictures [B, 3, H, W]."""
        shown = self.decoder(embedding)[..., : self.size[0], : self.size[1]]
        return (torch.tanh(shown) + 1) / 2

    def forward(self, frame: Tensor) -> Tensor:
        """Frames from their kept embeddings."""
        return self.decode(self.embeddings[frame], frame)

    def num_parameters(self) -> int:
        sent = (p.numel() for name, p in self.named_parameters() if not name.startswith("encoder."))
        return self.embeddings.numel() + sum(sent)
