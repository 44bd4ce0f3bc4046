"""Wealth in closed form: factors, fractions, crossings, bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mad.errors import ConfigError
from mad.stats import wealth

F64 = {"dtype": torch.float64}
TOLERANCES = torch.tensor([0.0, 0.1, 0.5], **F64)


def test_fractions_lie_below_the_largest_allowed():
    for penalty in ("fraction", "exp", "all_in"):
        grid = wealth.fractions(TOLERANCES, penalty)
        assert (grid >= 0).all() and (grid < 1 / (1 + TOLERANCES[:, None])).all()
    assert wealth.fractions(TOLERANCES)[1, -1] == pytest.approx(0.98 / 1.1)


@pytest.mark.parametrize("penalty", ["fraction", "exp", "all_in"])
def test_the_worst_payoff_leaves_wealth(penalty):
    grid = wealth.fractions(TOLERANCES, penalty)
    chosen = grid.amax(dim=1)[None, :, None]
    logs = wealth.log_factors(-torch.ones(1, 1, 1, **F64), chosen, TOLERANCES, (0,), penalty)
    assert torch.isfinite(logs).all()
    grown = wealth.growth_of(-torch.ones(1, 1, 1000, **F64), grid, TOLERANCES)
    assert torch.isfinite(grown).all()


def test_factors_are_what_the_penalties_say():
    payoffs = torch.tensor([[[0.5, -0.25, 1.0]]], **F64)
    chosen = torch.tensor([[[0.2], [0.3], [0.4]]], **F64)
    own = wealth.log_factors(payoffs, chosen, TOLERANCES, (0,)).exp()[0, :, 0]
    wanted = [[1 + b * (d - e) for d in (0.5, -0.25, 1.0)] for b, e in ((0.2, 0.0), (0.3, 0.1), (0.4, 0.5))]
    np.testing.assert_allclose(own, wanted, rtol=1e-14)
    for penalty, factor in (
        ("all_in", lambda d, e: (1 + d) / (1 + e)),
        ("exp", lambda d, e: math.exp(-e) * (1 + d)),
    ):
        grid = wealth.fractions(TOLERANCES, penalty)
        found = wealth.log_factors(payoffs, grid.mT[:, :, None], TOLERANCES, (0,), penalty).exp()[0, :, 0]
        wanted = [[factor(d, e) for d in (0.5, -0.25, 1.0)] for e in (0.0, 0.1, 0.5)]
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_all_in_dominates_exp():
    e = torch.linspace(0, 0.99, 100, **F64)
    assert ((e.log1p() - e) <= 0).all()


def test_growth_equals_the_sum_of_logs():
    rng = np.random.default_rng(0)
    payoffs = torch.from_numpy(rng.uniform(-1, 1, (2, 3, 77)))
    grid = wealth.fractions(TOLERANCES)
    found = wealth.growth_of(payoffs, grid, TOLERANCES)
    for t, e in enumerate(TOLERANCES):
        gain = payoffs[:, :, None] - e
        torch.testing.assert_close(found[:, t], (1 + grid[t][:, None] * gain).log().sum(dim=3))


def test_forecast_starts_at_the_prior_and_ends_at_the_best():
    grid, groups = wealth.fractions(TOLERANCES), (0, 0, 1)
    start = wealth.forecast(torch.zeros(1, 3, 3, len(wealth.SHARES), **F64), grid, TOLERANCES, groups)
    mean = float(np.mean(wealth.SHARES))
    torch.testing.assert_close(start[0, 0], torch.tensor([mean / 2, mean / 2, mean], **F64))
    assert (start[0, 2] < start[0, 1]).all() and float(start[0, 2, 2]) < 0.03  # a tolerance is not met by guessing
    growth = torch.zeros(1, 3, 3, len(wealth.SHARES), **F64)
    growth[:, :, 1, 4] = 500.0
    late = wealth.forecast(growth, grid, TOLERANCES, groups)
    torch.testing.assert_close(late[0, :, 1], grid[:, 4])
    assert float(late[0, :, 0].max()) < 1e-12
    torch.testing.assert_close(late[0, :, 2], start[0, :, 2])  # another wealth, with evidence of its own


def test_one_wealth_never_risks_more_than_the_largest_fraction():
    rng = np.random.default_rng(0)
    grid, groups = wealth.fractions(TOLERANCES), (0, 0, 1, 1, 1)
    growth = torch.from_numpy(rng.normal(scale=30, size=(50, 3, 5, len(wealth.SHARES))))
    chosen = wealth.forecast(growth, grid, TOLERANCES, groups)
    for members in ([0, 1], [2, 3, 4]):
        assert (chosen[:, :, members].sum(dim=2) <= grid[:, -1] + 1e-12).all()


def test_average_of_wealths():
    logs = torch.tensor([[2.0, 4.0], [1000.0, -1000.0]], **F64)
    np.testing.assert_allclose(
        wealth.average(logs, 1), [math.log((math.e**2 + math.e**4) / 2), 1000 - math.log(2)], rtol=1e-14
    )


def test_first_crossing_is_exact():
    log_wealth = torch.tensor([[0.0, 2.9, math.log(20), 0.0, 9.0], [0.0, 1.0, 2.0, 2.99, 2.99]], **F64)
    assert wealth.first_crossing(log_wealth, 0.05).tolist() == [3, 0]
    assert wealth.first_crossing(log_wealth, 0.05, start=100).tolist() == [103, 0]


def test_lower_bound_needs_every_smaller_tolerance():
    rejected = torch.tensor([[0, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1], [0, 1, 1]]).bool()
    np.testing.assert_allclose(wealth.shift_lower_bound(rejected, TOLERANCES + 0.01), [0, 0.01, 0.11, 0.51, 0])


@pytest.mark.parametrize(
    ("tolerances", "alpha", "match"),
    [
        ((0.0,), 0.0, "alpha"),
        ((0.0,), 1.0, "alpha"),
        ((0.0,), float("nan"), "alpha"),
        ((-0.1,), 0.05, r"\[-0.1\]"),
        ((1.0,), 0.05, "tolerance"),
        ((), 0.05, "at least one"),
        ((0.1, 0.1), 0.05, "increase"),
    ],
)
def test_bad_settings_are_errors(tolerances, alpha, match):
    with pytest.raises(ConfigError, match=match):
        wealth.check_settings(tolerances, alpha)
