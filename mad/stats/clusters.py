"""Several generations of one prompt as one unit: rows that share a cluster are no independent evidence."""

from __future__ import annotations

import torch
from torch import Tensor

from mad.errors import DataError
from mad.stats.bets._base import Pairs, checked


def group(x: Tensor, x_clusters: Tensor, y: Tensor, y_clusters: Tensor) -> Pairs:
    """Group rows by cluster, in the order in which clusters first occur in x.

    Args:
        x: (N,) or (N, d) scores of the baseline.
        x_clusters: (N,) integer number of each row's prompt.
        y: (M,) or (M, d) scores of the candidate; the sides may hold different numbers of rows of a prompt.
        y_clusters: (M,).

    Returns:
        One stream of units; absent generations are padded with weight 0.

    Raises:
        DataError: lengths that differ, a prompt on one side only, or scores that are NaN or infinite.
    """
    for scores, clusters in ((x, x_clusters), (y, y_clusters)):
        if not len(scores) or clusters.shape != scores.shape[:1]:
            raise DataError(f"{tuple(scores.shape)} scores and {tuple(clusters.shape)} cluster numbers do not match")
    names, unit, first = _first_seen(x_clusters)
    found = torch.searchsorted(names, y_clusters).clamp(max=len(names) - 1)
    if not torch.equal(names[found], y_clusters) or len(y_clusters.unique()) != len(names):
        raise DataError("some prompts have scores on one side only: drop and count them before the test")
    sides = [_pad(scores.detach(), own, len(names)) for scores, own in ((x, unit), (y, first[found]))]
    return checked(Pairs(sides[0][0], sides[1][0], sides[0][1], sides[1][1]))


def _first_seen(clusters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sorted cluster numbers (n,), the unit of each row, and the unit of each sorted number: by first occurrence."""
    names, inverse = clusters.unique(return_inverse=True)
    rows = torch.arange(len(clusters))
    earliest = torch.full_like(names, len(clusters)).scatter_reduce(0, inverse, rows, "amin")
    unit_of_name = earliest.argsort().argsort()
    return names, unit_of_name[inverse], unit_of_name


def _pad(scores: Tensor, unit: Tensor, units: int) -> tuple[Tensor, Tensor]:
    """Scores (1, units, m, d) and weights (1, units, m), m the size of the largest unit."""
    sizes = unit.bincount(minlength=units)
    order = unit.argsort(stable=True)
    place = torch.arange(len(unit)) - (sizes.cumsum(0) - sizes)[unit[order]]
    padded = torch.zeros(units, int(sizes.max()), scores[0].numel(), dtype=torch.float64)
    weights = torch.zeros(padded.shape[:2], dtype=torch.float64)
    padded[unit[order], place] = scores[order].double().reshape(len(scores), -1)
    weights[unit[order], place] = 1 / sizes[unit[order]].double()
    return padded[None], weights[None]
