"""A GoP as integers and back: what a .stgv file holds of it, before entropy coding (docs/FORMAT.md, "A group").

Positions lie on a grid, and Gaussians are put in Z-order of it: their order means nothing in a sum, so only the gaps
have to be sent. l1 and l3 are rounded in their logarithm and l2 relative to l3: a Gaussian's shape then has an error
relative to its size. Colours are rounded, and sent as green and differences to it. Each tensor of the field has a step
of its own, a part of its largest value.

With adaptive steps (`Steps.lowest`) rounding any Gaussian's attributes changes the picture about as much: a colour's
step is inverse to the root of the Gaussian's area, a shape's to that of its energy, a position's to its colour. A
decoder knows them from integers that it already has: coarse shapes come first, then colours in steps by the coarse
shapes' areas, then finer bits of positions and shapes, as many as the colours say.
"""

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from stgvlib.device import compiled
from stgvlib.errors import StgvError
from stgvlib.fitting.placement import WAITING
from stgvlib.model.video_model import VideoModel
from stgvlib.ops.splat import MIN_SCALE

LOG_SCALES = (math.log(MIN_SCALE) - 1, 14.0)  # of l1 and l3, px, that a file can ask for
AXIS_BITS = 16  # of a position on one axis
SIZES = 5  # octaves of the root of an area in px, from 1 px up: what a colour's adaptive step halves with
POSITION_BITS, SHAPE_BITS = 3, 4  # that adaptive steps add at most


@dataclass(frozen=True)
class Steps:
    """How coarsely each attribute is rounded."""

    position: float = 1 / 16  # px
    cholesky: float = 0.02  # of the logarithm of l1 and l3, and of l2 / l3
    color: float = 1 / 256
    motion: float = 1 / 512  # of a coefficient, in units of the position head
    field_bits: int = 10  # of the largest value of each tensor of the field
    # Adaptive steps: powers of two of the amplitude, in steps of the colour, from which shape and position have finer
    # bits. Position, Cholesky and colour steps are then those of a Gaussian of 1 px whose colour is 1.
    lowest: tuple[int, int] | None = None

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in ("field", "lowest"):  # the former of LearnedSteps
                continue
            if f.name == "field_bits":
                if not 2 <= value <= 16:
                    raise StgvError(f"field_bits must be from 2 to 16, got {value}")
            elif not 1e-6 <= value <= 1e3:
                raise StgvError(f"the step of {f.name} must be from 1e-6 to 1000, got {value}")
        if self.lowest is not None:
            if len(self.lowest) != 2 or not all(isinstance(v, int) and -32 <= v <= 32 for v in self.lowest):
                raise StgvError(f"lowest must be two whole numbers from -32 to 32, got {self.lowest}")
            if not all(1e-6 <= base <= 1e6 for base in self.bases):
                raise StgvError(f"steps are out of range where there are no finer bits: {self.bases}")

    @property
    def bases(self) -> tuple[float, float]:
        """Steps of positions and shapes without finer bits."""
        if self.lowest is None:
            return self.position, self.cholesky
        shape, position = self.lowest
        return self.position / (self.color * 2.0**position), self.cholesky / (self.color * 2.0**shape)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What a Gaussian has to reach: l1's and l3's integers together for one size more, energy in steps of the
        colour for one bit more of its shape, and energy over 4^size for one of its position."""
        if self.lowest is None:
            return np.empty(0), np.empty(0), np.empty(0)
        sizes = (np.arange(SIZES) + 0.5) * 2 * math.log(2) / self.bases[1]
        shape, position = self.lowest
        return sizes, 4.0 ** (shape + np.arange(SHAPE_BITS)), 4.0 ** (position + np.arange(POSITION_BITS))

    def scaled(self, factor: float) -> "Steps":
        """Coarser by a factor; the field loses four bits where everything else loses five."""
        bits = min(16, max(2, round(self.field_bits - 0.8 * math.log2(factor))))
        kept = ("field_bits", "lowest")
        others = {f.name: getattr(self, f.name) * factor for f in fields(Steps) if f.name not in kept}
        return replace(self, **others, field_bits=bits)


@dataclass(frozen=True)
class LearnedSteps(Steps):
    """What fine-tuning found: the field's tensors have a step each, in their order, instead of bits."""

    field: tuple[float, ...] = ()

    def scaled(self, factor: float) -> "LearnedSteps":
        return replace(super().scaled(factor), field=tuple(step * factor for step in self.field))


@dataclass
class Group:
    """The integers of one GoP."""

    frames: int
    origin: tuple[int, int]  # least position, in steps
    gaps: np.ndarray  # [N] of the Z-order, the first from zero
    cholesky: np.ndarray  # [3, N]
    color: np.ndarray  # [3, N]: green, red - green, blue - green
    sizes: np.ndarray  # [N], 0 to SIZES
    bits: tuple[np.ndarray, np.ndarray]  # [N] that positions and shapes have more
    finer: tuple[np.ndarray, np.ndarray]  # [2, N] and [3, N], of so many bits
    motion: np.ndarray  # [2 * degree, N]
    tensors: list[tuple[float, np.ndarray]]  # (step, integers) of the field's parameters; none where a file was read


