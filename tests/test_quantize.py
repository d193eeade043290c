"""One rounding: the integers that `quantize` writes (NumPy) are those that `rounded` trains with (torch)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import TINY, random_model

from stgvlib.codec.quantize import adapted, interleave, quantize
from stgvlib.codec.rate_optimizer import rounded
from stgvlib.codec.steps import LearnedSteps, Steps
from stgvlib.config import STGV
from stgvlib.model.gaussians import WAITING


def scattered_model(seed, count=2000):
    """One GoP beyond the frame on all sides, with Gaussians and colours of any size, four of them never placed."""
    config = replace(STGV, motion_steps=0, field=replace(TINY, polynomial=2))
    model = random_model(config, (2,), count, (240, 400), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.gaussians.mu += 40 * torch.randn(1, count, 2, generator=generator)
        model.gaussians.mu[0, 5:9] = WAITING
        model.gaussians.cholesky *= torch.randn(1, count, 1, generator=generator).exp()
        model.gaussians.cholesky[..., 1] -= 2
        model.gaussians.rgb -= 0.1
        model.gaussians.rgb *= torch.randn(1, count, 1, generator=generator).exp()
    return model


def float32_steps(model, adaptive):
    """Steps that a fine-tuning could have learned: float32 numbers, no powers of two, one for each field tensor."""
    steps = Steps().scaled(1.1)
    steps = adapted(model, steps) if adaptive else steps
    single = {name: float(np.float32(getattr(steps, name))) for name in ("position", "cholesky", "color", "motion")}
    field = tuple((p.detach().abs().max() / 300).item() for p in model.field.parameters())
    return LearnedSteps(**single, lowest=steps.lowest, field=field)


def as_rounded(model, steps, dtype):
    """`rounded` as the rate optimiser calls it: (values, steps of each Gaussian's position, shape and colour)."""
    gaussians = model.gaussians
    parameters = [gaussians.mu, gaussians.cholesky, gaussians.rgb, gaussians.motion, *model.field.parameters()]
    numbers = torch.tensor([steps.position, steps.cholesky, steps.color, steps.motion, *steps.field], dtype=dtype)
    energies = None if steps.lowest is None else 4.0 ** torch.tensor(steps.lowest, dtype=dtype)
    alive = (gaussians.mu[..., 0] != WAITING).to(dtype)
    return rounded([p.detach().to(dtype) for p in parameters], numbers, alive, energies)


def integers_of(values, own, steps, alive):
    """The integers that `rounded`'s values of one GoP stand for, in the order of its Gaussians: (finer bits of position
    and shape, size, cells of positions [2, N], cells of shapes [3, N], colours [3, N], motion), and the field's."""
    mu, cholesky, rgb, motion = (v[0].double().numpy()[alive].T for v in values[:4])
    own = [np.broadcast_to(o.double().numpy().reshape(-1, 1), (len(alive), 1))[alive, 0] for o in own]
    bits = [np.rint(np.log2(base / o)).astype(int) for base, o in zip(steps.bases, own)]
    sizes = np.rint(np.log2(steps.color / own[2])).astype(int)
    logs = np.stack([np.log(cholesky[0]), cholesky[1] / cholesky[2], np.log(cholesky[2])])
    place, shape = ((v / base + 0.5) * 2.0**b - 0.5 for v, base, b in zip((mu, logs), steps.bases, bits))
    found = [*bits, sizes, place, shape, rgb / (steps.color * 0.5**sizes), motion / steps.motion]
    field = [v.double().numpy().ravel() / step for v, step in zip(values[4:], steps.field, strict=True)]
    return [np.rint(v).astype(np.int64) for v in found], [np.rint(v).astype(np.int64) for v in field]


def assert_is_group(group, integers, field):
    """That a Group of `quantize` holds these integers, in its own order."""
    position_bits, shape_bits, sizes, place, shape, (red, green, blue), motion = integers
    coarse = place >> position_bits
    origin = coarse.min(1)
    code = interleave((coarse - origin[:, None]).T)
    order = np.argsort(code, kind="stable")
    assert group.origin == tuple(origin) and np.array_equal(group.gaps.cumsum(), code[order])
    finer = place - (coarse << position_bits), shape - (shape >> shape_bits << shape_bits)
    for found, expected in (
        (group.bits[0], position_bits),
        (group.bits[1], shape_bits),
        (group.sizes, sizes),
        (group.cholesky, shape >> shape_bits),
        (group.color, np.stack([green, red - green, blue - green])),
        (group.finer[0], finer[0]),
        (group.finer[1], finer[1]),
        (group.motion, motion),
    ):
        assert np.array_equal(found, expected[..., order])
    for (_, found), expected in zip(group.tensors, field, strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("adaptive", (False, True))
def test_quantize_rounds_as_the_optimiser_does(adaptive, seed):
    """Integer for integer: `rounded` in float64, and the file of what `rounded` gives in float32, as in training."""
    model = scattered_model(seed)
    steps, alive = float32_steps(model, adaptive), model.gaussians.mu[0, :, 0].detach().numpy() != WAITING
    exact = integers_of(*as_rounded(model, steps, torch.float64), steps, alive)
    assert_is_group(quantize(model, 0, steps), *exact)
    values, own = as_rounded(model, steps, torch.float32)
    single = integers_of(values, own, steps, alive)
    with torch.no_grad():
        for p, value in zip(model.parameters(), values, strict=True):
            p.copy_(value)
    assert_is_group(quantize(model, 0, steps), *single)
    # In float32 a value within 1e-7 of a cell's border, in parts of itself, may fall into the cell beside.
    for one, other in zip((*exact[0], *exact[1]), (*single[0], *single[1]), strict=True):
        assert (one != other).mean() < 2e-3
