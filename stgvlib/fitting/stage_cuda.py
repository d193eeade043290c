"""A training step on CUDA as launches alone: no autograd, no host, gradients written where the optimiser reads.

About a dozen kernels a step for the whole batch of GoPs: MLP bias and blended tables, encoding, MLP, binning, splat,
loss and their gradients in one, MLP backward and its sums, encoding backward, optimiser. `stage.Stage`
captures it in a CUDA graph.
"""

import torch
from torch import Tensor

from stgvlib.model.field_cuda import FusedField, pixels_gradient, supported, to_pixels
from stgvlib.ops.constants import BLOCK
from stgvlib.ops.cuda.compiler import run
from stgvlib.ops.cuda.splat import LIST_CAPACITY, Projection


class TrainingStep:
    """Calling it does one step: render a frame of every GoP, compare, update."""

    def __init__(
        self,
        model,
        frames: Tensor,  # uint8 [G, T, H, W, 4]
        optimizer,
        losses: Tensor,  # [steps, G], a row is written each step
        counts: Tensor,  # int64 [G], frames of each GoP
        strides: Tensor,  # int64 [G], step s shows frame s * stride % count
        keyframe: Tensor | None,  # int64 [G], the frame of the coarse stage; None: all frames in turn
        coarse: bool,
    ):
        self.gaussians, self.frames, self.optimizer, self.losses = model.gaussians, frames, optimizer, losses
        self.counts, self.strides, self.size, self.count = counts, strides, tuple(frames.shape[2:4]), model.count
        device, batch = frames.device, len(frames)
        self.field = None if coarse else FusedField(model, batch, training=True)
        self.keyframe = None if keyframe is None else keyframe.int()
        self.pixels = torch.empty_like(model.gaussians.mu) if coarse and model.gaussians.tanh else None
        self.offset, self.huber = model.gaussians.cholesky_offset, model.config.huber
        self.clamp = model.config.clamp
        self.projection = Projection.empty(batch, self.count, self.size, device)
        self.moments = torch.zeros(batch, self.count, 8, device=device)
        self.partial = torch.empty(batch, self.projection.counts[0].numel(), device=device)
        self.grads = [p.grad for p in (self.gaussians.mu, self.gaussians.cholesky, self.gaussians.rgb)]

    @staticmethod
    def supports(model, coarse: bool) -> bool:
        return coarse or supported(model.field)

    def __call__(self) -> None:
        self.gradients()
        self.optimizer.step()

    def gradients(self) -> None:
        """Losses and gradients of one step, without the update."""
        number, gaussians = self.optimizer.step_number, self.gaussians
        pixels = 3 * self.size[0] * self.size[1]
        cholesky, offset = gaussians.cholesky, self.offset
        if self.field is None:
            mu, rgb = gaussians.mu, gaussians.rgb
            if self.pixels is not None:
                mu = to_pixels(gaussians, self.pixels)
            index = (number * self.strides % self.counts).int() if self.keyframe is None else self.keyframe
        else:
            mu, cholesky, rgb = self.field.forward(number, self.counts, self.strides)
            index = self.field.frame
        self.projection.project(mu, cholesky, rgb, offset)
        self.projection.mse(self.frames, index, self.moments, self.partial, self.huber, self.clamp)
        tiles = self.partial.shape[1]
        run("splat_mse", "mse_loss", (len(mu), 1, 1), BLOCK, self.partial, number, self.losses, tiles, 1 / pixels)
        self.projection.mse_gradients(self.moments, cholesky, self.grads, 2 / pixels, offset=offset)
        if self.field is not None:
            self.field.backward(self.grads)
        elif self.pixels is not None:
            pixels_gradient(gaussians, self.pixels, self.grads[0])

    def grow_lists(self) -> bool:
        """Make room where a tile's list was too short since the last look; the step must then be captured again."""
        longest = int(self.projection.counts.max())
        if longest <= self.projection.capacity:
            return False
        capacity = min(self.count, -(-longest * 5 // 4 // LIST_CAPACITY) * LIST_CAPACITY)
        tiles = self.projection.counts.shape
        self.projection.lists = torch.zeros(
            *tiles, max(capacity, longest), dtype=torch.int32, device=self.frames.device
        )
        return True
