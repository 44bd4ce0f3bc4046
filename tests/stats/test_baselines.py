"""baselines: values of scipy, levels where they are promised, and what peeking does where they are not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from mad import registry
from mad.errors import ConfigError, DataError
from mad.stats.baselines import _base, _classifier
from mad.stats.baselines._base import Outcome, run
from mad.stats.baselines.anderson_darling import _Statistic
from mad.stats.bets._base import pairs

NAMES = registry.names("baselines")
SEQUENTIAL = ["c2st", "e_c2st", "ecrt", "ons_c2st"]
FIXED = sorted(set(NAMES) - set(SEQUENTIAL))
QUICK = {"permutations": 39}
ALPHA = 0.05


def options(name):
    return QUICK if "permutations" in registry.load("baselines", name).Config.__dataclass_fields__ else {}


def streams(shape, seed=0, shifted=False, decimals=None):
    draw = np.random.default_rng(seed)
    sides = draw.beta(2, 8, shape), draw.beta(2.8, 6.8, shape) if shifted else draw.beta(2, 8, shape)
    return tuple(torch.from_numpy(side if decimals is None else side.round(decimals)) for side in sides)


def bound(count, alpha=ALPHA):
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / count)


def test_all_are_there():
    assert sorted([*SEQUENTIAL, "anderson_darling", "ks", "l_c2st", "mmd", "paired_t"]) == NAMES


@pytest.mark.parametrize("decimals", [None, 1])
def test_p_values_are_those_of_scipy(decimals):
    x, y = streams((6, 80), decimals=decimals, shifted=True)
    ks = run("ks", x, y, [30, 80]).values
    t = run("paired_t", x, y, [30, 80]).values
    for stream in range(6):
        for place, n in enumerate((30, 80)):
            a, b = x[stream, :n].numpy(), y[stream, :n].numpy()
            statistic = stats.ks_2samp(a, b).statistic
            assert float(ks[stream, place]) == pytest.approx(stats.kstwobign.sf(statistic * (n / 2) ** 0.5), abs=1e-9)
            assert float(t[stream, place]) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("decimals", [None, 1])
def test_the_anderson_darling_statistic_is_that_of_scipy(decimals):
    """scipy's is standardised: the same function of the pooled sizes, so differences of two samples are alike."""
    found, expected = [], []
    for seed in range(3):
        x, y = (side[0] for side in streams((1, 40), seed, decimals=decimals, shifted=True))
        z, order = torch.cat([x, y]).sort(stable=True)
        statistic = _Statistic(z, order, 40)
        found.append(float(statistic(torch.ones(1, 40, dtype=torch.float64))[0]))
        expected.append(stats.anderson_ksamp([x.numpy(), y.numpy()], midrank=True).statistic)
        swap = torch.ones(1, 40, dtype=torch.float64)
        swap[0, :7] = -1
        mixed = [torch.where(swap[0] > 0, a, b).numpy() for a, b in ((x, y), (y, x))]
        found.append(float(statistic(swap)[0]))
        expected.append(stats.anderson_ksamp(mixed, midrank=True).statistic)
    slope, intercept = np.polyfit(expected, found, 1)
    np.testing.assert_allclose(np.polyval((slope, intercept), expected), found, atol=1e-6)
    assert slope == pytest.approx(0.75, abs=0.08) and intercept == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", SEQUENTIAL)
@pytest.mark.parametrize("decimals", [None, 1])
def test_false_alarms_of_an_e_process_at_any_time(name, decimals):
    x, y = streams((600, 200), seed=1, decimals=decimals)
    outcome = run(name, x, y, range(2, 201, 3), {"batch_size": 20})
    assert outcome.kind == "e-process"
    assert float(outcome.rejected(ALPHA, peeking=True)[:, -1].double().mean()) <= bound(600)
    # An e-value has mean at most 1 at a fixed time.
    values = outcome.values[:, -1].exp()
    assert float(values.mean()) <= 1 + 4 * float(values.std()) / 600**0.5


@pytest.mark.parametrize("name", ["c2st", "ons_c2st"])
def test_the_level_is_kept_where_pairs_are_not_exchangeable(name):
    """Equal marginals, but (x, y) is (0, 1), (1, 2) or (2, 0), never the other way round."""
    draw = np.random.default_rng(0)
    x = torch.from_numpy(draw.integers(3, size=(400, 300))).double()
    y = (x + 1) % 3
    outcome = run(name, x, y, range(2, 301), {"batch_size": 20})
    assert float(outcome.rejected(ALPHA, True)[:, -1].double().mean()) <= bound(400)
    assert registry.load("baselines", name).Baseline.null == "equal marginals"


