"""Start the deformation field from optical flow, so that Gaussians begin near where they belong in each frame (ours).

A Gaussian that is further from its place than it is wide gets no gradient from there: where the camera pans, fitting by
colours alone loses it. Between the stages the field therefore learns to follow dense inverse search flow (Kroeger et
al. 2016, OpenCV's), from the key frame on, frame by frame. It costs no parameter. What is hidden or new in a frame the
flow cannot know; the deformation stage corrects it.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from stgvlib.config import FitConfig
from stgvlib.device import kernels_for
from stgvlib.fitting.optimizer import FlatOptimizer, captured, field_segments
from stgvlib.fitting.plan import keyframe_of
from stgvlib.model.gaussians import CanonicalGaussians
from stgvlib.model.video_model import VideoModel
from stgvlib.video.flow import Flow, flow_of
from stgvlib.video.video import Video

BETAS = (0.9, 0.99)  # decay rates of Adam
LOOK = 200  # steps between two reports


def begin_flow(video: Video, gops: Sequence[tuple[int, int]], config: FitConfig) -> list[Future]:
    """Flow of every GoP, [start, stop) of a video's frames, computed beside the coarse stage."""
    pool = ThreadPoolExecutor(4)
    jobs = []
    for start, stop in gops:  # read here: a file has one reader
        known = None if video.missing is None else video.weights(start, stop)
        jobs.append(pool.submit(flow_of, video.read(start, stop), keyframe_of(config, stop - start), known))
    pool.shutdown(wait=False)
    return jobs


def start_lattice(model: VideoModel, flows: list[Flow]) -> None:
    """The field's lattice follows the flow from the key frame: each point as a Gaussian at its place would."""
    _, steps, rows, columns = model.field.lattice.shape[:4]
    x, y = (np.linspace(0, side, n, dtype=np.float32) for side, n in zip(model.size[::-1], (columns, rows)))
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    for g, flow in enumerate(flows):
        moved = flow.tracks(points) - points  # [T, points, 2]
        last = len(moved) - 1
        when = np.clip(np.arange(1, steps + 1) * (last + 1) / steps - 1, 0, last)  # frames, where points lie in time
        before = when.astype(int)
        part = (when - before)[:, None, None]
        between = (1 - part) * moved[before] + part * moved[np.minimum(before + 1, last)]
        model.field.lattice.data[g] = torch.from_numpy(between.astype(np.float32)).view(steps, rows, columns, 2)


def targets_of(model: VideoModel, flows: list[Flow]) -> Tensor:
    """Where the model's Gaussians should be in every frame, [G, T, N, 2] px; padding frames are zero."""
    mu = model.gaussians.pixels()[0].detach()
    targets = torch.zeros(len(flows), max(model.num_frames), *mu.shape[1:])
    for g, (flow, points) in enumerate(zip(flows, mu.cpu().numpy())):
        targets[g, : len(flow.steps)] = torch.from_numpy(flow.tracks(points))
    return targets.to(mu.device)


def follow(model: VideoModel, targets: Tensor, report: Callable[[int], None] | None = None) -> Tensor:
    """Train the field alone to move every Gaussian to its target [G, T, N, 2] px, `motion_steps` steps; a frame a step.

    With `motion_parts` a step takes every so many-th Gaussian, and the next of them once all frames were shown. Returns
    the mean distance on the way, [steps, G] px (of each axis; Huber loss, linear beyond 1 px).
    """
    config, field, device = model.config, model.field, targets.device
    steps, counts = config.motion_steps, torch.tensor(model.num_frames, device=device)
    strides = counts - 1  # neighbours in turn: here it helps that momentum follows the time
    optimizer = FlatOptimizer(field_segments(model, "cosine", steps), "adam", BETAS)
    losses, of_gop = torch.zeros(steps, len(targets), device=device), torch.arange(len(targets), device=device)
    parts = min(config.motion_parts, model.count)
    targets = _in_parts(targets, parts)
    step = _fused_follow(model, targets, optimizer, losses, counts, strides, of_gop)
    if step is None:
        places = _in_parts(model.gaussians.pixels()[0].detach(), parts)

        def step() -> None:
            number = optimizer.step_number
            optimizer.grad.zero_()
            index, part = number * strides % counts, number // counts % parts
            mu = places[of_gop, part]
            error = mu + field(mu, (index + 1) / counts)[0] - targets[of_gop, index, part]
            loss = nn.functional.smooth_l1_loss(error, torch.zeros_like(error), reduction="none")
            loss.mean((1, 2)).sum().backward()  # of each GoP as if it were alone
            losses.index_copy_(0, number[None], error.detach().abs().mean((1, 2))[None])
            optimizer.step()

    advance = captured(step, optimizer, losses) if device.type == "cuda" else step
    for done in range(steps):
        advance()
        if report and ((done + 1) % LOOK == 0 or done + 1 == steps):
            report(done + 1)
    return losses.cpu()


def _in_parts(values: Tensor, parts: int) -> Tensor:
    """Each of `parts` has every so many-th Gaussian: [..., N, 2] -> [..., parts, N // parts, 2]."""
    each = values.shape[-2] // parts
    return values[..., : parts * each, :].unflatten(-2, (each, parts)).transpose(-3, -2).contiguous()


def _fused_follow(model, targets, optimizer, losses, counts, strides, of_gop) -> Callable[[], None] | None:
    """The step on CUDA, or None where autograd has to do it; targets [G, T, parts, N, 2]."""
    if kernels_for(model.gaussians.mu) != "cuda":
        return None
    from stgvlib.model.field_cuda import FusedField, supported

    if not supported(model.field):
        return None
    parts, each = targets.shape[2:4]
    places = _in_parts(model.gaussians.mu.detach(), parts)
    moved = CanonicalGaussians(len(targets), each, model.size, model.config.parametrization).to(targets.device)
    fused = FusedField(SimpleNamespace(field=model.field, gaussians=moved, count=each), len(targets), training=True)
    grads = [torch.zeros_like(p) for p in (moved.mu, moved.cholesky, moved.rgb)]

    def step() -> None:
        number = optimizer.step_number
        part = number // counts % parts
        moved.mu.data.copy_(places[of_gop, part])
        mu, _, _ = fused.forward(number, counts, strides)
        error = mu - targets[of_gop, fused.frame.long(), part]
        # As large as the gradients of a mean over all pixels, which the fused field is made for.
        torch.mul(error.clamp(-1, 1), 1 / fused.grad_scale, out=grads[0])
        losses.index_copy_(0, number[None], error.abs().mean((1, 2))[None])
        fused.backward(grads)
        optimizer.step()

    return step
