"""Step functions of scores: mid-indicators at past pooled quantiles, and the counts that suffice to fit them.

Feature k of a score z is (1{z > q_k} + 1{z >= q_k})/2 - 1/2: -1/2 below the threshold, 0 on it, 1/2 above, so
that point masses separate and no bandwidth is needed. All features of a score follow from one number, its code
#{q < z} + #{q <= z} in 0..2K; a fit on scalar scores needs only how often each (pair of) code occurred.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mad.stats.bets._base import Pairs, State

REPLACE_AT = 2
"""thresholds are placed anew when the past has grown by this factor"""


def place(scores: Tensor, weights: Tensor, count: int) -> Tensor:
    """Thresholds at ``count`` pooled quantiles, each one a score that occurred.

    Args:
        scores: (F, N, d).
        weights: (F, N) share of a unit each score stands for; scores of weight 0 are absent.
        count: K.

    Returns:
        (F, d, K) increasing; a quantile that repeats is infinite, its feature the same for all scores.
    """
    columns, order = scores.transpose(1, 2).masked_fill((weights == 0)[:, None], torch.inf).sort(dim=2)
    below = weights[:, None].expand(columns.shape).gather(2, order).cumsum(dim=2)
    # The margin keeps weights that sum to a level but for rounding on one side of it.
    levels = torch.arange(1, count + 1, dtype=scores.dtype, device=scores.device) / (count + 1) + 1e-9
    rank = torch.searchsorted(below, levels * below[:, :, -1:], right=True)
    found = columns.gather(2, rank.clamp(max=columns.shape[2] - 1))
    repeats = torch.zeros_like(found, dtype=torch.bool)
    repeats[..., 1:] = found[..., 1:] == found[..., :-1]
    return found.masked_fill(repeats, torch.inf).sort(dim=2).values


def codes(thresholds: Tensor, scores: Tensor) -> Tensor:
    """Codes of scores (F, N, d): (F, d, N) int64 in 0..2K."""
    columns = scores.transpose(1, 2).contiguous()
    below = torch.searchsorted(thresholds, columns)
    return below + torch.searchsorted(thresholds, columns, right=True)


def steps(count: int) -> Tensor:
    """The features of each code: (2K + 1, K)."""
    code, k = torch.arange(2 * count + 1)[:, None], torch.arange(count)[None, :]
    return (code - 2 * k - 1).clamp(-1, 1).double() / 2


def step_table(weights: Tensor, d: int) -> Tensor:
    """The sum of weighted features, per dimension and code: (F, d, 2K + 1) from weights (F, d K)."""
    return weights.unflatten(1, (d, -1)) @ steps(weights.shape[1] // d).to(weights).T


def occurring(thresholds: Tensor, units: Pairs) -> Tensor:
    """Which codes occurred in either side, (F, d, 2K + 1) bool."""
    scores, weights = units.pooled()
    found = codes(thresholds, scores)
    counts = scores.new_zeros(*thresholds.shape[:2], 2 * thresholds.shape[2] + 1)
    return counts.scatter_add_(2, found, weights[:, None].expand(found.shape).contiguous()) > 0


def two_scales(table: Tensor, seen: Tensor, found: Tensor) -> Tensor:
    """A step function at its own scale, and stretched so that the codes seen fill [-1/2, 1/2]: (F, 2, N).

    Args:
        table: (F, d, 2K + 1) per code, its largest difference at most 1.
        seen: (F, d, 2K + 1) whether a code has occurred; others are cut to the range of those.
        found: (F, d, N) codes.
    """
    low = table.masked_fill(~seen, torch.inf).amin(dim=2, keepdim=True)
    high = table.masked_fill(~seen, -torch.inf).amax(dim=2, keepdim=True)
    nothing = low > high
    low, high = low.masked_fill(nothing, 0), high.masked_fill(nothing, 0)
    span = (high - low).sum(dim=1, keepdim=True)
    within = torch.minimum(torch.maximum(table, low), high)
    stretched = (within - (low + high) / 2) / torch.where(span > 0, span, 1)
    return torch.stack([look_up(t, found) for t in (table, stretched)], dim=1)


def bounded(weights: Tensor, norm: float) -> Tensor:
    """Weights (F, K) shrunk to an l1 norm of at most ``norm``, so that the function stays in [-norm/2, norm/2]."""
    return weights * (norm / weights.abs().sum(dim=1, keepdim=True).clamp(min=norm))


def due(state: State, units: int) -> bool:
    """Whether thresholds are to be placed anew."""
    return units >= REPLACE_AT * int(state["placed"])


def look_up(table: Tensor, found: Tensor) -> Tensor:
    """Sum over dimensions of a function given per code.

    Args:
        table: (F, d, 2K + 1).
        found: (F, d, N) codes.

    Returns:
        (F, N).
    """
    return table.gather(2, found).sum(dim=1)


def joint_counts(thresholds: Tensor, units: Pairs) -> Tensor:
    """How often codes (i, j) of x and y occurred together, (F, 2K + 1, 2K + 1); scalar scores, single units."""
    size = 2 * thresholds.shape[2] + 1
    i, j = codes(thresholds, units.x[:, :, 0])[:, 0], codes(thresholds, units.y[:, :, 0])[:, 0]
    counts = units.x.new_zeros(units.streams, size * size)
    return counts.scatter_add_(1, i * size + j, torch.ones_like(i, dtype=counts.dtype)).unflatten(1, (size, size))


def counts_of(thresholds: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
    """Weight at each code, (F, 2K + 1), of scalar scores (F, n, m, 1) with weights (F, n, m)."""
    found = codes(thresholds, scores.flatten(1, 2))[:, 0]
    counts = scores.new_zeros(len(scores), 2 * thresholds.shape[2] + 1)
    return counts.scatter_add_(1, found, weights.flatten(1))


def features(thresholds: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
    """Mean features of each unit: (F, n, d K) from scores (F, n, m, d) with weights (F, n, m)."""
    streams, d, count = thresholds.shape
    found = codes(thresholds, scores.flatten(1, 2)).transpose(1, 2)
    rows = steps(count).to(scores)[found].reshape(streams, *scores.shape[1:3], d * count)
    return (rows * weights[..., None]).sum(dim=2)
