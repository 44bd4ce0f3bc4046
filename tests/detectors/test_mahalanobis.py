"""Every form of the Mahalanobis distance against scikit-learn, explicit loops and the plain twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import EmpiricalCovariance, LedoitWolf

from mad.detectors._base import Batch, Population
from mad.detectors.mahalanobis import Config, Detector
from mad.errors import ConfigError, FitError
from tests.benchmarks.plain import mahalanobis as plain
from tests.detectors.worlds import world


@pytest.fixture(scope="module")
def given():
    return world()


def scores(given, layer="first", **options) -> torch.Tensor:
    detector = Detector(Config(**options))
    detector.fit(given.populations(40), seed=0)
    return detector.score(given.test)[layer]


def rows(given, layer="first"):
    return given.trusted.features[layer].double(), given.test.features[layer].double()


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_agrees_with_the_plain_twin(given, shrinkage):
    trusted, test = given.trusted.features["first"], given.test.features["first"]
    expected = plain.score(plain.fit(trusted, shrinkage), test)
    torch.testing.assert_close(scores(given, shrinkage=shrinkage), expected, rtol=1e-9, atol=0)


def test_agrees_with_scikit_learn(given):
    trusted, test = rows(given)
    for options, estimator in (({}, EmpiricalCovariance()), ({"shrinkage": "ledoit_wolf"}, LedoitWolf())):
        expected = estimator.fit(trusted.numpy()).mahalanobis(test.numpy()) / 12
        np.testing.assert_allclose(scores(given, **options), expected, rtol=1e-8)


def _classes(given):
    return given.trusted.logits.argmax(dim=1)


def _tied(given):
    trusted, _ = rows(given)
    means = torch.stack([trusted[_classes(given) == c].mean(dim=0) for c in range(3)])
    centred = trusted - means[_classes(given)]
    return means, centred


def _distance(x, mean, covariance):
    return torch.einsum("ni,ij,nj->n", x - mean, torch.linalg.inv(covariance), x - mean) / x.shape[1]


def test_class_conditional_is_the_nearest_class_under_a_tied_covariance(given):
    means, centred = _tied(given)
    _, test = rows(given)
    covariance = centred.T @ centred / len(centred)
    expected = torch.stack([_distance(test, m, covariance) for m in means]).amin(dim=0)
    torch.testing.assert_close(scores(given, class_conditional=True), expected, rtol=1e-9, atol=0)


def test_class_conditional_ledoit_wolf_is_that_of_the_centred_rows(given):
    means, centred = _tied(given)
    _, test = rows(given)
    covariance = torch.from_numpy(LedoitWolf(assume_centered=True).fit(centred.numpy()).covariance_)
    expected = torch.stack([_distance(test, m, covariance) for m in means]).amin(dim=0)
    found = scores(given, class_conditional=True, shrinkage="ledoit_wolf")
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)


def test_background_is_one_gaussian_of_all_trusted_rows(given):
    expected = scores(given, class_conditional=True) - scores(given)
    found = scores(given, class_conditional=True, relative="background")
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert found.abs().max() > 0.01


def test_diagonal_is_the_distance_without_correlations(given):
    trusted, test = rows(given)
    diagonal = ((test - trusted.mean(dim=0)).square() / trusted.var(dim=0, correction=0)).mean(dim=1)
    torch.testing.assert_close(scores(given, relative="diagonal"), scores(given) - diagonal, rtol=1e-9, atol=1e-9)


def test_diagonal_is_shrunk_like_the_covariance(given):
    assert scores(given, relative="diagonal", shrinkage=1.0).abs().max() < 1e-9
    means, centred = _tied(given)
    _, test = rows(given)
    nearest = ((test[:, None] - means).square() / centred.square().mean(dim=0)).mean(dim=2).amin(dim=1)
    expected = scores(given, class_conditional=True) - nearest
    found = scores(given, class_conditional=True, relative="diagonal")
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def _flat_directions() -> tuple[torch.Tensor, torch.Tensor]:
    """600 trusted rows in 10 of 16 dimensions, turned; the test moves half of its rows off their span."""
    draws = torch.Generator().manual_seed(5)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=draws, dtype=torch.float64))[0]
    live = torch.randn(800, 16, generator=draws, dtype=torch.float64)
    live[:, 10:] = 0
    live[700:, 10] = 0.5
    return live[:600] @ turn, live[600:] @ turn


def _score_rows(trusted, test, **options):
    detector = Detector(Config(**options))
    detector.fit({"trusted": Population([Batch({"x": trusted})])}, seed=0)
    return detector.score(Batch({"x": test}))["x"]


def test_drop_is_the_pseudo_inverse_per_retained_direction():
    trusted, test = _flat_directions()
    centred = test - trusted.mean(dim=0)
    inverse = torch.linalg.pinv(torch.cov(trusted.T, correction=0), rtol=1e-8, hermitian=True)
    expected = torch.einsum("ni,ij,nj->n", centred, inverse, centred) / 10
    torch.testing.assert_close(_score_rows(trusted, test, null_space="drop"), expected, rtol=1e-8, atol=0)


def test_fewer_rows_than_dimensions_still_score():
    draws = torch.Generator().manual_seed(6)
    x = torch.randn(20, 50, generator=draws)
    for options in ({}, {"null_space": "drop"}, {"shrinkage": "ledoit_wolf"}):
        assert torch.isfinite(_score_rows(x, x + 1, **options)).all()


def test_options_out_of_range_are_errors():
    for options, named in (
        ({"shrinkage": 1.5}, "shrinkage"),
        ({"rcond": 0.0}, "rcond"),
        ({"rcond": 1.0}, "rcond"),
        ({"relative": "background"}, "class_conditional"),
    ):
        with pytest.raises(ConfigError, match=named):
            Config(**options)


def test_classes_need_logits(given):
    detector = Detector(Config(class_conditional=True))
    assert detector.needs == {"features", "logits"} and Detector(Config()).needs == {"features"}
    with pytest.raises(FitError, match="layer 'first': trusted rows carry no logits"):
        detector.fit({"trusted": Population([Batch(given.trusted.features)])}, seed=0)


def test_constant_features_are_an_error_that_names_the_layer():
    with pytest.raises(FitError, match="layer 'x': all rows are equal"):
        _score_rows(torch.ones(5, 3), torch.ones(2, 3))
