"""The supervised probe against scikit-learn, and its errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mad.detectors._base import Batch, Population
from mad.detectors.probe import Config, Detector
from mad.errors import ConfigError, FitError
from tests.detectors.worlds import cut, world


def fit(batches: list[Batch], labels: torch.Tensor | None, **options) -> Detector:
    detector = Detector(Config(**options))
    detector.fit({"untrusted": Population(batches, "untrusted", labels)}, seed=0)
    return detector


@pytest.mark.parametrize("options", [{}, {"C": 0.01}, {"class_weight": "none"}])
def test_logits_are_those_of_scikit_learn(options):
    given = world()
    detector = fit([given.untrusted], given.untrusted_is_anomalous, **options)
    weight = "balanced" if options.get("class_weight", "balanced") == "balanced" else None
    for layer, found in detector.score(given.test).items():
        x = given.untrusted.features[layer].double().numpy()
        plain = LogisticRegression(C=options.get("C", 1.0), class_weight=weight, tol=1e-10, max_iter=5000)
        plain.fit((x - x.mean(axis=0)) / x.std(axis=0), given.untrusted_is_anomalous.numpy())
        test = (given.test.features[layer].double().numpy() - x.mean(axis=0)) / x.std(axis=0)
        np.testing.assert_allclose(found, plain.decision_function(test), rtol=1e-2, atol=1e-2)
        assert detector.state[f"{layer}/converged"]


def test_gradient_is_zero_at_the_weights():
    given = world()
    detector = fit([given.untrusted], given.untrusted_is_anomalous, C=0.5)
    state = detector.layer_state("first")
    labels = given.untrusted_is_anomalous.double()
    x = (given.untrusted.features["first"].double() - state["mean"]) / state["scale"]
    p = torch.sigmoid(x @ state["weight"] + state["bias"])
    balance = torch.where(labels > 0, 240 / (2 * 48), 240 / (2 * 192))
    gradient = (balance * (p - labels)) @ x + state["weight"] / 0.5
    assert gradient.abs().max() < 0.05 and abs(float((balance * (p - labels)).sum())) < 0.05


def test_every_position_has_the_label_of_its_row():
    given = world(positions=4)
    folded = fit(cut(given.untrusted, 50), given.untrusted_is_anomalous)
    mask = given.untrusted.mask
    flat = Batch({layer: h[mask] for layer, h in given.untrusted.features.items()})
    labels = given.untrusted_is_anomalous[:, None].expand(-1, 4)[mask]
    unfolded = fit([flat], labels)
    assert all(torch.equal(t, unfolded.state[name]) for name, t in folded.state.items())


def test_labels_that_cannot_be_used_are_errors():
    given = world()
    with pytest.raises(FitError, match="untrusted rows carry no anomaly labels"):
        fit([given.untrusted], None)
    for value, kind in ((False, "normal"), (True, "anomalous")):
        with pytest.raises(FitError, match=f"all 240 untrusted rows are labelled {kind}"):
            fit([given.untrusted], torch.full((240,), value))


def test_it_is_marked_and_its_options_are_checked():
    assert Detector.supervised and Detector.fits_on == ("untrusted",)
    given = world()
    stopped = fit([given.untrusted], given.untrusted_is_anomalous, max_iter=1)
    assert not stopped.state["first/converged"]
    for options in ({"C": 0.0}, {"max_iter": 0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            Config(**options)
