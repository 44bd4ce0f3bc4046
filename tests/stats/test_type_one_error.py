"""False alarms at any time stay below alpha, for every bet and option; and the check itself can fail.

Sizes are small here: test_type_one_in_full.py runs the full ones.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mad import registry
from mad.stats import sequential_test, wealth
from mad.stats.bets import _base
from mad.stats.bets._base import Pairs, pairs
from mad.stats.sequential_test import SequentialTest, Settings, run

ALPHA = 0.05
BOUNDARY = 0.1
BLOCK = 500
"""streams made and tested at a time, so that memory does not grow with their number"""


def boundary(rng, shape):
    """TV = tolerance exactly: a tenth of the candidate's scores lie where none of the baseline's do, and back."""
    common = rng.beta(2, 8, (2, *shape))
    moved = rng.random((2, *shape)) < BOUNDARY
    x, y = np.where(moved[0], -0.5, common[0]), np.where(moved[1], 1.5, common[1])
    return x, y


def coupled_boundary(rng, shape):
    """The same total variation, in pairs that move together."""
    common, moved = rng.beta(2, 8, shape), rng.random(shape) < BOUNDARY
    return common, np.where(moved, 1.5, common)


def moved(rng, scores, place):
    """A tenth of the scores moved to where none is: total variation 0.1."""
    return np.where(rng.random(scores.shape) < BOUNDARY, place, scores)


def mass(rng, shape):
    """Four fifths of the scores are 0."""
    return rng.random(shape) * (rng.random(shape) < 0.2)


def dependent(rng, shape):
    """Equal marginals, y the mirror image of x: any dependence inside a pair is allowed."""
    u = rng.random(shape)
    return u, np.where(rng.random(shape) < 0.5, 1 - u, u)


def vectors(rng, shape):
    """Three scores each, y the mirror image of x."""
    x = rng.normal(size=(*shape, 3))
    return x, -x


def clusters(rng, shape):
    """Three generations of a prompt on either side, much alike."""
    centre = rng.beta(2, 8, (2, *shape, 1, 1))
    return tuple((centre + 0.05 * rng.normal(size=(2, *shape, 3, 1))).clip(0, 1))


NULLS = {
    "continuous": (lambda rng, s: (rng.beta(2, 8, s), rng.beta(2, 8, s)), 0.0),
    "five points": (lambda rng, s: (rng.choice(5, s, p=P) / 4.0, rng.choice(5, s, p=P) / 4.0), 0.0),
    "mass at 0": (lambda rng, s: (mass(rng, s), mass(rng, s)), 0.0),
    "dependent": (dependent, 0.0),
    "saturated": (lambda rng, s: tuple((rng.random(s) < 0.5).astype(float) for _ in range(2)), 0.0),
    "boundary": (boundary, BOUNDARY),
    "coupled boundary": (coupled_boundary, BOUNDARY),
}
MORE_NULLS = {
    "five points, boundary": (lambda rng, s: (rng.choice(5, s, p=P) / 4.0, rng.choice(5, s, p=Q) / 4.0), BOUNDARY),
    "mass at 0, boundary": (lambda rng, s: (mass(rng, s), moved(rng, mass(rng, s), 2.0)), BOUNDARY),
    "saturated, boundary": (lambda rng, s: tuple((rng.random(s) < p).astype(float) for p in (0.5, 0.6)), BOUNDARY),
    "vectors": (vectors, 0.0),
    "clusters": (clusters, 0.0),
}
"""at full size only"""
P, Q = [0.4, 0.3, 0.15, 0.1, 0.05], [0.3, 0.3, 0.15, 0.1, 0.15]
"""five-point scales of total variation 0.1"""
OPTIONS = [
    ("kelly", {"thresholds": 3, "ridge": 1.0, "newton_steps": 1}, {}),
    ("kelly", {}, {"batch_size": 7}),
    ("ratio", {"ridge": 0.1, "temperatures": (1000.0,)}, {}),
    ("ons", {"rate": 50.0, "ridge": 0.5}, {}),
    ("mixture", {"first": registry.load("bets", "ons").Config()}, {}),
    ("mixture", {}, {"penalty": "all_in"}),
    ("mixture", {}, {"penalty": "exp"}),
    ("ratio", {}, {"alpha": 0.3}),
]


def bound(alpha, streams):
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / streams)


def as_units(x, y):
    """Pairs of scores or vectors; with four axes, of several generations each."""
    if x.ndim < 4:
        return pairs(x, y)
    weights = torch.full(x.shape[:3], 1 / x.shape[2], dtype=torch.float64)
    return Pairs(x, y, weights, weights)


def false_alarms(null, name, streams, units, options=None, seed=0, **settings):
    """Share of null streams rejected at any time."""
    make, tolerance = {**NULLS, **MORE_NULLS}[null]
    rng = np.random.default_rng(seed)
    chosen = Settings(**{"tolerances": (tolerance,), "alpha": ALPHA, "batch_size": 50, **settings})
    module = registry.load("bets", name)
    bet, found = module.Bet(module.Config(**(options or {}))), []
    for start in range(0, streams, BLOCK):
        count = min(BLOCK, streams - start)
        given = as_units(*(torch.from_numpy(side) for side in make(rng, (count, units))))
        numbers = torch.arange(start, start + count)
        found.append(SequentialTest(bet, chosen).run(given, numbers, learn_last=False).rejected_at[:, 0] > 0)
    return float(torch.cat(found).double().mean())


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("name", ["kelly", "mixture", "ons", "ratio"])
def test_false_alarms(name, null):
    assert false_alarms(null, name, 500, 200) <= bound(ALPHA, 500)


@pytest.mark.parametrize("null", ["continuous", "five points", "boundary"])
@pytest.mark.parametrize(
    ("name", "options"),
    [("kernel", {"features": 32}), ("network", {"epochs": 6, "steps": 2, "hidden": 8})],
)
def test_false_alarms_of_the_costly_bets(name, options, null):
    assert false_alarms(null, name, 200, 200, options) <= bound(ALPHA, 200)


@pytest.mark.parametrize(("name", "options", "settings"), OPTIONS)
def test_false_alarms_of_options(name, options, settings):
    for null in ("continuous", "coupled boundary"):
        rate = false_alarms(null, name, 250, 150, options, **settings)
        assert rate <= bound(settings.get("alpha", ALPHA), 250)


class Fixed(_base.Bet):
    """A bet that is given: g = height sign(z - 1/2); what a learner would like best in the sharp case."""

    height = 0.5

    def start(self, streams, dimensions, seed):
        return {}

    def values(self, state, z):
        return self.height * torch.where(z[:, None, :, 0] > 0.5, 1.0, -1.0).double()

    def learn(self, state, past, fresh):
        return state


class Doubled(Fixed):
    """Mutant: payoffs of twice the size that the theorem allows."""

    height = 1.0


def sharp(streams, units, seed=0):
    """Bernoullis with TV = 0.05, coupled so that the all-in wealth is a martingale that is never ruined."""
    rng = np.random.default_rng(seed)
    y = rng.random((streams, units)) < 0.3
    # y is 1 in 30% of pairs, x in 35%: x is y, but for one in fourteen of the pairs where y is 0.
    x = y | (rng.random((streams, units)) < 0.05 / 0.7)
    return pairs(torch.from_numpy(x * 1.0), torch.from_numpy(y * 1.0))


def rate_of(bet, given, **settings):
    return float((SequentialTest(bet, Settings(**settings)).run(given).rejected_at > 0).double().mean())


def test_the_sharp_case_comes_close_to_alpha():
    rate = rate_of(Fixed(None), sharp(5000, 500), tolerances=(0.05,), batch_size=1, penalty="all_in")
    assert 0.6 * ALPHA <= rate <= bound(ALPHA, 5000)


def test_doubled_payoffs_are_caught():
    given = sharp(2000, 500)
    assert rate_of(Doubled(None), given, tolerances=(0.05,), batch_size=1, penalty="all_in") > bound(ALPHA, 2000)


def peek(monkeypatch):
    """Mutant: every bet learns from a batch before it bets on it."""
    honest = SequentialTest._step

    def peeking(self, state, fresh, past, learn=True):
        own = {k.removeprefix("bet."): v for k, v in state.items() if k.startswith("bet.")}
        learnt = {f"bet.{k}": v for k, v in self.bet.learn(own, past, fresh.units).items()}
        return honest(self, {**state, **learnt}, fresh, past, learn=False)

    monkeypatch.setattr(sequential_test.SequentialTest, "_step", peeking)


@pytest.mark.parametrize("name", ["kelly", "ratio", "ons"])
def test_a_bet_that_sees_its_own_batch_is_caught(name, monkeypatch):
    peek(monkeypatch)
    assert false_alarms("continuous", name, 200, 300) > 2 * bound(ALPHA, 200)


def of_rows_and_units(name, streams):
    """False alarms of 20 prompts with 20 generations each, taken for 400 rows, and as 20 units."""
    rng = np.random.default_rng(0)
    # What a model makes of a prompt is mostly a matter of the prompt: its generations are alike.
    x, y = (
        torch.from_numpy(rng.normal(size=(streams, 20, 1)) + 0.3 * rng.normal(size=(streams, 20, 20))) for _ in range(2)
    )
    rows = run(pairs(x.flatten(1), y.flatten(1)), name, settings=Settings(batch_size=20)).rejected_at > 0
    units = run(as_units(x[..., None], y[..., None]), name, settings=Settings(batch_size=4)).rejected_at > 0
    return float(rows.double().mean()), float(units.double().mean())


@pytest.mark.parametrize("name", ["kelly", "mixture"])
def test_generations_of_one_prompt_are_no_independent_evidence(name):
    rows, units = of_rows_and_units(name, 300)
    assert rows > 0.2 and units <= bound(ALPHA, 300)


def test_the_lower_bound_holds_at_all_times_together():
    rng, grid = np.random.default_rng(0), (0.0, 0.05, BOUNDARY, 0.15, 0.2)
    x, y = (torch.from_numpy(side) for side in coupled_boundary(rng, (300, 400)))
    result = run(pairs(x, y), settings=Settings(grid, batch_size=50))
    wrong = (result.shift_lower_bound >= BOUNDARY).double().mean()
    assert float(wrong) <= bound(ALPHA, 300)
    assert float(result.shift_lower_bound.max()) >= 0.05  # and it is not idle
    assert wealth.threshold(ALPHA) == pytest.approx(math.log(20))
