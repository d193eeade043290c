"""The deformation field (paper, eq. 6-8): encodings and an MLP, with parameters of its own for each GoP.

CUDA kernels run it where they know it (field_cuda.py); elsewhere what is here does, on a GPU with products in bfloat16.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from stgvlib.config import FieldConfig
from stgvlib.device import kernels_for
from stgvlib.ops.encoding import HashGrid, Planes, positional


class BatchedLinear(nn.Module):
    """y = x W + b with its own W [G, in, out] for each GoP."""

    def __init__(self, gops: int, inputs: int, outputs: int, generator=None, zero: bool = False):
        super().__init__()
        bound = 0.0 if zero else 1 / math.sqrt(inputs)  # torch.nn.Linear's initialisation
        self.weight = nn.Parameter((torch.rand(gops, inputs, outputs, generator=generator) * 2 - 1) * bound)
        self.bias = nn.Parameter((torch.rand(gops, 1, outputs, generator=generator) * 2 - 1) * bound)

    def forward(self, x: Tensor, pad: bool = False) -> Tensor:
        """x [G, N, in] -> [G, N, out]. What x has beyond `in` is ignored; `pad` adds zeros up to a multiple of eight
        outputs, without which a GPU's half-precision products leave the tensor cores."""
        more = x.shape[2] - self.weight.shape[1], -self.bias.shape[2] % 8 if pad else 0
        if more == (0, 0):
            return torch.baddbmm(self.bias, x, self.weight)
        weight = nn.functional.pad(self.weight, (0, more[1], 0, more[0]))
        product = torch.bmm(x, weight)  # compiled, the sum is one with what follows; baddbmm would write it out first
        return product + nn.functional.pad(self.bias, (0, more[1])).to(product.dtype)


class FinelyWeighted(torch.autograd.Function):
    """x W with x bfloat16 [G, N, in] and W float32 [G, in, out] -> float32 [G, N, out].

    The last layer decides how finely positions are resolved, so W keeps 16 bits of its significand: it goes through the
    tensor cores as a sum of two halves. So does the gradient where it becomes that of W."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        high, low = _product(x, _halves(weight)).chunk(2, 2)
        return high + low

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        high, low = _product(x.mT, _halves(grad)).chunk(2, 2)
        return torch.bmm(grad.to(x.dtype), weight.to(x.dtype).mT), high + low


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Of bfloat16 matrices, in float32."""
    return torch.bmm(a, b, out_dtype=torch.float32) if a.is_cuda else torch.bmm(a.float(), b.float())


def _halves(values: Tensor) -> Tensor:
    """[..., n] -> bfloat16 [..., 2 n], whose halves add up to it."""
    high = values.bfloat16()
    return torch.cat([high, (values - high).bfloat16()], -1)


