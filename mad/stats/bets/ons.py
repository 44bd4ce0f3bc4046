"""Online Newton step on the weights of step features: one step per batch, memory that does not grow.

With z the gradient of -log(1 + w'(f(x) - f(y))) at a past pair, A the ridge plus the sum of all z z', a batch moves
w by -rate A^-1 sum z (Hazan, Agarwal & Kale 2007; for betting 1802.06293, 2112.09162). Past pairs are not looked
at again, and thresholds stay where the first batch placed them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mad.config import require
from mad.stats.bets import _base, _steps
from mad.stats.bets._base import Pairs, State

LARGEST_NORM = 0.5
"""of the weights, as published: the loss is exp-concave there"""


@dataclass(frozen=True)
class Config:
    """Options of the bet."""

    thresholds: int = 11
    """quantiles per score at which g may step, at least 1"""
    ridge: float = 150.0
    """start of A, above 0: the larger, the slower it learns"""
    rate: float = 2.0
    """length of a step, above 0"""

    def __post_init__(self) -> None:
        require(self.thresholds >= 1, f"thresholds must be at least 1, got {self.thresholds}")
        require(self.ridge > 0, f"ridge must be above 0, got {self.ridge}")
        require(self.rate > 0, f"rate must be above 0, got {self.rate}")


class Bet(_base.Bet):
    """State: thresholds (F, d, K), weights (F, d K), their curvature A (F, d K, d K), codes seen."""

    config: Config
    candidates = 2

    def start(self, streams: Tensor, dimensions: int, seed: int) -> State:
        zeros = torch.zeros(len(streams), dimensions, self.config.thresholds, dtype=torch.float64)
        weights = zeros.flatten(1)
        curvature = self.config.ridge * torch.eye(weights.shape[1], dtype=torch.float64)
        return {
            "thresholds": zeros + torch.inf,
            "weights": weights,
            "curvature": curvature.repeat(len(streams), 1, 1),
            "seen": torch.zeros(*zeros.shape[:2], 2 * zeros.shape[2] + 1, dtype=torch.bool),
        }

    def values(self, state: State, z: Tensor) -> Tensor:
        table = _steps.step_table(state["weights"], z.shape[2])
        return _steps.two_scales(table, state["seen"], _steps.codes(state["thresholds"], z))

    def learn(self, state: State, past: Pairs, fresh: int) -> State:
        first = past.units == fresh
        thresholds = _steps.place(*past.pooled(), self.config.thresholds) if first else state["thresholds"]
        recent = past.cut(past.units - fresh, past.units)
        f_x, f_y = (_steps.features(thresholds, *side) for side in recent.sides)
        gain = (f_x - f_y) / (1 + (f_x - f_y) @ state["weights"][:, :, None])
        curvature = state["curvature"] + gain.mT @ gain
        uphill = gain.sum(dim=1)[:, :, None]
        step = torch.cholesky_solve(uphill, torch.linalg.cholesky(curvature))[:, :, 0]
        weights = _steps.bounded(state["weights"] + self.config.rate * step, LARGEST_NORM)
        seen = state["seen"] | _steps.occurring(thresholds, recent)
        return {"thresholds": thresholds, "weights": weights, "curvature": curvature, "seen": seen}
