"""Distance to the nearest trusted rows (2204.06507).

With d_1 <= ... <= d_k the distances of h to its k nearest trusted rows::

    score(h) = d_k   (kth, as published)   or   (d_1 + ... + d_k) / k   (mean)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mad.config import require
from mad.detectors._base import LayerwiseDetector, Population, State
from mad.errors import FitError
from mad.stats.neighbors import Metric, nearest


@dataclass(frozen=True)
class Config:
    """Nearest neighbours."""

    k: int = 10
    """Neighbours, at least 1 and at most the number of trusted rows."""

    metric: Metric = "euclidean"
    """``euclidean``, or ``cosine`` (1 - cosine), the order of the published normalised features."""

    aggregate: Literal["mean", "kth"] = "kth"
    """The distance to the k-th neighbour, or the mean over all k."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.k >= 1, f"k must be at least 1, got {self.k}")


class Detector(LayerwiseDetector):
    """Distance to trusted neighbours, found exactly.

    State per layer: ``reference`` (m, d), the trusted rows, float32 unless they came as float64.

    Raises:
        FitError: fewer trusted rows than ``k``.
    """

    config: Config

    def fit_layer(self, layer: str, populations: dict[str, Population], seed: int) -> State:
        """Keep the trusted rows of a layer; nothing is drawn from ``seed``."""
        reference = populations["trusted"].matrix(layer)
        if len(reference) < self.config.k:
            raise FitError(f"{len(reference)} trusted rows are fewer than k = {self.config.k} neighbours")
        return {"reference": reference.clone()}

    def score_layer(self, state: State, h: Tensor, classes: Tensor | None) -> Tensor:
        """(m,) distances of (m, d) points."""
        distances, _ = nearest(h, state["reference"], self.config.k, self.config.metric)
        return distances.mean(dim=1) if self.config.aggregate == "mean" else distances[:, -1]
