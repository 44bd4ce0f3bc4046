"""The driver against a slow plain twin, and what it must never do: look ahead, forget, go broke."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mad import registry
from mad.errors import ConfigError, DataError
from mad.stats import clusters, wealth
from mad.stats.bets._base import Pairs, pairs
from mad.stats.sequential_test import SequentialTest, Settings, run

QUICK = {"network": {"epochs": 3}, "kernel": {"features": 24}}
BETS = registry.names("bets")


def bet_of(name):
    module = registry.load("bets", name)
    return module.Bet(module.Config(**QUICK.get(name, {})))


def scores(streams=3, n=90, shift=0.6, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(streams, n))), torch.from_numpy(rng.normal(size=(streams, n)) + shift)


def plain_twin(x, y, bet, settings):
    """Pair by pair, stream by stream, tolerance by tolerance, in Python floats."""
    rejected = torch.zeros(len(x), len(settings.tolerances), dtype=torch.int64)
    logs = torch.zeros(len(x), len(settings.tolerances), x.shape[1], dtype=torch.float64)
    for f in range(len(x)):
        state = bet.start(torch.tensor([f]), 1, settings.seed)
        history = []
        for t in range(x.shape[1]):
            begun = t // settings.batch_size
            if t % settings.batch_size == 0 and t:
                state = bet.learn(state, pairs(x[f : f + 1, :t], y[f : f + 1, :t]), settings.batch_size)
                paid = list(history)
            payoff = bet.payoffs(state, pairs(x[f : f + 1, t : t + 1], y[f : f + 1, t : t + 1]))[0, :, 0].tolist()
            for e, tolerance in enumerate(settings.tolerances):
                before = logs[f, e, t - 1].item() if t else 0.0
                factor = plain_factors(payoff, paid, tolerance, settings.penalty) if begun else 1.0
                logs[f, e, t] = before + math.log(factor)
                if not rejected[f, e] and logs[f, e, t] >= math.log(1 / settings.alpha):
                    rejected[f, e] = t + 1
            if begun:
                history.append(payoff)
    return logs, rejected


def plain_factors(payoff, paid, tolerance, penalty):
    shares = wealth.SHARES if penalty == "fraction" else (wealth.ALL_IN,)
    experts = [(c, share / (1 + tolerance)) for c in range(len(payoff)) for share in shares]
    log_weights = []
    for c, b in experts:
        past = sum(math.log(1 + b * (d[c] - tolerance)) for d in paid)
        log_weights.append(wealth.RATE * past + wealth.PRIOR_PAIRS * math.log(1 - b * tolerance))
    weights = [math.exp(v - max(log_weights)) for v in log_weights]
    gain = sum(w * b * (payoff[c] - tolerance) for w, (c, b) in zip(weights, experts, strict=True)) / sum(weights)
    return (1 + gain) * (math.exp(-tolerance) * (1 + tolerance) if penalty == "exp" else 1)


@pytest.mark.parametrize("penalty", ["fraction", "exp", "all_in"])
@pytest.mark.parametrize("name", ["kelly", "ratio"])
def test_against_the_plain_twin(name, penalty):
    x, y = scores()
    settings = Settings((0.0, 0.05, 0.2), 0.05, 20, penalty)
    result = run(pairs(x, y), name, settings=settings)
    logs, rejected = plain_twin(x, y, bet_of(name), settings)
    torch.testing.assert_close(result.log_wealth, logs, rtol=0, atol=1e-10)
    assert torch.equal(result.rejected_at, rejected)
    assert (rejected > 0).any()
    assert result.units == 90


def test_mixture_is_the_average_of_wealths():
    x, y = scores()
    settings = Settings((0.0, 0.1), batch_size=20)
    parts = torch.stack([run(pairs(x, y), name, settings=settings).log_wealth for name in ("kelly", "ratio")])
    both = run(pairs(x, y), "mixture", settings=settings).log_wealth
    torch.testing.assert_close(both, (parts.exp().mean(dim=0)).log())


@pytest.mark.parametrize("name", BETS)
def test_nothing_looks_ahead(name):
    """What comes later changes nothing before it, and a pair's own value only what it pays."""
    x, y = scores()
    other_x, other_y = x.clone(), y.clone()
    other_x[:, 47:], other_y[:, 47:] = other_y[:, 47:] * 9, -other_x[:, 47:]
    settings = Settings((0.0, 0.1), batch_size=20)
    tests = [SequentialTest(bet_of(name), settings) for _ in range(2)]
    one, other = tests[0].run(pairs(x, y)), tests[1].run(pairs(other_x, other_y))
    assert torch.equal(one.log_wealth[..., :47], other.log_wealth[..., :47])
    assert not torch.equal(one.log_wealth[..., 47:], other.log_wealth[..., 47:])