@pytest.mark.parametrize("payoff", ["probability", "sign"])
def test_stakes_follow_newton_steps_on_past_payoffs(payoff):
    """Against the recursion written out for one stream, from the classifier's own log odds."""
    x, y = streams((2, 120), seed=6, shifted=True)
    given = {"payoff": payoff, "largest_stake": 0.3, "batch_size": 30}
    found = run("ons_c2st", x, y, range(2, 121), given).values
    of_x, of_y = (side.numpy() for side in _classifier.prequential(pairs(x, y), "auto", 30, 0))
    for stream in range(2):
        wealth, stake, curvature, logs = 1.0, 0.0, 1.0, []
        for a, b in zip(of_x[stream], of_y[stream], strict=True):
            odds = 1 / (1 + math.exp(-a)) - 1 / (1 + math.exp(-b))
            paid = odds if payoff == "probability" else (np.sign(a) - np.sign(b)) / 2
            wealth *= 1 + stake * paid
            slope = paid / (1 + stake * paid)
            curvature += slope**2
            stake = min(max(stake + 2 / (2 - math.log(3)) * slope / curvature, 0), 0.3)
            logs.append(math.log(wealth))
        np.testing.assert_allclose(found[stream].numpy(), logs[1:], rtol=1e-9, atol=1e-12)
    assert float(found[:, 28].abs().max()) == 0  # the first batch is only learnt from


@pytest.mark.parametrize("name", FIXED)
def test_p_values_hold_at_one_look_and_not_under_peeking(name):
    count = {"ks": 400, "paired_t": 400, "mmd": 100}.get(name, 200)
    x, y = streams((count, 200), seed=5)
    looks = [*range(20, 201, 30)]
    outcome = run(name, x, y, looks, options(name))
    assert outcome.kind == "p-value"
    rates = [float(outcome.rejected(ALPHA, peeking)[:, -1].double().mean()) for peeking in (False, True)]
    assert rates[0] <= bound(count) and rates[1] > max(rates[0], 1.5 * ALPHA)


@pytest.mark.parametrize("name", NAMES)
def test_a_shift_is_found(name):
    x, y = streams((20, 600), shifted=True)
    outcome = run(name, x, y, [300, 600], options(name))
    assert float(outcome.rejected(ALPHA, peeking=False)[:, -1].double().mean()) >= 0.9


@pytest.mark.parametrize("name", ["c2st", "e_c2st", "ecrt", "l_c2st", "mmd", "ons_c2st"])
def test_vectors_are_taken_where_it_is_said(name):
    draw = np.random.default_rng(3)
    x = torch.from_numpy(draw.normal(size=(4, 400, 3)))
    y = torch.from_numpy(draw.normal(size=(4, 400, 3)) * 1.6)
    outcome = run(name, x, y, [400], options(name))
    assert float(outcome.rejected(ALPHA, peeking=False).double().mean()) >= 0.75


@pytest.mark.parametrize("name", NAMES)
def test_a_look_sees_no_later_pair_and_a_stream_no_other(name):
    x, y = streams((3, 120), seed=4, shifted=True)
    whole = run(name, x, y, [60, 120], options(name)).values
    early = run(name, x[:2, :60], y[:2, :60], [60], options(name)).values
    np.testing.assert_allclose(early[:, 0], whole[:2, 0], rtol=1e-7, atol=1e-10)
    assert torch.equal(run(name, x, y, [60, 120], options(name)).values, whole)


def test_an_outcome_peeks_only_when_asked():
    p = Outcome("p-value", torch.tensor([[0.01, 0.5]]), torch.tensor([10, 20]))
    assert p.rejected(0.05, False).tolist() == [[True, False]] and p.rejected(0.05, True).tolist() == [[True, True]]
    e = Outcome("e-process", torch.tensor([[math.log(21), 0.0]]), torch.tensor([10, 20]))
    assert e.rejected(0.05, False).tolist() == e.rejected(0.05, True).tolist() == [[True, True]]


def test_permutation_p_values_are_never_zero():
    x = torch.zeros(1, 50, dtype=torch.float64)
    for name in ("mmd", "anderson_darling", "l_c2st"):
        assert float(run(name, x, x + 1, [50], QUICK).values[0, 0]) == 1 / 40
        assert float(run(name, x, x, [50], QUICK).values[0, 0]) == 1


def test_what_cannot_be_tested_is_refused():
    x, y = streams((1, 50))
    with pytest.raises(ConfigError, match="unknown baseline 'kss'"):
        run("kss", x, y, [50])
    with pytest.raises(ConfigError, match="looks must increase"):
        run("ks", x, y, [50, 20])
    with pytest.raises(DataError, match="last look needs 60 pairs, got 50"):
        run("ks", x, y, [60])
    with pytest.raises(ConfigError, match="permutations must be at least 19, got 5"):
        run("mmd", x, y, [50], {"permutations": 5})
    with pytest.raises(ConfigError, match=r"largest_stake must lie in \(0, 1/2\], got 0.9"):
        run("ons_c2st", x, y, [50], {"largest_stake": 0.9})
    for name in ("ks", "paired_t", "anderson_darling"):
        with pytest.raises(DataError, match=f"{name} takes single scores, got vectors of 2"):
            run(name, torch.zeros(1, 9, 2), torch.zeros(1, 9, 2), [9])
    assert all(isinstance(registry.load("baselines", n).Baseline.null, str) for n in NAMES) and _base.Null