class DeformationField(nn.Module):
    """f = (2D hash(mu), 3D hash(mu, t), gamma(t)) -> two-layer MLP -> linear heads for position, colour (eq. 6-8).

    With encoding "none" it has no parameters and moves nothing.
    """

    def __init__(self, config: FieldConfig, gops: int, size: tuple[int, int], generator=None):
        super().__init__()
        self.config = config
        self.spatial = self.temporal = self.planes = None
        grid = (config.levels, config.log2_table_size, config.base_resolution, config.growth)
        if config.encoding == "hash":
            if config.spatial:
                self.spatial = HashGrid(gops, 2, config.spatial_features, *grid, generator=generator)
            if config.temporal:
                cells = config.time_cells
                self.temporal = HashGrid(gops, 3, config.temporal_features, *grid, cells, generator=generator)
        elif config.encoding == "planes":
            self.planes = Planes(gops, generator=generator)
        inputs = sum(e.width for e in (self.spatial, self.temporal, self.planes) if e is not None)
        if config.encoding == "positional":
            inputs = 2 * (1 + 2 * config.position_frequencies)
        self.codes = 1 + 2 * config.time_frequencies  # gamma(t), the last inputs
        inputs += self.codes
        self.activation = nn.LeakyReLU(config.slope, inplace=True) if config.slope else nn.ReLU(inplace=True)
        self.hidden = self.features = self.position_head = self.color_head = self.shape_head = None
        if config.encoding != "none":
            self.hidden = BatchedLinear(gops, inputs, config.width, generator)
            self.features = BatchedLinear(gops, config.width, config.width, generator)
            self.position_head = self._head(gops, 2, generator)
            self.color_head = self._head(gops, 3, generator)
            if config.deform_shape:
                self.shape_head = self._head(gops, 3, generator)
        self.lattice = nn.Parameter(torch.zeros(gops, *config.lattice, 2)) if config.lattice else None
        self.inside_tanh = config.position_space == "tanh"
        self.pixels = size[0] * size[1]
        half = (size[1] / 2, size[0] / 2)
        scale = half if config.position_scale is None else (config.position_scale,) * 2
        if self.inside_tanh:
            scale = (1.0, 1.0)
        self.register_buffer("position_scale", torch.tensor(scale, dtype=torch.float32), persistent=False)
        self.shape_scale = min(scale) / 10  # px a unit of the shape head
        self.register_buffer("extent", torch.tensor([size[1], size[0]], dtype=torch.float32), persistent=False)

    def _head(self, gops: int, outputs: int, generator) -> nn.Module:
        width = self.config.width
        last = BatchedLinear(gops, width, outputs, generator, self.config.zero_heads)
        if self.config.head_layers == 1:
            return last
        return nn.Sequential(BatchedLinear(gops, width, width, generator), self.activation, last)

    def encode(self, mu: Tensor, t: Tensor) -> list[Tensor]:
        """mu [G, N, 2] px, t [G] in [0, 1] -> the parts of f_h in eq. 7 but gamma(t), [G, N, width] each."""
        where = mu / self.extent
        parts = []
        if self.config.encoding == "positional":
            plain = self.config.position_code == "plain"
            point = 2 * where - 1 if plain else where
            parts.append(positional(point, self.config.position_frequencies, self.config.position_code))
        if self.spatial is not None:
            parts.append(self.spatial(where))
        if self.temporal is not None:
            time = t[:, None, None].expand(*mu.shape[:2], 1)
            parts.append(self.temporal(torch.cat([where, time], -1)))
        if self.planes is not None:
            parts.append(self.planes(where, t))
        return parts

    def forward(self, mu: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(delta mu [G, N, 2] px, inside tanh without a unit; delta rgb [G, N, 3]; delta Cholesky [G, N, 3] px or None)
        at times t [G]."""
        along = 0 if self.lattice is None else self.displacement(mu, t)
        if self.hidden is None:
            return torch.zeros_like(mu) + along, mu.new_zeros(*mu.shape[:2], 3), None
        code = positional(t[:, None, None], self.config.time_frequencies, self.config.time_code)
        code = code.expand(-1, mu.shape[1], -1)
        encoded = [*self.encode(mu, t), code]
        half = kernels_for(mu) == "cuda"  # products that our kernels do not run: bfloat16, sums in float32
        if half:
            encoded.append(code[..., : -self.hidden.weight.shape[1] % 8])
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            hidden = self.activation(self.hidden(torch.cat(encoded, -1), half))
            features = self.activation(self.features(hidden, half))
        heads = [head for head in (self.position_head, self.color_head, self.shape_head) if head is not None]
        if self.config.head_layers == 1:
            out = self._one_layer(heads, features.to(self.hidden.weight.dtype))
        elif half:
            out = self._two_layers(heads, features)
        else:
            out = [head(features) for head in heads]
        shape = out[2] * self.shape_scale if len(out) > 2 else None
        return out[0] * self.position_scale + along, out[1], shape

    def displacement(self, mu: Tensor, t: Tensor) -> Tensor:
        """Of the lattice, [G, N, 2] px at mu [G, N, 2] px and times t [G]: trilinear between its points, of which the
        outer ones lie on the frame's edges, and the k-th of T in time at t = (k + 1) / T; beyond them as at the edge.
        (Free-form deformation: Sederberg & Parry 1986.)"""
        steps = self.lattice.shape[1]
        when = ((t * steps - 1) * (2 / max(steps - 1, 1)) - 1).to(mu)[:, None, None].expand(*mu.shape[:2], 1)
        at = torch.cat([mu / self.extent * 2 - 1, when], -1)[:, None, None]  # x, y, t
        options = {"align_corners": True, "padding_mode": "border"}
        found = nn.functional.grid_sample(self.lattice.permute(0, 4, 1, 2, 3), at, **options)
        return found[:, :, 0, 0].transpose(1, 2)

    @staticmethod
    def _one_layer(heads: list[BatchedLinear], features: Tensor) -> tuple[Tensor, ...]:
        """What linear heads put out, all at once: features [G, N, width and padding] -> [G, N, .] each."""
        weight, bias = torch.cat([head.weight for head in heads], 2), torch.cat([head.bias for head in heads], 2)
        product = torch.baddbmm(bias, features[..., : weight.shape[1]], weight)
        return product.split([head.bias.shape[2] for head in heads], 2)

    @staticmethod
    def _two_layers(heads: list[nn.Sequential], features: Tensor) -> tuple[Tensor, ...]:
        """What two-layer heads put out, all at once: features bfloat16 [G, N, width and padding] -> [G, N, .] each."""
        first, last = [head[0] for head in heads], [head[2] for head in heads]
        pad = -first[0].bias.shape[2] % 8
        weight = torch.cat([nn.functional.pad(layer.weight, (0, pad, 0, pad)) for layer in first], 2)
        bias = torch.cat([nn.functional.pad(layer.bias, (0, pad)) for layer in first], 2)
        hidden = heads[0][1](torch.bmm(features, weight.to(features.dtype)) + bias.to(features.dtype))
        sizes = [layer.bias.shape[2] for layer in last]
        columns = [
            nn.functional.pad(layer.weight, (sum(sizes[:k]), sum(sizes[k + 1 :]), 0, pad))
            for k, layer in enumerate(last)
        ]
        product = FinelyWeighted.apply(hidden, torch.cat(columns, 1))
        return (product + torch.cat([layer.bias for layer in last], 2)).split(sizes, 2)

    @contextmanager
    def silenced(self, name: Literal["spatial", "temporal"]) -> Iterator[None]:
        """One of the two hashes gives zeros inside a `with` block."""
        grid = getattr(self, name)
        table = grid.table.data
        grid.table.data = torch.zeros_like(table)
        try:
            yield
        finally:
            grid.table.data = table

    def motion_powers(self, t: Tensor) -> Tensor:
        """What a Gaussian's coefficients of motion are multiplied by at times t [G]: [G, 1, degree, 2], in px."""
        powers = t[:, None] ** torch.arange(1, self.config.polynomial + 1, device=t.device)
        return powers[:, None, :, None] * self.position_scale

    def encoding_parameters(self) -> list[Tensor]:
        encodings = [e for e in (self.spatial, self.temporal, self.planes) if e is not None]
        return [p for e in encodings for p in e.parameters()]

    def mlp_parameters(self) -> list[Tensor]:
        layers = (self.hidden, self.features, self.position_head, self.color_head, self.shape_head)
        return [p for layer in layers if layer is not None for p in layer.parameters()]
