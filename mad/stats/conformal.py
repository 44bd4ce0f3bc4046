"""Make layers comparable by held-out trusted scores, and join them into one score.

A score is compared with trusted scores that no detector was fitted on, never with other test rows, so it
does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mad.errors import DataError

How = Literal["mean", "max", "rank"]
NORMAL_MAD = 1.482602218505602  # standard deviation of a Gaussian per median absolute deviation


def p_value(scores: Tensor, calibration: Tensor) -> Tensor:
    """Conformal p-value (1 + #{calibration >= score}) / (n + 1), 2107.07511.

    Valid at any n: for a row exchangeable with the calibration rows, P(p <= u) <= u. Ties count against the
    anomaly, so the p-value errs on the large side. The least value is 1 / (n + 1).

    Args:
        scores: (m,).
        calibration: (n,) held-out trusted scores.

    Returns:
        (m,) float64.
    """
    reference = _finite(calibration, "calibration scores").sort().values
    below = torch.searchsorted(reference, _finite(scores, "scores"), side="left")
    return (1 + len(reference) - below).double() / (len(reference) + 1)


def rank(scores: Tensor, calibration: Tensor) -> Tensor:
    """Conformal rank 1 - p, in [0, n / (n + 1)]: the larger the more anomalous.

    All scores above every calibration score share the largest rank.
    """
    return 1 - p_value(scores, calibration)


def standardise(scores: Tensor, calibration: Tensor) -> Tensor:
    """(score - median) / spread of the calibration scores, (m,) float64.

    The spread is 1.4826 times the median absolute deviation; the standard deviation where more than half of
    the calibration scores are equal; 1 where all are.
    """
    location, spread = location_and_spread(calibration)
    return (_finite(scores, "scores") - location) / spread


def location_and_spread(calibration: Tensor) -> tuple[float, float]:
    """What :func:`standardise` subtracts, and what it divides by, for (n,) calibration scores."""
    reference = _finite(calibration, "calibration scores")
    location = _median(reference)
    spread = NORMAL_MAD * _median((reference - location).abs())
    if not spread > 0:
        spread = reference.std(correction=0)
    return float(location), float(spread) if spread > 0 else 1.0


def aggregate(
    layer_scores: Mapping[str, Tensor],
    calibration: Mapping[str, Tensor] | None = None,
    how: How = "mean",
    scale: bool = True,
) -> Tensor:
    """Join the scores of several layers into one.

    Args:
        layer_scores: per layer (m,) scores.
        calibration: per layer (n,) held-out trusted scores; needed for ``rank`` and for ``scale``.
        how: ``mean`` or ``max`` over layers, or ``rank``, the mean of conformal ranks.
        scale: standardise each layer first, so that the layer of the largest unit does not win; ranks need
            no scale.

    Returns:
        (m,) float64.

    Raises:
        DataError: no layers, a layer without calibration scores, or scores that are not finite.
    """
    if not layer_scores:
        raise DataError("no layers to aggregate")
    missing = [] if how != "rank" and not scale else sorted(set(layer_scores) - set(calibration or {}))
    if missing:
        raise DataError(f"no calibration scores for layer {', '.join(missing)}")
    columns = []
    for layer, scores in layer_scores.items():
        if how == "rank":
            columns.append(rank(scores, (calibration or {})[layer]))
        elif scale:
            columns.append(standardise(scores, (calibration or {})[layer]))
        else:
            columns.append(_finite(scores, "scores"))
    table = torch.stack(columns, dim=1)
    return table.amax(dim=1) if how == "max" else table.mean(dim=1)


def _median(values: Tensor) -> Tensor:
    middle = values.sort().values[(len(values) - 1) // 2 : len(values) // 2 + 1]
    return middle.mean()


def _finite(scores: Tensor, what: str) -> Tensor:
    values = scores.detach().double()
    if what != "scores" and not len(values):
        raise DataError(f"no {what}")
    if not torch.isfinite(values).all():
        raise DataError(f"{int((~torch.isfinite(values)).sum())} {what} are NaN or infinite")
    return values
