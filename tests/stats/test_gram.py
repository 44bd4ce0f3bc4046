"""Gram entries and their order statistics against the definitions, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mad.stats import gram
from mad.stats.gram import GramRows


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def entries(h, power):
    """(n, pairs) signed roots of the upper triangle, row by row."""
    h = h if h.ndim == 3 else h[:, None]
    g = torch.einsum("nti,ntj->nij", h**power, h**power)
    i, j = torch.triu_indices(h.shape[2], h.shape[2])
    return (g.sign() * g.abs() ** (1 / power))[:, i, j]


def collected(rows):
    found = torch.full((gram.num_pairs(rows.width), rows.count), float("nan"), dtype=torch.float64)
    for numbers, values in rows.blocks():
        assert found[numbers].isnan().all()  # every pair comes once
        found[numbers] = values
    return found.T


@pytest.mark.parametrize("power", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("shape", [(9, 5), (6, 3, 5), (4, 7, 1)])
@pytest.mark.parametrize("elements", [2**21, 40])
def test_blocks_hold_every_signed_root_once(power, shape, elements, monkeypatch):
    monkeypatch.setattr(gram, "BLOCK_ELEMENTS", elements)
    h = draw(*shape)
    torch.testing.assert_close(collected(GramRows(h, power)), entries(h, power), rtol=1e-9, atol=1e-12)


def test_all_odd_powers_agree_without_positions_and_all_even_ones():
    h = draw(6, 4)
    for power, alike in ((1, (3, 5)), (2, (4, 6))):
        for other in alike:
            torch.testing.assert_close(entries(h, other), collected(GramRows(h, power)), rtol=1e-12, atol=0)
    assert gram.distinct_powers((1, 2, 3, 4, 5), 1) == ([2, 1], [2 / 5, 3 / 5])
    assert gram.distinct_powers((4, 2, 2), 1) == ([2], [1.0])
    assert gram.distinct_powers((3, 1, 3), 5) == ([1, 3], [1 / 3, 2 / 3])


def test_powers_of_large_features_do_not_overflow():
    h = draw(5, 3, 4)
    for power in (1, 4, 9):
        large = collected(GramRows(1e90 * h, power)) / 1e180
        torch.testing.assert_close(large, collected(GramRows(h, power)), rtol=1e-12, atol=1e-14)
    assert torch.isfinite(collected(GramRows(gram.scaled(1e300 * h, 1e-5), 4))).all()
    assert collected(GramRows(torch.zeros(2, 3, 4).double(), 3)).count_nonzero() == 0


@pytest.mark.parametrize("n", [1, 2, 3, 10, 101])
def test_median_and_mad_are_those_of_a_full_selection(n):
    x = draw(20, n, seed=n)
    x[5] = x[5].round()  # ties
    x[6] = 0
    median, mad = gram.median_and_mad(x)
    wanted = x.median(dim=1).values
    assert torch.equal(median, wanted)
    assert torch.equal(mad, (x - wanted[:, None]).abs().median(dim=1).values)


def test_odd_counts_agree_with_numpy():
    x = draw(4, 31)
    median, mad = gram.median_and_mad(x)
    np.testing.assert_array_equal(median, np.median(x, axis=1))
    np.testing.assert_array_equal(mad, np.median(np.abs(x - median[:, None]).numpy(), axis=1))


@pytest.mark.parametrize("shape", [(30, 6), (20, 4, 6)])
def test_statistics_and_deviations(shape):
    h, power = draw(*shape), 3
    rows, found = GramRows(h, power), entries(h, power)
    median, mad, squares = gram.statistics(rows)
    torch.testing.assert_close(median, found.median(dim=0).values, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        mad, (found - found.median(dim=0).values).abs().median(dim=0).values, rtol=1e-9, atol=1e-12
    )
    assert squares == pytest.approx(float(found.square().sum()), rel=1e-12)
    low, high = median - mad, median + mad
    outside = (low - found).clamp(min=0) / low.abs().clamp(min=0.1) + (found - high).clamp(min=0) / high.abs().clamp(
        min=0.1
    )
    torch.testing.assert_close(gram.deviations(rows, low, high, 0.1), outside.sum(dim=1), rtol=1e-8, atol=0)
