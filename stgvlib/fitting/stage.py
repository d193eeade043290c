"""One stage of a fit over a batch of GoPs, as an iterator: each look comes after some steps, with their losses.

    stage = Stage(model, frames, "coarse")
    for look in stage.run(every=200):
        print(look.done, look.psnr)

A step is captured in a CUDA graph and replayed; step number, frame index, learning rates and the loss log live on the
device, so nothing between two looks waits for the host. Who iterates may change the optimiser's state at a look.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stgvlib.device import compiled, kernels_for
from stgvlib.fitting.optimizer import FlatOptimizer, Segment, captured, field_segments, schedule
from stgvlib.fitting.placement import add_gaussians
from stgvlib.fitting.plan import frame_stride
from stgvlib.metrics import decibels
from stgvlib.model.video_model import VideoModel
from stgvlib.ops.splat import splat_mse

EVERY = 200  # steps between two looks at the loss
ADDED_UNTIL = 0.6  # part of the coarse stage after which no Gaussians are added
Name = Literal["coarse", "deformation"]


@dataclass(frozen=True)
class Look:
    """What a stage shows after some steps."""

    done: int  # steps of the stage so far
    losses: Tensor  # mean loss since the look before, of each GoP that has not diverged

    @property
    def psnr(self) -> float:
        """Mean over GoPs of the training frames' PSNR, dB; 0 where all have diverged."""
        return decibels(self.losses).mean().item() if len(self.losses) else 0.0


@dataclass
class Diverged:
    """A GoP whose loss was not finite."""

    place: int  # in the batch
    stage: str
    step: int
    good_step: int  # of `good`
    good: VideoModel  # the last state after which losses were finite


