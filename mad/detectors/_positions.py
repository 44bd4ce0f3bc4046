"""Rows with positions: which of them count, and how the scores of a row's positions are joined."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mad.detectors._population import mean_per_row

Join = Literal["mean", "max"]
End = Literal["start", "end"]


def join_positions(points: Tensor, owner: Tensor, n: int, how: Join) -> Tensor:
    """Mean or largest of the (m,) float64 scores of each row's points: (n,)."""
    if how == "mean":
        return mean_per_row(points, owner, n)
    return points.new_full((n,), -torch.inf).scatter_reduce_(0, owner, points, "amax")


def cut_positions(mask: Tensor, most: int, at: End) -> Tensor:
    """Keep at most ``most`` real positions of each row of an (n, t) mask; the others are cut at one end.

    Args:
        mask: (n, t) bool, True where a position is real.
        most: real positions kept, at least 1.
        at: ``end`` keeps the first ones, ``start`` the last ones.
    """
    order = mask.cumsum(dim=1)
    kept = order <= most if at == "end" else order > order[:, -1:] - most
    return mask & kept
