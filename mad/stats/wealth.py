"""Wealth of the auditing test: payoffs of a bet turned into a test martingale per tolerance.

Under the null (total variation at most the tolerance) a payoff D in [-1, 1], fixed by the past, has mean at most
the tolerance, whatever the dependence inside a pair; so 1 + b (D - tolerance) with a fraction b chosen from the
past has mean at most 1, and is positive for b < 1 / (1 + tolerance). Wealth is kept as a float64 sum of logs.

The fraction of each candidate is the average over a grid of fractions, weighted by a power of the wealth that each
would have now: an exponentially weighted forecaster (Cesa-Bianchi & Lugosi 2006). Any choice from the past is
valid; power and grid only decide how soon a shift is found.

Shapes: F streams, T tolerances, C candidates, J fractions, G groups of candidates with one wealth each, B pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from mad.config import require

Penalty = Literal["fraction", "exp", "all_in"]
SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8, 0.98)
"""the grid of fractions, in units of 1 / (1 + tolerance), the largest one allowed"""
RATE = 4.0
"""power of the wealth by which fractions are weighted: a bet improves as it learns, so old payoffs count for less"""
PRIOR_PAIRS = 50
"""each fraction starts as if this many pairs had paid nothing, so that a positive tolerance is not met by guessing"""
ALL_IN = 1 - 1e-6
"""share of the largest fraction that counts as all in: at 1 a single pair could end the test"""
CHUNK = 32
"""factors multiplied before a log is taken: at least (1 - ALL_IN)^32 = 1e-192, well inside float64"""


def check_settings(tolerances: Sequence[float], alpha: float) -> None:
    """Check a grid of tolerances and a level.

    Raises:
        ConfigError: alpha outside (0, 1); tolerances outside [0, 1), none, or not increasing.
    """
    require(0 < alpha < 1, f"alpha must lie between 0 and 1, got {alpha}")
    require(len(tolerances) > 0, "at least one tolerance is needed")
    bad = [t for t in tolerances if not 0 <= t < 1]
    require(not bad, f"a tolerance is a total variation in [0, 1), got {bad}")
    rising = all(a < b for a, b in pairwise(tolerances))
    require(rising, f"tolerances must increase, got {list(tolerances)}")


def threshold(alpha: float) -> float:
    """Log wealth at which the null is rejected, log(1 / alpha), by Ville's inequality."""
    return -math.log(alpha)


def fractions(tolerances: Tensor, penalty: Penalty = "fraction") -> Tensor:
    """The fractions to choose from, (T, J): all below 1 / (1 + tolerance)."""
    shares = SHARES if penalty == "fraction" else (ALL_IN,)
    return torch.tensor(shares, dtype=tolerances.dtype, device=tolerances.device) / (1 + tolerances[:, None])


def forecast(growth: Tensor, grid: Tensor, tolerances: Tensor, groups: Sequence[int]) -> Tensor:
    """Fraction put on each candidate for the next batch.

    Args:
        growth: (F, T, C, J) past log wealth of each candidate at each fraction.
        grid: (T, J) fractions.
        tolerances: (T,).
        groups: per candidate the wealth it plays with.

    Returns:
        (F, T, C), of one group together at most the largest fraction of the grid.
    """
    prior = PRIOR_PAIRS * (-grid * tolerances[:, None]).log1p()
    chosen = growth.new_zeros(growth.shape[:3])
    for members in _members(groups):
        own = RATE * growth[:, :, members] + prior[:, None]
        weights = own.flatten(2).softmax(dim=2).unflatten(2, own.shape[2:])
        chosen[:, :, members] = (weights * grid[:, None]).sum(dim=3)
    return chosen


def log_factors(
    payoffs: Tensor, chosen: Tensor, tolerances: Tensor, groups: Sequence[int], penalty: Penalty = "fraction"
) -> Tensor:
    """Log of the factor of each pair, (F, T, G, B).

    Args:
        payoffs: (F, C, B) in [-1, 1].
        chosen: (F, T, C) fractions.
        tolerances: (T,).
        groups: per candidate the wealth it plays with.
        penalty: ``fraction``, ``all_in`` (the same with one fraction), or ``exp``: exp(-tolerance)(1 + D), which
            is below (1 + D)/(1 + tolerance) by a constant.
    """
    found = []
    for members in _members(groups):
        own = chosen[:, :, members]
        gain = own @ payoffs[:, members] - own.sum(dim=2, keepdim=True) * tolerances[:, None]
        found.append(gain.log1p())
    logs = torch.stack(found, dim=2)
    return logs + (tolerances.log1p() - tolerances)[:, None, None] if penalty == "exp" else logs


def growth_of(payoffs: Tensor, grid: Tensor, tolerances: Tensor) -> Tensor:
    """Log wealth that a batch of payoffs (F, C, B) adds to each candidate at each fraction, (F, T, C, J)."""
    total = payoffs.new_zeros(len(payoffs), len(tolerances), payoffs.shape[1], grid.shape[1])
    for part in payoffs.split(CHUNK, dim=2):
        gain = (part[:, None] - tolerances[:, None, None])[:, :, :, None]
        total += (1 + grid[:, None, :, None] * gain).prod(dim=4).log()
    return total


def average(log_wealth: Tensor, dim: int) -> Tensor:
    """Log of the mean of several wealths: an e-process if each of them is one."""
    return log_wealth.logsumexp(dim=dim) - math.log(log_wealth.shape[dim])


def first_crossing(log_wealth: Tensor, alpha: float, start: int = 0) -> Tensor:
    """1-based number of the first pair at which the wealth (..., B) reached 1 / alpha; 0 where it did not.

    Args:
        log_wealth: (..., B) after each pair.
        alpha: level.
        start: pairs before the first of these.
    """
    crossed = log_wealth >= threshold(alpha)
    return torch.where(crossed.any(dim=-1), start + 1 + crossed.int().argmax(dim=-1), 0)


def shift_lower_bound(rejected: Tensor, tolerances: Tensor) -> Tensor:
    """Lower confidence bound on the total variation: the largest tolerance rejected with all smaller ones.

    Valid at all times together at the level of one test: let v be the true total variation. The bound is wrong
    only if it is at least v, hence only if the smallest tolerance on the grid that is at least v was rejected.
    For that one tolerance the null is true, and its wealth ever reaches 1/alpha with probability at most alpha.

    Args:
        rejected: (F, T) whether each tolerance was rejected at any time so far.
        tolerances: (T,) increasing.

    Returns:
        (F,), 0 where not even the smallest tolerance was rejected.
    """
    count = rejected.long().cumprod(dim=1).sum(dim=1)
    return torch.cat([tolerances.new_zeros(1), tolerances])[count]


def _members(groups: Sequence[int]) -> list[list[int]]:
    return [[c for c, g in enumerate(groups) if g == group] for group in sorted(set(groups))]
