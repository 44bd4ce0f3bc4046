"""Nearest neighbours against scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from mad.errors import DataError
from mad.stats import neighbors
from mad.stats.neighbors import nearest


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_distances_and_rows_are_those_of_scikit_learn(metric, offset):
    draws = torch.Generator().manual_seed(0)
    reference = torch.randn(400, 20, generator=draws).double() + offset
    queries = torch.randn(90, 20, generator=draws).double() + offset
    search = NearestNeighbors(n_neighbors=7, metric=metric, algorithm="brute").fit(reference.numpy())
    expected, rows = search.kneighbors(queries.numpy())
    distances, index = nearest(queries, reference, 7, metric)
    if not (metric == "cosine" and offset):  # there scikit-learn itself has 1e-16 / 1e-6 left
        assert np.array_equal(index.numpy(), rows)
        np.testing.assert_allclose(distances, expected, rtol=1e-9)
    exact = _brute(queries, reference, metric).sort(dim=1).values[:, :7]
    torch.testing.assert_close(distances, exact, rtol=1e-9, atol=1e-16)


def _brute(queries, reference, metric):
    if metric == "euclidean":
        return (queries[:, None] - reference).square().sum(dim=2).sqrt()
    a, b = (x / x.norm(dim=1, keepdim=True) for x in (queries, reference))
    return (a[:, None] - b).square().sum(dim=2) / 2


def test_neighbours_closer_than_float32_can_tell_are_still_found():
    # All 200 reference rows lie within 1e-7 of one another, far from the mean of the whole.
    tight = 1 + 1e-9 * torch.arange(200, dtype=torch.float64)[:, None] * torch.ones(1, 3)
    reference = torch.cat([tight.flip(0), torch.full((200, 3), -1.0, dtype=torch.float64)])
    distances, index = nearest(torch.ones(1, 3).double(), reference, 3)
    assert index.tolist() == [[199, 198, 197]]
    np.testing.assert_allclose(distances[0], np.sqrt(3) * 1e-9 * np.arange(3), rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("radius", [1e-3, 3e-4, 1e-4])
def test_neighbours_that_float32_puts_in_the_wrong_order_are_found(radius):
    # A tight cluster away from the common mean: the error of the product is about the squared distances.
    draws = torch.Generator().manual_seed(4)
    tight = 1 + radius * torch.randn(300, 3, generator=draws, dtype=torch.float64)
    reference = torch.cat([tight, -tight])
    queries = 1 + radius * torch.randn(100, 3, generator=draws, dtype=torch.float64)
    distances, _ = nearest(queries, reference, 2)
    exact = _brute(queries, reference, "euclidean").sort(dim=1).values[:, :2]
    torch.testing.assert_close(distances, exact, rtol=1e-9, atol=0)


def test_many_duplicates_are_searched_again_and_found():
    reference = torch.zeros(300, 2)
    reference[:5] = torch.arange(5)[:, None] + 1.0
    distances, _ = nearest(torch.ones(4, 2), reference, 2)
    np.testing.assert_allclose(distances, np.tile([0, np.sqrt(2)], (4, 1)), atol=1e-12)


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_squares_outside_the_range_of_float32_hide_no_neighbour(unit):
    draws = torch.Generator().manual_seed(5)
    reference, queries = (unit * torch.randn(n, 4, generator=draws) for n in (300, 40))
    queries[0] *= 1e7  # far beyond even in units of the reference
    queries[1] = 3e37
    distances, index = nearest(queries, reference, 3)
    expected = _brute(queries.double(), reference.double(), "euclidean").sort(dim=1, stable=True)
    assert torch.equal(index, expected.indices[:, :3])
    torch.testing.assert_close(distances, expected.values[:, :3], rtol=1e-12, atol=0)


def test_equal_distances_keep_the_order_of_the_reference():
    reference = torch.tensor([[2.0], [0.0], [2.0], [0.0]])
    _, index = nearest(torch.tensor([[1.0]]), reference, 4)
    assert index.tolist() == [[0, 1, 2, 3]]


def test_a_zero_row_is_at_cosine_distance_one():
    distances, _ = nearest(torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [0.0, 2.0]]), 2, "cosine")
    assert distances.tolist() == [[1.0, 1.0]]
    distances, _ = nearest(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0], [-1.0, 0.0]]), 2, "cosine")
    np.testing.assert_allclose(distances, [[1.0, 2.0]])


def test_blocks_do_not_change_the_answer(monkeypatch):
    draws = torch.Generator().manual_seed(3)
    reference, queries = torch.randn(100, 4, generator=draws), torch.randn(30, 4, generator=draws)
    whole = nearest(queries, reference, 5)
    monkeypatch.setattr(neighbors, "BLOCK_ELEMENTS", 1)
    torch.testing.assert_close(nearest(queries, reference, 5), whole, rtol=1e-12, atol=0)


def test_impossible_requests_are_errors():
    with pytest.raises(DataError, match="5 neighbours wanted of 4"):
        nearest(torch.zeros(1, 2), torch.zeros(4, 2), 5)
    with pytest.raises(DataError, match="width"):
        nearest(torch.zeros(1, 3), torch.zeros(4, 2), 1)
