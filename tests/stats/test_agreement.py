"""Rank correlation against scipy's, one pair at a time."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from mad.errors import DataError
from mad.stats.agreement import rank_correlation


@pytest.mark.parametrize("levels", [3, 10**9])
def test_every_pair_is_scipys(levels):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, levels, (200, 4)) + rng.integers(0, levels, (200, 1))
    found = rank_correlation(torch.from_numpy(scores))
    for i in range(4):
        for j in range(4):
            assert float(found[i, j]) == pytest.approx(spearmanr(scores[:, i], scores[:, j]).statistic, abs=1e-12)


def test_ranks_alone_matter():
    scores = torch.randn(50, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = rank_correlation(torch.cat([scores, scores.exp(), -scores], dim=1))
    assert found.tolist() == [[1, 1, -1], [1, 1, -1], [-1, -1, 1]]


def test_ties_share_the_mean_of_their_ranks():
    scores = torch.tensor([[1.0, 1.0], [1.0, 2.0], [2.0, 3.0]])
    # Ranks 1.5, 1.5, 3 and 1, 2, 3: covariance 1.5, variances 1.5 and 2.
    assert float(rank_correlation(scores)[0, 1]) == pytest.approx(1.5 / np.sqrt(1.5 * 2))


def test_equal_scores_agree_with_nothing():
    found = rank_correlation(torch.tensor([[0.0, 1.0, 2.0], [0.0, 2.0, 1.0], [0.0, 3.0, 0.0]]))
    assert found[0].isnan().all() and found[:, 0].isnan().all()
    assert found[1:, 1:].tolist() == [[1, -1], [-1, 1]]


@pytest.mark.parametrize("scores", [torch.zeros(3), torch.zeros(1, 2), torch.tensor([[0.0, 1.0], [float("nan"), 1.0]])])
def test_what_cannot_be_ranked_is_told(scores):
    with pytest.raises(DataError):
        rank_correlation(scores)
