"""Spectral signatures against a singular value decomposition."""

from __future__ import annotations

import pytest
import torch

from mad.detectors._base import Batch, Population
from mad.detectors.spectral import Config, Detector
from mad.errors import ConfigError, FitError
from tests.detectors.worlds import world


def fit(untrusted: Batch, **options) -> Detector:
    detector = Detector(Config(**options))
    detector.fit({"untrusted": Population([untrusted], "untrusted")}, seed=0)
    return detector


def by_svd(rows, test, count):
    rows, test = rows.double(), test.double()
    _, _, right = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
    return ((test - rows.mean(dim=0)) @ right[:count].T).square().sum(dim=1)


@pytest.mark.parametrize("count", [1, 3])
def test_pooled_score_is_the_projection_on_right_singular_vectors(count):
    given = world()
    found = fit(given.untrusted, directions=count).score(given.test)
    for layer, h in given.untrusted.features.items():
        expected = by_svd(h, given.test.features[layer], count)
        torch.testing.assert_close(found[layer], expected, rtol=1e-7, atol=1e-9)


def test_per_class_score_uses_the_predicted_class_only():
    given = world()
    found = fit(given.untrusted, per_class=True).score(given.test)["first"]
    fitted, scored = given.untrusted.logits.argmax(dim=1), given.test.logits.argmax(dim=1)
    rows, test = given.untrusted.features["first"], given.test.features["first"]
    for c in range(3):
        expected = by_svd(rows[fitted == c], test[scored == c], 1)
        torch.testing.assert_close(found[scored == c], expected, rtol=1e-7, atol=1e-9)


def test_classes_too_rare_to_fit_use_the_pooled_direction():
    given = world()
    logits = torch.nn.functional.one_hot(torch.arange(240).clamp(max=1), 3).float()  # one row of class 0
    detector = fit(Batch(given.untrusted.features, logits), per_class=True)
    assert detector.state["first/classes"].tolist() == [1]
    as_rare = Batch(given.test.features, torch.tensor([[1.0, 0, 0]]).expand(150, 3))
    as_unseen = Batch(given.test.features, torch.tensor([[0.0, 0, 1]]).expand(150, 3))
    pooled = fit(given.untrusted).score(given.test)["first"]
    torch.testing.assert_close(detector.score(as_rare)["first"], pooled)
    torch.testing.assert_close(detector.score(as_unseen)["first"], pooled)


def test_more_directions_than_dimensions_are_all_of_them():
    given = world()
    found = fit(given.untrusted, directions=99).score(given.test)["first"]
    centre = given.untrusted.features["first"].double().mean(dim=0)
    torch.testing.assert_close(found, (given.test.features["first"] - centre).square().sum(dim=1))


def test_bad_options_and_missing_logits_are_errors():
    given = world()
    with pytest.raises(ConfigError, match="directions"):
        Config(directions=0)
    detector = fit(given.untrusted, per_class=True)
    assert detector.needs == {"features", "logits"}
    with pytest.raises(FitError, match="no logits"):
        detector.score(Batch(given.test.features))
    with pytest.raises(FitError, match="no logits"):
        fit(Batch(given.untrusted.features), per_class=True)
