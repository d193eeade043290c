"""The deformation field: encoding, MLP and heads, forward and with all gradients, for 13 GoPs of 20,000 Gaussians.
Usage: bench_deform.py [cpu|cuda]

Floors on a GPU: tensor cores at 790 TFLOP/s for 48 k operations a Gaussian forward and 150 k backward, and what must
move at 4.3 TB/s: 128 bytes of features a Gaussian, 56 of results, 160 and 128 of gradients.
"""

import sys

import torch
from common import measure, report

from stgvlib.config import STGV
from stgvlib.device import resolve_device
from stgvlib.model.video_model import VideoModel


def main(name: str) -> None:
    device = resolve_device(name)
    gops, count, size = (13 if device.type == "cuda" else 1), 20_000, (640, 1280)
    generator = torch.Generator().manual_seed(0)
    model = VideoModel(STGV, [10] * gops, size, count, generator).to(device)
    # Neighbours in space are neighbours in memory, as in a fit.
    mu = torch.rand(count, 2, generator=generator) * torch.tensor([size[1], size[0]])
    order = (mu // 16 * torch.tensor([1, 1280])).sum(1).argsort()
    model.gaussians.mu.data[:] = mu[order].to(device)
    t = torch.full((gops,), 0.5, device=device)
    about = f"{gops} GoPs x {count}"
    if device.type == "cpu":

        def forward() -> None:
            with torch.no_grad():
                model.deform(t)

        def both() -> None:
            deformed = sum(values.sum() for values in model.deform(t))
            torch.autograd.grad(deformed, [model.gaussians.mu, *model.field.parameters()])

        report("deform forward", about, device, measure(forward, device), "ms")
        report("deform forward + backward", about, device, measure(both, device), "ms")
        return
    from stgvlib.model.field_cuda import FusedField

    field = FusedField(model, gops, training=True)
    field.t.copy_(t)
    grads = [torch.randn(gops, count, n, device=device) * 1e-6 for n in (2, 3, 3)]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    points = gops * count
    floors = [1e3 * points * (48e3 * k / 790e12 + b / 4.3e12) for k, b in ((1, 184), (4.1, 184 + 288))]

    def both() -> None:
        field.forward()
        field.backward(grads)

    report("deform forward", about, device, measure(field.forward, device), "ms", floors[0])
    report("deform forward + backward", about, device, measure(both, device), "ms", floors[1])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "auto")
