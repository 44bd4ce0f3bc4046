"""Conformal ranks, robust standardisation and aggregation over layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mad.errors import DataError
from mad.stats import conformal


def test_p_values_count_calibration_scores_at_least_as_large():
    p = conformal.p_value(torch.tensor([0.0, 2.0, 2.5, 9.0]), torch.tensor([3.0, 1.0, 2.0, 2.0]))
    np.testing.assert_allclose(p, [5 / 5, 4 / 5, 2 / 5, 1 / 5])
    np.testing.assert_allclose(conformal.rank(torch.tensor([0.0, 9.0]), torch.tensor([1.0])), [0.0, 0.5])


@pytest.mark.parametrize("decimals", [None, 0])
def test_p_values_of_fresh_trusted_rows_are_valid(decimals):
    rng = np.random.default_rng(0)
    draw = lambda *shape: torch.from_numpy(  # noqa: E731
        rng.normal(size=shape) if decimals is None else rng.normal(size=shape).round(decimals)
    )
    p = torch.cat([conformal.p_value(draw(5), draw(19)) for _ in range(4000)])
    for level in (0.05, 0.1, 0.5):
        assert float((p <= level + 1e-12).double().mean()) <= level + 0.012
    if decimals is None:
        assert float((p <= 0.05 + 1e-12).double().mean()) == pytest.approx(0.05, abs=0.012)  # and not idle


def test_standardising_uses_median_and_mad():
    reference = torch.randn(20_001, generator=torch.Generator().manual_seed(0)).double() * 3 + 5
    z = conformal.standardise(torch.tensor([5.0, 8.0]), reference)
    np.testing.assert_allclose(z, [0, 1], atol=0.04)
    exact = conformal.standardise(torch.tensor([4.0]), torch.tensor([0.0, 1.0, 2.0, 100.0]))
    np.testing.assert_allclose(exact, [(4 - 1.5) / (1.482602218505602 * 1.0)])


def test_standardising_survives_equal_calibration_scores():
    mostly = torch.tensor([0.0, 0.0, 0.0, 4.0])
    np.testing.assert_allclose(conformal.standardise(torch.tensor([2.0]), mostly), [2 / np.std([0, 0, 0, 4])])
    assert conformal.standardise(torch.tensor([3.0]), torch.ones(5)).tolist() == [2.0]


def test_the_layer_of_the_largest_unit_does_not_win():
    draws = torch.Generator().manual_seed(1)
    calibration = {"a": torch.randn(500, generator=draws), "b": 1000 * torch.randn(500, generator=draws)}
    scores = {"a": torch.tensor([8.0, 0.0]), "b": torch.tensor([0.0, 900.0])}
    for how in ("mean", "max"):
        first, second = conformal.aggregate(scores, calibration, how).tolist()
        assert first > second
        first, second = conformal.aggregate(scores, None, how, scale=False).tolist()
        assert first < second


def test_aggregates_are_what_their_names_say():
    calibration = {"a": torch.tensor([0.0, 1.0, 2.0]), "b": torch.tensor([0.0, 10.0, 20.0])}
    scores = {"a": torch.tensor([2.5, 0.5]), "b": torch.tensor([5.0, 30.0])}
    np.testing.assert_allclose(conformal.aggregate(scores, calibration, "rank"), [(3 + 1) / 8, (1 + 3) / 8])
    unit = conformal.NORMAL_MAD
    np.testing.assert_allclose(
        conformal.aggregate(scores, calibration, "mean"), [(1.5 - 0.5) / 2 / unit, (-0.5 + 2) / 2 / unit]
    )
    np.testing.assert_allclose(conformal.aggregate(scores, calibration, "max"), [1.5 / unit, 2 / unit])
    np.testing.assert_allclose(conformal.aggregate(scores, None, "mean", scale=False), [3.75, 15.25])


@pytest.mark.parametrize("how", ["mean", "max", "rank"])
def test_a_score_does_not_depend_on_its_batch(how):
    draws = torch.Generator().manual_seed(2)
    calibration = {k: torch.randn(50, generator=draws) for k in "ab"}
    scores = {k: torch.randn(20, generator=draws) for k in "ab"}
    whole = conformal.aggregate(scores, calibration, how)
    parts = [conformal.aggregate({k: s[i : i + 1] for k, s in scores.items()}, calibration, how) for i in range(20)]
    assert torch.equal(torch.cat(parts), whole)


def test_unusable_input_is_an_error():
    good = {"a": torch.tensor([1.0])}
    with pytest.raises(DataError, match="no layers"):
        conformal.aggregate({}, {}, "mean")
    with pytest.raises(DataError, match="layer a"):
        conformal.aggregate(good, {"b": torch.ones(2)}, "rank", scale=False)
    with pytest.raises(DataError, match="layer a"):
        conformal.aggregate(good, None, "mean")
    with pytest.raises(DataError, match="no calibration"):
        conformal.aggregate(good, {"a": torch.tensor([])}, "mean")
    with pytest.raises(DataError, match="NaN"):
        conformal.aggregate({"a": torch.tensor([float("nan")])}, None, "mean", scale=False)
