"""Shares of variance against sums written out, and principal components against scikit-learn's."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from mad.errors import DataError
from mad.stats.variance import principal_components, split_variance


def rows(n, d, seed=0):
    spread = torch.linspace(3, 0.5, d, dtype=torch.float64)
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread + 100


def test_between_and_within_are_those_of_the_definition():
    h, groups = rows(60, 5), torch.arange(60) % 4
    h[groups == 2] += 3
    found = split_variance(h, groups)
    total = float(((h - h.mean(0)) ** 2).sum()) / 60
    within = sum(float(((h[groups == g] - h[groups == g].mean(0)) ** 2).sum()) for g in range(4)) / 60
    assert found.total == pytest.approx(total)
    assert 1 - found.between == pytest.approx(within / total)


def test_two_points_and_their_groups():
    h = torch.tensor([[0.0], [2.0], [10.0], [12.0]])
    # Means 1 and 11 about 6: 25 of 26.
    assert split_variance(h, torch.tensor([7, 7, -1, -1])) == pytest.approx((26.0, 25 / 26, 1 / 3))


def test_groups_at_random_have_the_share_that_chance_gives():
    h = rows(40, 3)
    shares = []
    for seed in range(300):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
        shares.append(split_variance(h, (torch.arange(40) % 8)[order]))
    assert np.mean([s.between for s in shares]) == pytest.approx(shares[0].chance, abs=0.01)


def test_equal_rows_have_no_variance_to_share():
    found = split_variance(torch.full((4, 2), 3.0), torch.tensor([0, 0, 1, 1]))
    assert found.total == 0 and math.isnan(found.between)
    alone = split_variance(rows(3, 2), torch.arange(3))
    assert alone.between == pytest.approx(1) and alone.chance == 1


@pytest.mark.parametrize(("n", "d"), [(80, 6), (12, 40)])
def test_components_are_scikit_learns(n, d):
    h = rows(n, d)
    found, known = principal_components(h, 3), PCA(3, svd_solver="full").fit(h.numpy())
    assert found.shares.numpy() == pytest.approx(known.explained_variance_ratio_)
    assert found.mean.numpy() == pytest.approx(known.mean_)
    cosines = (found.directions.T.numpy() * known.components_).sum(axis=1)
    assert np.abs(cosines) == pytest.approx(np.ones(3))
    assert found.directions.abs().argmax(0).tolist() == found.directions.argmax(0).tolist(), "the largest is positive"


@pytest.mark.parametrize("shape", [(20, 4), (4, 20)])
def test_no_direction_beyond_the_rank(shape):
    line = torch.outer(torch.arange(float(shape[0])), torch.ones(shape[1]))
    found = principal_components(line, 6)
    assert found.directions.shape == (shape[1], 6)
    assert found.shares.tolist() == pytest.approx([1, 0, 0, 0, 0, 0], abs=1e-12)
    assert found.directions[:, 1:].count_nonzero() == 0
    assert not principal_components(torch.ones(shape), 2).directions.isnan().any()


def test_single_precision_rows_far_from_zero():
    h = (rows(50, 4) + 1e4).float()
    near, far = (float(principal_components(x, 2).shares.sum()) for x in (h - 1e4, h))
    assert far == pytest.approx(near, rel=1e-6)


@pytest.mark.parametrize("h", [torch.zeros(0, 3), torch.zeros(3)])
def test_no_rows(h):
    with pytest.raises(DataError):
        principal_components(h, 2)
    with pytest.raises(DataError):
        split_variance(h, torch.zeros(0))
