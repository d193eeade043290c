"""Adam and Adan over one flat parameter buffer, with a learning-rate table and no host in the loop.

All parameters of a batch of GoPs lie in one buffer, cut into segments (mu, cholesky, rgb, tables, MLP ...), so a step
is one kernel on CUDA and a few vector operations on a CPU. Step number and rates live on the device: a step can be
captured in a CUDA graph. Adam: Kingma & Ba 2015. Adan: Xie et al. 2022, Algorithm 1, without weight decay (the parent
code of the paper uses it, with decay rates 0.98, 0.92, 0.99).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Literal

import torch
from torch import Tensor

from stgvlib.device import capturing, kernels_for

MOMENTS = {"adam": 2, "adan": 4}  # buffers
BETAS = {"adam": (0.9, 0.999), "adan": (0.98, 0.92, 0.99)}
EPS = {"adam": 1e-15, "adan": 1e-8}  # mean-loss gradients of one Gaussian are around 1e-6, hash entries far below


@dataclass
class Segment:
    """Part of the buffer with one learning-rate schedule."""

    name: str
    parameters: list[Tensor]
    rates: Tensor  # [steps] learning rate
    floor: float = -torch.inf  # lower bound of l1 and l3 where the segment holds Cholesky rows
    decay: float = 0.0  # times the parameters, added to their gradient
    kind: Literal["adam", "adan"] | None = None  # None: the optimiser's own
    grey: bool = False  # rows of three equal numbers stay so


def field_segments(model, kind: str, steps: int) -> list[Segment]:
    """Those of a VideoModel's field: encodings, and its MLP."""
    config = model.config
    falling = max(1, round(steps * config.field_rate_until))
    rates = schedule(kind, config.field_rate, config.field_rate_last, falling)
    rates = torch.cat([rates, rates.new_full((steps - falling,), config.field_rate_last)])[:steps]
    parts = {
        "encoding": (model.field.encoding_parameters(), 1.0),
        "mlp": (model.field.mlp_parameters(), config.mlp_rate),
    }
    options = {"decay": config.field_decay, "kind": config.field_optimizer}
    return [Segment(name, p, rates * part, **options) for name, (p, part) in parts.items() if p]


def flatten(segments: list[Segment]) -> tuple[Tensor, Tensor]:
    """Move all parameters into one buffer, and their gradients into another, as views. Returns both."""
    parts = [p for segment in segments for p in segment.parameters]
    flat = torch.cat([p.detach().reshape(-1) for p in parts])
    grad = torch.zeros_like(flat)
    start = 0
    for p in parts:
        p.data = flat[start : start + p.numel()].view(p.shape)
        p.grad = grad[start : start + p.numel()].view(p.shape)
        start += p.numel()
    return flat, grad


@dataclass
class _Group:
    """Neighbouring segments of one kind."""

    kind: str
    betas: tuple[float, ...]
    eps: float
    span: slice  # in the buffer
    bounds: list[int]  # of its segments, from the start of its span
    starts: Tensor  # the same on the device
    floors: Tensor
    rates: Tensor  # [steps, segments]


