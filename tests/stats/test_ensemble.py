"""Forward selection of detectors: whom it takes, and that scales do not matter."""

from __future__ import annotations

import pytest
import torch

from mad.stats.ensemble import combine, forward_selection
from mad.stats.roc import auroc

LABELS = torch.arange(200) >= 100


@pytest.fixture
def tables():
    """Two detectors that each see one half of the anomalies, and one that sees nothing."""
    draws = torch.Generator().manual_seed(5)
    noise = {name: torch.randn(200, generator=draws, dtype=torch.float64) for name in ("odd", "even", "blind")}
    parity = torch.arange(200) % 2
    noise["odd"] += 6 * (LABELS & (parity == 1))
    noise["even"] += 6 * (LABELS & (parity == 0))
    noise["even"] = 1000 * noise["even"] - 7  # another scale must not give it more weight
    calibration = {name: torch.randn(300, generator=draws, dtype=torch.float64) for name in noise}
    calibration["even"] = 1000 * calibration["even"] - 7
    return noise, calibration


def objective(scores):
    return auroc(scores, LABELS)


def test_complementary_detectors_join_and_the_blind_one_does_not(tables):
    members = forward_selection(*tables, objective)
    assert set(members) == {"odd", "even"}
    alone = max(objective(scores) for scores in tables[0].values())
    assert objective(combine(*tables, members)) > alone + 0.1


def test_standardised_scores_have_the_same_weight(tables):
    scores, calibration = tables
    both = combine(scores, calibration, ["odd", "even"])
    z = [(scores[n] - calibration[n].mean()) / calibration[n].std(correction=0) for n in ("odd", "even")]
    assert torch.corrcoef(torch.stack([both, z[0] + z[1]]))[0, 1] > 0.999


def test_of_equal_detectors_one_is_enough(tables):
    scores, calibration = tables
    twins = ({"a": t["odd"], "b": t["odd"].clone()} for t in (scores, calibration))
    assert forward_selection(*twins, objective) == ["a"]
