"""The betting confidence sequence: a slow twin, coverage at all times, width, and the verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mad.errors import ConfigError, DataError
from mad.stats.confidence_sequence import TRUNCATION, MeanDifference, verdict


def slow_interval(differences, alpha, cells):
    """For one stream of z in [0, 1]: every mean refuted so far, one by one."""
    alive_low, alive_high, bounds = 0, cells, []
    up, down = [0.0] * (cells + 1), [0.0] * (cells + 1)
    total, squares = 0.0, 0.0
    for t, z in enumerate(differences, start=1):
        bet = math.sqrt(2 * math.log(2 / alpha) / ((0.25 + squares) / t * t * math.log(1 + t)))
        for i in range(1, cells):
            m = i / cells
            up[i] += math.log1p(min(bet, TRUNCATION / m) * (z - m))
            down[i] += math.log1p(min(bet, TRUNCATION / (1 - m)) * (m - z))
            if up[i] >= math.log(2 / alpha):
                alive_low = max(alive_low, i)
            if down[i] >= math.log(2 / alpha):
                alive_high = min(alive_high, i)
        total += z
        squares += (z - (0.5 + total) / (t + 1)) ** 2
        bounds.append((2 * alive_low / cells - 1, 2 * alive_high / cells - 1))
    return bounds


def test_against_the_slow_twin():
    rng = np.random.default_rng(0)
    x, y = rng.random((1, 300)), rng.random((1, 300)) ** 2
    sequence = MeanDifference(0, 1, 0.1, 40)
    _, found = sequence.update(sequence.start(1), torch.from_numpy(x), torch.from_numpy(y))
    wanted = np.array(slow_interval(((x - y + 1) / 2)[0], 0.1, 40))
    np.testing.assert_allclose(torch.stack([found.low[0], found.high[0]], dim=1), wanted, atol=1e-12)
    assert wanted[-1, 0] > -1 and wanted[-1, 1] < 1


def test_in_parts_equals_in_one_go():
    rng = np.random.default_rng(1)
    x, y = (torch.from_numpy(rng.random((2, 500))) for _ in range(2))
    sequence = MeanDifference(0, 1)
    end, whole = sequence.update(sequence.start(2), x, y)
    state, parts = sequence.start(2), []
    for start in range(0, 500, 77):
        state, part = sequence.update(state, x[:, start : start + 77], y[:, start : start + 77])
        parts.append(part)
    torch.testing.assert_close(torch.cat([p.low for p in parts], dim=1), whole.low)
    torch.testing.assert_close(state["high"], end["high"])
    assert all(isinstance(v, torch.Tensor) for v in state.values())


@pytest.mark.parametrize("kind", ["beta", "bernoulli", "skewed", "dependent"])
def test_coverage_at_all_times(kind):
    rng, shape = np.random.default_rng(2), (200, 400)
    x, y = {
        "beta": lambda: (rng.beta(2, 8, shape), rng.beta(2.5, 7, shape)),
        "bernoulli": lambda: (rng.random(shape) < 0.5, rng.random(shape) < 0.45),
        "skewed": lambda: (rng.random(shape) < 0.02, np.zeros(shape)),
        "dependent": lambda: (lambda u: (u, np.clip(1 - u, 0.2, 1)))(rng.random(shape)),
    }[kind]()
    mean = {"beta": 0.2 - 2.5 / 9.5, "bernoulli": 0.05, "skewed": 0.02, "dependent": 0.5 - 0.52}[kind]
    sequence = MeanDifference(0, 1, 0.05, 200)
    _, found = sequence.update(sequence.start(200), torch.from_numpy(x * 1.0), torch.from_numpy(y * 1.0))
    missed = ((found.low > mean) | (found.high < mean)).any(dim=1).double().mean()
    assert float(missed) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    assert (found.low.diff(dim=1) >= 0).all() and (found.high.diff(dim=1) <= 0).all()


def test_the_level_is_not_idle_and_width_shrinks():
    rng, n = np.random.default_rng(3), 3000
    x, y = (torch.from_numpy(rng.beta(2, 8, (4, n))) for _ in range(2))
    sequence = MeanDifference(0, 1, 0.05, 1000)
    _, found = sequence.update(sequence.start(4), x, y)
    width = (found.high - found.low).mean(dim=0)
    fixed = 2 * 1.96 * math.sqrt(2 * 0.0145 / n)  # of one look at the end, with the variance known
    assert width[-1] < 2.2 * fixed
    assert width[999] < 0.6 * width[99]


def test_score_units():
    rng = np.random.default_rng(4)
    x, y = (torch.from_numpy(rng.random((1, 400))) for _ in range(2))
    unit, percent = MeanDifference(0, 1), MeanDifference(-50, 50)
    _, small = unit.update(unit.start(1), x, y)
    _, large = percent.update(percent.start(1), 100 * x - 50, 100 * y - 50)
    torch.testing.assert_close(100 * small.low, large.low)


def test_saturated_scores_and_a_million_pairs():
    sequence = MeanDifference(0, 1, resolution=20)
    state, found = sequence.update(sequence.start(1), torch.ones(1, 1_000_000), torch.zeros(1, 1_000_000))
    assert all(torch.isfinite(v).all() for v in state.values())
    assert found.low[0, -1] == pytest.approx(0.9) and found.high[0, -1] == 1.0


def test_bad_input_is_an_error():
    sequence = MeanDifference(0, 1)
    with pytest.raises(DataError, match=r"1 scores lie outside the declared range \[0, 1\]"):
        sequence.update(sequence.start(1), torch.tensor([[0.5, 1.5]]), torch.zeros(1, 2))
    with pytest.raises(DataError, match="2 scores"):
        sequence.update(sequence.start(1), torch.zeros(1, 2), torch.full((1, 2), float("nan")))
    for wrong in ((1, 0), (0, float("inf")), (0, 1, 1.0), (0, 1, 0.05, 1)):
        with pytest.raises(ConfigError):
            MeanDifference(*wrong)


@pytest.mark.parametrize(
    ("rejected", "low", "high", "tolerance", "wanted"),
    [
        (True, -0.01, 0.01, 0.1, "shifted"),
        (False, -0.01, 0.01, 0.1, "within_mean_tolerance"),
        (False, -0.01, 0.11, 0.1, "undecided"),
        (False, -0.2, 0.05, 0.1, "undecided"),
        (False, -0.01, 0.01, None, "undecided"),
    ],
)
def test_verdict(rejected, low, high, tolerance, wanted):
    assert verdict(rejected, low, high, tolerance) == wanted
