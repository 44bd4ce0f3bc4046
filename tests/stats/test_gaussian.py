"""Moments, shrinkage and distances against closed forms, numpy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf

from mad.errors import DataError
from mad.stats import gaussian
from mad.stats.gaussian import Moments, TiedMoments


@pytest.fixture
def rows() -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 6, generator=draws)
    return torch.randn(500, 6, generator=draws) @ mix + 100 * torch.randn(6, generator=draws)


def close(a, b, relative=1e-10) -> bool:
    return bool((a - b).abs().max() <= relative * b.abs().max())


def test_moments_are_those_of_numpy(rows):
    found = Moments.of([rows])
    assert found.count == 500
    np.testing.assert_allclose(found.mean, rows.double().numpy().mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance(), np.cov(rows.double().numpy().T, bias=True), rtol=1e-10)
    np.testing.assert_allclose(found.variance(), rows.double().numpy().var(axis=0), rtol=1e-10)


def test_chunking_changes_not_a_bit(rows, monkeypatch):
    monkeypatch.setattr(gaussian, "BLOCK_ELEMENTS", 1)  # blocks of 256 rows: several of them
    whole = Moments.of([rows])
    for size in (1, 7, 256, 300):
        cut = Moments.of(rows.split(size))
        assert torch.equal(cut.mean, whole.mean) and torch.equal(cut.scatter, whole.scatter)


def test_order_and_merging_keep_ten_digits(rows, monkeypatch):
    monkeypatch.setattr(gaussian, "BLOCK_ELEMENTS", 1)
    whole = Moments.of([rows])
    mixed = Moments.of([rows.flip(0)])
    merged = Moments.of([rows[:3]]) + Moments.of([rows[3:450]]) + Moments.of([rows[450:]])
    for other in (mixed, merged):
        assert other.count == 500 and close(other.mean, whole.mean) and close(other.scatter, whole.scatter)


def test_a_large_mean_costs_no_digits():
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(4000, 3, generator=draws, dtype=torch.float64)
    near, far = Moments.of(x.split(100)), Moments.of((x + 2**20).split(100))
    assert close(far.scatter, near.scatter, 1e-8)  # x + 2**20 itself keeps only ten digits of x


def test_float16_rows_whose_sum_overflows():
    x = torch.full((4000, 2), 60.0).half()
    x[::2] = 40.0
    found = Moments.of([x])
    assert found.mean.tolist() == [50.0, 50.0] and found.variance().tolist() == [100.0, 100.0]


def test_no_rows_and_mixed_widths_are_errors():
    with pytest.raises(DataError, match="no rows"):
        Moments.of([])
    with pytest.raises(DataError, match="one width"):
        Moments.of([torch.zeros(2, 3), torch.zeros(2, 4)])


def test_tied_moments_are_the_within_class_scatter(rows):
    classes = torch.arange(500) % 3 * 2  # 0, 2, 4
    tied = TiedMoments.of(lambda: zip(rows.split(90), classes.split(90), strict=True))
    assert tied.labels.tolist() == [0, 2, 4]
    parts = [Moments.of([rows[classes == c]]) for c in (0, 2, 4)]
    assert close(tied.means, torch.stack([p.mean for p in parts]))
    assert close(tied.within.scatter, sum(p.scatter for p in parts))


def test_tied_moments_do_not_depend_on_blocks(rows, monkeypatch):
    classes = torch.arange(500) // 200
    whole = TiedMoments.of(lambda: [(rows, classes)])
    monkeypatch.setattr(gaussian, "BLOCK_ELEMENTS", 1)  # one batch of two blocks
    cut = TiedMoments.of(lambda: [(rows, classes)])
    assert close(cut.means, whole.means) and close(cut.within.scatter, whole.within.scatter)


@pytest.mark.parametrize(("n", "d"), [(40, 60), (300, 10), (2, 5)])
def test_ledoit_wolf_is_that_of_scikit_learn(n, d):
    draws = torch.Generator().manual_seed(n)
    x = torch.randn(n, d, generator=draws) * torch.linspace(0.1, 3, d) + 5
    moments = Moments.of([x])
    s = gaussian.ledoit_wolf(moments, x.split(11))
    covariance, expected = ledoit_wolf(x.double().numpy())
    assert s == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(gaussian.shrink(moments.covariance(), s), covariance, rtol=1e-8, atol=1e-12)


def test_shrinkage_keeps_the_trace(rows):
    covariance = Moments.of([rows]).covariance()
    for s in (0.0, 0.3, 1.0):
        shrunk = gaussian.shrink(covariance, s)
        assert shrunk.trace() == pytest.approx(float(covariance.trace()), rel=1e-12)
        values = torch.linalg.eigvalsh(covariance)
        assert close(gaussian.shrink(values, s), torch.linalg.eigvalsh(shrunk))
        assert close(gaussian.shrink(covariance.diagonal(), s), shrunk.diagonal())


def test_whitened_rows_have_unit_covariance(rows):
    moments = Moments.of([rows])
    whitener = gaussian.whitening(moments, 0.0, 1e-9, "floor")
    white = Moments.of([(rows.double() - moments.mean) @ whitener])
    assert (white.covariance() - torch.eye(6)).abs().max() < 1e-9


def test_distance_is_the_quadratic_form_of_the_inverse(rows):
    moments = Moments.of([rows])
    inverse = torch.linalg.inv(gaussian.shrink(moments.covariance(), 0.2))
    centred = rows.double() - moments.mean
    expected = torch.einsum("ni,ij,nj->n", centred, inverse, centred) / 6
    whitener = gaussian.whitening(moments, 0.2, 1e-12, "floor")
    assert close(gaussian.mahalanobis(rows, moments.mean[None], whitener), expected)


def test_distance_to_the_nearest_of_tight_far_classes_keeps_its_digits():
    centres = torch.tensor([[0.0, 0.0], [1e6, 0.0]], dtype=torch.float64)
    h = centres[[0, 1, 1]] + torch.tensor([[0.5, 0.0], [0.0, 0.5], [-1.0, 1.0]], dtype=torch.float64)
    found = gaussian.mahalanobis(h, centres, torch.eye(2, dtype=torch.float64))
    np.testing.assert_allclose(found, [0.125, 0.125, 1.0], rtol=1e-9)


def test_blocks_of_rows_do_not_change_distances(rows, monkeypatch):
    moments = Moments.of([rows])
    whitener = gaussian.whitening(moments, 0.0, 1e-9, "floor")
    whole = gaussian.mahalanobis(rows, moments.mean[None], whitener)
    monkeypatch.setattr(gaussian, "BLOCK_ELEMENTS", 1)
    assert close(gaussian.mahalanobis(rows, moments.mean[None], whitener), whole, 1e-12)


def test_flat_directions_are_floored_or_dropped():
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(2))
    x[:, 2] = 7
    moments = Moments.of([x])
    floor = gaussian.whitening(moments, 0.0, 1e-4, "floor")
    drop = gaussian.whitening(moments, 0.0, 1e-4, "drop")
    assert floor.shape == (3, 3) and drop.shape == (3, 2)
    step = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    largest = float(moments.eigen[0][-1])
    assert (step @ floor).square().sum() == pytest.approx(1 / (1e-4 * largest))
    assert (step @ drop).square().sum() == pytest.approx(0, abs=1e-20)
    roots = gaussian.inverse_root(moments.variance(), 1e-4, "drop")
    assert roots[2] == 0 and close(roots[:2], moments.variance()[:2].rsqrt())


def test_rows_that_are_all_equal_have_no_distance():
    with pytest.raises(DataError, match="all rows are equal"):
        gaussian.whitening(Moments.of([torch.ones(5, 2)]), 0.0, 1e-5, "floor")


def test_top_directions_are_the_last_eigenvectors(rows):
    moments = Moments.of([rows])
    found, (_, vectors) = gaussian.top_directions(moments, 2), moments.eigen
    overlap = found.T @ vectors.flip(1)[:, :2]
    assert (overlap.abs() - torch.eye(2)).abs().max() < 1e-8