@pytest.mark.parametrize("name", BETS)
def test_resumed_equals_one_go(name):
    x, y = scores(n=100)
    given, settings = pairs(x, y), Settings((0.0, 0.1), batch_size=25)
    whole = SequentialTest(bet_of(name), settings)
    result = whole.run(given)
    state, paths = None, []
    for start in range(0, 100, 25):
        test = SequentialTest(bet_of(name), settings, state)
        assert test.units == start
        paths.append(test.update(given.cut(start, start + 25)))
        assert all(isinstance(v, torch.Tensor) for v in test.state.values())
        state = {k: v.clone() for k, v in test.state.items()}
    assert torch.equal(torch.cat(paths, dim=2), result.log_wealth)
    assert torch.equal(test.rejected_at, result.rejected_at)
    assert set(state) == set(whole.state)
    assert all(torch.equal(v, whole.state[k]) for k, v in state.items())


def test_a_grid_of_tolerances_equals_one_at_a_time():
    x, y = scores()
    grid = (0.0, 0.03, 0.1, 0.3)
    together = run(pairs(x, y), settings=Settings(grid))
    for t, tolerance in enumerate(grid):
        alone = run(pairs(x, y), settings=Settings((tolerance,)))
        torch.testing.assert_close(alone.log_wealth[:, 0], together.log_wealth[:, t], rtol=0, atol=1e-10)
    count = (together.rejected_at > 0).long().cumprod(dim=1).sum(dim=1)
    assert together.shift_lower_bound.tolist() == [([0.0, *grid])[c] for c in count.tolist()]


def test_the_first_batch_is_not_bet_on():
    x, y = scores(n=50)
    result = run(pairs(x, y), settings=Settings((0.0, 0.4), batch_size=25))
    assert (result.log_wealth[..., :25] == 0).all()


@pytest.mark.parametrize(
    ("kind", "penalty", "n"),
    [
        ("certain", "fraction", 1_000_000),
        ("certain", "exp", 100_000),
        ("swapped", "fraction", 100_000),
        ("swapped", "all_in", 100_000),
        ("null", "fraction", 100_000),
    ],
)
def test_long_streams_neither_overflow_nor_ruin(kind, penalty, n):
    x, y = torch.zeros(1, n), torch.ones(1, n)
    if kind == "swapped":  # learnt one way round, then the other: the worst that can be paid
        x[:, n // 2 :], y[:, n // 2 :] = 1, 0
    if kind == "null":
        x = y = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (1, n)).astype(float))
    result = run(pairs(x, y), settings=Settings((0.0, 0.3, 0.6), 0.05, 10_000, penalty))
    assert torch.isfinite(result.log_wealth).all()
    if kind == "certain":
        assert ((result.rejected_at > 10_000) & (result.rejected_at < 11_000)).all()
        assert float(result.log_wealth[0, 0, -1]) > 0.8 * n * math.log(2)
        assert float(result.shift_lower_bound[0]) == 0.6


def test_rejection_is_found_at_its_pair():
    x, y = scores(streams=5, n=200)
    result = run(pairs(x, y), settings=Settings((0.0, 0.1), batch_size=50))
    for f in range(5):
        for t in range(2):
            crossed = (result.log_wealth[f, t] >= math.log(20)).nonzero()
            assert result.rejected_at[f, t] == (int(crossed[0]) + 1 if len(crossed) else 0)
    assert (result.rejected_at % 50 != 0).any()


