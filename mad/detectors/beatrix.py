"""Gram features outside their usual range (Beatrix, 2209.11715), with exact medians over the whole trusted set.

With r_p(h) the signed p-th roots of the Gram entries of h^p (upper triangle with the diagonal), and m_p, a_p the
median and the median absolute deviation of each entry over the trusted rows of the predicted class::

    score(h) = mean over p of  sum over entries of  max(0, m_p - c a_p - r_p, r_p - m_p - c a_p) / |bound passed|

where c is ``mad_scale`` and a bound smaller than ``floor`` times the root mean square of the layer's trusted
entries for that power counts as that. A predicted class without enough trusted rows is judged by the median and
the deviation of all trusted rows. The published batchwise averages of medians are not used: they depend on the
order and the size of batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mad.config import require
from mad.detectors._base import Batch, LayerwiseDetector, Population, State, checked_points, predicted_class
from mad.detectors._population import NO_LOGITS
from mad.detectors._positions import Join, join_positions
from mad.errors import FitError
from mad.stats import gram, random

ROWS = 1024  # scaled, projected and scored at once
LARGEST_POWER = 32


@dataclass(frozen=True)
class Config:
    """Gram features outside their usual range."""

    powers: tuple[int, ...] = (1, 2, 3, 4)
    """Powers p of the features, each 1 to 32. Without positions all odd ones agree, and all even ones."""

    mad_scale: float = 10.0
    """Half-width of the usual range, in median absolute deviations; at least 0."""

    per_class: bool = True
    """Medians of the trusted rows of each predicted class, as published; else of all trusted rows."""

    min_class_rows: int = 20
    """Trusted rows that a predicted class needs for medians of its own, at least 1."""

    positions: Literal["gram", "points"] = "gram"
    """Features with positions: ``gram`` sums the Gram matrix over a row's positions, ``points`` scores each
    position by itself."""

    score_aggregation: Join = "mean"
    """How the scores of a row's positions are joined where positions is ``points``."""

    max_width: int = 512
    """Wider layers are projected to this many dimensions, at random and orthogonally; at least 1. The work
    grows with its square."""

    exact: bool = False
    """Never project: all pairs of features, however wide the layer. Slow, and a large state, but the working
    memory stays bounded."""

    floor: float = 1e-3
    """Least divisor of a deviation, as a part of the root mean square of the trusted Gram features; above 0.
    Sparse features have bounds at 0."""

    def __post_init__(self) -> None:
        """Check ranges."""
        legal = bool(self.powers) and all(1 <= p <= LARGEST_POWER for p in self.powers)
        require(legal, f"powers must be whole numbers from 1 to {LARGEST_POWER}, got {list(self.powers)}")
        require(self.mad_scale >= 0, f"mad_scale must be at least 0, got {self.mad_scale}")
        require(self.min_class_rows >= 1, f"min_class_rows must be at least 1, got {self.min_class_rows}")
        require(self.max_width >= 1, f"max_width must be at least 1, got {self.max_width}")
        require(self.floor > 0, f"floor must be above 0, got {self.floor}")


