"""Ranks against a sort of every query, and the outlier maps against their definitions."""

from __future__ import annotations

import pytest
import torch

from mad.errors import DataError
from mad.stats import ranks
from mad.stats.ranks import Ranks, content_order, outlier_map


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orders(queries, reference):
    """(n, m) reference rows by distance."""
    return torch.cdist(queries.double(), reference.double(), compute_mode="donot_use_mm_for_euclid_dist").argsort(1)


@pytest.fixture(params=[(2**22, 2**24), (200, 100)])
def blocks(request, monkeypatch):
    """Whole, and in small blocks of a reference that is converted again for each."""
    monkeypatch.setattr(ranks, "BLOCK_ELEMENTS", request.param[0])
    monkeypatch.setattr(ranks, "KEPT_ELEMENTS", request.param[1])


def test_class_ranks(blocks):
    queries, reference = draw(40, 6), draw(70, 6, seed=1) + 3
    classes, wanted = torch.arange(70) % 4, torch.arange(40) % 4
    order = orders(queries, reference)
    expected = (classes[order] == wanted[:, None]).int().argmax(dim=1).double()
    assert torch.equal(Ranks(reference).of_class(queries, wanted, classes), expected)


def test_a_class_without_points_comes_last():
    found = Ranks(draw(9, 3)).of_class(draw(4, 3, seed=1), torch.tensor([0, 5, 0, 5]), torch.zeros(9).long())
    assert found.tolist() == [0, 9, 0, 9]


def test_neighbours_and_their_ranks(blocks):
    near, far = draw(60, 5), draw(60, 4, seed=1)
    queries, elsewhere = draw(30, 5, seed=2), draw(30, 4, seed=3)
    chosen = Ranks(near).neighbours(queries, 7)
    assert torch.equal(chosen, orders(queries, near)[:, :7])
    place = orders(elsewhere, far).argsort(dim=1)  # place of every row in the order
    assert torch.equal(Ranks(far).of_points(elsewhere, chosen), place.gather(1, chosen).double())
    assert torch.equal(Ranks(near).of_points(queries, chosen), torch.arange(7).expand(30, 7).double())


def test_what_belongs_to_the_query_is_left_out(blocks):
    reference, owners = draw(24, 5), torch.arange(24) // 3
    counts = Ranks(reference, owners)
    chosen = counts.neighbours(reference, 4, owners)
    assert (owners[chosen] != owners[:, None]).all()
    for row in range(24):
        others = (owners != owners[row]).nonzero()[:, 0]
        order = others[orders(reference[row : row + 1], reference[others])[0]]
        assert chosen[row].tolist() == order[:4].tolist()
    alone = counts.of_class(reference, owners, owners, owners)  # nothing else has the class
    assert alone.tolist() == [21.0] * 24


def test_ties_get_the_expected_rank_of_a_random_order():
    # Four points at distance 0, two of them of class 1, then one at distance 1.
    reference = torch.tensor([[0.0], [0.0], [0.0], [0.0], [1.0]])
    classes, query = torch.tensor([0, 0, 1, 1, 2]), torch.zeros(1, 1)
    counts = Ranks(reference)
    found = [float(counts.of_class(query, torch.tensor([c]), classes)) for c in (0, 1, 2)]
    assert found == pytest.approx([2 / 3, 2 / 3, 4.0])
    assert counts.of_points(query, torch.tensor([[0, 3, 4]])).tolist() == [[1.5, 1.5, 4.0]]


def test_duplicates_are_treated_alike_whatever_the_batch():
    base = draw(300, 37)
    reference = torch.cat([base, base, base])
    classes = torch.arange(900) % 5
    queries, wanted = draw(50, 37, seed=1), torch.arange(50) % 5
    counts = Ranks(reference)
    whole, chosen = counts.of_class(queries, wanted, classes), counts.neighbours(queries, 10)
    points = counts.of_points(queries, chosen)
    for row in range(50):
        one = slice(row, row + 1)
        assert torch.equal(counts.of_class(queries[one], wanted[one], classes), whole[one])
        assert torch.equal(counts.neighbours(queries[one], 10), chosen[one])
        assert torch.equal(counts.of_points(queries[one], chosen[one]), points[one])
    shuffled = torch.randperm(900, generator=torch.Generator().manual_seed(2))
    assert torch.equal(Ranks(reference[shuffled]).of_class(queries, wanted, classes[shuffled]), whole)


