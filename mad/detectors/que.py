"""Quantum entropy (QUE): distance weighted by how much untrusted data stretch each direction.

With the trusted mean mu and whitening W, and C the second moment of the WHITENED untrusted rows about mu
(1906.11366, 2104.11315)::

    x = W'(h - mu),  Q = exp(alpha (C - I) / (lambda_max(C) - 1)),  score(h) = x'Qx / tr Q

Where lambda_max(C) - 1 is no more than sampling noise there is no signal: Q = I, and the score is the
Mahalanobis distance. The state's ``signal`` says which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mad.config import require
from mad.detectors._base import LayerwiseDetector, Population, State
from mad.stats import gaussian
from mad.stats.quantum_entropy import NoiseRule, entropy_map, noise_edge, second_moment_about


@dataclass(frozen=True)
class Config:
    """Quantum entropy."""

    alpha: float = 4.0
    """0 weighs all directions alike (Mahalanobis); large keeps only the most stretched one (spectral)."""

    rcond: float = 1e-5
    """Trusted variances below this part of the largest are raised to it; strictly between 0 and 1."""

    shrinkage: float = 0.0
    """Weight in [0, 1] of the spherical covariance of equal trace in the whitening."""

    noise: NoiseRule = "two_sample"
    """Stretch that counts as noise: ``one_sample`` 2 sqrt(d/n) + d/n for n untrusted rows; ``two_sample``
    also counts the error of the trusted covariance (needs more trusted rows than directions); ``none``."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.alpha >= 0, f"alpha must not be negative, got {self.alpha}")
        require(0 < self.rcond < 1, f"rcond must lie strictly between 0 and 1, got {self.rcond}")
        require(0 <= self.shrinkage <= 1, f"shrinkage must lie in [0, 1], got {self.shrinkage}")


class Detector(LayerwiseDetector):
    """Quantum entropy score.

    State per layer, float64: ``mean`` (1, d); ``factor`` (d, d) with score = ||(h - mean) factor||^2;
    ``excess`` lambda_max(C) - 1 without shrinkage, ``noise`` what sampling explains of it, and ``signal``, 1 or 0.

    Raises:
        FitError: trusted rows that are all equal.
    """

    fits_on = ("trusted", "untrusted")
    config: Config

    def fit_layer(self, layer: str, populations: dict[str, Population], seed: int) -> State:
        """Whitening and entropy map of a layer; nothing is drawn from ``seed``."""
        config = self.config
        trusted, untrusted = populations["trusted"].moments(layer), populations["untrusted"].moments(layer)
        moment = second_moment_about(untrusted, trusted.mean)

        def whitened(shrinkage: float) -> tuple[Tensor, Tensor]:
            whitener = gaussian.whitening(trusted, shrinkage, config.rcond, "floor")
            return whitener, whitener.T @ moment @ whitener

        whitener, stretch = whitened(config.shrinkage)
        values = trusted.eigen[0]
        rank = int((values > config.rcond * values[-1]).sum())
        noise = noise_edge(rank, trusted.count, untrusted.count, config.noise)
        # Shrunk whitening stretches the widest trusted directions themselves: without it, that is no signal.
        plain = whitened(0.0)[1] if config.shrinkage else stretch
        excess = float(torch.linalg.eigvalsh(plain)[-1]) - 1
        entropy = entropy_map(stretch, config.alpha, noise if excess > noise else math.inf)
        return {
            "mean": trusted.mean[None],
            "factor": whitener @ entropy.factor,
            "excess": torch.tensor(excess, dtype=torch.float64),
            "noise": torch.tensor(noise, dtype=torch.float64),
            "signal": torch.tensor(float(entropy.signal), dtype=torch.float64),
        }

    def score_layer(self, state: State, h: Tensor, classes: Tensor | None) -> Tensor:
        """(m,) scores of (m, d) points."""
        rank = state["factor"].shape[1]
        return gaussian.mahalanobis(h, state["mean"], state["factor"]) * rank  # the trace is in the factor
