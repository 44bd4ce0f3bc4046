"""Ranks of reference points among all reference points by distance from a query, and outliers among such ranks.

A rank counts the reference points that lie nearer than the point in question. Points at the same distance, up to
rounding, come in an order drawn at random, and the rank is its expectation: duplicates and dead layers get
defined ranks, which hang on no order of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from mad.errors import DataError
from mad.stats import random

BLOCK_ELEMENTS = 2**22  # float64 distances held at once: 32 MB
COUNT_ELEMENTS = 2**17  # of them compared at once: 1 MB, which stays in a cache
KEPT_ELEMENTS = 2**24  # a reference up to this size is converted to float64 once: 128 MB
FARTHEST = 1e100  # of a coordinate, in units of the largest of the reference: its square does not overflow
GRID = 2.0**-34  # distances that differ by a smaller part of their largest tie when neighbours are chosen

Outlier = Literal["mahalanobis", "pca"]


def content_order(parts: Sequence[Tensor], seed: int) -> Tensor:
    """An order of rows drawn from the seed and the values of each row, so that shuffled rows end up the same.

    Args:
        parts: (n, d_i) tensors of any dtype whose rows belong together.
        seed: any integer; the first m rows in this order are a random subset.

    Returns:
        (n,) int64 row numbers.
    """
    key = torch.zeros(len(parts[0]), dtype=torch.int64)
    for number, part in enumerate(parts):
        values = part.detach().cpu() + 0  # minus zero becomes zero
        bits = values.view(torch.int32) if values.dtype == torch.float32 else values.double().view(torch.int64)
        draws = torch.randint(
            -(2**63), 2**63 - 1, (part.shape[1],), generator=random.generator(seed, "content order", number)
        )
        for x, start in _blocks(bits, part.shape[1]):
            key[start : start + len(x)] += ((x.long() ^ (x.long() << 29)) * (draws | 1)).sum(dim=1)
    key ^= (key >> 31) & 0x1FFFFFFFF
    return (key * 0x1CE4E5B9BF58476D).argsort(stable=True)


def _blocks(x: Tensor, width: int) -> Iterator[tuple[Tensor, int]]:
    start = 0
    for part in x.split(max(1, BLOCK_ELEMENTS // max(1, width))):
        yield part, start
        start += len(part)


class Ranks:
    """Counts over one reference.

    Args:
        reference: (m, d) of any float dtype.
        owners: (m,) what each point belongs to, or None. A query that belongs to the same is not compared with
            it: a point has itself, and the other positions of its row, nowhere among its neighbours.

    Raises:
        DataError: no reference.
    """

    def __init__(self, reference: Tensor, owners: Tensor | None = None):
        if not len(reference):
            raise DataError("no reference points to rank")
        self.reference, self.owners = reference, owners
        self.step = max(1, BLOCK_ELEMENTS // max(1, reference.shape[1]))
        chunks = reference.detach().split(self.step)
        self.scale = max(float(c.double().abs().max()) for c in chunks) or 1.0
        sums = torch.stack([(c.double() / self.scale).sum(dim=0) for c in chunks])
        self.centre = sums.sum(dim=0) / len(reference)
        self.kept = [self._lifted(c) for c in chunks] if reference.numel() <= KEPT_ELEMENTS else None
        # Rounding of a product of n terms grows like sqrt(n) units in practice (Higham and Mary, 2019).
        self.unit = (8 + 4 * reference.shape[1] ** 0.5) * torch.finfo(torch.float64).eps
        self.largest = max(float(c[:, -1].max()) for c in self._chunks())

    def _centred(self, h: Tensor) -> Tensor:
        return (h.detach().double() / self.scale).sub_(self.centre).clamp_(-FARTHEST, FARTHEST)

    def _lifted(self, h: Tensor) -> Tensor:
        """(b, d + 1): r and |r|^2, whose product with -2q and 1 is |q - r|^2 - |q|^2."""
        r = self._centred(h)
        return torch.cat([r, r.square().sum(dim=1, keepdim=True)], dim=1)

    def _chunks(self) -> Iterator[Tensor]:
        yield from self.kept or (self._lifted(c) for c in self.reference.detach().split(self.step))

    def of_class(self, queries: Tensor, wanted: Tensor, classes: Tensor, owners: Tensor | None = None) -> Tensor:
        """Rank of the nearest reference point of the wanted class.

        Args:
            queries: (n, d).
            wanted: (n,) class of each query.
            classes: (m,) class of each reference point.
            owners: (n,) what each query belongs to, if the reference has owners.

        Returns:
            (n,) float64, 0 to m; the number of points compared with if none is of that class.
        """
        ranks = torch.empty(len(queries), dtype=torch.float64, device=queries.device)
        for c in wanted.unique().tolist():
            members, rows = (classes == c).nonzero()[:, 0], (wanted == c).nonzero()[:, 0]
            for found, distances, size in self._distances(queries, rows, owners):
                slack = self.unit * size
                alike = distances[:, members]
                nearest = alike.amin(dim=1) if len(members) else distances.new_full((len(found),), torch.inf)
                below, tied = (c[:, 0] for c in _count(distances, *((nearest + e)[:, None] for e in (-slack, slack))))
                alike = (alike <= (nearest + slack)[:, None]).sum(dim=1)
                # The first of c points among t tied ones has (t - c) / (c + 1) of the others before it.
                ranks[found] = below + (tied - alike) / (alike + 1)
                none = nearest.isinf()
                if none.any():
                    ranks[found[none]] = torch.isfinite(distances[none]).sum(dim=1).double()
        return ranks

    def neighbours(self, queries: Tensor, k: int, owners: Tensor | None = None) -> Tensor:
        """(n, k) int64 reference points nearest to each query, the nearest first."""
        chosen = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
        for found, distances, size in self._distances(queries, torch.arange(len(queries)), owners):
            nearest = distances.topk(min(k + 1, distances.shape[1]), dim=1, largest=False)
            chosen[found] = nearest.indices[:, :k]
            doubtful = (nearest.values.diff(dim=1) <= GRID * size[:, None]).any(dim=1)
            # On a grid, equal rows stay equal whatever the rounding of the block they came in.
            steps = (distances[doubtful] / (GRID * size[doubtful])[:, None]).floor_()
            chosen[found[doubtful]] = steps.topk(k, dim=1, largest=False).indices
        return chosen

    def of_points(self, queries: Tensor, points: Tensor, owners: Tensor | None = None) -> Tensor:
        """Ranks of given reference points.

        Args:
            queries: (n, d).
            points: (n, k) int64 reference points of each query.
            owners: (n,) what each query belongs to, if the reference has owners.

        Returns:
            (n, k) float64, 0 to m - 1.
        """
        ranks = torch.empty(points.shape, dtype=torch.float64, device=queries.device)
        for found, distances, size in self._distances(queries, torch.arange(len(queries)), owners):
            slack = self.unit * size
            at = distances.gather(1, points[found])
            below, tied = _count(distances, at - slack[:, None], at + slack[:, None])
            ranks[found] = below + (tied - 1) / 2
        return ranks

    def _distances(
        self, queries: Tensor, rows: Tensor, owners: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield some of the rows, their (b, m) squared distances less |q|^2, and (b,) how large these can be.

        Without |q|^2 the differences keep their digits however far the query. Distances to what the query
        belongs to are infinite.
        """
        for found in rows.to(queries.device).split(max(1, BLOCK_ELEMENTS // len(self.reference))):
            q = self._centred(queries[found])
            lifted = torch.cat([-2 * q, q.new_ones(len(q), 1)], dim=1)
            products = [lifted @ chunk.T for chunk in self._chunks()]
            distances = products[0] if len(products) == 1 else torch.cat(products, dim=1)
            if owners is not None and self.owners is not None:
                distances.masked_fill_(owners[found][:, None] == self.owners, torch.inf)
            yield found, distances, self.largest + 2 * q.norm(dim=1) * self.largest**0.5


def _count(distances: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of values below each ``low`` of their row, and from it to the ``high`` that belongs to it.

    Rounding to float32 keeps the order. Where it leaves one value between the bounds, which is the point itself,
    the float32 counts are exact; other bounds are counted again in float64.

    Args:
        distances: (n, m).
        low: (n, k), none above its ``high``; each pair has a value of the row in between.
        high: (n, k).

    Returns:
        (n, k) and (n, k) float64.
    """
    size = max(1, COUNT_ELEMENTS // distances.shape[1])
    below, upto = torch.empty_like(low), torch.empty_like(low)
    for start in range(0, len(distances), size):
        part = slice(start, start + size)
        d = distances[part].float()
        # Comparisons written as numbers run on vectors, and their sums need no conversion.
        answers = torch.empty_like(d)
        for j in range(low.shape[1]):
            below[part, j] = torch.lt(d, low[part, j, None].float(), out=answers).sum(dim=1, dtype=torch.float32)
            upto[part, j] = torch.le(d, high[part, j, None].float(), out=answers).sum(dim=1, dtype=torch.float32)
    rows, columns = (upto - below != 1).nonzero(as_tuple=True)
    for row, j in zip(rows.split(size), columns.split(size), strict=True):
        d = distances[row]
        below[row, j] = (d < low[row, j, None]).sum(dim=1).double()
        upto[row, j] = (d <= high[row, j, None]).sum(dim=1).double()
    return below, upto - below


def outlier_map(trajectories: Tensor, outlier: Outlier, step: float, explained: float) -> tuple[Tensor, Tensor]:
    """Mean and linear map W of trajectories, such that |(x - mean) W|^2 says how unusual x is.

    ``mahalanobis``: the inverse root of the covariance; eigenvalues are raised to step^2 / n, the variance that
    a single trajectory would cause by one step. ``pca``: coordinates are divided by their standard deviations
    (raised to step / sqrt(n)) and turned to their principal axes; the leading ones, as few as explain the share
    ``explained`` of the variance, are divided by their standard deviations, and all others by the root of
    their mean variance (raised to 1 / n): the distance within the principal subspace plus the error of the
    reconstruction from it, each in units of its variance.

    Args:
        trajectories: (n, c), any float dtype.
        outlier: which.
        step: smallest difference between two values of a trajectory, above 0.
        explained: share in (0, 1].

    Returns:
        (c,) mean and (c, c) map, float64.
    """
    x = trajectories.double()
    mean, n = x.mean(dim=0), len(x)
    centred = x - mean
    if outlier == "mahalanobis":
        values, vectors = torch.linalg.eigh(centred.T @ centred / n)
        return mean, vectors / values.clamp(min=step**2 / n).sqrt()
    deviations = centred.square().mean(dim=0).sqrt().clamp(min=step / n**0.5)
    z = centred / deviations
    values, vectors = (found.flip(-1) for found in torch.linalg.eigh(z.T @ z / n))
    values = values.clamp(min=0)
    share = values.cumsum(dim=0) / values.sum().clamp(min=torch.finfo(torch.float64).tiny)
    leading = int((share < explained).sum()) + 1
    minor = values[leading:].mean() if leading < len(values) else values.new_zeros(())
    variances = torch.cat([values[:leading], minor.expand(len(values) - len(values[:leading]))])
    return mean, vectors / variances.clamp(min=1 / n).sqrt() / deviations[:, None]
