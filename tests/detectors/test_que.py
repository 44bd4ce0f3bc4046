"""Quantum entropy against the plain twin, and what it says when there is no signal."""

from __future__ import annotations

import pytest
import torch

from mad.detectors import mahalanobis
from mad.detectors._base import Batch, Population
from mad.detectors.que import Config, Detector
from mad.errors import ConfigError
from mad.stats.roc import auroc
from tests.benchmarks.plain import que as plain
from tests.detectors.worlds import world


def fit(trusted, untrusted, **options) -> Detector:
    detector = Detector(Config(**options))
    detector.fit({"trusted": Population([trusted]), "untrusted": Population([untrusted], "untrusted")}, seed=0)
    return detector


def by_mahalanobis(trusted, test, **options):
    detector = mahalanobis.Detector(mahalanobis.Config(**options))
    detector.fit({"trusted": Population([trusted])}, seed=0)
    return detector.score(test)


@pytest.mark.parametrize("alpha", [1.0, 4.0])
def test_agrees_with_the_plain_twin(alpha):
    given = world()
    found = fit(given.trusted, given.untrusted, alpha=alpha).score(given.test)
    for layer, h in given.test.features.items():
        expected = plain.score(plain.fit(given.trusted.features[layer], given.untrusted.features[layer], alpha), h)
        torch.testing.assert_close(found[layer], expected, rtol=1e-8, atol=0)


def test_alpha_zero_is_the_mahalanobis_distance():
    given = world()
    found = fit(given.trusted, given.untrusted, alpha=0.0, shrinkage=0.2).score(given.test)
    torch.testing.assert_close(found, by_mahalanobis(given.trusted, given.test, shrinkage=0.2), rtol=1e-9, atol=0)


@pytest.mark.parametrize("noise", ["two_sample", "one_sample"])
def test_planted_anomalies_are_a_signal(noise):
    given = world()
    state = fit(given.trusted, given.untrusted, noise=noise).state
    for layer in given.test.features:
        assert state[f"{layer}/signal"] == 1 and state[f"{layer}/excess"] > state[f"{layer}/noise"] > 0


def test_the_same_population_twice_is_no_signal_and_scores_as_mahalanobis():
    draws = torch.Generator().manual_seed(0)
    same = [Batch({"x": torch.randn(n, 40, generator=draws)}) for n in (200, 300, 50)]
    detector = fit(same[0], same[1])
    assert detector.state["x/signal"] == 0 and detector.state["x/excess"] < detector.state["x/noise"]
    torch.testing.assert_close(detector.score(same[2]), by_mahalanobis(same[0], same[2]), rtol=1e-9, atol=0)
    # The one-sample rule takes the error of the trusted covariance for a signal: hence it is no default.
    assert fit(same[0], same[1], noise="one_sample").state["x/signal"] == 1


@pytest.mark.parametrize("shrinkage", [0.1, 0.5, 1.0])
def test_shrinkage_of_the_whitening_is_no_signal(shrinkage):
    draws = torch.Generator().manual_seed(3)
    same = [Batch({"x": torch.randn(n, 20, generator=draws) * torch.linspace(0.1, 5, 20)}) for n in (9000, 8000, 50)]
    detector = fit(same[0], same[1], shrinkage=shrinkage)
    assert detector.state["x/signal"] == 0 and detector.state["x/excess"] < detector.state["x/noise"]
    expected = by_mahalanobis(same[0], same[2], shrinkage=shrinkage)
    torch.testing.assert_close(detector.score(same[2]), expected, rtol=1e-9, atol=0)


def test_no_more_rows_than_directions_can_show_no_signal():
    draws = torch.Generator().manual_seed(1)
    few, many = (Batch({"x": torch.randn(n, 40, generator=draws)}) for n in (30, 300))
    state = fit(few, many).state
    assert state["x/signal"] == 0 and state["x/noise"] == float("inf")


def test_movement_along_a_dead_direction_is_a_signal():
    draws = torch.Generator().manual_seed(2)
    x = torch.randn(700, 20, generator=draws)
    x[:, 15:] = 0
    x[380:400, 17] = x[600:, 17] = 0.3
    detector = fit(Batch({"x": x[:200]}), Batch({"x": x[200:400]}))
    assert detector.state["x/signal"] == 1
    scores = detector.score(Batch({"x": x[500:]}))["x"]
    assert auroc(scores, torch.arange(200) >= 100) == 1.0


def test_options_out_of_range_are_errors():
    for options in ({"alpha": -1.0}, {"rcond": 0.0}, {"shrinkage": 2.0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            Config(**options)
