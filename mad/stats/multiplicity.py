"""Several behaviours or candidates at once: e-BH, the average of e-values, and when a family of streams may stop.

An e-value is non-negative with mean at most 1 under its null: the wealth at a stopping time is one, the largest
wealth so far is not. All e-values here are logs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mad.config import require
from mad.stats.wealth import average


class Family(NamedTuple):
    """Where the streams of a family stopped.

    Attributes:
        discovered: (K,) whether the joint e-BH set contains the stream when all have stopped.
        stopped_at: (K,) 1-based unit at which it stopped; 0 = it ran to the end.
        log_e: (K,) log wealth where it stopped.
    """

    discovered: Tensor
    stopped_at: Tensor
    log_e: Tensor


def e_bh(log_e: Tensor, alpha: float) -> Tensor:
    """The e-Benjamini-Hochberg set (2009.02824): false discovery rate at most alpha under any dependence.

    The k largest e-values are discoveries for the largest k such that the k-th is at least K / (alpha k).

    Args:
        log_e: (..., K) log e-values, all at one stopping time.
        alpha: false discovery rate.

    Returns:
        (..., K) bool.
    """
    require(0 < alpha < 1, f"alpha must lie between 0 and 1, got {alpha}")
    count = log_e.shape[-1]
    ordered = log_e.sort(dim=-1, descending=True).values
    k = torch.arange(1, count + 1, dtype=torch.float64, device=log_e.device)
    needed = math.log(count / alpha) - k.log()
    largest = torch.where(ordered >= needed, k, 0).amax(dim=-1, keepdim=True)
    return (log_e >= math.log(count / alpha) - largest.log()) & (largest > 0)


def global_test(log_e: Tensor, alpha: float) -> Tensor:
    """Whether the average of (..., K) e-values refutes that every null is true, at level alpha (any dependence)."""
    require(0 < alpha < 1, f"alpha must lie between 0 and 1, got {alpha}")
    return average(log_e, dim=-1) >= -math.log(alpha)


def stop_jointly(log_wealth: Tensor, alpha: float) -> Family:
    """Stop each stream of a family when the joint e-BH set contains it, or its wealth reaches K / alpha.

    At 1 / alpha it may not stop: a frozen wealth that small can hardly pass K / (alpha k) later. A stream that
    has stopped keeps its wealth, so the e-BH set never loses it; each wealth stays an e-process with respect to
    what all streams have shown so far, and the set has its false discovery rate at the end. (A wealth of
    K / alpha alone makes an e-BH set of one, so the joint set contains it too.)

    Args:
        log_wealth: (K, n) after each unit, as if no stream ever stopped; the streams share their units.
        alpha: false discovery rate.
    """
    count = len(log_wealth)
    stopped_at = torch.zeros(count, dtype=torch.int64)
    now = log_wealth.clone()
    while True:
        discovered = e_bh(now.T, alpha).T
        fresh = discovered & (stopped_at == 0)[:, None]
        if not fresh.any():
            return Family(discovered[:, -1], stopped_at, now[:, -1])
        first = int(fresh.any(dim=0).int().argmax())
        for stream in fresh[:, first].nonzero()[:, 0]:
            now[stream, first:] = now[stream, first].clone()
            stopped_at[stream] = first + 1
