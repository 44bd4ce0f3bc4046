"""Spectral signatures: the direction along which untrusted data are stretched most (1811.00636).

With mean mu and top eigenvectors v_1..v_m of the covariance of the untrusted rows::

    score(h) = sum_j ((h - mu) . v_j)^2

A poisoned part of the data pulls v_1 toward its own shift. It needs no trusted rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mad.config import require
from mad.detectors._base import LayerwiseDetector, Population, State
from mad.errors import FitError
from mad.stats import gaussian


@dataclass(frozen=True)
class Config:
    """Spectral signatures."""

    directions: int = 1
    """Number of eigenvectors, the largest eigenvalues first; at least 1 (published: 1)."""

    per_class: bool = False
    """A mean and directions of its own for each predicted class, as published; without it the spread between
    classes may take the top direction. Classes with fewer than 2 untrusted rows use the pooled ones."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.directions >= 1, f"directions must be at least 1, got {self.directions}")


class Detector(LayerwiseDetector):
    """Squared projection on the top directions of the untrusted rows.

    State per layer, float64: ``means`` (K + 1, d), ``directions`` (K + 1, d, m), the pooled ones first,
    and the int64 ``classes`` (K,); K = 0 unless ``per_class``.

    Raises:
        FitError: ``per_class`` on rows without logits.
    """

    fits_on = ("untrusted",)
    config: Config

    def __init__(self, config: Config, state: State | None = None):
        """Ask for logits where classes are used."""
        super().__init__(config, state)
        if config.per_class:
            self.needs = self.needs | {"logits"}

    def fit_layer(self, layer: str, populations: dict[str, Population], seed: int) -> State:
        """Means and directions of the untrusted rows of a layer; nothing is drawn from ``seed``."""
        untrusted = populations["untrusted"]
        pooled = untrusted.moments(layer)
        count = min(self.config.directions, len(pooled.mean))
        means, directions, classes = [pooled.mean], [gaussian.top_directions(pooled, count)], []
        for c, moments in untrusted.class_moments(layer) if self.config.per_class else ():
            if moments.count >= 2:
                means.append(moments.mean)
                directions.append(gaussian.top_directions(moments, count))
                classes.append(c)
        return {
            "means": torch.stack(means),
            "directions": torch.stack(directions),
            "classes": torch.tensor(classes, dtype=torch.int64),
        }

    def score_layer(self, state: State, h: Tensor, classes: Tensor | None) -> Tensor:
        """(m,) squared projections of (m, d) points."""
        if classes is None and self.config.per_class:
            raise FitError("rows carry no logits: extract with --extract.logits true")
        group = torch.zeros(len(h), dtype=torch.int64)
        if classes is not None:
            for index, c in enumerate(state["classes"].tolist(), start=1):
                group[classes == c] = index
        scores = torch.zeros(len(h), dtype=torch.float64)
        for index in group.unique().tolist():
            chosen = group == index
            scores[chosen] = _project(h[chosen], state["means"][index], state["directions"][index])
        return scores


def _project(h: Tensor, mean: Tensor, directions: Tensor) -> Tensor:
    return torch.cat([((x - mean) @ directions).square().sum(dim=1) for x in gaussian.blocks([h])])