def in_cells(values: np.ndarray, base: float, bits: np.ndarray) -> np.ndarray:
    """The cell of each value [..., N]: 2^bits for each step of `base`, which lie around its multiples."""
    return np.floor((values / base + 0.5) * 2.0**bits).astype(np.int64)


@torch.no_grad()
def quantize(model: VideoModel, g: int, steps: Steps) -> Group:
    """GoP g of a CPU's model as integers. Gaussians that were never placed are left out.

    Raises StgvError when positions spread over more than 65,536 steps.
    """
    from stgvlib.codec.quantize_cpu import finer_bits, size_classes

    gaussians, one = model.gaussians, slice(g, g + 1)
    attributes = [v[0].numpy() for v in (*gaussians.pixels(one), gaussians.rgb[one])]
    kept = gaussians.mu[g, :, 0].numpy() != WAITING
    mu, cholesky, rgb = (v[kept].T.astype(np.float64) for v in attributes)
    position, shape = steps.bases
    sizes_from, shape_from, position_from = steps.bounds
    l1, l3 = (np.log(np.maximum(v, MIN_SCALE)) for v in (cholesky[0], cholesky[2]))
    first, last = (in_cells(v, shape, 0) for v in (l1, l3))
    sizes = size_classes(first, last, sizes_from)
    red, green, blue = color = np.round(rgb / (steps.color * 0.5**sizes)).astype(np.int64)
    bits = finer_bits(color, sizes, position_from), finer_bits(color, np.zeros_like(sizes), shape_from)
    place = in_cells(mu, position, bits[0])
    coarse = place >> bits[0]
    origin = coarse.min(1) if coarse.size else np.zeros(2, np.int64)
    coarse -= origin[:, None]
    if coarse.size and coarse.max() >= 2**AXIS_BITS:
        raise StgvError(
            f"GoP {g}: positions spread over {coarse.max()} steps of {position:g} px, at most {2**AXIS_BITS} "
            "can be coded; take a larger step"
        )
    last = in_cells(l3, shape, bits[1])
    l2 = cholesky[1] / np.exp(((last + 0.5) * 0.5 ** bits[1] - 0.5) * shape)
    shapes = np.stack([in_cells(l1, shape, bits[1]), in_cells(l2, shape, bits[1]), last])
    code = interleave(coarse.T)
    order = np.argsort(code, kind="stable")
    moved = np.zeros((0, len(code)), np.int64)
    if gaussians.motion is not None:
        moved = gaussians.motion[g].numpy()[kept][order].T.astype(np.float64)
        moved = np.round(moved / steps.motion).astype(np.int64)
    tensors = []
    for k, p in enumerate(model.field.parameters()):
        values = p[g].numpy().astype(np.float64)
        step = max(np.abs(values).max(), 1e-12) / (2 ** (steps.field_bits - 1) - 1)
        step = float(np.float32(steps.field[k] if isinstance(steps, LearnedSteps) else step))
        tensors.append((step, np.round(values / step).astype(np.int64).ravel()))
    return Group(
        model.num_frames[g],
        (int(origin[0]), int(origin[1])),
        np.diff(code[order], prepend=0),
        (shapes >> bits[1])[:, order],
        np.stack([green, red - green, blue - green])[:, order],
        sizes[order],
        (bits[0][order], bits[1][order]),
        ((place & ((1 << bits[0]) - 1))[:, order], (shapes & ((1 << bits[1]) - 1))[:, order]),
        moved,
        tensors,
    )


@torch.no_grad()
def dequantize(group: Group, model: VideoModel, g: int, steps: Steps) -> None:
    """Set the Gaussians of GoP g of a CPU's model in px parametrisation; those beyond the group's wait where nobody
    sees them. The field's numbers are set while a file is read (bitstream.py)."""
    from stgvlib.codec.quantize_cpu import set_gaussians

    gaussians = model.gaussians

    def rows(p: torch.Tensor) -> np.ndarray:  # torch would start threads of its own in each of the decoder's
        return p.detach().numpy()[g]

    integers = (group.gaps, group.cholesky, group.color, group.sizes, group.bits, group.finer, group.origin)
    sizes = (*steps.bases, steps.color)
    set_gaussians(*integers, sizes, LOG_SCALES, WAITING, *map(rows, (gaussians.mu, gaussians.cholesky, gaussians.rgb)))
    if gaussians.motion is not None:
        count = len(group.gaps)
        rows(gaussians.motion)[:count], rows(gaussians.motion)[count:] = group.motion.T * steps.motion, 0


@torch.no_grad()
def adapted(model: VideoModel, steps: Steps) -> Steps:
    """Adaptive steps that change the pictures of `model` as much as `steps`, which are not, do."""
    placed = model.gaussians.mu[..., 0] != WAITING
    cholesky, rgb = model.gaussians.pixels()[1][placed], model.gaussians.rgb[placed]
    if len(rgb) == 0:
        return replace(steps, lowest=(0, 0))
    area, energy = cholesky[:, 0] * cholesky[:, 2], rgb.square().sum(1)
    color = steps.color * area.mean().sqrt()
    return replace(
        steps,
        position=steps.position * energy.mean().sqrt().item(),
        cholesky=steps.cholesky * (energy * area).mean().sqrt().item(),
        color=color.item(),
        lowest=lowest_bits(cholesky, rgb, color),
    )


