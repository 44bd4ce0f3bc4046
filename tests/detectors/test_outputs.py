"""Scores of logits and of clipped activations, against closed forms on hand-made numbers."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mad import config, registry
from mad.detectors._base import Batch, Population
from mad.errors import ConfigError, FitError
from tests.detectors.worlds import world

LOGITS = torch.tensor([[0.0, 0.0, 0.0], [math.log(2), 0.0, math.log(5)], [-3.0, -4.0, -5.0]])


def fit(name: str, rows: Batch, head=None, **options):
    module = registry.load("detectors", name)
    detector = module.Detector(config.parse(module.Config, options))
    detector.subject = None if head is None else SimpleNamespace(head=head)
    detector.fit({"trusted": Population([rows])}, seed=0)
    return detector


def score(name: str, logits: torch.Tensor, **options) -> list[float]:
    batch = Batch({}, logits)
    rows = Batch({"x": torch.zeros(len(logits), 1)}, logits)
    return fit(name, rows, **options).score(batch)["output"].tolist()


def test_softmax_probability():
    third = 1 / (1 + math.exp(-1) + math.exp(-2))
    assert score("msp", LOGITS) == pytest.approx([2 / 3, 3 / 8, 1 - third])
    # At temperature 1/2 the odds are squared: 4, 1 and 25.
    assert score("msp", LOGITS, temperature=0.5)[1] == pytest.approx(5 / 30)
    assert score("msp", LOGITS + 1e4) == pytest.approx([2 / 3, 3 / 8, 1 - third], rel=1e-3)  # float32 logits


def test_largest_logit():
    assert score("max_logit", LOGITS) == pytest.approx([0.0, -math.log(5), 3.0])


def test_energy():
    sums = [3.0, 8.0, math.exp(-3) + math.exp(-4) + math.exp(-5)]
    assert score("energy", LOGITS) == pytest.approx([-math.log(s) for s in sums])
    assert score("energy", LOGITS, temperature=0.5)[1] == pytest.approx(-0.5 * math.log(30))
    assert score("energy", LOGITS, temperature=1e-3)[1] == pytest.approx(-math.log(5), abs=2e-3)  # the largest logit
    assert score("energy", torch.full((2, 4), 1e4)) == pytest.approx(2 * [-1e4 - math.log(4)])


def test_a_single_logit_is_half_of_each_class():
    z = torch.tensor([[2.0], [-0.5]])
    for name in ("msp", "max_logit", "energy"):
        assert score(name, z) == score(name, torch.cat([-z / 2, z / 2], dim=1))
        assert score(name, z) == score(name, -z)  # sure of either class is as usual as sure of the other
    assert score("msp", z) == pytest.approx([1 / (1 + math.exp(2)), 1 / (1 + math.exp(0.5))])


def test_half_precision_logits_are_added_in_double():
    logits = torch.tensor([[60000.0, 60000.0], [0.0, -60000.0]]).half()
    assert score("energy", logits) == pytest.approx([-59968.0 - math.log(2) - (60000 - 59968), 0.0], abs=40)
    assert all(map(math.isfinite, score("msp", logits)))


def test_features_are_not_looked_at():
    given = world()
    blind = Batch({}, given.test.logits)
    for name in ("msp", "max_logit", "energy"):
        detector = fit(name, given.trusted)
        assert torch.equal(detector.score(blind)["output"], detector.score(given.test)["output"])
        assert list(detector.state) == ["width"]


WEIGHT, BIAS = torch.tensor([[1.0, -1.0], [0.5, 2.0]]), torch.tensor([0.1, -0.2])
TRUSTED = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0], [8.0, 9.0], [10.0, 10.0]])


def react(penultimate: torch.Tensor, **options) -> torch.Tensor:
    rows = Batch({"x": torch.zeros(6, 1)}, penultimate=TRUSTED)
    return fit("react", rows, (WEIGHT, BIAS), **options).score(Batch({}, penultimate=penultimate))["output"]


def test_react_clips_at_the_pooled_percentile():
    rows = Batch({"x": torch.zeros(6, 1)}, penultimate=TRUSTED)
    for percentile in (50.0, 90.0, 97.5, 100.0):
        state = fit("react", rows, (WEIGHT, BIAS), percentile=percentile).state
        assert float(state["threshold"]) == pytest.approx(np.percentile(TRUSTED.numpy(), percentile))


def test_react_scores_the_logits_of_what_is_left():
    given = torch.tensor([[100.0, 3.0], [1.0, -7.0], [-1.0, 50.0]])
    clipped = torch.tensor([[5.0, 3.0], [1.0, -7.0], [-1.0, 5.0]]).double()  # the median of 0..5, 6..10, 10 is 5.5
    clipped = torch.where(clipped == 5.0, 5.5, clipped)
    logits = clipped @ WEIGHT.double().T + BIAS.double()
    expected = {
        "energy": -torch.log(torch.exp(logits).sum(dim=1)),
        "msp": 1 - torch.exp(logits).amax(dim=1) / torch.exp(logits).sum(dim=1),
        "max_logit": -logits.amax(dim=1),
    }
    for name, wanted in expected.items():
        found = react(given, percentile=50.0, score=name)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)
    tempered = -2 * torch.log(torch.exp(logits / 2).sum(dim=1))
    torch.testing.assert_close(react(given, percentile=50.0, temperature=2.0), tempered, rtol=1e-6, atol=1e-9)


def test_react_that_clips_nothing_is_the_score_of_the_logits():
    given = world()
    inside = Batch({}, penultimate=given.trusted.penultimate)
    for name in ("energy", "msp", "max_logit"):
        clipped = fit("react", given.trusted, given.subject.head, percentile=100.0, score=name).score(inside)
        plain = fit(name, given.trusted).score(given.trusted)
        torch.testing.assert_close(clipped, plain, rtol=1e-4, atol=1e-5)


def test_the_head_is_copied():
    given, head = world(), (WEIGHT.clone(), BIAS.clone())
    rows = Batch({"x": torch.zeros(6, 1)}, penultimate=TRUSTED)
    detector = fit("react", rows, head)
    before = detector.score(rows)["output"]
    head[0].zero_()
    detector.subject = given.subject
    assert torch.equal(detector.score(rows)["output"], before)


def test_what_is_missing_is_told():
    rows = Batch({"x": torch.zeros(6, 1)})
    for name in ("msp", "max_logit", "energy"):
        with pytest.raises(FitError, match="trusted rows carry no logits"):
            fit(name, rows)
        with pytest.raises(FitError, match="carry no logits"):
            fit(name, Batch({"x": torch.zeros(3, 1)}, LOGITS)).score(rows)
    with pytest.raises(FitError, match="trusted rows carry no input of a last linear layer"):
        fit("react", rows, (WEIGHT, BIAS))
    with pytest.raises(FitError, match="the head of the model is needed"):
        fit("react", Batch(rows.features, penultimate=TRUSTED))
    with pytest.raises(FitError, match="width 2, the head reads width 3"):
        fit("react", Batch(rows.features, penultimate=TRUSTED), (torch.ones(2, 3), BIAS))


def test_options_out_of_range_are_errors():
    for name in ("msp", "energy", "react"):
        with pytest.raises(ConfigError, match="temperature must be above 0"):
            registry.load("detectors", name).Config(temperature=0.0)
    for percentile in (0.0, 101.0):
        with pytest.raises(ConfigError, match="percentile"):
            registry.load("detectors", "react").Config(percentile=percentile)
