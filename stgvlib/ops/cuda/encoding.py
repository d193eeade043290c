"""The encodings that run fused: what each launches before and after the MLP, and where the MLP finds its features.

Features of a row: 8 chunks of 6, stored as 8 fp16 numbers [G, 8, rows, 8]. The hash encoding and the planes are blended
to one table over x and y a frame, since all its Gaussians share t, and are then looked up by the same kernels; the
positional encoding needs no table.
"""

import numpy as np
import torch
from torch import Tensor

from stgvlib.ops.constants import BLOCK, CHUNK_FEATURES, CHUNKS, MLP_INPUTS
from stgvlib.ops.cuda.compiler import run

POINTS = 2048  # of a block in hash_encoding.cu; of one frame alone, which would not fill a GPU, half
LEVEL = np.dtype(  # the struct Level of hash_encoding.cu
    [("scale", "f4"), ("scale_z", "f4"), ("offset", "i4"), ("size", "i4"), ("stride", "i4")]
    + [(name, "i4") for name in ("resolution_x", "resolution_y", "offset2", "size2", "offset3", "size3", "hashed3")]
    + [("shift", "f4")]
)
STAGED_LEVEL = 64 * 1024  # bytes of the largest table level that is copied to shared memory


def encodes(field) -> bool:
    """Whether a field's encoding is one of these, at the sizes that the kernels are built for."""
    config = field.config
    if config.encoding == "positional":
        return PositionalEncoder.width(config) <= MLP_INPUTS and config.position_code == "pi"
    if config.encoding == "planes":
        return field.planes.width == MLP_INPUTS
    grids = [(grid, features) for grid, features in ((field.spatial, 2), (field.temporal, 4)) if grid is not None]
    return bool(grids) and all(len(grid.sizes) == CHUNKS and grid.features == f for grid, f in grids)


def make_encoder(field, *arguments, **options):
    """The encoder of a supported field."""
    kind = {"hash": HashEncoder, "planes": PlanesEncoder, "positional": PositionalEncoder}[field.config.encoding]
    return kind(field, *arguments, **options)