@pytest.mark.parametrize("size", [1e-30, 1e6, 1e30, 1e250])
def test_far_queries_and_other_units_keep_their_ranks(size):
    reference = draw(50, 3).double()
    queries, wanted, classes = draw(20, 3, seed=1).double(), torch.arange(20) % 5, torch.arange(50) % 5
    unit = Ranks(reference).of_class(queries, wanted, classes)
    assert torch.equal(Ranks(size * reference).of_class(size * queries, wanted, classes), unit)
    # Far away, what is near is what lies farthest in that direction.
    far = Ranks(reference).of_class(1e8 * min(max(1, size), 1e60) * queries, wanted, classes)
    along = (-queries @ reference.T).argsort(dim=1)
    assert torch.equal(far, (classes[along] == wanted[:, None]).int().argmax(dim=1).double())


def test_no_reference_is_an_error():
    with pytest.raises(DataError, match="no reference"):
        Ranks(torch.empty(0, 3))


def test_content_order_hangs_on_values_alone():
    h, other = draw(500, 6), draw(500, 2, seed=1).double()
    h[0], h[1] = 0.0, -0.0
    shuffled = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    first, again = content_order([h, other], 3), content_order([h[shuffled], other[shuffled]], 3)
    assert sorted(first.tolist()) == list(range(500))
    assert torch.equal(h[first], h[shuffled][again]) and torch.equal(other[first], other[shuffled][again])
    assert not torch.equal(first, content_order([h, other], 4))


def test_content_order_draws_no_special_rows():
    # The first half in this order is a random half: its mean is that of all, within sampling error.
    h = draw(4000, 1)
    half = h[content_order([h], 0)[:2000]]
    assert abs(float(half.mean() - h.mean())) < 4 / 4000**0.5
    kinds = torch.tensor([0.0, 1.0]).repeat(2000)[:, None]
    counted = torch.cat([kinds, torch.arange(4000.0)[:, None]], dim=1)
    assert 900 < int(kinds[content_order([counted], 1)[:2000]].sum()) < 1100


def test_mahalanobis_map():
    x = draw(200, 4).double() @ draw(4, 4, seed=1).double()
    mean, whitener = outlier_map(x, "mahalanobis", 0.1, 0.9)
    white = (x - mean) @ whitener
    torch.testing.assert_close(white.T @ white / 200, torch.eye(4).double(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("outlier", ["mahalanobis", "pca"])
def test_coordinates_that_never_change_get_the_variance_of_one_step(outlier):
    x = torch.zeros(100, 2, dtype=torch.float64)
    mean, whitener = outlier_map(x, outlier, 0.5, 0.9)
    moved = (torch.tensor([[0.5, 0.0]]).double() - mean) @ whitener
    # One step: 0.5^2 / (0.5^2 / n) = n, and n again for the correlation's own floor of 1 / n.
    assert float(moved.square().sum()) == pytest.approx(100.0 if outlier == "mahalanobis" else 100.0**2)


def test_pca_map_is_distance_in_the_subspace_and_from_it():
    x = draw(300, 5).double() @ draw(5, 5, seed=1).double()
    mean, whitener = outlier_map(x, "pca", 1e-6, 0.8)
    z = (x - x.mean(dim=0)) / x.std(dim=0, correction=0)
    values, vectors = torch.linalg.eigh(z.T @ z / 300)
    values, vectors = values.flip(0), vectors.flip(1)
    leading = next(r for r in range(1, 6) if float(values[:r].sum() / values.sum()) >= 0.8)
    assert 1 <= leading < 5
    inside = ((z @ vectors[:, :leading]).square() / values[:leading]).sum(dim=1)
    error = (z - z @ vectors[:, :leading] @ vectors[:, :leading].T).square().sum(dim=1)
    expected = inside + error / values[leading:].mean()
    torch.testing.assert_close(((x - mean) @ whitener).square().sum(dim=1), expected, rtol=1e-9, atol=0)
