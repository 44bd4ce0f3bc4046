"""Topological evolution: how near a point stays to its own kind from layer to layer (TED, 2312.02673).

A point becomes a trajectory of ranks, counted among the trusted points of a layer by distance:

``class`` (as published): in every layer, the rank of the nearest trusted point of the predicted class.
``neighbors``: its ``n_neighbors`` nearest trusted points in the reference layer, and the rank that each of them
has in every other layer. A single layer leaves it nothing to follow, and all scores are 0; so are those of
``class`` where one class is all that is predicted. The state's ``signal`` is then 0.

Entries are log(1 + rank); ``normalize_ranks`` divides ranks by the number of reference points first, by default
for ``neighbors`` (a logarithm would stretch the ranks within a class and hide those beyond it). Trusted
points are ranked without themselves and the other positions of their row; the score is the distance of a
trajectory from theirs, per coordinate::

    mahalanobis   (x - m)' S^-1 (x - m) / c, eigenvalues of S raised to s^2 / n
    pca           with z the standardised x, y its principal coordinates and v their variances, sorted:
                  (sum over i <= r of y_i^2 / v_i  +  sum over i > r of y_i^2 / mean of v_{r+1}, v_{r+2}, ...) / c

where m and S are mean and covariance of the n trusted trajectories, s the step from rank 0 to rank 1, and r the
fewest components that explain a share ``explained_variance``. (The detector of the published code sums
distances between z and unit eigenvectors, which depend on the eigenvectors' arbitrary signs.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mad.config import require
from mad.detectors import _base
from mad.detectors._base import (
    Batch,
    Population,
    Report,
    State,
    check_finite,
    check_population,
    flatten_positions,
    layer_widths,
    predicted_class,
)
from mad.detectors._population import NO_LOGITS
from mad.detectors._positions import End, Join, cut_positions, join_positions
from mad.errors import FitError
from mad.stats import gaussian, random
from mad.stats.ranks import Outlier, Ranks, content_order, outlier_map

SCORE = "trajectory"


@dataclass(frozen=True)
class Config:
    """Rank trajectories over layers."""

    variant: Literal["class", "neighbors"] = "class"
    """``class`` follows the nearest trusted point of the predicted class, ``neighbors`` the nearest points of
    the reference layer."""

    n_neighbors: int = 10
    """Points followed by ``neighbors``, at least 1 and fewer than there are trusted rows."""

    reference_layer: str | None = None
    """Layer in which ``neighbors`` are found; none takes the first."""

    outlier: Outlier = "mahalanobis"
    """Distance between trajectories: ``mahalanobis``, or ``pca``, which pools the minor components."""

    explained_variance: float = 0.9
    """Share of the variance, above 0 and at most 1, that the principal components of ``pca`` explain."""

    contamination: float = 0.0
    """Share in [0, 0.5) of trusted trajectories, the most unusual ones, left out of a second fit of mean and
    covariance; 0 trusts them all."""

    normalize_ranks: bool | None = None
    """Divide ranks by the number of reference points before the logarithm, which then hardly bends, so that far
    ranks weigh more; none does so for ``neighbors`` only, whose usual ranks spread over a whole class."""

    score_aggregation: Join = "mean"
    """How the scores of a row's positions are joined."""

    max_seq_len: int | None = None
    """Real positions used of each row, at least 1; none uses all."""

    truncate_seq_at: End = "end"
    """Where positions beyond max_seq_len are cut off."""

    max_reference: int | None = None
    """Trusted points kept, drawn from the seed, at least 2; none keeps all. Fitting takes time with their
    square, scoring in proportion."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.n_neighbors >= 1, f"n_neighbors must be at least 1, got {self.n_neighbors}")
        share, trimmed = self.explained_variance, self.contamination
        require(0 < share <= 1, f"explained_variance must be above 0 and at most 1, got {share}")
        require(0 <= trimmed < 0.5, f"contamination must be at least 0 and below 0.5, got {trimmed}")
        longest, kept = self.max_seq_len, self.max_reference
        require(longest is None or longest >= 1, f"max_seq_len must be at least 1, got {longest}")
        require(kept is None or kept >= 2, f"max_reference must be at least 2, got {kept}")


@dataclass(frozen=True)
class _Points:
    """The same points in every layer: (m, d) features, (m,) rows they belong to, (m,) classes or None."""

    layers: dict[str, Tensor]
    owner: Tensor
    classes: Tensor | None


class Detector(_base.Detector):
    """Distance of rank trajectories from the trusted ones: one score per row, named ``trajectory``.

    State: ``<layer>/reference`` (m, d), the trusted points, float32 unless they came as float64, and
    ``<layer>/order`` (), the layer's place, int64; ``trajectory/mean`` (c,) and ``trajectory/whitener`` (c, c),
    float64; ``trajectory/signal``, 1 or 0; for ``class`` also ``trajectory/classes`` (m,) int64.

    Raises:
        FitError: ``class`` on rows without logits, layers that do not have the same positions, an unknown
            reference layer, or fewer trusted points than neighbours.
    """

    config: Config

    def __init__(self, config: Config, state: State | None = None):
        """Ask for logits where classes are used."""
        super().__init__(config, state)
        if config.variant == "class":
            self.needs = self.needs | {"logits"}

    def fit(self, populations: dict[str, Population], seed: int, report: Report | None = None) -> None:
        """Keep the trusted points, and the mean and the spread of their trajectories."""
        check_population(populations, "trusted")
        trusted = populations["trusted"]
        names = self._ordered(list(layer_widths([trusted])))
        points = self._subset(_joined([self._points(b, names) for b in trusted.batches]), seed)
        ranks = [Ranks(h, points.owner) for h in points.layers.values()]
        trajectories = self._trajectories(ranks, points, points.classes)
        self.state = {f"{name}/reference": h for name, h in points.layers.items()}
        self.state |= {f"{name}/order": torch.tensor(i) for i, name in enumerate(names)}
        self.state |= {f"{SCORE}/{name}": tensor for name, tensor in self._spread(trajectories).items()}
        followed = trajectories.shape[1] > 0
        if self.config.variant == "class" and points.classes is not None:
            self.state[f"{SCORE}/classes"] = points.classes
            followed = bool((points.classes != points.classes[0]).any())
        self.state[f"{SCORE}/signal"] = torch.tensor(float(followed))

    def score(self, batch: Batch) -> dict[str, Tensor]:
        """(n,) distances of the rows' trajectories."""
        if not self.state:
            raise FitError("ted is not fitted: call fit first")
        names = sorted(
            (k.removesuffix("/order") for k in self.state if k.endswith("/order")),
            key=lambda name: int(self.state[f"{name}/order"]),
        )
        references = [self.state[f"{name}/reference"] for name in names]
        points = self._points(batch, names)
        for (name, h), reference in zip(points.layers.items(), references, strict=True):
            check_finite(h, f"features of layer '{name}'")
            if h.shape[1] != reference.shape[1]:
                raise FitError(f"layer '{name}' has width {h.shape[1]}, fitted on width {reference.shape[1]}")
        trajectories = self._trajectories([Ranks(r) for r in references], points, self.state.get(f"{SCORE}/classes"))
        scores = self._distance(trajectories, self.state[f"{SCORE}/mean"], self.state[f"{SCORE}/whitener"])
        return {SCORE: join_positions(scores, points.owner, len(batch), self.config.score_aggregation)}

    def _ordered(self, names: list[str]) -> list[str]:
        """The layers, that in which neighbours are found first."""
        first = self.config.reference_layer
        if self.config.variant == "class" or first is None:
            return names
        if first not in names:
            raise FitError(f"reference_layer '{first}' is none of the layers {', '.join(names)}")
        return [first, *(name for name in names if name != first)]

    def _points(self, batch: Batch, names: list[str]) -> _Points:
        missing = [name for name in names if name not in batch.features]
        if missing:
            raise FitError(f"layer '{missing[0]}' was fitted, but these rows do not have it")
        layers, owner = {}, None
        for name in names:
            h, mask = batch.features[name], batch.mask
            if h.ndim == 3 and self.config.max_seq_len is not None:
                mask = torch.ones(h.shape[:2], dtype=torch.bool, device=h.device) if mask is None else mask.bool()
                mask = cut_positions(mask, self.config.max_seq_len, self.config.truncate_seq_at)
            layers[name], found = flatten_positions(h, mask)
            if owner is not None and not torch.equal(owner, found):
                raise FitError(f"layers '{names[0]}' and '{name}' do not have the same positions: pool them alike")
            owner = found
        if owner is None:
            raise FitError("no layers given")
        if batch.logits is None and self.config.variant == "class":
            raise FitError(NO_LOGITS.format("these"))
        return _Points(layers, owner, None if batch.logits is None else predicted_class(batch.logits)[owner])

    def _subset(self, points: _Points, seed: int) -> _Points:
        """At most ``max_reference`` points, in an order that does not depend on that of the rows."""
        parts = list(points.layers.values())
        parts += [] if points.classes is None else [points.classes[:, None]]
        kept = content_order(parts, random.derive(seed, "ted"))[: self.config.max_reference]
        found = _Points(
            {name: h[kept] for name, h in points.layers.items()},
            points.owner[kept],
            None if points.classes is None else points.classes[kept],
        )
        others = len(kept) - int(found.owner.bincount().max())
        if others < 1 or (self.config.variant == "neighbors" and others < self.config.n_neighbors):
            wanted = self.config.n_neighbors if self.config.variant == "neighbors" else 1
            raise FitError(f"a trusted row has {others} trusted points of other rows, at least {wanted} needed")
        return found

    def _trajectories(self, ranks: list[Ranks], points: _Points, classes: Tensor | None) -> Tensor:
        """(m, c) log ranks of points; fitted and new ones alike."""
        layers = list(points.layers.values())
        if self.config.variant == "class" and points.classes is not None and classes is not None:
            columns = [r.of_class(h, points.classes, classes, points.owner) for r, h in zip(ranks, layers, strict=True)]
            found = torch.stack(columns, dim=1)
        else:
            chosen = ranks[0].neighbours(layers[0], self.config.n_neighbors, points.owner)
            followed = [r.of_points(h, chosen, points.owner) for r, h in zip(ranks[1:], layers[1:], strict=True)]
            found = torch.cat(followed, dim=1) if followed else chosen.new_zeros(len(chosen), 0).double()
        return torch.log1p(found / len(ranks[0].reference) if self._normalized else found)

    @property
    def _normalized(self) -> bool:
        wanted = self.config.normalize_ranks
        return self.config.variant == "neighbors" if wanted is None else wanted

    def _spread(self, trajectories: Tensor) -> State:
        """Mean and whitener of the trusted trajectories, without the share held to be contaminated."""
        config, step = self.config, math.log(2)
        if self._normalized:
            step = math.log1p(1 / len(trajectories))
        mean, whitener = outlier_map(trajectories, config.outlier, step, config.explained_variance)
        if config.contamination > 0:
            scores = self._distance(trajectories, mean, whitener)
            kept = math.ceil((1 - config.contamination) * len(scores))
            usual = trajectories[scores <= scores.kthvalue(kept).values]
            mean, whitener = outlier_map(usual, config.outlier, step, config.explained_variance)
        return {"mean": mean, "whitener": whitener}

    def _distance(self, trajectories: Tensor, mean: Tensor, whitener: Tensor) -> Tensor:
        """(m,) squared distances per coordinate; 0 where trajectories are empty."""
        if not len(mean):
            return trajectories.new_zeros(len(trajectories))
        return gaussian.mahalanobis(trajectories, mean[None], whitener)


def _joined(parts: list[_Points]) -> _Points:
    """Points of several batches; rows are numbered on."""
    layers = {name: torch.cat([_single_or_double(p.layers[name]) for p in parts]) for name in parts[0].layers}
    rows, owners = 0, []
    for part in parts:
        owners.append(part.owner + rows)
        rows += int(part.owner.max()) + 1
    classes = [p.classes for p in parts if p.classes is not None]
    return _Points(layers, torch.cat(owners), torch.cat(classes) if len(classes) == len(parts) else None)


def _single_or_double(h: Tensor) -> Tensor:
    return h if h.dtype in (torch.float32, torch.float64) else h.float()
