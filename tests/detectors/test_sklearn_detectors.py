"""Gaussian mixture, isolation forest and local outlier factor against scikit-learn itself."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor

from mad import config, registry
from mad.detectors._base import Batch, Population
from mad.detectors._tabular import sklearn_seed, sorted_rows
from mad.errors import ConfigError, FitError
from tests.detectors.worlds import world

SEED = 5


def fit(name: str, trusted: torch.Tensor, **options):
    module = registry.load("detectors", name)
    detector = module.Detector(config.parse(module.Config, options))
    detector.fit({"trusted": Population([Batch({"first": trusted})])}, seed=SEED)
    return detector


def score(detector, h: torch.Tensor) -> np.ndarray:
    return detector.score(Batch({"first": h}))["first"].numpy()


def data(dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    given = world(dtype=dtype)
    return given.trusted.features["first"], given.test.features["first"]


def standardised(trusted: torch.Tensor, h: torch.Tensor) -> np.ndarray:
    trusted = trusted.double().numpy()
    return (h.double().numpy() - trusted.mean(axis=0)) / trusted.std(axis=0)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("components", [1, 3])
def test_mixture_is_that_of_scikit_learn(covariance_type, components):
    trusted, test = data()
    detector = fit("gmm", trusted, components=components, covariance_type=covariance_type)
    seed = sklearn_seed(SEED, "gmm", "first")
    mixture = GaussianMixture(
        components, covariance_type=covariance_type, reg_covar=1e-3, max_iter=200, random_state=seed
    )
    mixture.fit(standardised(trusted, sorted_rows(trusted)))
    expected = -mixture.score_samples(standardised(trusted, test))
    np.testing.assert_allclose(score(detector, test), expected, rtol=1e-8)
    assert detector.state["first/converged"]


def test_mixture_of_one_component_is_a_gaussian():
    trusted, test = data()
    detector = fit("gmm", trusted, components=1, regularization=0, standardize=False)
    x, h = trusted.double(), test.double()
    gaussian = torch.distributions.MultivariateNormal(x.mean(dim=0), torch.cov(x.T, correction=0))
    np.testing.assert_allclose(score(detector, test), -gaussian.log_prob(h), rtol=1e-9)


def test_mixture_that_cannot_be_fitted_is_an_error():
    trusted, _ = data()
    flat = torch.cat([trusted, trusted[:, :1]], dim=1)
    with pytest.raises(FitError, match="layer 'first': a covariance is singular: raise regularization"):
        fit("gmm", flat, regularization=0)
    with pytest.raises(FitError, match="3 trusted rows are fewer than 4 components"):
        fit("gmm", trusted[:3])
    with pytest.raises(FitError, match="all rows are equal"):
        fit("gmm", torch.ones(9, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not fit("gmm", trusted, components=8, max_iter=1).state["first/converged"]


@pytest.mark.parametrize("options", [{}, {"trees": 7, "max_samples": 31, "max_features": 0.5}, {"max_samples": 1000}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forest_is_that_of_scikit_learn(options, dtype):
    trusted, test = data(dtype)
    forest = IsolationForest(
        n_estimators=options.get("trees", 100),
        max_samples=min(options.get("max_samples", 256), 300),
        max_features=options.get("max_features", 1.0),
        random_state=sklearn_seed(SEED, "isolation_forest", "first"),
    ).fit(sorted_rows(trusted).numpy())
    found = score(fit("isolation_forest", trusted, **options), test)
    np.testing.assert_allclose(found, -forest.score_samples(test.numpy()), rtol=1e-12)


def test_forest_rounds_rows_as_scikit_learn_does_at_its_thresholds():
    trusted = torch.randn(100, 1, generator=torch.Generator().manual_seed(0)).double()
    seed = sklearn_seed(SEED, "isolation_forest", "first")
    forest = IsolationForest(max_samples=100, random_state=seed).fit(sorted_rows(trusted).numpy())
    detector = fit("isolation_forest", trusted)
    inner = detector.state["first/feature"] >= 0
    at = detector.state["first/threshold"][inner][:, None]
    np.testing.assert_allclose(score(detector, at), -forest.score_samples(at.numpy()), rtol=1e-12)


@pytest.mark.parametrize("unit", [2.0**-100, 2.0**-30, 2.0**100])
def test_forest_does_not_hang_on_the_unit_of_a_coordinate(unit):
    # scikit-learn itself cuts no coordinate of a range below 1e-7.
    trusted, test = data()
    units = torch.where(torch.arange(trusted.shape[1]) % 2 == 0, unit, 1.0)
    found, expected = (score(fit("isolation_forest", u * trusted), u * test) for u in (units, torch.ones(())))
    assert np.array_equal(found, expected) and len(np.unique(found)) > 10


def test_forest_on_repeated_rows_and_one_coordinate():
    trusted = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 5.0])[:, None]
    seed = sklearn_seed(SEED, "isolation_forest", "first")
    forest = IsolationForest(max_samples=6, random_state=seed).fit(sorted_rows(trusted).numpy())
    found = score(fit("isolation_forest", trusted), trusted)
    np.testing.assert_allclose(found, -forest.score_samples(trusted.numpy()), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("feature", lambda t: t.clamp(max=-1).index_fill(0, torch.tensor([0]), 12)),
        ("left", lambda t: torch.zeros_like(t)),
        ("right", lambda t: t + 10**6),
        ("threshold", lambda t: t[:-1]),
        ("root", lambda t: t - 1),
        ("root", lambda t: t[:0]),
    ],
)
def test_a_damaged_forest_is_an_error(name, change):
    trusted, test = data()
    detector = fit("isolation_forest", trusted, trees=3)
    detector.state[f"first/{name}"] = change(detector.state[f"first/{name}"])
    with pytest.raises(FitError, match="the saved forest is damaged"):
        score(detector, test)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("standardize", [True, False])
def test_outlier_factor_is_that_of_scikit_learn(metric, standardize):
    trusted, test = data()
    detector = fit("lof", trusted, n_neighbors=7, metric=metric, standardize=standardize)
    scale = trusted.double().numpy().std(axis=0) if standardize else 1.0
    plain = LocalOutlierFactor(n_neighbors=7, metric=metric, algorithm="brute", novelty=True)
    plain.fit(trusted.double().numpy() / scale)
    expected = -plain.score_samples(test.double().numpy() / scale)
    np.testing.assert_allclose(score(detector, test), expected, rtol=1e-6)


def test_outlier_factor_among_repeated_rows():
    trusted, test = data(torch.float64)
    trusted = torch.cat([trusted[:40], trusted[:1].expand(6, -1)])  # more copies than neighbours
    detector = fit("lof", trusted, n_neighbors=3, standardize=False)
    plain = LocalOutlierFactor(n_neighbors=3, algorithm="brute", novelty=True).fit(sorted_rows(trusted).numpy())
    np.testing.assert_allclose(score(detector, test), -plain.score_samples(test.numpy()), rtol=1e-6)


def test_outlier_factor_needs_more_rows_than_neighbours():
    trusted, _ = data()
    with pytest.raises(FitError, match="20 trusted rows: more than n_neighbors = 20 are needed"):
        fit("lof", trusted[:20])
    assert np.isfinite(score(fit("lof", trusted[:21]), trusted)).all()


@pytest.mark.parametrize("name", ["gmm", "lof"])
def test_standardised_scores_do_not_depend_on_units(name):
    trusted, test = data(torch.float64)
    units = 2.0 ** (torch.arange(12) // 2)
    found, expected = (score(fit(name, u * trusted), u * test) for u in (units, torch.ones(12)))
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_options_out_of_range_are_errors():
    wrong = {
        "gmm": [{"components": 0}, {"restarts": 0}, {"max_iter": 0}, {"regularization": -1.0}],
        "isolation_forest": [{"trees": 0}, {"max_samples": 1}, {"max_features": 0.0}, {"max_features": 1.5}],
        "lof": [{"n_neighbors": 0}],
    }
    for name, options in wrong.items():
        for option in options:
            with pytest.raises(ConfigError, match=next(iter(option))):
                registry.load("detectors", name).Config(**option)


def test_rows_are_sorted_in_one_order():
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    mixed = rows[torch.randperm(100, generator=torch.Generator().manual_seed(1))]
    assert torch.equal(sorted_rows(rows), sorted_rows(mixed))
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, sorted_rows(rows).tolist()))