def test_a_cluster_is_one_factor():
    """Every generation of a prompt repeated: the same evidence, so the same wealth."""
    x, y = scores(streams=1, n=60)
    ids = torch.arange(60)
    once = clusters.group(x[0], ids, y[0], ids)
    thrice = clusters.group(x[0].repeat(3), ids.repeat(3), y[0].repeat(2), ids.repeat(2))
    assert thrice.units == 60
    settings = Settings((0.0, 0.1), batch_size=20)
    one, other = (run(u, "mixture", settings=settings) for u in (once, thrice))
    torch.testing.assert_close(one.log_wealth, other.log_wealth)
    torch.testing.assert_close(once.x, pairs(x, y).x)


def test_clusters_keep_their_order_and_weights():
    x, y = torch.arange(6.0), torch.arange(10.0, 14.0)
    found = clusters.group(x, torch.tensor([7, 7, 3, 9, 3, 3]), y, torch.tensor([3, 9, 7, 9]))
    assert found.x[0, :, :, 0].tolist() == [[0, 1, 0], [2, 4, 5], [3, 0, 0]]
    torch.testing.assert_close(found.x_weights[0, 1], torch.full((3,), 1 / 3, dtype=torch.float64))
    assert found.x_weights[0, 2].tolist() == [1, 0, 0]
    assert found.y[0, :, :, 0].tolist() == [[12, 0], [10, 0], [11, 13]]
    assert found.y_weights[0].tolist() == [[1, 0], [1, 0], [0.5, 0.5]]


@pytest.mark.parametrize("y_ids", [[1, 2, 4], [1, 2, 2], [1, 1, 1]])
def test_clusters_on_one_side_only_are_an_error(y_ids):
    with pytest.raises(DataError, match="one side only"):
        clusters.group(torch.zeros(3), torch.tensor([1, 2, 3]), torch.zeros(3), torch.tensor(y_ids))


def test_bad_input_is_an_error():
    x, y = scores(n=10)
    with pytest.raises(DataError, match="1 scores are NaN"):
        spoilt = pairs(x.clone(), y)
        spoilt.x[0, 3] = float("nan")
        run(spoilt)
    with pytest.raises(DataError, match="2 stream numbers for 3 streams"):
        run(pairs(x, y), streams=[0, 1])
    with pytest.raises(ConfigError, match="unknown bet 'keli'"):
        run(pairs(x, y), "keli")
    for wrong in ({"tolerances": (1.5,)}, {"alpha": 2.0}, {"batch_size": 0}, {"penalty": "log"}):
        with pytest.raises(ConfigError):
            Settings(**wrong)


def test_a_later_batch_is_checked_too():
    x, y = scores(n=40)
    test = SequentialTest(bet_of("kelly"), Settings(batch_size=20))
    test.update(pairs(x[:, :20], y[:, :20]))
    before = dict(test.state)
    spoilt = Pairs(*(part.clone() for part in pairs(x[:, 20:], y[:, 20:])))
    spoilt.y[1, 5] = float("inf")
    with pytest.raises(DataError, match="1 scores are NaN"):
        test.update(spoilt)
    assert test.state.keys() == before.keys() and test.units == 20


def test_batches_of_clusters_of_other_sizes():
    """A stream of clusters cut where a batch ends: each batch knows only its own largest cluster."""
    rng = np.random.default_rng(0)
    ids = torch.arange(60).repeat_interleave(torch.from_numpy(np.repeat([1, 3, 2], 20)))
    x, y = (torch.from_numpy(rng.normal(size=len(ids))) for _ in range(2))
    settings = Settings((0.0, 0.1), batch_size=20)
    whole = run(clusters.group(x, ids, y + 0.5, ids), settings=settings).log_wealth
    test, paths = SequentialTest(bet_of("mixture"), settings), []
    for start in range(0, 60, 20):
        rows = (ids >= start) & (ids < start + 20)
        paths.append(test.update(clusters.group(x[rows], ids[rows], y[rows] + 0.5, ids[rows])))
    torch.testing.assert_close(torch.cat(paths, dim=2), whole)


def test_streams_carry_their_numbers():
    """Random numbers of a stream hang on its number, not on its place."""
    x, y = scores(n=60)
    settings = Settings(batch_size=20)
    all_three = run(pairs(x, y), "network", QUICK["network"], settings)
    last = run(Pairs(*(part[2:] for part in pairs(x, y))), "network", QUICK["network"], settings, [2])
    torch.testing.assert_close(last.log_wealth, all_three.log_wealth[2:], rtol=0, atol=1e-3)
