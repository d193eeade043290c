"""The canonical Gaussians of a GoP: position, Cholesky vector, colour (paper, eq. 1-2)."""

import torch
from torch import Tensor, nn

from stgvlib.ops.splat import MIN_SCALE

WAITING = -1e4  # px, where Gaussians wait to be added: they reach no pixel

CHOLESKY_OFFSET = (0.5, 0.0, 0.5)  # px, added to the raw Cholesky vector of the tanh parametrisation


class CanonicalGaussians(nn.Module):
    """N Gaussians a GoP, 8 parameters each: position, Cholesky vector, colour; no opacity. Then `own` more: the
    coefficients of each Gaussian's own motion, or how it fades (`FieldConfig.own_numbers`)."""

    def __init__(self, gops: int, count: int, size: tuple[int, int], parametrization: str, own: int = 0):
        super().__init__()
        self.size = size
        self.tanh = parametrization == "tanh"
        self.mu = nn.Parameter(torch.zeros(gops, count, 2))
        self.cholesky = nn.Parameter(torch.zeros(gops, count, 3))
        self.rgb = nn.Parameter(torch.zeros(gops, count, 3))
        self.motion = nn.Parameter(torch.zeros(gops, count, own)) if own else None
        self.register_buffer("extent", torch.tensor([size[1], size[0]], dtype=torch.float32), persistent=False)
        self.register_buffer("offset", torch.tensor(CHOLESKY_OFFSET), persistent=False)

    @property
    def cholesky_offset(self) -> float:
        """What l1 and l3 are above their parameters, px."""
        return CHOLESKY_OFFSET[0] if self.tanh else 0.0

    @property
    def extent_px(self) -> tuple[float, float]:
        """Width and height."""
        return float(self.size[1]), float(self.size[0])

    @property
    def cholesky_floor(self) -> float:
        """Lower bound of the raw l1 and l3, which the optimiser keeps."""
        return MIN_SCALE - self.cholesky_offset

    def pixels(self, gops: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """(mu [G, N, 2], cholesky [G, N, 3]) in px, of some GoPs."""
        mu, cholesky = self.mu[gops], self.cholesky[gops]
        if not self.tanh:
            return mu, cholesky
        return self._outside(mu), cholesky + self.offset

    def moved_inside_tanh(self, delta: Tensor) -> Tensor:
        """Positions [G, N, 2] px after `delta` [G, N, 2] is added to their parameters of the tanh parametrisation. It
        has none for positions outside of the frame: those stay."""
        if self.tanh:
            return self._outside(self.mu + delta)
        inside = ((self.mu >= 0) & (self.mu <= self.extent)).all(-1, keepdim=True)
        return torch.where(inside, self._outside(self._inside(self.mu) + delta), self.mu)

    def _outside(self, parameter: Tensor) -> Tensor:
        return (parameter.tanh() + 1) / 2 * self.extent

    def _inside(self, mu: Tensor) -> Tensor:
        return torch.atanh((mu / self.extent * 2 - 1).clamp(-0.999999, 0.999999))

    @torch.no_grad()
    def set_pixels(self, gop: int, mu: Tensor, cholesky: Tensor, rgb: Tensor) -> None:
        """Set one GoP's Gaussians from px values."""
        if self.tanh:
            mu = self._inside(mu)
            cholesky = cholesky - self.offset
        self.mu[gop], self.cholesky[gop], self.rgb[gop] = mu, cholesky, rgb
