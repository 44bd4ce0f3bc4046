"""Betting confidence sequence: an interval for the mean difference of bounded scores at all times (2010.09686).

For a variable z in [0, 1] and a supposed mean m, prod (1 + l (z - m)) with l chosen from the past is a martingale if m
is the mean; it is refuted from below once that of z - m reaches 2 / alpha, from above with that of m - z. The
interval holds what is not refuted, at any time so far.

Both wealths are monotone in m (each factor 1 + min(l, c / m)(z - m) decreases in m), so the refuted m lie at the
ends, and bounds taken at refuted points of a grid err on the wide side: the grid costs width, never coverage.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mad.config import require
from mad.errors import DataError

State = dict[str, Tensor]
Verdict = Literal["shifted", "within_mean_tolerance", "undecided"]
TRUNCATION = 0.5
"""c: a factor never falls below 1 - c, so wealth is never lost"""
CHUNK = 128
"""units whose wealths are held at once"""


class Interval(NamedTuple):
    """Bounds after each unit, (F, n) each: the lower never falls, the upper never rises."""

    low: Tensor
    high: Tensor


class MeanDifference:
    """Interval for the mean of x - y, scores within [low, high], units independent.

    Args:
        low: smallest score possible.
        high: largest score possible.
        alpha: the interval misses the mean at any time with probability at most alpha.
        resolution: cells of the grid of means; one cell is 2 (high - low) / resolution wide.
    """

    def __init__(self, low: float, high: float, alpha: float = 0.05, resolution: int = 2000):
        require(math.isfinite(low) and math.isfinite(high) and low < high, f"not a range of scores: {low} to {high}")
        require(0 < alpha < 1, f"alpha must lie between 0 and 1, got {alpha}")
        require(resolution >= 2, f"resolution must be at least 2, got {resolution}")
        self.low, self.high, self.alpha = low, high, alpha
        self.means = torch.arange(1, resolution, dtype=torch.float64) / resolution

    def start(self, streams: int) -> State:
        """The state before the first unit: the interval is the whole range of differences."""
        zeros = torch.zeros(streams, dtype=torch.float64)
        width = self.high - self.low
        return {
            "count": torch.zeros((), dtype=torch.int64),
            "total": zeros,
            "squares": zeros,
            "rising": zeros[:, None].repeat(1, len(self.means)),
            "falling": zeros[:, None].repeat(1, len(self.means)),
            "low": zeros - width,
            "high": zeros + width,
        }

    def update(self, state: State, x: Tensor, y: Tensor) -> tuple[State, Interval]:
        """Take in further units.

        Args:
            state: before them; not changed.
            x: (F, n) scores of the baseline, of a cluster the mean.
            y: (F, n) of the candidate.

        Returns:
            The state after them, and the bounds after each of them.

        Raises:
            DataError: scores that are NaN or outside the declared range.
        """
        for side in (x, y):
            outside = int((~((side >= self.low) & (side <= self.high))).sum())
            if outside:
                raise DataError(f"{outside} scores lie outside the declared range [{self.low:g}, {self.high:g}]")
        z = ((x - y).double() / (self.high - self.low) + 1) / 2
        parts = []
        for chunk in z.split(CHUNK, dim=1):
            state, part = self._update(state, chunk)
            parts.append(part)
        low, high = (torch.cat(bounds, dim=1) for bounds in zip(*parts, strict=True))
        return state, Interval(low, high)

    def _update(self, state: State, z: Tensor) -> tuple[State, Interval]:
        bets, new = self._bets(state, z)
        found = []
        for wealth, odds, sign in (("rising", self.means, 1), ("falling", 1 - self.means, -1)):
            bet = torch.minimum(bets[:, None], TRUNCATION / odds[:, None])
            logs = (sign * bet * (z[:, None] - self.means[:, None])).log1p()
            paths = state[wealth][:, :, None] + logs.cumsum(dim=2)
            new[wealth] = paths[:, :, -1]
            found.append((paths >= math.log(2 / self.alpha)).sum(dim=1))
        grid = torch.cat([torch.zeros(1, dtype=torch.float64), self.means, torch.ones(1, dtype=torch.float64)])
        # Refuted from below are the smallest means, refuted from above the largest.
        low, high = ((2 * grid[k] - 1) * (self.high - self.low) for k in (found[0], len(grid) - 1 - found[1]))
        low = torch.maximum(low.cummax(dim=1).values, state["low"][:, None])
        high = torch.minimum(high.cummin(dim=1).values, state["high"][:, None])
        return {**new, "low": low[:, -1], "high": high[:, -1]}, Interval(low, high)

    def _bets(self, state: State, z: Tensor) -> tuple[Tensor, State]:
        """The predictable plug-in bets (F, n), each from the units before its own."""
        count = state["count"] + torch.arange(1, z.shape[1] + 1)
        totals = state["total"][:, None] + z.cumsum(dim=1)
        mean = (0.5 + totals) / (count + 1)
        squares = state["squares"][:, None] + ((z - mean) ** 2).cumsum(dim=1)
        before = torch.cat([state["squares"][:, None], squares[:, :-1]], dim=1)
        variance = (0.25 + before) / count
        bets = (2 * math.log(2 / self.alpha) / (variance * count * (1 + count).log())).sqrt()
        return bets, {"count": count[-1], "total": totals[:, -1], "squares": squares[:, -1]}


def verdict(rejected: bool, low: float, high: float, mean_tolerance: float | None = None) -> Verdict:
    """What an audit says: a shift that was found outweighs a mean that did not move.

    Args:
        rejected: whether the wealth crossed 1 / alpha.
        low: lower bound of the mean difference.
        high: upper bound.
        mean_tolerance: largest mean difference that is tolerated, in score units; None: nothing is certified.
    """
    if rejected:
        return "shifted"
    inside = mean_tolerance is not None and -mean_tolerance <= low and high <= mean_tolerance
    return "within_mean_tolerance" if inside else "undecided"
