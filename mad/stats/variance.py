"""Where the variance of features lies: between and within groups of rows, and along its leading directions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.linalg import eigh
from torch import Tensor

from mad.errors import DataError

NEGLIGIBLE = 1e-12
"""directions with less than this part of the largest variance count as flat"""


class Shares(NamedTuple):
    """Variance of rows in groups.

    Attributes:
        total: mean squared distance of a row from the mean of all.
        between: share of it that lies between the means of the groups, in [0, 1]; the rest lies within groups.
        chance: the share that groups of these sizes, filled at random, have on average.
    """

    total: float
    between: float
    chance: float


class Components(NamedTuple):
    """Principal components.

    Attributes:
        mean: (d,) of the rows.
        directions: (d, k) orthonormal, the largest variance first; zero columns beyond the rank.
        shares: (k,) share of the total variance along each.
    """

    mean: Tensor
    directions: Tensor
    shares: Tensor


def split_variance(h: Tensor, groups: Tensor) -> Shares:
    """The law of total variance, summed over coordinates: total = between groups + within groups.

    Args:
        h: (n, d) rows of any float dtype.
        groups: (n,) any labels.

    Returns:
        ``between`` and ``chance`` are NaN where all rows are equal, ``chance`` is 1 where each group has one row.

    Raises:
        DataError: no rows, or unequal lengths.
    """
    if h.ndim != 2 or not len(h) or groups.shape != (len(h),):
        raise DataError(f"rows {tuple(h.shape)} and groups {tuple(groups.shape)} do not match")
    names, member = groups.unique(return_inverse=True)
    centred = h.double() - h.double().mean(dim=0)
    counts = torch.bincount(member, minlength=len(names)).double()
    sums = torch.zeros(len(names), h.shape[1], dtype=torch.float64).index_add_(0, member, centred)
    total, between = centred.square().sum(), (sums.square().sum(dim=1) / counts).sum()
    if not total > 0:
        return Shares(0.0, float("nan"), float("nan"))
    # A random partition: (K - 1) of n - 1 degrees of freedom lie between the groups.
    return Shares(float(total / len(h)), float(between / total), (len(names) - 1) / (len(h) - 1))


def principal_components(h: Tensor, count: int) -> Components:
    """The ``count`` directions of the largest variance, exactly, by the smaller of the two Gram matrices.

    Each direction points where its largest coefficient is positive, so that repeated figures look the same.

    Args:
        h: (n, d) rows of any float dtype.
        count: k, directions wanted.

    Raises:
        DataError: no rows.
    """
    if h.ndim != 2 or not len(h):
        raise DataError(f"principal components need rows (n, d), got {tuple(h.shape)}")
    mean = h.double().mean(dim=0)
    centred = h.double() - mean
    n, d = centred.shape
    kept, size = min(count, n, d), min(n, d)
    gram = centred.T @ centred if d <= n else centred @ centred.T
    # LAPACK finds a few eigenvectors in about a quarter of the time of all.
    found_values, found_vectors = eigh(gram.numpy(), subset_by_index=[size - kept, size - 1])
    values, vectors = torch.from_numpy(found_values).flip(0).clamp(min=0), torch.from_numpy(found_vectors).flip(1)
    flat = values <= NEGLIGIBLE * values[:1]
    found = vectors if d <= n else centred.T @ vectors / values.sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    found = torch.where(flat, 0.0, found)
    largest = found.gather(0, found.abs().argmax(dim=0, keepdim=True))
    directions = torch.zeros(d, count, dtype=torch.float64)
    directions[:, :kept] = torch.where(largest < 0, -found, found)
    shares = torch.zeros(count, dtype=torch.float64)
    shares[:kept] = values / centred.square().sum().clamp(min=torch.finfo(torch.float64).tiny)
    return Components(mean, directions, shares)
