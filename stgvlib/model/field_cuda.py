"""The deformation field on CUDA, a few launches each way: encoding (encoding.py), MLP, heads (paper, eq. 3-9).

`FusedField` holds the buffers for a batch of frames and knows which row of the first layer goes with which feature.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from stgvlib.ops.constants import (
    BLOCK,
    CHUNKS,
    MLP_BACKWARD_BLOCKS,
    MLP_BACKWARD_ROWS,
    MLP_BACKWARD_THREADS,
    MLP_FORWARD_ROWS,
    MLP_INPUTS,
    MLP_OUTPUTS,
    mlp_pitch,
    mlp_sums,
    stage_rows,
)
from stgvlib.ops.cuda.compiler import run
from stgvlib.ops.cuda.encoding import encodes, make_encoder


def supported(field) -> bool:
    """Whether the fused kernels can run this field on the current GPU; if not, torch does (slower, the same values)."""
    config = field.config
    if config.encoding == "none" or config.head_layers > 1 or config.width not in MLP_FORWARD_ROWS or field.inside_tanh:
        return False
    properties = torch.cuda.get_device_properties(field.hidden.weight.device)
    room = properties.shared_memory_per_block_optin >= _backward_bytes(config.width, properties)
    return encodes(field) and room


def _weight_bytes(width: int) -> int:
    """Shared memory of the MLP's weights, fp16, and biases."""
    weights = (MLP_INPUTS + width) * mlp_pitch(width) + width * MLP_OUTPUTS
    return 2 * weights + 4 * (2 * width + MLP_OUTPUTS)


def _backward_bytes(width: int, properties) -> int:
    """Shared memory of mlp_backward: weights, what is staged, and sums of biases and heads, 40 bytes a thread."""
    stage = stage_rows(f"sm_{properties.major}{properties.minor}")
    return _weight_bytes(width) + 2 * stage * (2 * mlp_pitch(width) + MLP_OUTPUTS) + 40 * MLP_BACKWARD_THREADS