class Detector(LayerwiseDetector):
    """Sum of relative deviations of Gram features from their trusted range: 0 where all lie inside.

    State per layer, float64 unless stated, for P' distinct powers, D pairs of features and K classes with enough
    trusted rows: ``lower`` and ``upper`` (G, P', D), where group k is class ``classes[k]`` and a last one, if any
    other class can be predicted, is all trusted rows; ``classes`` (K,) int64; ``floor`` (P',); ``powers`` (P',)
    int64; ``weights`` (P',); ``scale`` (), the largest trusted feature; ``positions`` () int64; ``projection``
    (d, max_width) if projected.

    Raises:
        FitError: ``per_class`` on rows without logits, trusted features that are all 0, or rows with several
            positions where there were none to fit on.
    """

    config: Config

    def __init__(self, config: Config, state: State | None = None):
        """Ask for logits where classes are used."""
        super().__init__(config, state)
        if config.per_class:
            self.needs = self.needs | {"logits"}

    def fit_layer(self, layer: str, populations: dict[str, Population], seed: int) -> State:
        """Bounds of a layer; the projection of a wide one is drawn from ``seed``."""
        trusted = populations["trusted"]
        scale = max(float(h.abs().max()) for h in trusted.rows(layer))
        if not scale:
            raise FitError("trusted features are all 0: leave this layer out with --extract.layers")
        state = {"scale": torch.tensor(scale, dtype=torch.float64)}
        width = trusted.batches[0].features[layer].shape[-1]
        if width > self.config.max_width and not self.config.exact:
            state["projection"] = _projection(width, self.config.max_width, random.derive(seed, "beatrix", layer))
        h = self._trusted_rows(layer, trusted, state)
        classes = self._trusted_classes(layer, trusted) if self.config.per_class else None
        labels, others = self._labels(trusted, classes)
        members = [] if classes is None else [classes == c for c in labels.tolist()]
        members += [torch.ones(len(h), dtype=torch.bool, device=h.device)] if others else []
        positions = h.shape[1] if h.ndim == 3 else 1
        powers, weights = gram.distinct_powers(self.config.powers, positions)
        lower, upper, floors = zip(*(self._bounds(h, p, members, others) for p in powers), strict=True)
        return state | {
            "lower": torch.stack(lower, dim=1),
            "upper": torch.stack(upper, dim=1),
            "floor": torch.tensor(floors, dtype=torch.float64),
            "classes": labels,
            "powers": torch.tensor(powers),
            "weights": torch.tensor(weights, dtype=torch.float64),
            "positions": torch.tensor(positions),
        }

    def _bounds(self, h: Tensor, power: int, members: list[Tensor], others: bool) -> tuple[Tensor, Tensor, float]:
        """(G, D) lower and upper bounds for one power, and the least divisor."""
        found = [gram.statistics(gram.GramRows(h[m], power)) for m in members]
        # The last group is all rows, unless the classes alone are.
        squares = found[-1][2] if others else sum(f[2] for f in found)
        median, reach = torch.stack([f[0] for f in found]), self.config.mad_scale * torch.stack([f[1] for f in found])
        entries = len(h) * gram.num_pairs(h.shape[-1])
        return median - reach, median + reach, self.config.floor * (squares / entries) ** 0.5

    def _labels(self, trusted: Population, classes: Tensor | None) -> tuple[Tensor, bool]:
        """Classes with enough rows, ascending; and whether any other class can be predicted."""
        if classes is None:
            return torch.empty(0, dtype=torch.int64), True
        labels, counts = classes.unique(return_counts=True)
        labels = labels[counts >= self.config.min_class_rows]
        return labels, len(labels) < max(2, trusted.logits().shape[1])

    def _trusted_rows(self, layer: str, trusted: Population, state: State) -> Tensor:
        if self.config.positions == "points":
            return torch.cat([_prepared(state, h) for h in trusted.rows(layer)])
        return _padded([_prepared(state, _without_padding(b.features[layer], b.mask)) for b in trusted.batches])

    def _trusted_classes(self, layer: str, trusted: Population) -> Tensor:
        if self.config.positions == "points":
            return torch.cat([c for _, c in trusted.labelled_points(layer)])
        return predicted_class(trusted.logits())

    def score(self, batch: Batch) -> dict[str, Tensor]:
        """(n,) scores per layer."""
        scores = {}
        for layer, features in batch.features.items():
            state = self.layer_state(layer)
            points, owner = checked_points(batch, layer, int(state["width"]))
            classes = None if batch.logits is None else predicted_class(batch.logits)
            if features.ndim == 3 and self.config.positions == "points":
                found = self.score_layer(state, points, None if classes is None else classes[owner])
                scores[layer] = join_positions(found, owner, len(features), self.config.score_aggregation)
            else:
                scores[layer] = self.score_layer(state, _without_padding(features, batch.mask), classes)
        return scores

    def score_layer(self, state: State, h: Tensor, classes: Tensor | None) -> Tensor:
        """(n,) deviations of (n, d) or (n, t, d) rows with zeros for padding."""
        if h.ndim == 3 and int(state["positions"]) == 1:
            raise FitError(f"rows with {h.shape[1]} positions, fitted on rows without: extract both alike")
        groups, scores = self._groups(state, h, classes), h.new_zeros(len(h), dtype=torch.float64)
        for group in groups.unique().tolist():
            members = (groups == group).nonzero()[:, 0]
            for rows in members.split(ROWS):
                scores[rows] = self._deviations(state, _prepared(state, h[rows]), group)
        return scores

    def _groups(self, state: State, h: Tensor, classes: Tensor | None) -> Tensor:
        """(n,) the group that judges each row: that of its class, else the last, which is all trusted rows."""
        labels = state["classes"]
        pooled = torch.full((len(h),), len(labels), device=h.device)
        if not self.config.per_class:
            return pooled
        if classes is None:
            raise FitError(NO_LOGITS.format("these"))
        if not len(labels):
            return pooled
        which = torch.searchsorted(labels, classes).clamp_(max=len(labels) - 1)
        return torch.where(labels[which] == classes, which, pooled)

    def _deviations(self, state: State, h: Tensor, group: int) -> Tensor:
        total = h.new_zeros(len(h))
        for k, power in enumerate(state["powers"].tolist()):
            lower, upper = state["lower"][group, k], state["upper"][group, k]
            found = gram.deviations(gram.GramRows(h, power), lower, upper, float(state["floor"][k]))
            total += state["weights"][k] * found
        return total


def _without_padding(features: Tensor, mask: Tensor | None) -> Tensor:
    """(n, d), or (n, t, d) with zeros at padded positions; a single position is none."""
    if features.ndim == 2:
        return features
    if features.shape[1] == 1:
        return features[:, 0]
    return features if mask is None else features.masked_fill(~mask.bool()[:, :, None], 0)


def _prepared(state: State, h: Tensor) -> Tensor:
    """Scaled and, in wide layers, projected features of the same shape, float64."""
    parts = [gram.scaled(part, state["scale"]) for part in h.split(ROWS)]
    return torch.cat([x @ state["projection"] if "projection" in state else x for x in parts])


def _padded(parts: list[Tensor]) -> Tensor:
    """Join (n_i, d) or (n_i, t_i, d) rows; shorter ones are padded with zeros."""
    if all(h.ndim == 2 for h in parts):
        return torch.cat(parts)
    parts = [h[:, None] if h.ndim == 2 else h for h in parts]
    longest = max(h.shape[1] for h in parts)
    return torch.cat([torch.nn.functional.pad(h, (0, 0, 0, longest - h.shape[1])) for h in parts])


def _projection(width: int, target: int, seed: int) -> Tensor:
    """(width, target) orthonormal columns, uniformly distributed."""
    return torch.linalg.qr(random.normal(seed, torch.arange(width), target))[0]
