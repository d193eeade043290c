"""Decode a fitted model: frames in batches or one at a time, as uint8 for files and screens or float32 for metrics.

On a GPU everything from the frame numbers to the finished frames is one CUDA graph: field, binning, splat, 8-bit
rounding in the splat kernel. On a CPU frames are rendered one by one with numba.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from stgvlib.device import capturing, kernels_for
from stgvlib.metrics import to_uint8
from stgvlib.model.video_model import VideoModel

BATCH = 16  # frames of one call when a whole video is decoded on a GPU
MOST_LISTED = 1 << 28  # entries of all tiles' lists on a GPU, 1 GiB


class Decoder:
    """`decoder[i]` is frame i of the video, [H, W, 3]; `decoder.frames([...])` several at once, [B, H, W, 3]; iterating
    gives all frames in order. `scale` renders at another size. Frames are uint8, or float32 in units of the brightness
    range, not clamped, on the model's device. The model must not change while it is decoded.

    Raises IndexError for a frame number out of range, ValueError for another dtype.

    Examples:
        >>> from stgvlib import PAPER, Decoder, VideoModel
        >>> decoder = Decoder(VideoModel(PAPER, num_frames=[3, 2], size=(16, 24), count=5), scale=2)
        >>> len(decoder), decoder[4].shape, decoder[4].dtype
        (5, torch.Size([32, 48, 3]), torch.uint8)
        >>> decoder.frames(range(3)).shape
        torch.Size([3, 32, 48, 3])
    """

    def __init__(self, model: VideoModel, scale: float = 1.0, dtype: torch.dtype = torch.uint8, batch: int = BATCH):
        if dtype not in (torch.uint8, torch.float32):
            raise ValueError(f"frames are decoded to uint8 or float32, got {dtype}")
        self.model, self.scale, self.dtype, self.batch = model, scale, dtype, batch
        self.size = model.scaled_size(scale)
        self.ends = list(accumulate(model.num_frames))  # one past the last frame of each GoP
        self._alone: tuple[int, VideoModel | None] = (-1, None)  # the GoP that was decoded last
        self._graphs: dict[int, _Graph] = {}

    @property
    def way(self) -> str:
        """How frames are made, for records of decoding speed."""
        return "one CUDA graph a call" if kernels_for(self.model.gaussians.mu) == "cuda" else "no CUDA graph"

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, number: int) -> Tensor:
        return self.frames([number])[0]

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self), self.batch):
            yield from self.frames(range(start, min(start + self.batch, len(self))))

    @torch.no_grad()
    def frames(self, numbers: Sequence[int]) -> Tensor:
        """Frames by number, [B, H, W, 3], on the model's device."""
        for number in numbers:
            if not 0 <= number < len(self):
                raise IndexError(f"frame {number} was asked for, the video has frames 0 to {len(self) - 1}")
        if not numbers or kernels_for(self.model.gaussians.mu) != "cuda":
            shown = [self._render(*self.place(number)) for number in numbers]
            return torch.stack(shown) if shown else torch.empty(0, *self.size, 3, dtype=self.dtype)
        if len(numbers) not in self._graphs:
            with torch.cuda.device(self.model.gaussians.mu.device):
                self._graphs[len(numbers)] = _Graph(self, len(numbers))
        return self._graphs[len(numbers)](numbers)

    def place(self, number: int) -> tuple[int, int]:
        """GoP and number within it of a frame."""
        gop = bisect_right(self.ends, number)
        return gop, number - self.ends[gop] + self.model.num_frames[gop]

    def _render(self, gop: int, index: int) -> Tensor:
        if self._alone[0] != gop:
            self._alone = (gop, self.model.gop(gop))
        alone = self._alone[1]
        frame = alone.render(torch.tensor([index], device=alone.gaussians.mu.device), self.scale)[0]
        return to_uint8(frame) if self.dtype == torch.uint8 else frame


class _Graph:
    """Decoding `count` frames as a CUDA graph: numbers in, frames out."""

    def __init__(self, decoder: Decoder, count: int):
        from stgvlib.model.field_cuda import FusedField, supported
        from stgvlib.ops.cuda.splat import Projection

        model, self.decoder = decoder.model, decoder
        device = model.gaussians.mu.device
        model.check_pairs(*model.gaussians.pixels())
        lengths = torch.tensor(model.num_frames)
        gops = torch.arange(len(lengths)).repeat_interleave(lengths)
        frames = torch.arange(len(decoder)) - (lengths.cumsum(0) - lengths)[gops]
        # GoP and time of each frame of the video, and of those to decode, in one tensor: one copy to the GPU.
        self.places = torch.stack([gops.int(), ((frames + 1) / lengths[gops]).view(torch.int32)])
        self.place = torch.zeros(2, count, dtype=torch.int32, device=device)
        self.gops, self.t = self.place[0], self.place[1].view(torch.float32)
        self.mu = self.field = self.own = None
        if model.field.hidden is None:
            self.mu = model.gaussians.pixels()[0]
        elif supported(model.field):
            self.field = FusedField(model, count, self.gops)
            self.field.t = self.t
        else:  # torch runs the field, on a copy of what belongs to each frame
            self.own = VideoModel(model.config, [1] * count, model.size, model.count).to(device)
        self.out = torch.empty(count, *decoder.size, 3, dtype=decoder.dtype, device=device)
        self.offset = model.gaussians.cholesky_offset if self.own is None else 0.0
        self.ratio = model.size_ratio(decoder.size)
        self.shape_ratio = self.ratio[[0, 1, 1]]  # l1 follows x; l2, l3 follow y
        self.raised = self.ratio.new_tensor([self.offset, 0.0, self.offset])
        self.projection = Projection.empty(count, model.count, decoder.size, device)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.run()
        torch.cuda.current_stream().wait_stream(side)
        longest = int(self.projection.counts.max())
        if longest > self.projection.capacity:  # later frames may still overflow: slower, and just as right
            most = max(self.projection.capacity, MOST_LISTED // self.projection.counts.numel())
            self.projection = Projection.empty(count, model.count, decoder.size, device, min(longest * 5 // 4, most))
        self.graph = torch.cuda.CUDAGraph()
        with capturing(self.graph):
            self.run()

    def run(self) -> None:
        gops, offset, gaussians = self.gops, self.offset, self.decoder.model.gaussians
        if self.mu is not None:  # one model a frame
            mu, cholesky, rgb = self.mu[gops], gaussians.cholesky, gaussians.rgb[gops]
        elif self.own is not None:
            for own, of_gops in zip(self.own.parameters(), self.decoder.model.parameters(), strict=True):
                torch.index_select(of_gops, 0, gops, out=own)
            mu, cholesky, rgb = self.own.deform(self.t)
            gops = None
        else:
            mu, cholesky, rgb = self.field.forward()
            gops = gops if self.field.cholesky is None else None
        if self.decoder.scale != 1:
            canonical = cholesky if gops is None else cholesky[gops]
            mu, cholesky = mu * self.ratio, (canonical + self.raised) * self.shape_ratio
            gops, offset = None, 0.0
        self.projection.project(mu, cholesky, rgb, offset, gops).image(self.out)

    def __call__(self, numbers: Sequence[int]) -> Tensor:
        places = self.places[:, list(numbers)]
        if len(numbers) == 1:  # a copy would wait for the frames before
            self.gops.fill_(places[0].item())
            self.t.fill_(places[1].view(torch.float32).item())
        else:
            self.place.copy_(places)
        self.graph.replay()
        return self.out.clone()
