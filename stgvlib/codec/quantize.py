"""A GoP as integers and back: what a .stgv file holds of it, before entropy coding (docs/FORMAT.md, "A GoP").

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
from dataclasses import dataclass, replace

import numpy as np
import torch

from stgvlib.codec.steps import LearnedSteps, Steps
from stgvlib.errors import StgvError
from stgvlib.model.gaussians import WAITING
from stgvlib.model.video_model import VideoModel
from stgvlib.ops.splat import MIN_SCALE

LOG_SCALES = (math.log(MIN_SCALE) - 1, 14.0)  # of l1 and l3, px, that a file can ask for
AXIS_BITS = 16  # of a position on one axis
MOST_STEP = 1e6  # of a tensor of the field


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
    motion: np.ndarray  # [numbers of its own, N]
    tensors: list[tuple[float, np.ndarray]]  # (step, integers as sent) of the field's; none where a file was read


def of_lattice(tensor: torch.Tensor) -> bool:
    """Whether a tensor of all GoPs' fields is a lattice, [G, T, rows, columns, 2]: no other has so many axes. What is
    sent of it are differences in time."""
    return tensor.dim() == 5


def in_cells(values: np.ndarray, base: float | np.ndarray, bits: np.ndarray) -> np.ndarray:
    """The cell of each value [..., N]: 2^bits for each step of `base`, which lie around its multiples."""
    return np.floor((in_steps(values, base) + 0.5) * 2.0**bits).astype(np.int64)


def in_steps(values: np.ndarray, base: float | np.ndarray) -> np.ndarray:
    """Values in steps of `base`. Raises StgvError for values of which no integer of 32 bits stands for."""
    steps = values / base
    if not (np.abs(steps) < 2.0**31).all():
        largest = np.abs(values).max()
        raise StgvError(f"numbers up to {largest:.3g} are too large to be coded; take larger steps, or fit again")
    return steps


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
    red, green, blue = color = np.round(in_steps(rgb, steps.color * 0.5**sizes)).astype(np.int64)
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
        moved = np.round(in_steps(moved, steps.motion)).astype(np.int64)
    tensors = []
    for k, (name, p) in enumerate(model.field.named_parameters()):
        values = p[g].numpy().astype(np.float64)
        step = max(np.abs(values).max(), 1e-12) / (2 ** (steps.field_bits - 1) - 1)
        step = float(np.float32(steps.field[k] if isinstance(steps, LearnedSteps) else step))
        if not step < MOST_STEP:
            raise StgvError(f"GoP {g}: {name} of the field has numbers too large to be coded; fit it again")
        integers = np.round(in_steps(values, step)).astype(np.int64)
        tensors.append((step, (np.diff(integers, axis=0, prepend=0) if of_lattice(p) else integers).ravel()))
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
    area, energy = cholesky[:, 0] * cholesky[:, 2], rgb.square().sum(1)
    if not 0 < (area * energy).sum() < math.inf:  # nothing was fitted: any steps will do
        return replace(steps, lowest=(0, 0))
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
    return tuple(math.floor(min(32, max(-32, mean))) for mean in means.tolist())  # infinite where nothing was fitted


def interleave(place: np.ndarray) -> np.ndarray:
    """(x, y) [N, 2] of 16 bits each -> Z-order code [N] of 32 bits, x in the even ones."""
    spread = place.astype(np.int64)
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        spread = (spread | spread << shift) & mask
    return spread[:, 0] | spread[:, 1] << 1
