"""Gram deviations against a plain twin, and what the detector does where classes or digits run out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mad.config import parse
from mad.detectors._base import Batch, Population
from mad.detectors.beatrix import Config, Detector
from mad.errors import ConfigError, FitError
from tests.benchmarks.plain import beatrix as plain
from tests.detectors.worlds import take, world


def fitted(given: Batch, seed: int = 0, **options) -> Detector:
    detector = Detector(parse(Config, options))
    detector.fit({"trusted": Population([given])}, seed)
    return detector


def rows(n: int, width: int, seed: int, positions: int = 0) -> Batch:
    """Log-normal features, whose batch medians are biased, of three classes."""
    draws = torch.Generator().manual_seed(seed)
    shape = (n, positions, width) if positions else (n, width)
    h = torch.randn(shape, generator=draws).exp() * torch.where(torch.rand(shape, generator=draws) < 0.2, -1, 1)
    return Batch({"x": h}, torch.eye(3)[torch.randint(3, (n,), generator=draws)])


def agree(found, wanted):
    assert wanted.count_nonzero() > len(wanted) / 2
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9 * float(wanted.max()))


@pytest.mark.parametrize("positions", [0, 4])
@pytest.mark.parametrize("powers", [(1, 2, 3, 4), (3,), (2, 5, 5)])
def test_scores_are_those_of_the_plain_twin_with_one_batch(positions, powers):
    trusted, test = rows(200, 7, 0, positions), rows(60, 7, 1, positions)
    detector = fitted(trusted, powers=powers, mad_scale=2.0)
    classes = [b.logits.argmax(dim=1) for b in (trusted, test)]
    bounds = plain.fit(trusted.features["x"], classes[0], powers, 2.0, batch_size=1000)
    agree(detector.score(test)["x"], plain.score(bounds, test.features["x"], classes[1], powers))


def test_pooled_medians_are_those_of_one_class():
    trusted, test = rows(200, 7, 0), rows(60, 7, 1)
    detector = fitted(trusted, per_class=False, mad_scale=2.0)
    zeros = torch.zeros(200, dtype=torch.int64)
    bounds = plain.fit(trusted.features["x"], zeros, mad_scale=2.0, batch_size=1000)
    agree(detector.score(test)["x"], plain.score(bounds, test.features["x"], zeros[:60]))
    agree(detector.score(replace(test, logits=None))["x"], detector.score(test)["x"])


def test_rare_and_unseen_classes_are_judged_by_all_trusted_rows():
    trusted, test = rows(200, 7, 0), rows(60, 7, 1)
    logits = torch.eye(4)[torch.arange(200) % 2]
    logits[:5] = torch.eye(4)[2]  # five rows of class 2, none of class 3
    trusted = replace(trusted, logits=logits)
    detector = fitted(trusted, mad_scale=2.0, min_class_rows=6)
    pooled = fitted(trusted, mad_scale=2.0, per_class=False).score(test)["x"]
    for c, alike in ((0, False), (1, False), (2, True), (3, True)):
        found = detector.score(replace(test, logits=torch.eye(4)[[c] * 60]))["x"]
        assert torch.allclose(found, pooled, rtol=1e-10) == alike, c
    assert detector.state["x/lower"].shape[0] == 3  # two classes and all rows


def test_no_pooled_medians_are_kept_where_no_class_can_need_them():
    detector = fitted(rows(200, 7, 0))
    assert detector.state["x/lower"].shape == (3, 2, 28)
    assert detector.state["x/weights"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("positions", [0, 3])
def test_an_overflowing_input_scores_highest_and_finite(positions):
    trusted, test = rows(100, 6, 0, positions), rows(20, 6, 1, positions)
    test.features["x"][4] *= 1e30
    test.features["x"][7] *= 1e37
    scores = fitted(trusted).score(test)["x"]
    assert torch.isfinite(scores).all() and scores.argsort()[-2:].tolist() == [4, 7]
    double = Batch({"x": trusted.features["x"].double() * 1e300}, trusted.logits)
    extreme = take(double, slice(1))
    extreme.features["x"] = extreme.features["x"] * 0 + 1e308
    score = fitted(double).score(extreme)["x"]
    assert torch.isfinite(score).all() and score > 0


def test_scores_do_not_hang_on_the_unit_of_a_layer():
    trusted, test = rows(150, 6, 0), rows(40, 6, 1)
    unit = fitted(trusted, mad_scale=1.0).score(test)["x"]
    scale = lambda b: Batch({"x": b.features["x"].double() * 1e-9}, b.logits)  # noqa: E731
    agree(fitted(scale(trusted), mad_scale=1.0).score(scale(test))["x"], unit)


def test_sparse_features_have_a_divisor():
    trusted = rows(150, 6, 0)
    trusted.features["x"][:, 2] = 0  # median and deviation 0
    trusted.features["x"][0, 2] = 0.1
    test = take(trusted, slice(10, 12))
    test.features["x"][1, 2] += 0.5
    quiet, moved = fitted(trusted).score(test)["x"].tolist()
    assert moved > quiet + 100 and moved < float("inf")


def test_points_are_scored_one_by_one():
    trusted, test = rows(100, 6, 0, positions=3), rows(30, 6, 1, positions=3)
    flat = Batch({"x": trusted.features["x"].flatten(0, 1)}, trusted.logits.repeat_interleave(3, dim=0))
    single = fitted(flat, mad_scale=2.0)
    each = torch.stack([single.score(Batch({"x": test.features["x"][:, t]}, test.logits))["x"] for t in range(3)])
    for how, wanted in (("mean", each.mean(dim=0)), ("max", each.amax(dim=0))):
        agree(fitted(trusted, mad_scale=2.0, positions="points", score_aggregation=how).score(test)["x"], wanted)


def test_padding_adds_nothing_to_a_gram_sum():
    trusted, test = rows(100, 6, 0, positions=3), rows(30, 6, 1, positions=3)
    mask = torch.arange(3) < torch.randint(1, 4, (30, 1), generator=torch.Generator().manual_seed(0))
    detector = fitted(trusted, mad_scale=1.0)
    found = detector.score(replace(test, mask=mask))["x"]
    for row in range(30):
        h = test.features["x"][row : row + 1, : int(mask[row].sum())]
        alone = detector.score(Batch({"x": h}, test.logits[row : row + 1]))["x"]
        torch.testing.assert_close(found[row : row + 1], alone, rtol=1e-10, atol=1e-12)


def test_batches_of_different_lengths_are_fitted_as_one():
    trusted = rows(90, 6, 0, positions=4)
    mask = torch.ones(90, 4, dtype=torch.bool)
    mask[40:, 2:] = False
    parts = [take(trusted, slice(40)), take(trusted, slice(40, 90))]
    parts[1].features["x"] = parts[1].features["x"][:, :2]
    cut = Detector(Config())
    cut.fit({"trusted": Population(parts)}, seed=0)
    whole = fitted(replace(trusted, mask=mask))
    assert torch.equal(cut.state["x/lower"], whole.state["x/lower"])


def test_wide_layers_are_projected_and_the_projection_is_kept():
    trusted, test = rows(150, 40, 0), rows(30, 40, 1)
    test.features["x"][20:] *= 30
    detector = fitted(trusted, max_width=8)
    q = detector.state["x/projection"]
    assert q.shape == (40, 8) and detector.state["x/lower"].shape[-1] == 36
    torch.testing.assert_close(q.T @ q, torch.eye(8).double(), rtol=0, atol=1e-12)
    projected = Batch({"x": trusted.features["x"].double() @ q}, trusted.logits)
    seen = Batch({"x": test.features["x"].double() @ q}, test.logits)
    agree(
        fitted(projected, mad_scale=1.0).score(seen)["x"], fitted(trusted, max_width=8, mad_scale=1.0).score(test)["x"]
    )
    assert not torch.equal(q, fitted(trusted, seed=1, max_width=8).state["x/projection"])
    whole = fitted(trusted, max_width=8, exact=True)
    assert "x/projection" not in whole.state and whole.state["x/lower"].shape[-1] == 820
    for found in (detector, whole):
        scores = found.score(test)["x"]
        assert scores[20:].min() > scores[:20].max()


def test_unusable_rows_are_told():
    trusted = rows(50, 4, 0)
    with pytest.raises(FitError, match="carry no logits"):
        fitted(replace(trusted, logits=None))
    with pytest.raises(FitError, match="carry no logits"):
        fitted(trusted).score(replace(trusted, logits=None))
    with pytest.raises(FitError, match="layer 'x': trusted features are all 0"):
        fitted(Batch({"x": torch.zeros(9, 4)}, torch.eye(3)[[0] * 9]))
    with pytest.raises(FitError, match="fitted on rows without"):
        fitted(trusted).score(rows(5, 4, 1, positions=2))


def test_ranges():
    for wrong, message in (
        ({"powers": ()}, "powers must be whole numbers from 1 to 32"),
        ({"powers": (0,)}, "powers must"),
        ({"mad_scale": -1}, "mad_scale must be at least 0"),
        ({"min_class_rows": 0}, "min_class_rows must be at least 1"),
        ({"max_width": 0}, "max_width must be at least 1"),
        ({"floor": 0.0}, "floor must be above 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            Config(**wrong)


def test_logits_are_needed_for_classes_only():
    assert Detector(Config()).needs == {"features", "logits"}
    assert Detector(Config(per_class=False)).needs == {"features"}


def test_the_world_is_left_alone():
    given = world(positions=3)
    before = {k: h.clone() for k, h in given.trusted.features.items()}
    fitted(given.trusted)
    assert all(torch.equal(given.trusted.features[k], h) for k, h in before.items())
