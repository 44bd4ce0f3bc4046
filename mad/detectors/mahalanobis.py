"""Mahalanobis distance to the trusted rows (1807.03888), and its relative forms (2106.09022).

With mean mu and covariance S of the trusted rows::

    score(h) = (h - mu)' S^-1 (h - mu) / d,    S shrunk: (1 - s) S + s (tr S / d) I

``class_conditional`` replaces mu by the means of the predicted classes, S by the covariance about them, and
takes the minimum over classes. ``relative`` subtracts a second distance, so that what is merely large does
not look strange.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mad.config import require
from mad.detectors._base import LayerwiseDetector, Population, State
from mad.stats import gaussian
from mad.stats.gaussian import Moments


@dataclass(frozen=True)
class Config:
    """Mahalanobis distance."""

    shrinkage: float | Literal["ledoit_wolf"] = 0.0
    """Weight in [0, 1] of the spherical covariance of equal trace; ``ledoit_wolf`` estimates the best one."""

    null_space: Literal["floor", "drop"] = "floor"
    """Directions in which trusted rows are flat: ``floor`` raises their variance to rcond times the largest,
    so that movement along them counts; ``drop`` ignores them and divides by the rank that is left."""

    rcond: float = 1e-5
    """Smallest variance kept, as a part of the largest; strictly between 0 and 1."""

    class_conditional: bool = False
    """One mean for each predicted class, a common covariance, and the distance to the nearest class."""

    relative: Literal["none", "diagonal", "background"] = "none"
    """Distance subtracted: under the diagonal of the same covariance, or under one Gaussian of all trusted
    rows (``background``, which needs class_conditional)."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(
            isinstance(self.shrinkage, str) or 0 <= self.shrinkage <= 1,
            f"shrinkage must lie in [0, 1] or be 'ledoit_wolf', got {self.shrinkage}",
        )
        require(0 < self.rcond < 1, f"rcond must lie strictly between 0 and 1, got {self.rcond}")
        require(
            self.relative != "background" or self.class_conditional,
            "relative 'background' needs class_conditional true: without classes it is identically 0",
        )


class Detector(LayerwiseDetector):
    """Squared Mahalanobis distance per direction: about 1 on trusted rows, unless ``relative``.

    State per layer, float64: ``means`` (K, d), ``whitener`` (d, r); with ``relative`` also ``diagonal`` (d,),
    or ``background_mean`` (1, d) and ``background_whitener`` (d, r').

    Raises:
        FitError: ``class_conditional`` on rows without logits, or trusted rows that are all equal.
    """

    config: Config

    def __init__(self, config: Config, state: State | None = None):
        """Ask for logits where classes are used."""
        super().__init__(config, state)
        if config.class_conditional:
            self.needs = self.needs | {"logits"}

    def fit_layer(self, layer: str, populations: dict[str, Population], seed: int) -> State:
        """Means and whitening maps of the trusted rows of a layer; nothing is drawn from ``seed``."""
        trusted, config = populations["trusted"], self.config
        pooled = trusted.moments(layer)
        if not config.class_conditional:
            moments = pooled
            state, shrinkage = self._gaussian(moments, pooled.mean[None], lambda: trusted.rows(layer))
        else:
            tied = trusted.tied_moments(layer)
            moments = tied.within
            state, shrinkage = self._gaussian(
                moments,
                tied.means,
                lambda: gaussian.residuals(trusted.labelled_points(layer), tied.labels, tied.means),
            )
        if config.relative == "diagonal":
            variances = gaussian.shrink(moments.variance(), shrinkage)
            state["diagonal"] = gaussian.inverse_root(variances, config.rcond, config.null_space)
        if config.relative == "background":
            background, _ = self._gaussian(pooled, pooled.mean[None], lambda: trusted.rows(layer))
            state |= {"background_mean": background["means"], "background_whitener": background["whitener"]}
        return state

    def _gaussian(self, moments: Moments, means: Tensor, read: Callable[[], Iterable[Tensor]]) -> tuple[State, float]:
        config = self.config
        s = gaussian.ledoit_wolf(moments, read()) if isinstance(config.shrinkage, str) else config.shrinkage
        whitener = gaussian.whitening(moments, s, config.rcond, config.null_space)
        return {"means": means, "whitener": whitener}, s

    def score_layer(self, state: State, h: Tensor, classes: Tensor | None) -> Tensor:
        """(m,) distances of (m, d) points; the minimum is over all classes, whatever the model predicts."""
        distance = gaussian.mahalanobis(h, state["means"], state["whitener"])
        if self.config.relative == "diagonal":
            distance -= gaussian.mahalanobis(h, state["means"], state["diagonal"])
        if self.config.relative == "background":
            distance -= gaussian.mahalanobis(h, state["background_mean"], state["background_whitener"])
        return distance
