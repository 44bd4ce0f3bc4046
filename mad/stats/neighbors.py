"""Exact nearest neighbours, a block of queries at a time."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mad.errors import DataError

Metric = Literal["euclidean", "cosine"]
BLOCK_ELEMENTS = 2**23  # values held at once, 32 MB of float32
SPARE = 8  # candidates beyond k that the float32 pass hands to the float64 pass


def nearest(queries: Tensor, reference: Tensor, k: int, metric: Metric = "euclidean") -> tuple[Tensor, Tensor]:
    """The k nearest reference rows of each query.

    Candidates come from a float32 matrix product about the reference mean, in units of the reference; their
    distances are then computed in float64 from differences. Where rounding or overflow could have hidden a
    neighbour among the rows left out, that query is searched again among all rows within the error, so the answer
    is that of a float64 search.

    Args:
        queries: (n, d) of any float dtype.
        reference: (m, d) of any float dtype.
        k: neighbours, 1 to m.
        metric: ``euclidean``, or ``cosine`` (1 - cosine; a zero row is at distance 1 from everything).

    Returns:
        (n, k) float64 distances, ascending, and (n, k) int64 rows of the reference.

    Raises:
        DataError: k out of range, or different widths.
    """
    if not 1 <= k <= len(reference):
        raise DataError(f"{k} neighbours wanted of {len(reference)} reference rows")
    if queries.shape[1] != reference.shape[1]:
        raise DataError(f"queries have width {queries.shape[1]}, the reference {reference.shape[1]}")
    search = _Search(reference, k, metric)
    per_query = len(reference) + (k + SPARE) * reference.shape[1]
    found = [search(part) for part in queries.split(max(1, BLOCK_ELEMENTS // per_query))]
    if not found:
        return queries.new_zeros(0, k, dtype=torch.float64), torch.zeros(0, k, dtype=torch.int64)
    return torch.cat([d for d, _ in found]), torch.cat([i for _, i in found])


class _Search:
    """A reference prepared for queries."""

    def __init__(self, reference: Tensor, k: int, metric: Metric):
        self.reference, self.k, self.metric = reference, k, metric
        width = reference.shape[1]
        parts = reference.split(max(1, BLOCK_ELEMENTS // max(1, width)))
        self.centre = torch.stack([_rows(p, metric).sum(dim=0) for p in parts]).sum(dim=0) / len(reference)
        self.scale = max(float((_rows(p, metric) - self.centre).abs().max()) for p in parts) or 1.0
        self.centred = torch.cat([self._float32(_rows(p, metric)) for p in parts])
        self.norms = self.centred.square().sum(dim=1)
        # Rounding of a product of n terms grows like sqrt(n) units in practice (Higham and Mary, 2019).
        self.unit = (8 + 4 * width**0.5) * torch.finfo(torch.float32).eps
        self.largest = float(self.norms.max())

    def _float32(self, rows: Tensor) -> Tensor:
        return ((rows - self.centre) / self.scale).float()

    def __call__(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        q = _rows(queries, self.metric)
        centred = self._float32(q)
        norms = centred.square().sum(dim=1)
        rough = torch.addmm(self.norms, centred, self.centred.T, alpha=-2).add_(norms[:, None])
        wanted = min(self.k + SPARE, len(self.reference))
        values, candidates = rough.topk(wanted, dim=1, largest=False)
        squares, index = self._refine(q, candidates)
        if wanted < len(self.reference):
            slack = self.unit * (norms.double() + self.largest)
            reached = squares[:, -1] / self.scale / self.scale
            # Negated: a query whose products overflowed to infinity or NaN is doubtful, and every row close.
            doubtful = ~(reached <= values[:, -1].double() - slack)
            for row in doubtful.nonzero().flatten().tolist():
                close = (~(rough[row] > reached[row] + slack[row])).nonzero().flatten()
                squares[row], index[row] = self._among(q[row], close)
        return (squares / 2 if self.metric == "cosine" else squares.sqrt()), index

    def _refine(self, q: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        rows = _rows(self.reference[candidates.flatten()], self.metric).view(*candidates.shape, -1)
        squares = _squares(q[:, None], rows, self.metric)
        # Equal distances keep the order of the reference, whatever topk did with them.
        order = candidates.argsort(dim=1)
        squares, candidates = squares.gather(1, order), candidates.gather(1, order)
        squares, order = squares.sort(dim=1, stable=True)
        return squares[:, : self.k], candidates.gather(1, order)[:, : self.k]

    def _among(self, q: Tensor, close: Tensor) -> tuple[Tensor, Tensor]:
        parts = close.split(max(1, BLOCK_ELEMENTS // max(1, len(q))))
        squares = torch.cat([_squares(q, _rows(self.reference[p], self.metric), self.metric) for p in parts])
        values, order = squares.sort(stable=True)
        return values[: self.k], close[order[: self.k]]


def _rows(h: Tensor, metric: Metric) -> Tensor:
    h = h.detach().double()
    return torch.nn.functional.normalize(h, dim=1, eps=1e-300) if metric == "cosine" else h


def _squares(a: Tensor, b: Tensor, metric: Metric) -> Tensor:
    squares = (a - b).square().sum(dim=-1)
    if metric == "cosine":  # |a - b|^2 is 2 (1 - cos) for unit rows only
        zero = (a == 0).all(dim=-1) | (b == 0).all(dim=-1)
        squares = torch.where(zero, torch.full_like(squares, 2.0), squares)
    return squares
