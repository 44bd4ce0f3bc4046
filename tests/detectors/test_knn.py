"""Neighbour distances against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from mad.detectors.knn import Config, Detector
from mad.errors import ConfigError, FitError
from tests.detectors.worlds import world


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("aggregate", ["mean", "kth"])
def test_scores_are_those_of_scikit_learn(metric, aggregate):
    given = world()
    detector = Detector(Config(k=4, metric=metric, aggregate=aggregate))
    detector.fit(given.populations(50), seed=0)
    for layer, found in detector.score(given.test).items():
        search = NearestNeighbors(n_neighbors=4, metric=metric, algorithm="brute")
        search.fit(given.trusted.features[layer].double().numpy())
        distances, _ = search.kneighbors(given.test.features[layer].double().numpy())
        expected = distances.mean(axis=1) if aggregate == "mean" else distances[:, 3]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_reference_is_a_copy():
    given = world()
    detector = Detector(Config())
    detector.fit(given.populations(), seed=0)
    before = detector.score(given.test)["first"]
    given.trusted.features["first"].zero_()
    assert np.array_equal(before, detector.score(given.test)["first"])


def test_too_many_neighbours_are_errors():
    with pytest.raises(ConfigError, match="k must be at least 1"):
        Config(k=0)
    with pytest.raises(FitError, match="300 trusted rows are fewer than k = 301"):
        Detector(Config(k=301)).fit(world().populations(), seed=0)
