"""How well scores separate: AUROC, average precision, false-positive rate, their intervals, and thresholds.

Larger scores are more anomalous; anomalous rows are the positives. Ties are exact: a tied pair counts one
half in AUROC, and equal scores pass a threshold together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, rankdata
from torch import Tensor

from mad.errors import DataError

Array = np.ndarray
BLOCK_ELEMENTS = 2**21  # resampled counts held at once: 16 MB


class Interval(NamedTuple):
    """A point value and its confidence limits."""

    value: float
    low: float
    high: float


class Metrics(NamedTuple):
    """The three metrics: numbers, arrays over resamples, or intervals."""

    auroc: float
    average_precision: float
    fpr_at_tpr: float


class Intervals(NamedTuple):
    """Bootstrap intervals of the three metrics for one column of scores."""

    auroc: Interval
    average_precision: Interval
    fpr_at_tpr: Interval


def auroc(scores: Tensor, is_anomalous: Tensor) -> float:
    """Probability that an anomalous row scores above a normal one, ties counting one half."""
    return metrics(scores, is_anomalous).auroc


def average_precision(scores: Tensor, is_anomalous: Tensor) -> float:
    """Sum over thresholds of (recall gained) x (precision), without interpolation."""
    return metrics(scores, is_anomalous).average_precision


def fpr_at_tpr(scores: Tensor, is_anomalous: Tensor, tpr: float = 0.95) -> float:
    """False-positive rate at the highest threshold that catches at least ``tpr`` of the anomalies."""
    return metrics(scores, is_anomalous, tpr).fpr_at_tpr


def metrics(scores: Tensor, is_anomalous: Tensor, tpr: float = 0.95) -> Metrics:
    """The three metrics of (n,) scores.

    Raises:
        DataError: one class only, a score that is not finite, or unequal lengths.
    """
    columns, labels = _check(scores, is_anomalous)
    if columns.shape[1] != 1:
        raise DataError(f"expected one score per row, got {columns.shape[1]} columns")
    values = _Curve.of(columns[:, 0], labels).metrics(np.ones((1, len(labels))), tpr)
    return Metrics(*(float(v[0]) for v in values))


def bootstrap(
    scores: Tensor,
    is_anomalous: Tensor,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
    tpr: float = 0.95,
) -> list[Intervals]:
    """Percentile intervals by resampling normal and anomalous rows separately, with replacement.

    Every column sees the same resamples. Where the classes separate perfectly all resamples do, and the
    interval has width zero: it says nothing about the next anomaly.

    Args:
        scores: (n,) or (n, columns).
        is_anomalous: (n,) bool.
        seed: of the resampling.
        resamples: number of resamples.
        level: coverage wanted.
        tpr: for the false-positive rate.

    Returns:
        One :class:`Intervals` per column.

    Raises:
        DataError: as for :func:`metrics`.
    """
    columns, labels = _check(scores, is_anomalous)
    curves = [_Curve.of(column, labels) for column in columns.T]
    point = [curve.metrics(np.ones((1, len(labels))), tpr) for curve in curves]
    rng = np.random.default_rng(seed)
    drawn: list[list[Array]] = [[] for _ in curves]
    size = max(1, BLOCK_ELEMENTS // len(labels))
    for start in range(0, resamples, size):
        counts = _resample(labels, min(size, resamples - start), rng)
        for curve, parts in zip(curves, drawn, strict=True):
            parts.append(np.stack(curve.metrics(counts, tpr)))
    tails = [(1 - level) / 2, (1 + level) / 2]
    found = []
    for values, parts in zip(point, drawn, strict=True):
        low, high = np.quantile(np.concatenate(parts, axis=1), tails, axis=1)
        limits = zip(values, low, high, strict=True)
        found.append(Intervals(*(Interval(float(v[0]), float(a), float(b)) for v, a, b in limits)))
    return found


def delong(scores: Tensor, is_anomalous: Tensor, level: float = 0.95) -> Interval:
    """AUROC with the interval of DeLong et al. (1988), by midranks in n log n, cut to [0, 1].

    The variance estimate is zero where the classes separate perfectly; the interval then has width zero.

    Raises:
        DataError: as for :func:`metrics`, or fewer than two rows of a class.
    """
    columns, labels = _check(scores, is_anomalous)
    column = columns[:, 0]
    m, n = int(labels.sum()), int((~labels).sum())
    if min(m, n) < 2:
        raise DataError(f"{m} anomalous and {n} normal rows: a DeLong interval needs at least 2 of each")
    ranks = rankdata(column)
    above = (ranks[labels] - rankdata(column[labels])) / n  # part of normal rows below each anomaly
    below = 1 - (ranks[~labels] - rankdata(column[~labels])) / m  # anomalies above each normal row
    area = float(above.mean())
    half = float(norm.ppf((1 + level) / 2)) * math.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n)
    return Interval(area, max(0.0, area - half), min(1.0, area + half))


def threshold_at_fpr(trusted: Tensor, rate: float) -> float:
    """Threshold t such that a fresh trusted row scores above t with probability at most ``rate``.

    The ceil((n + 1)(1 - rate))-th smallest of n held-out trusted scores (split conformal, 2107.07511): the
    bound holds on average over calibration sets, for exchangeable rows, at any n. With fewer than
    1 / rate - 1 rows nothing but infinity keeps it.

    Args:
        trusted: (n,) scores of trusted rows that no detector was fitted on.
        rate: false-positive rate wanted, between 0 and 1.

    Raises:
        DataError: no scores, scores that are not finite, or a rate outside (0, 1).
    """
    values = np.sort(np.asarray(trusted, dtype=np.float64).reshape(-1))
    if not len(values) or not np.isfinite(values).all():
        raise DataError(f"a threshold needs trusted scores, all finite; got {len(values)}")
    if not 0 < rate < 1:
        raise DataError(f"false-positive rate must lie between 0 and 1, got {rate}")
    # A product that is a whole number but for rounding is not rounded up.
    rank = math.ceil((len(values) + 1) * (1 - rate) - 1e-9)
    return float(values[rank - 1]) if rank <= len(values) else math.inf


def rate_above(scores: Tensor, threshold: float) -> float:
    """Part of the scores strictly above the threshold: the realised rate."""
    values = np.asarray(scores, dtype=np.float64)
    if not values.size:
        raise DataError("no scores to take a rate of")
    return float((values > threshold).mean())


@dataclass(frozen=True)
class _Curve:
    """One column of scores, sorted from the largest."""

    order: Array  # (n,) rows, the largest score first
    positive: Array  # (n,) whether the row at that place is anomalous
    ends: Array  # (g,) last place of each group of equal scores

    @classmethod
    def of(cls, column: Array, labels: Array) -> _Curve:
        order = np.argsort(-column, kind="stable")
        ordered = column[order]
        return cls(order, labels[order], np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1))

    def metrics(self, counts: Array, tpr: float) -> tuple[Array, Array, Array]:
        """AUROC, AP and FPR, each (b,), when row i occurs counts[:, i] times, (b, n)."""
        weights = counts[:, self.order]
        caught = np.cumsum(weights * self.positive, axis=1)[:, self.ends]
        passed = np.cumsum(weights, axis=1)[:, self.ends]
        alarms = passed - caught
        anomalies, normals = caught[:, -1], alarms[:, -1]
        gained = np.diff(caught, axis=1, prepend=0)
        false = np.diff(alarms, axis=1, prepend=0)
        area = (false * (caught - gained / 2)).sum(axis=1) / (anomalies * normals)
        # A group that no resampled row falls into gains nothing; its precision is 0 / 0 before the first row.
        precision = caught / np.maximum(passed, 1)
        average = (gained * precision).sum(axis=1) / anomalies
        enough = np.argmax(caught >= np.ceil(tpr * anomalies - 1e-9)[:, None], axis=1)
        rate = alarms[np.arange(len(counts)), enough] / normals
        return area, average, rate


def _resample(labels: Array, resamples: int, rng: np.random.Generator) -> Array:
    """(resamples, n) counts: as many draws from each class as it has rows."""
    counts = np.zeros((resamples, len(labels)))
    for members in (np.flatnonzero(labels), np.flatnonzero(~labels)):
        size = len(members)
        drawn = rng.integers(0, size, (resamples, size)) + np.arange(resamples)[:, None] * size
        counts[:, members] = np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size)
    return counts


def _check(scores: Tensor, is_anomalous: Tensor) -> tuple[Array, Array]:
    columns = np.asarray(scores, dtype=np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    labels = np.asarray(is_anomalous).astype(bool)
    if columns.ndim != 2 or labels.shape != (len(columns),):
        raise DataError(f"scores {columns.shape} and labels {labels.shape} do not match")
    if not np.isfinite(columns).all():
        raise DataError(f"{int((~np.isfinite(columns)).sum())} scores are NaN or infinite")
    if labels.all() or not labels.any():
        kind = "anomalous" if labels.any() else "normal"
        raise DataError(f"all {len(labels)} rows are {kind}: both kinds are needed")
    return columns, labels
