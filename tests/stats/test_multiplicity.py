"""e-BH, averages and joint stopping in closed form, and the false discovery rate by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mad.errors import ConfigError
from mad.stats.multiplicity import e_bh, global_test, stop_jointly


def logs(*values):
    return torch.tensor(values, dtype=torch.float64).log()


def test_e_bh_in_closed_form():
    # K = 4, alpha = 0.1: the k-th largest must reach 40, 20, 13.33, 10.
    assert e_bh(logs(41, 1, 1, 1), 0.1).tolist() == [True, False, False, False]
    assert e_bh(logs(39, 1, 1, 1), 0.1).tolist() == [False] * 4
    assert e_bh(logs(1, 21, 39, 0.5), 0.1).tolist() == [False, True, True, False]
    assert e_bh(logs(11, 11, 11, 11), 0.1).tolist() == [True] * 4
    assert e_bh(logs(12, 12, 12, 9), 0.1).tolist() == [False] * 4
    assert e_bh(torch.stack([logs(41, 1, 1, 1), logs(11, 11, 11, 11)]), 0.1).sum(dim=1).tolist() == [1, 4]
    assert e_bh(torch.tensor([5000.0, -torch.inf]), 0.1).tolist() == [True, False]
    with pytest.raises(ConfigError, match="alpha"):
        e_bh(logs(1), 0.0)


def test_one_stream_is_the_plain_test():
    assert e_bh(logs(20.001), 0.05).tolist() == [True]
    assert e_bh(logs(19.999), 0.05).tolist() == [False]


def test_average_tests_the_global_null():
    assert bool(global_test(logs(79.0, 1, 0.5, 0.1), 0.05)) is True  # mean 20.15
    assert bool(global_test(logs(77.0, 1, 0.5, 0.1), 0.05)) is False  # mean 19.65
    assert global_test(logs([100.0, 1], [10, 10]), 0.05).tolist() == [True, False]


def test_a_stream_does_not_stop_at_its_own_threshold():
    """Two streams at alpha 0.05: 25 is past 1 / alpha, but the joint set needs 40, or twice 20."""
    wealth = logs([1, 25, 25, 10, 60], [1, 1, 1, 19, 30])
    found = stop_jointly(wealth, 0.05)
    assert found.stopped_at.tolist() == [5, 5]
    assert found.discovered.tolist() == [True, True]
    both = stop_jointly(logs([1, 25, 25], [1, 1, 21]), 0.05)
    assert both.stopped_at.tolist() == [3, 3]


def test_a_stopped_stream_keeps_its_wealth_and_helps_the_others():
    wealth = logs([1, 41, 0.01, 0.01], [1, 1, 1, 20.5])
    found = stop_jointly(wealth, 0.05)
    assert found.stopped_at.tolist() == [2, 4]
    assert found.discovered.tolist() == [True, True]
    np.testing.assert_allclose(found.log_e, [math.log(41), math.log(20.5)])
    nothing = stop_jointly(logs([1, 30, 1], [1, 1, 1]), 0.05)
    assert nothing.stopped_at.tolist() == [0, 0] and not nothing.discovered.any()
    np.testing.assert_allclose(nothing.log_e, [0, 0])


def test_false_discovery_rate_of_jointly_stopped_martingales():
    rng, alpha, rates = np.random.default_rng(0), 0.1, []
    for _ in range(300):
        signs = rng.choice([-1, 1], size=(8, 400), p=[0.5, 0.5])
        signs[4:] = rng.choice([-1, 1], size=(4, 400), p=[0.4, 0.6])
        signs[1:4] = signs[:1]  # the nulls depend on each other
        wealth = torch.from_numpy(np.log1p(0.3 * signs).cumsum(axis=1))
        found = stop_jointly(wealth, alpha).discovered
        rates.append(float(found[:4].sum() / max(1, int(found.sum()))))
    assert np.mean(rates) <= alpha + 3 * np.std(rates) / math.sqrt(300)
    assert np.mean(rates) > 0.005
