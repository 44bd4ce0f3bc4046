"""Gram features of Beatrix (2209.11715) and their exact order statistics, a block of feature pairs at a time.

The Gram entry of features i and j of a row with values F (t, d) at its t positions is
g_ij = sum_t F_ti^p F_tj^p, and its signed root r_ij = sign(g_ij) |g_ij|^(1/p). Pairs i <= j are numbered row by
row: (0, 0), (0, 1), ..., (0, d - 1), (1, 1), ... Without positions (t = 1) the root is F_i F_j for every odd p
and |F_i F_j| for every even p.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

BLOCK_ELEMENTS = 2**21  # float64 values held at once: 16 MB
LARGEST = 1e100  # a feature in units of the largest trusted one; its square still has room for sums


def num_pairs(width: int) -> int:
    """Entries of the upper triangle with the diagonal."""
    return width * (width + 1) // 2


def distinct_powers(powers: Sequence[int], positions: int) -> tuple[list[int], list[float]]:
    """Powers whose signed roots differ, and the share of ``powers`` that each stands for.

    With one position all odd powers agree, and so do all even ones: the smallest of each stands for the others.
    """
    kind = (lambda p: p % 2) if positions == 1 else (lambda p: p)
    kinds = sorted({kind(p) for p in powers})
    alike = [[p for p in powers if kind(p) == k] for k in kinds]
    return [min(group) for group in alike], [len(group) / len(powers) for group in alike]


def scaled(h: Tensor, scale: float | Tensor) -> Tensor:
    """Features of any float dtype in units of ``scale``, float64, cut at 1e100 so that no square overflows."""
    return (h.detach().double() / scale).clamp_(-LARGEST, LARGEST)


class GramRows:
    """The rooted Gram entries of n rows for one power.

    Args:
        h: (n, d), or (n, t, d) with zeros where a position is not real; float64, see :func:`scaled`.
        power: p, at least 1.
    """

    def __init__(self, h: Tensor, power: int):
        self.power, self.count, self.width, self.device = power, len(h), h.shape[-1], h.device
        self.positions = 1 if h.ndim == 2 else h.shape[1]
        if self.positions == 1:
            self.columns = h.reshape(self.count, self.width).T.contiguous()
        else:
            # Each row is powered in units of its own largest value: no power can overflow.
            units = h.abs().amax(dim=(1, 2))
            self.squares = units.square()
            self.powered = (h / torch.where(units > 0, units, 1.0)[:, None, None]).pow_(power).mT

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the (b,) numbers of some pairs and their (b, n) entries, until every pair has come once."""
        d, side = self.width, self._side()
        for top in range(0, d, side):
            for left in range(top, d, side):
                i, j = torch.arange(top, min(top + side, d)), torch.arange(left, min(left + side, d))
                values = self._tile(slice(top, top + side), slice(left, left + side)).reshape(-1, self.count)
                numbers = ((i * (2 * d - i + 1) // 2 - i)[:, None] + j).flatten().to(self.device)
                if top == left:
                    upper = (i[:, None] <= j).flatten().to(self.device)
                    numbers, values = numbers[upper], values[upper]
                yield numbers, values

    def _side(self) -> int:
        """Width of a square tile such that tile and operands fit a block: n (s s + 2 t s) values."""
        t = self.positions if self.positions > 1 else 0
        side = (BLOCK_ELEMENTS / max(1, self.count) + t * t) ** 0.5 - t
        return max(1, min(self.width, int(side)))

    def _tile(self, rows: slice, columns: slice) -> Tensor:
        if self.positions == 1:
            values = self.columns[rows, None] * self.columns[None, columns]
            return values if self.power % 2 else values.abs_()
        gram = torch.bmm(self.powered[:, rows], self.powered[:, columns].mT).permute(1, 2, 0)
        return signed_root(gram, self.power) * self.squares


def signed_root(g: Tensor, power: int) -> Tensor:
    """sign(g) |g|^(1/p)."""
    if power == 1:
        return g
    return torch.copysign(g.abs().sqrt() if power == 2 else g.abs().pow(1 / power), g)


def median_and_mad(values: Tensor) -> tuple[Tensor, Tensor]:
    """Median of each row of (b, n), and the median absolute deviation from it: (b,) and (b,), exact.

    For even n both are the lower of the two middle values. As order statistics they commute with increasing
    maps, and the order of the values cannot change a bit.
    """
    # NumPy sorts with vector instructions; torch does not yet.
    ordered = torch.from_numpy(np.sort(values.numpy(), axis=1)) if values.device.type == "cpu" else values.sort()[0]
    k = (values.shape[1] - 1) // 2
    median = ordered[:, k : k + 1]
    # The k + 1 values nearest to the median are neighbours in the order: the narrowest such run has them.
    below = median - ordered[:, : values.shape[1] - k]
    return median[:, 0], torch.maximum(below, ordered[:, k:] - median).amin(dim=1)


def statistics(rows: GramRows) -> tuple[Tensor, Tensor, float]:
    """Median (D,) and median absolute deviation (D,) of each pair's entries, and the sum of all their squares."""
    median = torch.empty(num_pairs(rows.width), dtype=torch.float64, device=rows.device)
    mad, squares = torch.empty_like(median), 0.0
    for numbers, values in rows.blocks():
        median[numbers], mad[numbers] = median_and_mad(values)
        squares += float(torch.linalg.vector_norm(values)) ** 2
    return median, mad, squares


def deviations(rows: GramRows, lower: Tensor, upper: Tensor, floor: float | Tensor) -> Tensor:
    """Sum over pairs of how far each row's entry lies outside [lower, upper], relative to the bound it passes.

    Args:
        rows: n rows.
        lower: (D,) bounds by pair number.
        upper: (D,) likewise.
        floor: least divisor: a bound smaller than this in size counts as this.

    Returns:
        (n,) float64.
    """
    total = torch.zeros(rows.count, dtype=torch.float64, device=rows.device)
    for numbers, values in rows.blocks():
        low, high = lower[numbers], upper[numbers]
        under = (low[:, None] - values).clamp_(min=0)
        over = (values - high[:, None]).clamp_(min=0)
        total += (1 / low.abs().clamp(min=floor)) @ under + (1 / high.abs().clamp(min=floor)) @ over
    return total
