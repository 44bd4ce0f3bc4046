"""How far several scores of the same rows agree."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from mad.errors import DataError


def rank_correlation(scores: Tensor) -> Tensor:
    """Spearman's rank correlation of every pair of columns; equal scores share the mean of their ranks.

    Args:
        scores: (n, k), one column per detector, n at least 2.

    Returns:
        (k, k) float64, symmetric; NaN in the row and column of scores that are all equal.

    Raises:
        DataError: fewer than two rows, or scores that are not finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2:
        raise DataError(f"a rank correlation needs scores (rows, detectors), 2 rows or more; got {values.shape}")
    if not np.isfinite(values).all():
        raise DataError(f"{int((~np.isfinite(values)).sum())} scores are NaN or infinite")
    # Half-ranks are exact in float64, so equal columns correlate to exactly 1.
    ranks = rankdata(values, axis=0) - (len(values) + 1) / 2
    products = ranks.T @ ranks
    squares = np.diag(products)
    with np.errstate(invalid="ignore"):
        correlation = products / np.sqrt(np.outer(squares, squares))
    return torch.from_numpy(np.clip(correlation, -1, 1))
