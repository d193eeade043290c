"""Encodings of a Gaussian's position and time: multiresolution hash, positional, planes (paper, Sec. II-B).

On a GPU, trainer and decoder encode inside the fused field (model/field_cuda.py); calling an encoding there runs torch.

The hash grid has tiny-cuda-nn's layout: level l has scale base * growth^l - 1 and a grid of ceil(scale) + 1 points an
axis, positions are x * scale + 0.5, a level with fewer grid points than the table is stored densely, sizes are rounded
up to 8, x comes fastest, and the hash primes are 1, 2654435761, 805459861. Two things are ours: tables carry a leading
GoP axis, and `time_cells` may give the last axis its own number of cells a level (the paper uses the same for all,
which leaves no temporal cell shared between ten frames: docs/REPRODUCTION.md).
"""

import math
import os
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from stgvlib.device import kernels_for
from stgvlib.errors import StgvError
from stgvlib.ops.constants import PRIMES

LEVEL = np.dtype([("resolution", "i4", (3,)), ("offset", "i4"), ("size", "i4"), ("hashed", "i4")])  # of a hash table


class HashGrid(nn.Module):
    """x [G, P, D] in [0, 1] -> features [G, P, levels * features]; outside values are clamped (no gradient there)."""

    def __init__(
        self,
        gops: int,
        dims: int,  # 2 or 3
        features: int,  # F, floats an entry: 2 or 4
        levels: int = 8,
        log2_table_size: int = 10,
        base: int = 16,
        growth: float = 1.5,
        time_cells: tuple[float, ...] | None = None,  # scale of the last axis at each level; None: as the others
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if dims not in (2, 3) or features not in (2, 4):
            raise ValueError(f"a hash grid has 2 or 3 dimensions and 2 or 4 features, got {dims} and {features}")
        self.features = features
        level = np.arange(levels, dtype=np.float32)
        scale = np.exp2(level * np.log2(np.float32(growth))) * np.float32(base) - np.float32(1)
        scales = np.repeat(scale[:, None], dims, 1)  # [L, D]
        if time_cells is not None:
            if len(time_cells) != levels:
                raise ValueError(f"time_cells needs one number a level ({levels}), got {len(time_cells)}")
            scales[:, -1] = time_cells
        resolutions = np.ceil(scales).astype(np.int64) + 1
        points = resolutions.prod(1)
        table = 2**log2_table_size
        sizes = np.minimum(-(-points // 8) * 8, table)
        self.offsets = [0, *np.cumsum(sizes).tolist()]
        self.sizes = sizes.tolist()
        self.hashed = (points > sizes).tolist()
        self.resolutions = resolutions.tolist()
        entries = self.offsets[-1]
        initial = torch.rand(gops, entries, features, generator=generator) * 2e-4 - 1e-4  # as tiny-cuda-nn does
        self.table = nn.Parameter(initial)
        self.register_buffer("scales", torch.from_numpy(scales), persistent=False)
        self.levels = np.zeros(levels, LEVEL)
        self.levels["resolution"][:, :dims] = resolutions
        self.levels["offset"], self.levels["size"], self.levels["hashed"] = self.offsets[:-1], sizes, self.hashed

    @property
    def width(self) -> int:
        return len(self.sizes) * self.features

    def forward(self, x: Tensor) -> Tensor:
        if os.environ.get("STGV_BACKEND") == "tinycudann":
            return _tinycudann(self, x)
        if kernels_for(x) == "numba":
            from stgvlib.ops.encoding_cpu import HashEncode

            return HashEncode.apply(x.contiguous(), self.table, self.scales, self.levels)
        return hash_encode_reference(x, self.table, self)

    def corner_entries(self, level: int, cell: Tensor) -> Tensor:
        """Row of the level's table for integer grid points `cell` [..., D]: eq. 4, or the dense index."""
        resolution, size = self.resolutions[level], self.sizes[level]
        if self.hashed[level]:
            index = cell[..., 0]
            for d in range(1, cell.shape[-1]):
                index = index ^ (cell[..., d] * PRIMES[d] & 0xFFFFFFFF)
        else:
            stride, index = 1, 0
            for d in range(cell.shape[-1]):
                index = index + cell[..., d] * stride
                stride *= resolution[d]
        return index % size


def hash_encode_reference(x: Tensor, table: Tensor, grid: HashGrid) -> Tensor:
    """The specification of the hash encoding, in torch (paper, eq. 3-5): multilinear weights over 2^D corners."""
    G, P, D = x.shape
    bits = torch.arange(D, device=x.device)
    corners = torch.arange(2**D, device=x.device)[:, None] >> bits & 1  # [2^D, D]
    clamped = x.clamp(0, 1)
    out = []
    for level, scale in enumerate(grid.scales.to(x.dtype)):
        position = clamped * scale + 0.5
        cell = position.detach().floor()
        fraction = (position - cell)[:, :, None]  # [G, P, 1, D]
        # Products one by one: the gradient of prod() waits for the GPU.
        weight = math.prod(torch.where(corners.bool(), fraction, 1 - fraction).unbind(-1))  # [G, P, 2^D]
        rows = grid.corner_entries(level, cell.long()[:, :, None] + corners) + grid.offsets[level]
        rows = rows + torch.arange(G, device=x.device)[:, None, None] * table.shape[1]
        # index_select: its gradient can be captured in a CUDA graph, that of an embedding cannot
        values = table.flatten(0, 1).index_select(0, rows.flatten()).view(*rows.shape, -1)  # [G, P, 2^D, F]
        out.append((weight[..., None] * values).sum(2))
    return torch.cat(out, -1)


def _tinycudann(grid: HashGrid, x: Tensor) -> Tensor:
    """The same encoding on tiny-cuda-nn, one network a GoP: for comparing, slower than our kernel over a batch."""
    try:
        import tinycudann as tcnn
    except (ImportError, OSError) as error:
        raise StgvError("STGV_BACKEND=tinycudann needs tiny-cuda-nn (conda-forge) and a CUDA GPU") from error
    D, levels = x.shape[-1], len(grid.sizes)
    if len({tuple(set(r)) for r in grid.resolutions}) != levels or any(len(set(r)) > 1 for r in grid.resolutions):
        raise StgvError("tiny-cuda-nn has one resolution for all axes: leave time_cells unset")
    growth = (grid.scales[-1, 0].item() + 1) / (grid.scales[0, 0].item() + 1)
    config = {
        "otype": "Grid",
        "type": "Hash",
        "n_levels": levels,
        "n_features_per_level": grid.features,
        "log2_hashmap_size": int(math.log2(max(grid.sizes))),
        "base_resolution": round(grid.scales[0, 0].item() + 1),
        "per_level_scale": growth ** (1 / max(levels - 1, 1)),
    }
    module = tcnn.Encoding(D, config, dtype=torch.float32)
    tables = grid.table.flatten(1)
    call = torch.func.functional_call
    return torch.stack([call(module, {"params": tables[g]}, (x[g].contiguous(),)) for g in range(len(x))])


def positional(x: Tensor, frequencies: int, code: Literal["pi", "plain"] = "pi") -> Tensor:
    """[..., D] -> [..., D * (1 + 2 * frequencies)]: x and sin, cos of 2^k pi x, the paper's gamma, or of 2^k x, as the
    code of D2GV has them ("plain")."""
    base = torch.pi if code == "pi" else 1.0
    angles = x[..., None] * (base * 2.0 ** torch.arange(frequencies, device=x.device, dtype=x.dtype))
    waves = torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)
    return torch.cat([x, waves], -1)


class Planes(nn.Module):
    """x [G, P, 2], t [G] -> [G, P, 3 * features]: bilinear features of the planes xy, xt, yt (GaussianVideo, GSVR).

    40 x 40 and twice 40 x 16 points with 16 features hold 46,080 numbers, as near as can be to the hash's 46,720. A
    frame has one t, so xt and yt are blended to one line of points each, and looked up by a product with tent weights:
    its gradient needs no atomics, thousands of which would meet at each of the few points.
    """

    def __init__(self, gops: int, features: int = 16, space: int = 40, time: int = 16, generator=None):
        super().__init__()
        self.features = features
        shapes = ((space, space), (time, space), (time, space))  # rows, columns
        self.planes = nn.ParameterList(
            nn.Parameter(torch.rand(gops, features, *shape, generator=generator) * 0.2 - 0.1) for shape in shapes
        )

    @property
    def width(self) -> int:
        return 3 * self.features

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        flat, *upright = self.planes
        sampled = nn.functional.grid_sample(flat, x[:, :, None] * 2 - 1, align_corners=True, padding_mode="border")
        out = [sampled[..., 0].transpose(1, 2)]
        for axis, plane in enumerate(upright):
            line = torch.einsum("gr,gfrx->gxf", _tents(t, plane.shape[2]), plane)  # [G, space, features]
            out.append(_tents(x[..., axis], plane.shape[3]) @ line)
        return torch.cat(out, -1)


def _tents(x: Tensor, count: int) -> Tensor:
    """Weights [..., count] of linear interpolation at x [...] between `count` points from 0 to 1."""
    places = torch.arange(count, device=x.device, dtype=x.dtype)
    return (1 - (x.clamp(0, 1)[..., None] * (count - 1) - places).abs()).relu()
