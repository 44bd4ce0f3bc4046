"""The auditing test against a plain loop over folds, batches and tolerances: CPU seconds per fold, with one thread.

Null folds of 4,000 pairs in batches of 100, so that no one stops early.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from mad.runtime.local import one_thread
from mad.stats.bets._base import pairs
from mad.stats.sequential_test import Settings, run
from tests.benchmarks.figures import Figure, record, watched
from tests.benchmarks.plain import audit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
FOLDS, PAIRS, BATCH = 25, 4000, 100
PLAIN_FOLDS = 2
TOLERANCES = tuple(round(0.02 * i, 2) for i in range(11))


def folds(b, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(torch.from_numpy(rng.beta(*p, (FOLDS, PAIRS))) for p in ((2, 8), b))


def seconds(function):
    """CPU time of this process, which a busy machine hardly changes."""
    with one_thread():
        begun = time.process_time()
        function()
        return time.process_time() - begun


@pytest.fixture(scope="module")
def plain_seconds() -> float:
    x, y = folds((2, 8))
    return min(seconds(lambda i=i: audit.audit(x[i], y[i], batch_size=BATCH)) for i in range(PLAIN_FOLDS))


@pytest.mark.parametrize(("name", "target"), [("kelly", 300), ("mixture", 30), ("network", 10)])
def test_a_null_fold(name, target, plain_seconds):
    given, settings = pairs(*folds((2, 8))), Settings(batch_size=BATCH)
    run(given.cut(0, 2 * BATCH), name, settings=settings)
    with watched() as load:
        own = min(seconds(lambda: run(given, name, settings=settings)) for _ in range(2)) / FOLDS
    details = f"{1000 * own:.1f} ms against {plain_seconds:.1f} s a fold"
    ratio = plain_seconds / own
    record(Figure(f"audit, {name}", f"{ratio:,.0f} x", f"{target} x", load.others, details))
    assert ratio >= target


def test_calibration(plain_seconds):
    """11 tolerances, 25 folds: the plain loop trains again for each tolerance, as long as for any other."""
    given, settings = pairs(*folds((2, 8))), Settings(TOLERANCES, batch_size=BATCH)
    with watched() as load:
        own = seconds(lambda: run(given, settings=settings))
    plain = plain_seconds * len(TOLERANCES) * FOLDS
    details = f"{own:.1f} s against {plain / 60:.0f} minutes, the plain one from {PLAIN_FOLDS} folds"
    record(Figure("audit, calibration", f"{plain / own:,.0f} x", "200 x", load.others, details))
    assert plain / own >= 200


def test_the_batched_network_is_as_powerful():
    """The same network bet on the same weakly shifted folds."""
    count = 8
    x, y = (side[:count] for side in folds((2.2, 7.5), seed=1))
    with one_thread():
        plain = torch.tensor([audit.audit(x[i], y[i], batch_size=BATCH)[1] for i in range(count)])
        own = run(pairs(x, y), "network", {"temperatures": (1.0,)}, Settings((0.0,), 0.05, BATCH, "exp"))
    found, plain = (at.double().masked_fill(at == 0, torch.inf) for at in (own.rejected_at[:, 0], plain))
    details = f"plain: {float(plain.median()):.0f}, over {count} folds; rejected {int(found.isfinite().sum())} of them"
    record(Figure("audit, network: median pairs", f"{float(found.median()):.0f}", "", None, details))
    assert found.isfinite().sum() >= plain.isfinite().sum()
    assert found.median() <= 1.2 * plain.median()
