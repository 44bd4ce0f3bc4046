"""Weights that maximise the past log wealth at tolerance 0: strongest early.

g is a sum of step features with weights w of l1 norm below 1; sum log(1 + w'(f(x) - f(y))) - ridge ||w||^2 / 2 is
concave, and damped Newton steps from the last weights follow it from batch to batch (Kelly 1956; 2009.03167,
2305.00143 for betting on functions). Equal ridge on the steps prefers smooth g. Two candidates: g at the scale of
the maximum, and g stretched to the whole of [-1/2, 1/2], which a positive tolerance needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mad.config import require
from mad.stats.bets import _base, _steps
from mad.stats.bets._base import Pairs, State

LARGEST_NORM = 0.98
"""of the weights, so that no pair of scores can take all the wealth"""


@dataclass(frozen=True)
class Config:
    """Options of the bet."""

    thresholds: int = 11
    """quantiles per score at which g may step, at least 1"""
    ridge: float = 150.0
    """inverse prior variance of one step's weight, above 0: the larger, the slower it learns"""
    newton_steps: int = 3
    """damped Newton steps per batch, at least 1"""
    window: int = 2000
    """latest units that vector scores and clusters are fitted on (single scores use all), at least 1"""

    def __post_init__(self) -> None:
        require(self.thresholds >= 1, f"thresholds must be at least 1, got {self.thresholds}")
        require(self.ridge > 0, f"ridge must be above 0, got {self.ridge}")
        require(self.newton_steps >= 1, f"newton_steps must be at least 1, got {self.newton_steps}")
        require(self.window >= 1, f"window must be at least 1, got {self.window}")


class Bet(_base.Bet):
    """State: thresholds (F, d, K), weights (F, d K), joint counts of codes, codes seen, units when last placed."""

    config: Config
    candidates = 2

    def start(self, streams: Tensor, dimensions: int, seed: int) -> State:
        count = self.config.thresholds
        zeros = torch.zeros(len(streams), dimensions, count, dtype=torch.float64, device=streams.device)
        return {
            "thresholds": zeros + torch.inf,
            "weights": zeros.flatten(1),
            "counts": zeros.new_zeros(len(streams), 2 * count + 1, 2 * count + 1),
            "seen": torch.zeros(len(streams), dimensions, 2 * count + 1, dtype=torch.bool),
            "placed": torch.zeros((), dtype=torch.int64),
        }

    def values(self, state: State, z: Tensor) -> Tensor:
        table = _steps.step_table(state["weights"], z.shape[2])
        return _steps.two_scales(table, state["seen"], _steps.codes(state["thresholds"], z))

    def learn(self, state: State, past: Pairs, fresh: int) -> State:
        new, count = dict(state), self.config.thresholds
        moved = _steps.due(state, past.units)
        if moved:
            new["thresholds"] = _steps.place(*past.pooled(), count)
            new["placed"] = torch.tensor(past.units)
        added = past if moved else past.cut(past.units - fresh, past.units)
        if past.dimensions == 1 and past.single:
            counts = _steps.joint_counts(new["thresholds"], added)
            new["counts"] = counts if moved else state["counts"] + counts
            new["seen"] = (new["counts"].sum(dim=1) + new["counts"].sum(dim=2))[:, None] > 0
            objective: _Objective = _OnCounts(new["counts"], _steps.steps(count).to(counts))
        else:
            recent = past.cut(max(0, past.units - self.config.window), past.units)
            f_x, f_y = (_steps.features(new["thresholds"], *side) for side in recent.sides)
            seen = _steps.occurring(new["thresholds"], added)
            new["seen"] = seen if moved else state["seen"] | seen
            objective = _OnRows(f_x - f_y)
        new["weights"] = climb(objective, state["weights"], self.config.ridge, self.config.newton_steps)
        return new


class _Objective(Protocol):
    """The past log wealth as a function of the weights (F, K)."""

    def slopes(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Its gradient (F, K) and negative Hessian (F, K, K)."""

    def reach(self, weights: Tensor, step: Tensor) -> Tensor:
        """Largest relative change of a factor along a step, (F,)."""


def climb(objective: _Objective, weights: Tensor, ridge: float, count: int) -> Tensor:
    """Newton steps shortened to 1 / (1 + reach): logs are self-concordant, so that each step climbs."""
    for _ in range(count):
        gradient, curvature = objective.slopes(weights)
        gradient = gradient - ridge * weights
        curvature.diagonal(dim1=1, dim2=2).add_(ridge)
        step = torch.cholesky_solve(gradient[:, :, None], torch.linalg.cholesky(curvature))[:, :, 0]
        step = step / (1 + objective.reach(weights, step)[:, None])
        weights = _steps.bounded(weights + step, LARGEST_NORM)
    return weights


class _OnCounts:
    """Of code pairs (i, j) that occurred counts_ij times: f_i - f_j need not be written out per pair."""

    def __init__(self, counts: Tensor, steps: Tensor):
        self.counts, self.steps = counts, steps

    def slopes(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        inverse = 1 / (1 + self._differences(weights))
        once = self.counts * inverse
        gradient = (once.sum(dim=2) - once.sum(dim=1)) @ self.steps
        twice = once * inverse
        laplacian = -twice - twice.mT
        laplacian.diagonal(dim1=1, dim2=2).add_(twice.sum(dim=2) + twice.sum(dim=1))
        return gradient, self.steps.T @ laplacian @ self.steps

    def reach(self, weights: Tensor, step: Tensor) -> Tensor:
        change = self._differences(step) / (1 + self._differences(weights))
        return (change.abs() * (self.counts > 0)).amax(dim=(1, 2))

    def _differences(self, weights: Tensor) -> Tensor:
        g = weights @ self.steps.T
        return g[:, :, None] - g[:, None, :]


class _OnRows:
    """Of units with feature differences ``rows`` (F, n, K)."""

    def __init__(self, rows: Tensor):
        self.rows = rows

    def slopes(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        scaled = self.rows / (1 + self.rows @ weights[:, :, None])
        return scaled.sum(dim=1), scaled.mT @ scaled

    def reach(self, weights: Tensor, step: Tensor) -> Tensor:
        change = (self.rows @ step[:, :, None]) / (1 + self.rows @ weights[:, :, None])
        return change.abs().amax(dim=(1, 2))