def lowest_bits(cholesky: torch.Tensor, rgb: torch.Tensor, color: torch.Tensor) -> tuple[int, int]:
    """`Steps.lowest` for Gaussians' shapes in px and colours, [N, 3] each, and the colours' step: half of what is
    usual, so that one Gaussian in eight at most has too coarse a step."""
    if len(rgb) == 0:
        return 0, 0
    octaves = rgb.square().sum(1).clamp(min=1e-12).log2() / 2
    larger = (cholesky[:, 0] * cholesky[:, 2]).clamp(min=1).log2() / 2
    means = torch.stack([(octaves + larger).mean(), octaves.mean()]) - color.log2()
    return tuple(min(32, max(-32, math.floor(mean))) for mean in means.tolist())


class ResidualVQ:
    """Residual vector quantisation (paper, eq. 11): `stages` codebooks of `entries` vectors a group, each stage coding
    what the ones before left over. Codebooks start by k-means and follow their vectors by an exponential moving average
    (van den Oord et al. 2017, App. A.1), with Laplace-smoothed counts as in the field's library.
    """

    def __init__(
        self,
        values: torch.Tensor,  # [G, N, C], what codebooks are first fitted to
        stages: int = 2,
        entries: int = 8,
        decay: float = 0.8,
        generator: torch.Generator | None = None,
    ):
        self.decay, books, left = decay, [], values
        self.nearest = compiled(nearest, values.device)
        for _ in range(stages):
            books.append(_k_means(left, entries, generator))
            left = left - nearest(left, books[-1])[0]
        self.codebooks = torch.stack(books, 1)  # [G, stages, entries, C]
        self.counts = self.codebooks.new_ones(self.codebooks.shape[:3])
        self.sums = self.codebooks.clone()

    @torch.no_grad()
    def __call__(self, values: torch.Tensor, learn: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """(quantised [G, N, C], int64 numbers [G, N, stages]); with `learn` the codebooks follow afterwards."""
        left, whole, indices = values, torch.zeros_like(values), []
        for k in range(self.codebooks.shape[1]):
            found, index = self.nearest(left, self.codebooks[:, k])
            if learn:
                self._follow(k, left, index)
            indices.append(index)
            left, whole = left - found, whole + found
        return whole, torch.stack(indices, -1)

    def _follow(self, k: int, left: torch.Tensor, index: torch.Tensor) -> None:
        counts, sums = self.counts[:, k], self.sums[:, k]
        of_each, total = _totals(left, index, counts.shape[1])
        counts.lerp_(of_each, 1 - self.decay)
        sums.lerp_(total, 1 - self.decay)
        whole, entries = counts.sum(1, keepdim=True), counts.shape[1]
        smooth = (counts + 1e-5) / (whole + entries * 1e-5) * whole
        self.codebooks[:, k] = sums / smooth[..., None]


def nearest(values: torch.Tensor, book: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(the vectors of book [G, entries, C] nearest to values [G, N, C], their numbers [G, N])."""
    distance = sum((values[..., c, None] - book[:, None, :, c]).square() for c in range(values.shape[-1]))
    index = distance.argmin(-1)
    return torch.gather(book, 1, index[..., None].expand_as(values)), index


def _k_means(values: torch.Tensor, entries: int, generator: torch.Generator | None, rounds: int = 10) -> torch.Tensor:
    """[G, N, C] -> [G, entries, C]. Starts from drawn vectors; an entry that none is near stays where it is."""
    draws = torch.rand(len(values), entries, generator=generator).to(values.device) * values.shape[1]
    book = torch.gather(values, 1, draws.long()[..., None].expand(-1, -1, values.shape[2])).clone()
    for _ in range(rounds):
        index = nearest(values, book)[1]
        counts, sums = _totals(values, index, entries)
        counts = counts[..., None]
        book = torch.where(counts > 0, sums / counts.clamp(min=1), book)
    return book


def _totals(values: torch.Tensor, index: torch.Tensor, entries: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(how many of [G, N, C] have each index [G, entries], their sums [G, entries, C]). As a product where entries are
    few: adding hundreds of thousands to a few places, a GPU would wait for itself."""
    if entries > 256:
        counts, sums = values.new_zeros(len(values), entries), values.new_zeros(len(values), entries, values.shape[2])
        counts.scatter_add_(1, index, torch.ones_like(values[..., 0]))
        return counts, sums.scatter_add_(1, index[..., None].expand_as(values), values)
    own = (index[:, None] == torch.arange(entries, device=index.device)[:, None]).to(values.dtype)
    return own.sum(-1), own @ values


def interleave(place: np.ndarray) -> np.ndarray:
    """(x, y) [N, 2] of 16 bits each -> Z-order code [N] of 32 bits, x in the even ones."""
    spread = place.astype(np.int64)
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        spread = (spread | spread << shift) & mask
    return spread[:, 0] | spread[:, 1] << 1
