"""Rows of a layer as scikit-learn's estimators want them: in an order of their own, and standardised.

An estimator that draws rows by their number, or searches from a starting point, depends on the order it gets
them in. Rows sorted by their bytes come in one order, whatever the order of the population.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor

from mad.detectors._base import State
from mad.errors import FitError
from mad.stats.gaussian import blocks
from mad.stats.random import derive

FLAT = 1e-3  # a coordinate's deviation counts as at least this part of the largest


def sorted_rows(rows: Tensor) -> Tensor:
    """A copy of (m, d) rows, in the order of their bytes."""
    array = np.ascontiguousarray(rows.detach().cpu().numpy())
    whole = array.view(np.dtype((np.void, array.itemsize * array.shape[1])))[:, 0]
    return torch.from_numpy(array[np.argsort(whole, kind="stable")])


def scaling(rows: Tensor, standardize: bool) -> State:
    """``mean`` and ``scale``, (d,) float64: 0 and 1 without ``standardize``.

    Raises:
        FitError: the rows are all equal, so that nothing can be learnt from them.
    """
    mean = torch.stack([x.sum(dim=0) for x in blocks([rows])]).sum(dim=0) / len(rows)
    squares = torch.stack([(x - mean).square().sum(dim=0) for x in blocks([rows])]).sum(dim=0)
    deviation = (squares / len(rows)).sqrt()
    if not deviation.max() > 0:
        raise FitError("all rows are equal: nothing to learn")
    if not standardize:
        return {"mean": torch.zeros_like(mean), "scale": torch.ones_like(mean)}
    return {"mean": mean, "scale": deviation.clamp(min=float(FLAT * deviation.max()))}


def scaled(state: State, h: Tensor) -> Tensor:
    """(m, d) float64 rows about ``mean``, in units of ``scale``."""
    return (h.double() - state["mean"]) / state["scale"]


def sklearn_seed(seed: int, *purpose: str) -> int:
    """A seed within the 32 bits that scikit-learn takes."""
    return derive(seed, *purpose) % 2**32


@contextmanager
def repeatable_fit() -> Iterator[None]:
    """One thread, so that sums are added up in one order; states tell of convergence, warnings need not."""
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
