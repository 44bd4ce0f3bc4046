"""Power of the auditing test: 200 streams of 4,000 pairs in batches of 100, at level 0.05, one row per bet and case."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mad.stats.bets._base import pairs
from mad.stats.sequential_test import Result, Settings, run
from tests.benchmarks.figures import Figure, record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
STREAMS, PAIRS, BATCH = 200, 4000, 100
POINTS = np.arange(5) / 4
BEFORE, AFTER = [0.4, 0.3, 0.15, 0.1, 0.05], [0.2, 0.3, 0.25, 0.15, 0.1]  # total variation 0.2


def weak(rng, shape):
    """Total variation 0.087."""
    return rng.beta(2, 8, shape), rng.beta(2.2, 7.5, shape)


def middle(rng, shape):
    """Total variation 0.197."""
    return rng.beta(2, 8, shape), rng.beta(2.5, 7, shape)


CASES = {
    "weak": (weak, (0.0,)),
    "middle": (middle, (0.0, 0.02, 0.05, 0.08)),
    "five points": (lambda rng, s: (rng.choice(POINTS, s, p=BEFORE), rng.choice(POINTS, s, p=AFTER)), (0.0, 0.1)),
    "clipped": (lambda rng, s: tuple(np.clip(side, 0.15, 0.3) for side in middle(rng, s)), (0.0, 0.05)),
    "tied": (lambda rng, s: tuple(side.round(1) for side in middle(rng, s)), (0.0, 0.05)),
}
ROWS = {
    "mixture": ("mixture", {}, "fraction"),
    "kelly": ("kelly", {}, "fraction"),
    "ratio": ("ratio", {}, "fraction"),
    "ons": ("ons", {}, "fraction"),
    "kernel": ("kernel", {}, "fraction"),
    "network": ("network", {}, "fraction"),
    "network, exp (the paper's form)": ("network", {"temperatures": (1.0,)}, "exp"),
    "mixture, all in": ("mixture", {}, "all_in"),
}
DONE: dict[tuple[str, str], Result] = {}


def result(row: str, case: str) -> Result:
    """Of one bet on one case, computed once; every bet sees the same pairs."""
    if (row, case) not in DONE:
        make, tolerances = CASES[case]
        x, y = (torch.from_numpy(side) for side in make(np.random.default_rng(0), (STREAMS, PAIRS)))
        name, options, penalty = ROWS[row]
        DONE[row, case] = run(pairs(x, y), name, options, Settings(tolerances, 0.05, BATCH, penalty))
    return DONE[row, case]


def rejected(row: str, case: str, tolerance: float, within: int = PAIRS) -> float:
    at = result(row, case).rejected_at[:, CASES[case][1].index(tolerance)]
    return float(((at > 0) & (at <= within)).double().mean())


def median(row: str, case: str, tolerance: float) -> float:
    at = result(row, case).rejected_at[:, CASES[case][1].index(tolerance)].double()
    return float(at.masked_fill(at == 0, torch.inf).median())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("row", ROWS)
def test_table(row, case):
    for tolerance in CASES[case][1]:
        share, middle_one = rejected(row, case, tolerance), median(row, case, tolerance)
        details = f"median {middle_one:.0f} pairs; within 1,000: {100 * rejected(row, case, tolerance, 1000):.0f}%"
        record(Figure(f"power, {case} at {tolerance}: {row}", f"{100 * share:.0f}%", "", None, details))


def test_weak_shift_at_tolerance_0():
    assert rejected("mixture", "weak", 0.0) == 1
    assert median("mixture", "weak", 0.0) <= 600
    for row in ("network", "network, exp (the paper's form)"):
        assert median("mixture", "weak", 0.0) <= median(row, "weak", 0.0)


def test_shift_at_positive_tolerance():
    assert rejected("mixture", "middle", 0.05) >= 0.95
    assert median("mixture", "middle", 0.05) <= 400
    assert rejected("mixture", "middle", 0.08) >= 0.9


def test_five_points():
    assert rejected("mixture", "five points", 0.1, within=1000) >= 0.85


@pytest.mark.parametrize("case", ["clipped", "tied", "five points"])
def test_atoms_are_no_obstacle(case):
    assert rejected("mixture", case, 0.0) >= 0.99