class Stage:
    """A stage that has not started; `run` trains `model` in place and afterwards `losses` and `diverged` are known."""

    def __init__(
        self,
        model: VideoModel,
        frames: Tensor,  # uint8 [G, T, H, W, 4]
        name: Name,
        optimizer: FlatOptimizer | None = None,  # over `segments(model, name)`; None: what the configuration says
        generators: list[torch.Generator] | None = None,  # of each GoP, for Gaussians that are added
    ):
        self.model, self.frames, self.name, self.generators = model, frames, name, generators
        self.coarse, config = name == "coarse", model.config
        self.steps = config.coarse_steps if self.coarse else config.steps
        if optimizer is None and self.steps:
            optimizer = FlatOptimizer(segments(model, name), config.optimizer, config.betas)
        self.optimizer = optimizer
        self.log = torch.zeros(self.steps, len(frames), device=frames.device)
        self.failed: dict[int, Diverged] = {}
        self.counts = torch.tensor(model.num_frames, device=frames.device)
        strides = [frame_stride(n, config.order) for n in model.num_frames]
        self.strides = torch.tensor(strides, device=frames.device)
        keyframe = {"first": self.counts * 0, "middle": self.counts // 2}.get(config.keyframe)
        self.keyframe = keyframe if self.coarse else None  # None: all frames in turn

    @property
    def losses(self) -> Tensor:
        """Training loss of each step, [steps, G] on the CPU."""
        return self.log.cpu()

    @property
    def diverged(self) -> list[Diverged]:
        return list(self.failed.values())

    def run(self, every: int = EVERY) -> Iterator[Look]:
        """Train; a look after every so many steps, before Gaussians are added, and at the end."""
        if self.steps == 0:
            return
        model, optimizer, frames = self.model, self.optimizer, self.frames
        fused = self.fused_step()
        step = self._step() if fused is None else fused

        def capture() -> Callable[[], None]:
            return captured(step, optimizer, self.log) if frames.is_cuda else step

        advance, rounds, done = capture(), self._rounds(), 0
        # The state at a look is known to be good when the steps after it are finite too.
        good, newest, good_step, newest_step = optimizer.flat.clone(), optimizer.flat.clone(), 0, 0
        while done < self.steps:
            todo = min([every, self.steps - done, *(r - done for r in rounds if r > done)])
            for _ in range(todo):
                advance()
            recent = self.log[done : done + todo]
            # What is not finite may leave a Gaussian out of the picture, where the loss does not show it.
            whole = torch.stack([p.detach().flatten(1).isfinite().all(1) for p in model.parameters()]).all(0)
            recent[-1].masked_fill_(~whole, torch.nan)
            finite = torch.isfinite(recent).all(0)
            for place in (~finite).nonzero()[:, 0].tolist():
                if place not in self.failed:
                    bad = done + (~torch.isfinite(recent[:, place])).nonzero()[0].item()
                    self.failed[place] = Diverged(place, self.name, bad, good_step, self._as_of(good, place))
            if len(self.failed) == len(frames):
                return
            done += todo
            yield Look(done, recent.mean(0)[finite])
            if done in rounds:
                left = len(rounds) - rounds.index(done)
                add_gaussians(model, frames, self.keyframe, left, self.generators)
            if fused is not None and fused.grow_lists():
                advance = capture()
            if not self.failed:
                good, newest = newest, good
                newest.copy_(optimizer.flat)
                good_step, newest_step = newest_step, done

    def _rounds(self) -> list[int]:
        """Steps after which Gaussians are added."""
        additions = self.model.config.additions if self.coarse else 0
        return sorted({round(self.steps * ADDED_UNTIL * (k + 1) / additions) for k in range(additions)} - {0})

    def fused_step(self):
        """The CUDA training step, or None where autograd has to do it."""
        if kernels_for(self.model.gaussians.mu) != "cuda":
            return None
        from stgvlib.fitting.stage_cuda import TrainingStep

        if not TrainingStep.supports(self.model, self.coarse):
            return None
        state = (self.optimizer, self.log, self.counts, self.strides, self.keyframe)
        return TrainingStep(self.model, self.frames, *state, self.coarse)

    def _step(self) -> Callable[[], None]:
        """One training step through autograd."""
        model, optimizer, counts = self.model, self.optimizer, self.counts
        if not self.coarse:
            compiled(model.field, self.frames.device)

        def step() -> None:
            number = optimizer.step_number
            optimizer.grad.zero_()
            index = number * self.strides % counts if self.keyframe is None else self.keyframe
            if self.coarse:
                mu, cholesky = model.gaussians.pixels()
                rgb = model.gaussians.rgb
            else:
                mu, cholesky, rgb = model.deform((index + 1) / counts)
            loss = splat_mse(mu, cholesky, rgb, self.frames, index.int(), model.config.huber, model.config.clamp)
            loss.sum().backward()
            self.log.index_copy_(0, number[None], loss.detach()[None])
            optimizer.step()

        return step

    def _as_of(self, flat: Tensor, place: int) -> VideoModel:
        """One GoP of the batch with the parameters of an earlier look."""
        now = self.optimizer.flat.clone()
        self.optimizer.flat.copy_(flat)
        alone = self.model.gop(place).cpu()
        self.optimizer.flat.copy_(now)
        return alone


def segments(model: VideoModel, name: Name) -> list[Segment]:
    """What a stage trains, with the learning rates of its configuration."""
    config, gaussians = model.config, model.gaussians
    steps = config.coarse_steps if name == "coarse" else config.steps

    # of the Gaussians' schedule: steps before this stage, and all
    before = config.coarse_steps if config.schedule_over == "fit" and name == "deformation" else 0
    whole = config.coarse_steps + config.steps if config.schedule_over == "fit" else steps

    def rates(rate: float) -> Tensor:
        least = rate * config.last_rate
        # 20,000 steps at the published numbers: a third of 60,000, or two sevenths of 10,000 + 60,000
        halved = 2 * whole // 7 if config.schedule_over == "fit" else (config.steps or steps) // 3
        return schedule(config.gaussian_schedule, rate, least, whole, halved)[before : before + steps]

    parts = [
        Segment("mu", [gaussians.mu], rates(config.position_rate)),
        Segment("cholesky", [gaussians.cholesky], rates(config.cholesky_rate), gaussians.cholesky_floor),
        Segment("rgb", [gaussians.rgb], rates(config.color_rate), grey=config.grey > 0 and name == "deformation"),
    ]
    if name == "deformation":
        # after 8 numbers a Gaussian tables lie at multiples of 16 bytes, after them lattice and MLP at multiples of 8
        field, rate = field_segments(model, "exponential", steps), config.lattice_rate
        if model.field.lattice is not None:
            falling = schedule("cosine", rate, rate * config.last_rate, steps)
            field.insert(bool(model.field.encoding_parameters()), Segment("lattice", [model.field.lattice], falling))
        parts += field
        if gaussians.motion is not None:
            own = config.fade_rate if config.field.fade else config.position_rate
            parts.append(Segment("motion", [gaussians.motion], rates(own)))
    return parts
