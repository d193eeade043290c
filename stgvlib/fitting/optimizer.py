"""Adam and Adan over one flat parameter buffer, with a learning-rate table and no host in the loop.

All parameters of a batch of GoPs lie in one buffer, cut into segments (mu, cholesky, rgb, tables, MLP ...), so a step
is one kernel on CUDA and a few vector operations on a CPU. Step number and rates live on the device: a step can be
captured in a CUDA graph. Adam: Kingma & Ba 2015. Adan: Xie et al. 2022, Algorithm 1, without weight decay (the parent
code of the paper uses it, with decay rates 0.98, 0.92, 0.99).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stgvlib.device import kernels_for

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


def field_segments(model, kind: str, steps: int) -> list[Segment]:
    """Those of a VideoModel's field: encodings, and its MLP."""
    config = model.config
    rates = schedule(kind, config.field_rate, config.field_rate_last, steps)
    parts = {
        "encoding": (model.field.encoding_parameters(), 1.0),
        "mlp": (model.field.mlp_parameters(), config.mlp_rate),
    }
    return [Segment(name, p, rates * part, decay=config.field_decay) for name, (p, part) in parts.items() if p]


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


class FlatOptimizer:
    """`step()` updates every parameter in place and advances the step number. Gradients are left as they are."""

    def __init__(
        self,
        segments: list[Segment],
        kind: str = "adam",
        betas: tuple[float, ...] | None = None,
        eps: float | None = None,
    ):
        self.kind, self.eps = kind, EPS[kind] if eps is None else eps
        self.flat, self.grad = flatten(segments)
        device = self.flat.device
        sizes = torch.tensor([0] + [sum(p.numel() for p in s.parameters) for s in segments])
        self.starts = sizes.cumsum(0).int().to(device)
        self.bounds = self.starts.tolist()
        self.decays = [(a, b, s.decay) for s, a, b in zip(segments, self.bounds, self.bounds[1:]) if s.decay]
        self.floors = torch.tensor([s.floor for s in segments], device=device)
        self.rates = torch.stack([s.rates.float() for s in segments], 1).contiguous().to(device)  # [steps, segments]
        self.step_number = torch.zeros((), dtype=torch.int64, device=device)
        self.betas = betas or BETAS[kind]
        self.moments = [torch.zeros_like(self.flat) for _ in range(2 if kind == "adam" else 4)]

    @property
    def state(self) -> list[Tensor]:
        """All that a step changes."""
        return [self.flat, self.step_number, *self.moments]

    @torch.no_grad()
    def step(self) -> None:
        for start, end, decay in self.decays:
            self.grad[start:end].add_(self.flat[start:end], alpha=decay)
        if kernels_for(self.flat) == "cuda":
            self._step_cuda()
        else:
            self._step_torch()
        self.step_number += 1

    def _step_cuda(self) -> None:
        from stgvlib.ops.constants import BLOCK
        from stgvlib.ops.cuda.compiler import run

        tables = (self.starts, self.floors, self.rates, self.step_number)
        count = self.flat.numel()
        arguments = (self.flat, self.grad, *self.moments, *tables, len(self.floors), count, *self.betas, self.eps)
        run("optimizer", self.kind, (-(-count // BLOCK), 1, 1), BLOCK, *arguments)

    @torch.no_grad()
    def _step_torch(self) -> None:
        t = int(self.step_number) + 1
        g, m, v = self.grad, *self.moments[:2]
        corrections = [1 - beta**t for beta in self.betas]
        if self.kind == "adam":
            m.lerp_(g, 1 - self.betas[0])
            v.mul_(self.betas[1]).addcmul_(g, g, value=1 - self.betas[1])
            update = (m / corrections[0]).div_((v / corrections[1]).sqrt_().add_(self.eps))
        else:
            n2, last = self.moments[2:]
            difference = g - last if t > 1 else torch.zeros_like(g)
            m.lerp_(g, 1 - self.betas[0])
            v.lerp_(difference, 1 - self.betas[1])
            u = g + self.betas[1] * difference
            n2.mul_(self.betas[2]).addcmul_(u, u, value=1 - self.betas[2])
            last.copy_(g)
            update = m / corrections[0] + self.betas[1] * v / corrections[1]
            update.div_((n2 / corrections[2]).sqrt_().add_(self.eps))
        for s, (start, end) in enumerate(zip(self.bounds, self.bounds[1:])):
            part = self.flat[start:end]
            part.sub_(update[start:end] * self.rates[t - 1, s])
            if self.floors[s] > -torch.inf:
                part.view(-1, 3)[:, ::2].clamp_(min=float(self.floors[s]))


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
        with torch.cuda.graph(graph):
            step()
    for tensor, value in zip(state, saved):
        tensor.copy_(value)
    return graph.replay
