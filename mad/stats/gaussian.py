"""Means, covariances and Mahalanobis distances, exact in float64 whatever the chunking.

Covariances here divide by n, the maximum-likelihood divisor: it is the one the Ledoit-Wolf formula and the
class-tied covariance of 1807.03888 are stated for, and n or n - 1 only rescales a distance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from scipy.linalg import eigh
from torch import Tensor

from mad.errors import DataError

BLOCK_ELEMENTS = 2**17  # float64 values held at once: 1 MB, which a core's cache holds between conversion and product
NullSpace = Literal["floor", "drop"]


@dataclass(frozen=True, eq=False)
class Moments:
    """Sufficient statistics of a Gaussian; two sets of rows are joined with ``+``.

    Attributes:
        count: number of rows n.
        mean: (d,) float64.
        scatter: (d, d) float64, the sum over rows of (x - mean)(x - mean)'.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, chunks: Iterable[Tensor]) -> Moments:
        """Moments of the rows of (n_i, d) chunks of any float dtype.

        Rows are gathered into blocks of a fixed size first, so the cut into chunks changes not even a bit;
        each block is centred on its own mean before it is squared, so a large mean costs no digits.

        Raises:
            DataError: no rows, or chunks of different widths.
        """
        count, mean, scatter = 0, torch.empty(0), torch.empty(0)
        for x in blocks(chunks):
            if not count:
                mean = x.new_zeros(x.shape[1])
                scatter = x.new_zeros(x.shape[1], x.shape[1])
            block_mean = x.mean(dim=0)
            centred, step = x - block_mean, block_mean - mean
            total = count + len(x)
            scatter.addmm_(centred.T, centred).addr_(step, step, alpha=count * len(x) / total)
            mean += step * (len(x) / total)
            count = total
        if not count:
            raise DataError("no rows to take moments of")
        return cls(count, mean, scatter)

    def __add__(self, other: Moments) -> Moments:
        """Moments of both sets of rows together (pairwise update of Chan, Golub and LeVeque)."""
        total, step = self.count + other.count, other.mean - self.mean
        return Moments(
            total,
            self.mean + step * (other.count / total),
            (self.scatter + other.scatter).addr_(step, step, alpha=self.count * other.count / total),
        )

    def covariance(self) -> Tensor:
        """(d, d) maximum-likelihood covariance, scatter / n."""
        return self.scatter / self.count

    def variance(self) -> Tensor:
        """(d,) diagonal of the covariance."""
        return self.scatter.diagonal() / self.count

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (d,) ascending, not below 0, and eigenvectors (d, d) in columns, of the covariance.

        Kept, because every shrinkage, rcond and null-space rule of a sweep reuses it.
        """
        values, vectors = torch.linalg.eigh(self.covariance())
        return values.clamp(min=0), vectors


@dataclass(frozen=True, eq=False)
class TiedMoments:
    """Class means and the scatter about them, shared by all classes.

    Attributes:
        labels: (K,) int64 classes that occur, ascending.
        means: (K, d) float64.
        within: moments of the rows minus the mean of their class.
    """

    labels: Tensor
    means: Tensor
    within: Moments

    @classmethod
    def of(cls, read: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> TiedMoments:
        """Two passes over the (m, d) rows and (m,) classes that ``read()`` yields: means, then scatter."""
        sums: dict[int, Tensor] = {}
        counts: dict[int, int] = {}
        for h, classes in read():
            for c in classes.unique().tolist():
                rows = h[classes == c]
                part = torch.stack([b.sum(dim=0) for b in blocks([rows])]).sum(dim=0)
                sums[c] = sums[c] + part if c in sums else part
                counts[c] = counts.get(c, 0) + len(rows)
        if not sums:
            raise DataError("no rows to take moments of")
        labels = torch.tensor(sorted(sums))
        means = torch.stack([sums[c] / counts[c] for c in labels.tolist()])
        return cls(labels, means, Moments.of(residuals(read(), labels, means)))


def residuals(points: Iterable[tuple[Tensor, Tensor]], labels: Tensor, means: Tensor) -> Iterator[Tensor]:
    """Yield the rows minus the mean of their class, float64, in blocks."""
    for h, classes in points:
        which = torch.searchsorted(labels.to(classes.device), classes)
        start = 0
        for x in blocks([h]):
            yield x - means[which[start : start + len(x)]]
            start += len(x)


def blocks(chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Cut and join (n_i, d) chunks into float64 blocks of equally many rows (the last may be shorter)."""
    held: list[Tensor] = []
    rows = free = 0
    for chunk in chunks:
        if chunk.ndim != 2 or (held and chunk.shape[1] != held[0].shape[1]):
            widths = f"{held[0].shape[1]} and {tuple(chunk.shape)}" if held else f"{tuple(chunk.shape)}"
            raise DataError(f"rows must all be (n, d) of one width, got {widths}")
        if not rows:
            rows = free = max(256, BLOCK_ELEMENTS // max(1, chunk.shape[1]))
        while len(chunk):
            held.append(chunk[:free].double())
            chunk, free = chunk[free:], free - len(held[-1])
            if not free:
                yield torch.cat(held) if len(held) > 1 else held[0]
                held, free = [], rows
    if held:
        yield torch.cat(held) if len(held) > 1 else held[0]


def ledoit_wolf(moments: Moments, chunks: Iterable[Tensor]) -> float:
    """Optimal shrinkage toward trace/d I, Ledoit and Wolf (2004), 10.1016/S0047-259X(03)00096-4.

    Args:
        moments: of the rows.
        chunks: the same rows once more; only sum ||x - mean||^4 needs them, no second d x d product.

    Returns:
        The weight s in [0, 1] for :func:`shrink`.
    """
    n, d = moments.count, len(moments.mean)
    fourth = sum(float((x - moments.mean).square().sum(dim=1).square().sum()) for x in blocks(chunks))
    norm = float(moments.covariance().square().sum())
    spread = norm - float(moments.variance().sum()) ** 2 / d
    noise = min((fourth / n - norm) / n, spread)
    return max(0.0, noise / spread) if spread > 0 else 0.0


def shrink(spread: Tensor, s: float) -> Tensor:
    """(1 - s) S + s (tr S / d) I.

    Args:
        spread: S as a (d, d) covariance, or only its (d,) eigenvalues or diagonal.
        s: weight in [0, 1].
    """
    if spread.ndim == 1:
        return (1 - s) * spread + s * spread.mean()
    identity = torch.eye(len(spread), dtype=spread.dtype, device=spread.device)
    return (1 - s) * spread + s * spread.diagonal().mean() * identity


def inverse_root(variances: Tensor, rcond: float, null_space: NullSpace) -> Tensor:
    """1 / sqrt of (d,) variances; those below ``rcond`` times the largest are raised to it or get weight 0.

    Raises:
        DataError: all variances are zero.
    """
    least = rcond * variances.max()
    if not least > 0:
        raise DataError("all rows are equal: there is no spread to measure a distance by")
    roots = variances.clamp(min=float(least)).rsqrt()
    return roots if null_space == "floor" else roots * (variances > least)


def whitening(moments: Moments, shrinkage: float, rcond: float, null_space: NullSpace) -> Tensor:
    """Map W, (d, r), such that (x - mean) W has unit covariance.

    Args:
        moments: of the reference rows.
        shrinkage: see :func:`shrink`.
        rcond: smallest eigenvalue kept, as a part of the largest.
        null_space: ``floor`` raises smaller eigenvalues to that (r = d), so that movement along directions in
            which the reference is flat counts; ``drop`` ignores them (r = retained rank).
    """
    values, vectors = moments.eigen
    roots = inverse_root(shrink(values, shrinkage), rcond, null_space)
    kept = roots > 0
    return vectors[:, kept] * roots[kept]


def mahalanobis(h: Tensor, centres: Tensor, whitener: Tensor) -> Tensor:
    """Squared distance of each row to the nearest centre, divided by the number of whitened directions.

    Args:
        h: (n, d) rows of any float dtype.
        centres: (K, d).
        whitener: (d, r) map, or the (d,) diagonal of one (zeros mark dropped coordinates).

    Returns:
        (n,) float64; memory is a few blocks beyond the result.
    """
    rank = whitener.shape[1] if whitener.ndim == 2 else int(whitener.count_nonzero())
    origin = centres.mean(dim=0)

    def whiten(x: Tensor) -> Tensor:
        return (x - origin) @ whitener if whitener.ndim == 2 else (x - origin) * whitener

    # Differences, not |a|^2 + |b|^2 - 2ab: that loses digits where classes are tight and far apart.
    mode = "donot_use_mm_for_euclid_dist"
    targets = whiten(centres)
    parts = [torch.cdist(whiten(x), targets, compute_mode=mode).amin(dim=1).square() for x in blocks([h])]
    return torch.cat(parts) / rank if parts else h.new_zeros(0, dtype=torch.float64)


def top_directions(moments: Moments, count: int) -> Tensor:
    """(d, count) orthonormal eigenvectors of the covariance, the largest eigenvalue first."""
    d = len(moments.mean)
    # LAPACK finds a few eigenvectors in about a quarter of the time of all.
    _, vectors = eigh(moments.covariance().cpu().numpy(), subset_by_index=[d - count, d - 1])
    return torch.from_numpy(vectors).to(moments.mean.device).flip(1)