def to_pixels(gaussians, out: Tensor) -> Tensor:
    """Positions of the tanh parametrisation in px."""
    count, extent = out.numel() // 2, gaussians.extent_px
    run("parametrization", "pixels", (-(-count // BLOCK), 1, 1), BLOCK, gaussians.mu, out, count, *extent)
    return out


def pixels_gradient(gaussians, pixels: Tensor, grad: Tensor) -> None:
    """Turn the gradient of positions in px into that of the parameters, in place."""
    count, extent = pixels.numel() // 2, gaussians.extent_px
    run("parametrization", "pixels_gradient", (-(-count // BLOCK), 1, 1), BLOCK, pixels, grad, count, *extent)


@lru_cache
def _blocks(tiles: int, batch: int, slots: int) -> int:
    """Blocks a batch entry such that the slowest of `slots` multiprocessors has least to do."""
    return min(range(1, min(tiles, 2 * slots) + 1), key=lambda b: (-(-batch * b // slots) * -(-tiles // b), b))


class FusedField:
    """Buffers and launches for a batch of `batch` frames; `gops` (int32 [batch]) says of which GoPs, None: of all."""

    def __init__(self, model, batch: int, gops: Tensor | None = None, training: bool = False):
        field, device = model.field, model.gaussians.mu.device
        self.field, self.gaussians, self.gops, self.batch = field, model.gaussians, gops, batch
        self.count, self.inputs, self.codes = model.count, field.hidden.weight.shape[1], field.codes
        self.width = field.config.width
        self.variant = (self.width, field.config.slope)
        self.block = MLP_FORWARD_ROWS[self.width]
        self.rows = -(-self.count // self.block) * self.block
        self.x = torch.zeros(batch, CHUNKS, self.rows, 8, dtype=torch.float16, device=device)
        self.bias = torch.empty(batch, self.width, device=device)
        self.t = torch.zeros(batch, device=device)
        self.frame = torch.zeros(batch, dtype=torch.int32, device=device)
        self.mu, self.rgb = (torch.empty(batch, self.count, n, device=device) for n in (2, 3))
        self.cholesky = torch.empty_like(self.rgb) if field.shape_head is not None else None
        self.pixels = torch.empty_like(model.gaussians.mu) if model.gaussians.tanh else None
        self.encoder = make_encoder(field, batch, model.gaussians.extent_px, device, training)
        self.row_of = torch.tensor(self._row_of(), dtype=torch.int32, device=device)
        self.slots = torch.cuda.get_device_properties(device).multi_processor_count
        scale = field.position_scale.tolist()
        self.scales = (*scale, field.shape_scale)
        self.unit = 1.0 if field.config.time_code == "pi" else 1 / math.pi  # of t in gamma(t), half a wave
        # The loss is a mean over 3 H W: its gradients are brought back to the order of one for fp16.
        self.grad_scale = 3 * float(field.pixels) / 64
        # what lattice.cu adds: a lattice of displacements, and fading
        parts = field.lattice is not None or self._fade() is not None
        self.beside = (-(-self.count // BLOCK), batch, 1) if parts else None
        self.beside_sizes = (self.count, *(field.config.lattice or (1, 1, 1)), *model.gaussians.extent_px)
        if training:
            self.dx = torch.empty_like(self.x)
            slots = self.slots * MLP_BACKWARD_BLOCKS[self.width]
            self.blocks = _blocks(-(-self.count // MLP_BACKWARD_ROWS), batch, slots)
            self.sums = torch.empty(batch, self.blocks, mlp_sums(self.width), device=device)

    def _row_of(self) -> list[int]:
        """Row of the first layer for each k of its product, in the order of mlp.cuh's fragments; -1 for none."""
        rows = []
        for k in range(MLP_INPUTS):
            tile, q = divmod(k, 16)
            level, slot = q % 8 // 2, q % 2
            level += 4 * (q // 8) if tile == 0 else 4 * (tile - 1)
            slot += 0 if tile == 0 else 2 + 2 * (q // 8)
            rows.append(self.encoder.row_of(self.field, level, slot))
        return rows

    def forward(
        self, step: Tensor | None = None, counts: Tensor | None = None, strides: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(mu', Cholesky, rgb') at `self.t`, or of frame step * stride % count of each GoP (int64, on the device).

        Without a shape head the Cholesky vectors are the canonical ones, of all GoPs."""
        field, gaussians = self.field, self.gaussians
        w1, b1, w2, b2, wp, bp, wc, bc, ws, bs = self._weights(lambda p: p)
        clock = (step, counts, strides, self.gops, self.t, self.frame)
        arguments = (w1, b1, *clock, self.bias, self.inputs, self.codes, self.unit)
        run("mlp_forward", "mlp_begin", (self.batch, 1, 1), self.width, *arguments, variant=self.variant)
        mu = gaussians.mu if self.pixels is None else to_pixels(gaussians, self.pixels)
        self.encoder.forward(mu, self.t, self.gops, self.x)
        blocks = _blocks(-(-self.count // self.block), self.batch, self.slots)
        arguments = (self.x, w1, w2, wp, wc, ws, self.bias, b2, bp, bc, bs, self.row_of, self.gops)
        arguments += (mu, gaussians.cholesky, gaussians.rgb, self.mu, self.cholesky, self.rgb)
        sizes = (self.count, self.rows, self.inputs, *self.scales)
        launch = {"shared": _weight_bytes(self.width), "variant": self.variant}
        run("mlp_forward", "mlp_forward", (blocks, self.batch, 1), self.block, *arguments, *sizes, **launch)
        if field.config.polynomial:
            self.mu += (self._of_gops(gaussians.motion).unflatten(-1, (-1, 2)) * field.motion_powers(self.t)).sum(2)
        if self.beside:
            arguments = (mu, gaussians.rgb, field.lattice, self._fade(), self.t, self.gops, self.mu, self.rgb)
            run("lattice", "lattice_forward", self.beside, BLOCK, *arguments, *self.beside_sizes)
        return self.mu, gaussians.cholesky if self.cholesky is None else self.cholesky, self.rgb

    def backward(self, grads: list[Tensor]) -> None:
        """From the gradients of mu', Cholesky and rgb' (`grads`, also those of the canonical Gaussians) to all others:
        those of the field's parameters are written, that of mu is added to."""
        field = self.field
        if field.config.polynomial:
            self.gaussians.motion.grad.copy_((grads[0][:, :, None] * field.motion_powers(self.t)).flatten(2))
        w1, _, w2, b2, wp, bp, wc, bc, ws, bs = self._weights(lambda p: p)
        grad_shape = None if self.cholesky is None else grads[1]
        arguments = (self.x, w1, w2, wp, wc, ws, self.bias, b2, bp, bc, bs, self.row_of, grads[0], grad_shape, grads[2])
        sizes = (self.count, self.rows, self.inputs, *self.scales, self.grad_scale)
        bytes_ = _backward_bytes(self.width, torch.cuda.get_device_properties(self.x.device))
        grid, launch = (self.blocks, self.batch, 1), {"shared": bytes_, "variant": self.variant}
        arguments += (self.dx, self.sums, *sizes)
        run("mlp_backward", "mlp_backward", grid, MLP_BACKWARD_THREADS, *arguments, **launch)
        unscale = 1 / self.grad_scale
        targets = self._weights(lambda p: p.grad)
        sizes = (self.blocks, self.inputs, self.codes, self.unit, unscale)
        grid = (-(-mlp_sums(self.width) // BLOCK), self.batch, 1)
        arguments = (self.sums, self.t, self.row_of, *targets, *sizes)
        run("mlp_backward", "mlp_reduce", grid, BLOCK, *arguments, variant=self.variant)
        mu = self.gaussians.mu if self.pixels is None else self.pixels
        if self.beside:
            lattice = None if field.lattice is None else field.lattice.grad  # none while it is not trained
            if lattice is not None:
                lattice.zero_()
            arguments = (mu, self.gaussians.rgb, field.lattice, self._fade(), self.t, grads[0], grads[2], lattice)
            fade = None if self._fade() is None else self.gaussians.motion.grad
            run("lattice", "lattice_backward", self.beside, BLOCK, *arguments, fade, *self.beside_sizes)
        self.encoder.backward(mu, self.t, self.dx, grads[0], unscale)
        if self.pixels is not None:
            pixels_gradient(self.gaussians, self.pixels, grads[0])

    def _weights(self, of) -> list[Tensor | None]:
        """`of` each layer's weight and bias; the last two are None without a shape head."""
        field = self.field
        layers = (field.hidden, field.features, field.position_head, field.color_head, field.shape_head)
        pairs = [(None, None) if layer is None else (of(layer.weight), of(layer.bias)) for layer in layers]
        return [tensor for pair in pairs for tensor in pair]

    def _fade(self) -> Tensor | None:
        return self.gaussians.motion if self.field.config.fade else None

    def _of_gops(self, values: Tensor) -> Tensor:
        """Rows of the frames' GoPs."""
        return values if self.gops is None else values[self.gops.long()]
