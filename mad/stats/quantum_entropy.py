"""Quantum entropy: how much of a row lies where untrusted data are stretched (1906.11366, 2104.11315)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mad.stats.gaussian import Moments

NoiseRule = Literal["two_sample", "one_sample", "none"]
TRACY_WIDOM_95 = 0.9793  # 95 % point of the real Tracy-Widom law


@dataclass(frozen=True)
class EntropyMap:
    """Factor of the score matrix Q / tr Q.

    Attributes:
        factor: (r, r), so that x'Qx / tr Q = ||x' factor||^2.
        excess: lambda_max(C) - 1.
        signal: whether the excess is above the noise; if not, Q = I.
    """

    factor: Tensor
    excess: float
    signal: bool


def second_moment_about(moments: Moments, centre: Tensor) -> Tensor:
    """(d, d) mean of (x - centre)(x - centre)' from sufficient statistics."""
    step = moments.mean - centre
    return moments.covariance().addr_(step, step)


def noise_edge(rank: int, trusted: int, untrusted: int, rule: NoiseRule) -> float:
    """Excess lambda_max(C) - 1 that sampling alone explains when both populations are the same Gaussian.

    Args:
        rank: directions in which the trusted rows vary.
        trusted: rows that the whitening was estimated from.
        untrusted: rows that C was estimated from.
        rule: ``one_sample``, 2 sqrt(d/n) + d/n, the upper edge for n untrusted rows and exact whitening.
            ``two_sample`` also counts the error of the whitening: the 95 % point of the largest root by
            Johnstone (2008), 0803.3408; infinite if the trusted rows are no more than the directions, since
            then nothing can be told from noise. ``none``, 0.
    """
    if rule == "none":
        return 0.0
    if rule == "one_sample":
        return 2 * math.sqrt(rank / untrusted) + rank / untrusted
    m, n = trusted - 1, untrusted
    if rank >= m:
        return math.inf
    total = m + n - 1
    gamma = 2 * math.asin(math.sqrt((min(rank, n) - 0.5) / total))
    phi = 2 * math.asin(math.sqrt((max(rank, n) - 0.5) / total))
    centre = 2 * math.log(math.tan((phi + gamma) / 2))
    width = (16 / total**2 / (math.sin(phi + gamma) ** 2 * math.sin(phi) * math.sin(gamma))) ** (1 / 3)
    return m / n * math.exp(centre + TRACY_WIDOM_95 * width) - 1


def entropy_map(second_moment: Tensor, alpha: float, noise: float) -> EntropyMap:
    """Q = exp(alpha (C - I) / (lambda_max(C) - 1)), factored; I where the excess is within ``noise``.

    Args:
        second_moment: C, (r, r) second moment of whitened untrusted rows about the trusted mean.
        alpha: 0 weighs all directions alike; large keeps only the most stretched one.
        noise: excess that means nothing, from :func:`noise_edge`.
    """
    values, vectors = torch.linalg.eigh(second_moment)
    excess = float(values[-1]) - 1
    signal = excess > max(noise, 0.0)
    exponent = alpha * (values - 1) / excess if signal else torch.zeros_like(values)
    weights = torch.softmax(exponent, dim=0)
    return EntropyMap(vectors * weights.sqrt(), excess, signal)