class TableEncoder:
    """An encoding by one table over x and y: `blend` fills it for the frames' times, `scatter` takes its gradient."""

    def __init__(self, field, batch: int, extent: tuple[float, float], device, training: bool):
        self.field, self.batch, self.extent = field, batch, extent
        levels, self.entries, self.largest = self.levels_of(field)
        self.levels = torch.from_numpy(levels.view(np.int32)).to(device)
        self.blended = torch.zeros(batch, self.entries, 8, dtype=torch.float16, device=device)
        self.gradient = torch.empty(batch, self.entries, 8, device=device) if training else None
        self.staged = 16 * self.largest if 16 * self.largest <= STAGED_LEVEL else 0
        self.points = POINTS if batch > 1 else POINTS // 2

    def forward(self, mu: Tensor, t: Tensor, gops: Tensor | None, x: Tensor) -> None:
        """Features of Gaussians at `mu` [., N, 2] px and times t [G] into x [G, 8, rows, 8]."""
        self.blend(t, gops)
        count, rows = mu.shape[1], x.shape[2]
        arguments = (mu, self.blended, self.levels, gops, x, count, rows, self.entries)
        grid = (-(-count // self.points), CHUNKS, self.batch)
        run("hash_encoding", "hash_forward", grid, BLOCK, *arguments, *self._staging(), shared=self.staged)

    def backward(self, mu: Tensor, t: Tensor, dx: Tensor, grad_mu: Tensor, unscale: float) -> None:
        """From dx, times 1 / unscale, to the gradients of the encoding's parameters; that of mu is added to."""
        count, rows = mu.shape[1], dx.shape[2]
        arguments = (mu, self.blended, self.levels, dx, self.gradient, grad_mu)
        sizes = (count, rows, self.entries, *self._staging(), unscale)
        grid = (-(-count // self.points), CHUNKS, self.batch)
        run("hash_encoding", "hash_backward", grid, BLOCK, *arguments, *sizes, shared=self.staged)
        self.scatter(t, unscale)

    def _staging(self) -> tuple:
        return self.points, int(self.staged > 0), *self.extent


class HashEncoder(TableEncoder):
    """2D and 3D hash encodings (hash_encoding.cu): a level is two spatial and four temporal features."""

    @staticmethod
    def row_of(field, level: int, slot: int) -> int:
        """Row of the first layer for a slot of a level; -1 for none."""
        if slot < 2:
            return 2 * level + slot if field.spatial is not None else -1
        first = 2 * CHUNKS if field.spatial is not None else 0
        return first + 4 * level + slot - 2 if field.temporal is not None else -1

    @staticmethod
    def levels_of(field) -> tuple[np.ndarray, int, int]:
        """(LEVEL [8], entries of the table, those of its largest level)."""
        spatial, temporal = field.spatial, field.temporal
        grid = spatial if spatial is not None else temporal
        levels, offset, largest = np.zeros(CHUNKS, LEVEL), 0, 0
        for level in range(CHUNKS):
            rx, ry = grid.resolutions[level][:2]
            table = 2**field.config.log2_table_size
            size2 = min(-(-rx * ry // 8) * 8, table)
            dense = rx * ry <= size2
            stride = rx + 1 if dense else 0  # a point at the far edge reaches one grid point beyond
            size = (rx + 1) * (ry + 1) if dense else table
            scale_z, third = 0.0, (-1, 1, 0)
            if temporal is not None:
                scale_z = temporal.scales[level, 2].item()
                third = (temporal.offsets[level], temporal.sizes[level], int(temporal.hashed[level]))
            second = spatial.offsets[level] if spatial is not None else -1
            scales = grid.scales[level, 0].item(), scale_z
            levels[level] = (*scales, offset, size, stride, rx, ry, second, size2, *third, 0.5)
            offset, largest = offset + size, max(largest, size)
        return levels, offset, largest

    def blend(self, t: Tensor, gops: Tensor | None) -> None:
        tables = [None if grid is None else grid.table for grid in (self.field.spatial, self.field.temporal)]
        sizes = [0 if table is None else table.shape[1] for table in tables]
        arguments = (*tables, self.levels, t, gops, self.blended, self.gradient, self.entries, *sizes)
        run("hash_encoding", "hash_blend", (-(-self.largest // BLOCK), CHUNKS, self.batch), BLOCK, *arguments)

    def scatter(self, t: Tensor, unscale: float) -> None:
        tables = [None if grid is None else grid.table.grad for grid in (self.field.spatial, self.field.temporal)]
        for table in tables:
            if table is not None:
                table.zero_()
        sizes = [0 if table is None else table.shape[1] for table in tables]
        arguments = (self.gradient, self.levels, t, *tables, self.entries, *sizes, unscale)
        run("hash_encoding", "hash_scatter", (-(-self.largest // BLOCK), CHUNKS, self.batch), BLOCK, *arguments)


class PlanesEncoder(TableEncoder):
    """The planes xy, xt, yt (planes.cu): a level is two features of each."""

    @staticmethod
    def row_of(field, level: int, slot: int) -> int:
        return field.planes.features * (slot // 2) + 2 * level + slot % 2

    @staticmethod
    def levels_of(field) -> tuple[np.ndarray, int, int]:
        side = field.planes.planes[0].shape[2]
        size = (side + 1) ** 2
        levels = np.zeros(CHUNKS, LEVEL)
        levels["scale"], levels["size"], levels["stride"] = side - 1, size, side + 1
        levels["offset"] = size * np.arange(CHUNKS)
        return levels, CHUNKS * size, size

    def blend(self, t: Tensor, gops: Tensor | None) -> None:
        planes = self.field.planes.planes
        _, _, rows, side = planes[1].shape
        arguments = (*planes, t, gops, self.blended, self.gradient, self.entries, side, rows)
        run("planes", "planes_blend", (-(-self.largest // BLOCK), CHUNKS, self.batch), BLOCK, *arguments)

    def scatter(self, t: Tensor, unscale: float) -> None:
        planes = self.field.planes.planes
        _, _, rows, side = planes[1].shape
        arguments = (self.gradient, t, *(p.grad for p in planes), self.entries, side, rows, unscale)
        run("planes", "planes_scatter", (CHUNKS, self.batch, 1), BLOCK, *arguments)


class PositionalEncoder:
    """gamma(x, y) (positional.cu)."""

    def __init__(self, field, batch: int, extent: tuple[float, float], device, training: bool):
        self.batch, self.extent, self.frequencies = batch, extent, field.config.position_frequencies

    @staticmethod
    def width(config) -> int:
        return 2 * (1 + 2 * config.position_frequencies)

    @classmethod
    def row_of(cls, field, chunk: int, slot: int) -> int:
        row = chunk * CHUNK_FEATURES + slot
        return row if row < cls.width(field.config) else -1

    def forward(self, mu: Tensor, t: Tensor, gops: Tensor | None, x: Tensor) -> None:
        count, rows = mu.shape[1], x.shape[2]
        arguments = (mu, gops, x, count, rows, self.frequencies, *self.extent)
        run("positional", "positional_forward", (-(-count // BLOCK), CHUNKS, self.batch), BLOCK, *arguments)

    def backward(self, mu: Tensor, t: Tensor, dx: Tensor, grad_mu: Tensor, unscale: float) -> None:
        count, rows = mu.shape[1], dx.shape[2]
        arguments = (mu, dx, grad_mu, count, rows, self.frequencies, *self.extent, unscale)
        run("positional", "positional_backward", (-(-count // BLOCK), 1, self.batch), BLOCK, *arguments)