class FlatOptimizer:
    """`step()` updates every parameter in place and advances the step number. Gradients are left as they are.

    Segments of a kind of their own take that optimiser with its usual decay rates, as the MLP of D2GV does."""

    def __init__(
        self,
        segments: list[Segment],
        kind: Literal["adam", "adan"] = "adam",
        betas: tuple[float, ...] | None = None,  # of `kind`
        eps: float | None = None,
    ):
        self.flat, self.grad = flatten(segments)
        self.betas, device = betas or BETAS[kind], self.flat.device
        bounds = [0, *accumulate(sum(p.numel() for p in s.parameters) for s in segments)]
        self.decays = [(a, b, s.decay) for s, a, b in zip(segments, bounds, bounds[1:]) if s.decay]
        self.grey = [slice(a, b) for s, a, b in zip(segments, bounds, bounds[1:]) if s.grey]
        self.num_steps = len(segments[0].rates)
        self.groups = []
        for of_kind, places in groupby(range(len(segments)), lambda k: segments[k].kind or kind):
            own = list(places)
            span = slice(bounds[own[0]], bounds[own[-1] + 1])
            inner = [bounds[k] - span.start for k in [*own, own[-1] + 1]]
            starts = torch.tensor(inner, dtype=torch.int32, device=device)
            floors = torch.tensor([segments[k].floor for k in own], device=device)
            rates = torch.stack([segments[k].rates.float() for k in own], 1).contiguous().to(device)
            rates_of = self.betas if of_kind == kind else BETAS[of_kind]
            self.groups.append(_Group(of_kind, rates_of, eps or EPS[of_kind], span, inner, starts, floors, rates))
        self.step_number = torch.zeros((), dtype=torch.int64, device=device)
        most = max(MOMENTS[group.kind] for group in self.groups)
        self.moments = [torch.zeros_like(self.flat) for _ in range(most)]

    @property
    def state(self) -> list[Tensor]:
        """All that a step changes."""
        return [self.flat, self.step_number, *self.moments]

    @torch.no_grad()
    def step(self) -> None:
        for start, end, decay in self.decays:
            self.grad[start:end].add_(self.flat[start:end], alpha=decay)
        on_cuda = kernels_for(self.flat) == "cuda"
        for span in self.grey:
            (_keep_grey_cuda if on_cuda else _keep_grey)(self.flat[span], self.grad[span])
        update = self._step_cuda if on_cuda else self._step_torch
        for group in self.groups:
            update(group, *self._buffers(group))
        self.step_number += 1

    def _buffers(self, group: _Group) -> list[Tensor]:
        """Its parameters, gradients and moments."""
        moments = self.moments[: MOMENTS[group.kind]]
        return [buffer[group.span] for buffer in (self.flat, self.grad, *moments)]

    def _step_cuda(self, group: _Group, *buffers: Tensor) -> None:
        from stgvlib.ops.constants import BLOCK
        from stgvlib.ops.cuda.compiler import run

        count, tables = buffers[0].numel(), (group.starts, group.floors, group.rates, self.step_number)
        arguments = (*buffers, *tables, len(group.floors), count, *group.betas, group.eps)
        run("optimizer", group.kind, (-(-count // BLOCK), 1, 1), BLOCK, *arguments)

    def _step_torch(self, group: _Group, flat: Tensor, g: Tensor, m: Tensor, v: Tensor, *more: Tensor) -> None:
        t, betas = int(self.step_number) + 1, group.betas
        corrections = [1 - beta**t for beta in betas]
        if group.kind == "adam":
            m.lerp_(g, 1 - betas[0])
            v.mul_(betas[1]).addcmul_(g, g, value=1 - betas[1])
            update = (m / corrections[0]).div_((v / corrections[1]).sqrt_().add_(group.eps))
        else:
            n2, last = more
            difference = g - last if t > 1 else torch.zeros_like(g)
            m.lerp_(g, 1 - betas[0])
            v.lerp_(difference, 1 - betas[1])
            u = g + betas[1] * difference
            n2.mul_(betas[2]).addcmul_(u, u, value=1 - betas[2])
            last.copy_(g)
            update = m / corrections[0] + betas[1] * v / corrections[1]
            update.div_((n2 / corrections[2]).sqrt_().add_(group.eps))
        for s, (start, end) in enumerate(zip(group.bounds, group.bounds[1:])):
            part = flat[start:end]
            part.sub_(update[start:end] * group.rates[t - 1, s])
            if group.floors[s] > -torch.inf:
                part.view(-1, 3)[:, ::2].clamp_(min=float(group.floors[s]))


def _keep_grey(rgb: Tensor, grad: Tensor) -> None:
    """Where the three numbers of a row are equal, so are their gradients: the mean."""
    rgb, grad = rgb.view(-1, 3), grad.view(-1, 3)
    grey = (rgb == rgb[:, :1]).all(1, keepdim=True)
    grad.copy_(torch.where(grey, grad.mean(1, keepdim=True), grad))


def _keep_grey_cuda(rgb: Tensor, grad: Tensor) -> None:
    from stgvlib.ops.constants import BLOCK
    from stgvlib.ops.cuda.compiler import run

    rows = rgb.numel() // 3
    run("optimizer", "keep_grey", (-(-rows // BLOCK), 1, 1), BLOCK, rgb, grad, rows)


def schedule(kind: str, rate: float, last: float, steps: int, halve_every: int = 0) -> Tensor:
    """Learning rate of each step, [steps]: constant | cosine | exponential (rate down to `last`) | halving."""
    t = torch.arange(steps, dtype=torch.float64)
    progress = t / max(steps - 1, 1)
    if kind == "constant":
        return torch.full_like(t, rate)
    if kind == "cosine":
        return last + (rate - last) * (1 + torch.cos(torch.pi * progress)) / 2
    if kind == "exponential":
        return rate * (last / rate) ** progress
    if kind == "halving":
        return rate * 0.5 ** (t // max(halve_every, 1))
    raise ValueError(f"schedule must be constant, cosine, exponential or halving, got {kind!r}")


def captured(step: Callable[[], None], optimizer: FlatOptimizer, losses: Tensor) -> Callable[[], None]:
    """The step as a CUDA graph. Warm-up steps run for real on a side stream, then every state is put back."""
    state = [*optimizer.state, losses]
    saved = [t.clone() for t in state]
    with torch.cuda.device(losses.device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                step()
                optimizer.step_number.zero_()  # a stage may have one step only
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with capturing(graph):
            step()
    for tensor, value in zip(state, saved):
        tensor.copy_(value)
    return graph.replay
