"""A video's model: canonical Gaussians and the field that deforms them, batched over GoPs (paper, Sec. II, eq. 6-9).

Every parameter has a leading GoP axis, so a batch of GoPs trains in one pass. `paper_budget` is the count that the
paper reports: 8 numbers a Gaussian, the hash tables, and the MLP.
"""

import math
from itertools import accumulate

import torch
from torch import Tensor, nn

from stgvlib.config import FitConfig
from stgvlib.device import kernels_for
from stgvlib.errors import StgvError
from stgvlib.model.budget import grey_count
from stgvlib.model.field import DeformationField
from stgvlib.model.gaussians import CanonicalGaussians
from stgvlib.ops.constants import FADE_SCALE
from stgvlib.ops.splat import splat, splat_pairs


class VideoModel(nn.Module):
    """G GoPs of one video: canonical Gaussians, the field that deforms them, and the number of frames of each GoP.

    Every parameter has a leading GoP axis. Fitted by `fit`, read by `load_model`; a new model is black. `Decoder` gives
    its frames, `render` one frame of each GoP.

    Examples:
        >>> import torch
        >>> from stgvlib import PAPER, VideoModel
        >>> model = VideoModel(PAPER, num_frames=[3, 2], size=(16, 24), count=5)  # size: height, width in px
        >>> model.gaussians.mu.shape  # [GoPs, Gaussians, 2]
        torch.Size([2, 5, 2])
        >>> model.spans  # first frame, one past the last
        [(0, 3), (3, 5)]
        >>> model.render(torch.tensor([2, 0])).shape  # frame 2 of the first GoP, frame 0 of the second
        torch.Size([2, 16, 24, 3])
    """

    def __init__(
        self,
        config: FitConfig,
        num_frames: list[int],  # of each GoP
        size: tuple[int, int],  # height, width
        count: int,  # Gaussians a GoP
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config, self.size, self.num_frames = config, size, list(num_frames)
        gops = len(num_frames)
        self.count = count
        self.gaussians = CanonicalGaussians(gops, self.count, size, config.parametrization, config.field.own_numbers)
        self.field = DeformationField(config.field, gops, size, generator)
        self.most_pairs = math.inf  # of a pixel and a Gaussian, in a frame; a reader sets what its file may ask for
        self._fused = None  # buffers of `deform` on a GPU

    def deform(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(mu', cholesky', rgb') at times t [G]: eq. 9. The shape stays, but with `deform_shape`.

        On a GPU without gradients this runs the fused kernels; training has its own step (fitting/stage_cuda.py).
        """
        if kernels_for(self.gaussians.mu) == "cuda" and not torch.is_grad_enabled():
            from stgvlib.model.field_cuda import FusedField, supported

            if supported(self.field):
                if self._fused is None or self._fused.batch != len(t) or self._fused.x.device != t.device:
                    self._fused = FusedField(self, len(t))
                self._fused.t.copy_(t)
                mu, cholesky, rgb = (v.clone() for v in self._fused.forward())
                return mu, cholesky + self.gaussians.offset if self.gaussians.tanh else cholesky, rgb
        mu, cholesky = self.gaussians.pixels()
        d_mu, d_rgb, d_cholesky = self.field(mu, t)
        rgb, own = self.gaussians.rgb, self.gaussians.motion
        if self.config.field.polynomial:
            d_mu = d_mu + (own.unflatten(-1, (-1, 2)) * self.field.motion_powers(t)).sum(2)
        elif self.config.field.fade:
            rgb = rgb * (1 + FADE_SCALE * own * (2 * t - 1)[:, None, None])
        moved = self.gaussians.moved_inside_tanh(d_mu) if self.field.inside_tanh else mu + d_mu
        return moved, cholesky if d_cholesky is None else cholesky + d_cholesky, rgb + d_rgb

    def times(self, frame: Tensor) -> Tensor:
        """t of frame i of a GoP of n frames: (i + 1) / n, as in the parent code. frame [G] -> [G]."""
        counts = torch.tensor(self.num_frames, device=frame.device)
        return (frame + 1) / counts

    @torch.no_grad()
    def render(self, frame: Tensor, scale: float = 1.0, canonical: bool = False) -> Tensor:
        """Frame `frame[g]` of every GoP, [G, H, W, 3] not clamped, at `scale` times the size."""
        if canonical:
            mu, cholesky = self.gaussians.pixels()
            rgb = self.gaussians.rgb
        else:
            mu, cholesky, rgb = self.deform(self.times(frame))
        if not mu.is_cuda:  # the test would wait for the GPU, which takes a hundredth of the time for as many
            self.check_pairs(mu, cholesky)
        size = self.scaled_size(scale)
        if scale != 1:
            ratio = self.size_ratio(size)
            mu, cholesky = mu * ratio, cholesky * ratio[[0, 1, 1]]  # l1 follows x; l2, l3 follow y
        return splat(mu, cholesky, rgb, size)

    def check_pairs(self, mu: Tensor, cholesky: Tensor) -> None:
        """Raise StgvError where Gaussians cover more than the model's file can ask for."""
        if self.most_pairs < math.inf and splat_pairs(mu, cholesky, self.size) > self.most_pairs:
            raise StgvError("the model is damaged: its Gaussians cover more pixels than a file of its size can hold")

    def scaled_size(self, scale: float) -> tuple[int, int]:
        """Height and width at `scale` times the fitted size."""
        return tuple(max(1, round(side * scale)) for side in self.size)

    def size_ratio(self, size: tuple[int, int]) -> Tensor:
        """Of x and y, [2], from the fitted size to another."""
        return self.gaussians.mu.new_tensor([size[1] / self.size[1], size[0] / self.size[0]])

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First frame, and one past the last, of each GoP."""
        ends = list(accumulate(self.num_frames))
        return list(zip([0, *ends], ends))

    def gop(self, g: int) -> "VideoModel":
        """GoP g alone, as a copy."""
        alone = VideoModel(self.config, self.num_frames[g : g + 1], self.size, self.count)
        alone.load_state_dict({name: value[g : g + 1] for name, value in self.state_dict().items()})
        alone.most_pairs = self.most_pairs
        return alone.to(self.gaussians.mu.device)

    @staticmethod
    def join(models: list["VideoModel"]) -> "VideoModel":
        """The GoPs of several models, in order, as one model."""
        first = models[0]
        lengths = [n for m in models for n in m.num_frames]
        joined = VideoModel(first.config, lengths, first.size, first.count)
        states = [m.state_dict() for m in models]
        joined.load_state_dict({name: torch.cat([s[name] for s in states]) for name in states[0]})
        return joined.to(first.gaussians.mu.device)

    def num_parameters(self) -> int:
        """8 a Gaussian (more where it has numbers of its own, 2 fewer where it is grey), hash tables, MLP: what the
        paper counts, and the lattice, over all GoPs."""
        tied = 2 * grey_count(self.config, self.count) * len(self.num_frames)
        return sum(p.numel() for p in self.parameters()) - tied
