"""Residual vector quantisation of colours, part of the paper's recipe (App. C, eq. 11)."""

import torch

from stgvlib.device import compiled


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
