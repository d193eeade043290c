"""HNeRV-Boost (Zhang et al. 2024, "Boosting Neural Representations for Videos with a Conditional Decoder"): HNeRV whose
decoder also knows the frame's time.

From the paper and its public code, Apache-2.0, written anew:

- Encoder and embeddings as HNeRV's (64 channels a stage, 16 of the embedding), the strides 5, 2, 2, 2, 2, so that the
  embedding of 720 x 1280 has 9 x 16 cells. Its ConvNeXt blocks have a layer scale that starts at 1e-6, normal weights
  of deviation 0.02, layer norms with eps 1e-6, and one more of them after the first convolution.
- Time t = (frame + 1) / frames; sin and cos of 1.25^k pi t for k < 80; layers of 64 and 32, each with a sine.
- A block is a convolution (kernels 1, 3, 3, 3, 3) and pixel shuffle, a sine, and a residual part whose two 3 x 3
  convolutions, with a GELU between them, each follow a temporal-aware affine transform (TAT): x (1 + scale(t)) +
  shift(t), where scale and shift are two-layer ReLU networks, 32 wide inside, from time to a number a channel. The
  first block, a 1 x 1 convolution of the embedding, has the same parts.
- Blocks a stage: 1, 1, 2, 2, 2; the second of a stage does not enlarge. Each stage has 1 / 1.2 of the channels before
  it, but at least 12. Then a 3 x 3 convolution to RGB and (tanh + 1) / 2.
- Adan (0.98, 0.92, 0.99; eps 1e-8), rate 3e-3, a tenth of the epochs to warm up from a tenth of it, cosine down to 0,
  300 epochs, a frame a step; 60 (0.7 L1 + 0.3 (1 - MS-SSIM)) + L1 of the FFT, which is not normalised (objective.py).

Counted is all but the encoder, and the embeddings, as its authors count. `width` is the channels before the first
stage: 86 for their 1.5M on Bunny at 720p, 134 for 3M. With the same weights ours and their code give the same frames
and losses in 32-bit floats. Deviations:

- Strides follow from the frame size, since the authors crop to 720p and 1080p; frames are padded to whole cells.
- Frames under 161 px have SSIM for MS-SSIM; under a width of 16 (tiny videos) time has fewer features than 32.
- Matrix products are TF32 too; in theirs only convolutions are.
- Theirs reports the best of several evaluations, ours the last weights. Entropy minimisation belongs to its codec.
"""

import torch
from torch import Tensor, nn

from stgvlib.baselines.hnerv import EMBEDDING, LEAST, REDUCTION, ConvNext, HNerv
from stgvlib.baselines.layers import TimeCode, Upsample

STRIDES = ((5, 2, 2, 2, 2), (5, 3, 2, 2, 2), (5, 3, 2, 2), (4, 2, 2, 2, 2), (3, 2, 2, 2, 2))
BLOCKS = (1, 1, 2, 2, 2)  # of each stage
TIME = 32  # features of the time


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


class ScaledConvNext(ConvNext):
    """HNeRV's stage of the encoder with a layer scale, and a layer norm after the first convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__(inputs, outputs, stride)
        self.after = nn.LayerNorm(outputs) if inputs == 3 else nn.Identity()
        self.scale = nn.Parameter(torch.full((outputs,), 1e-6))
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-6
            elif isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.before(x.movedim(1, -1)).movedim(-1, 1))
        x = self.after(x.movedim(1, -1)).movedim(-1, 1)
        return x + (self.scale * self.mlp(self.depth(x).movedim(1, -1))).movedim(-1, 1)


class TemporalAffine(nn.Module):
    """x [B, C, h, w] scaled and shifted, a channel at a time, by features of the time [B, features]."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.scale, self.shift = (
            nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, channels)) for _ in range(2)
        )

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return x * (1 + self.scale(time)[:, :, None, None]) + self.shift(time)[:, :, None, None]


class Block(nn.Module):
    """Upsampling, a sine, and a residual part that depends on the time."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int, features: int):
        super().__init__()
        self.up = Upsample(inputs, outputs, stride, kernel)
        self.affine = nn.ModuleList(TemporalAffine(outputs, features) for _ in range(2))
        self.convolution = nn.ModuleList(nn.Conv2d(outputs, outputs, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = torch.sin(self.up(x))
        inner = nn.functional.gelu(self.convolution[0](self.affine[0](x, time)))
        return x + self.convolution[1](self.affine[1](inner, time))


class HNervBoost(HNerv):
    """HNeRV-Boost: frames by number, int64 [B] -> [B, 3, H, W]. `size` is (height, width) in px."""

    strides, stage = STRIDES, ScaledConvNext

    def make_decoder(self, width: int, strides: tuple[int, ...]) -> None:
        self.code = TimeCode()
        time = min(TIME, 2 * width)
        self.time = nn.Sequential(nn.Linear(self.code.width, 2 * time), Sine(), nn.Linear(2 * time, time), Sine())
        blocks, channels = [Block(EMBEDDING, width, 1, 1, time)], width
        for k, (stride, count) in enumerate(zip(strides, BLOCKS)):
            outputs = max(round(channels / REDUCTION), LEAST)
            for factor in (stride, *[1] * (count - 1)):
                blocks.append(Block(channels, outputs, factor, min(1 + 2 * k, 3), time))
                channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Conv2d(channels, 3, 3, padding=1)

    def decode(self, embedding: Tensor, frame: Tensor) -> Tensor:
        time = self.time(self.code((frame.double() + 1) / self.num_frames).float())
        for block in self.blocks:
            embedding = block(embedding, time)
        shown = self.head(embedding)[..., : self.size[0], : self.size[1]]
        return (torch.tanh(shown) + 1) / 2
