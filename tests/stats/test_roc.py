"""Metrics and intervals against scikit-learn, closed forms and slow twins."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from mad.errors import DataError
from mad.stats import roc


def sample(kind: str, n: int = 300, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    labels = torch.rand(n, generator=draws) < 0.3
    scores = torch.randn(n, generator=draws).double() + labels
    return {"smooth": scores, "ties": scores.round(), "constant": torch.zeros(n).double()}[kind], labels


@pytest.mark.parametrize("kind", ["smooth", "ties", "constant"])
def test_point_values_are_those_of_scikit_learn(kind):
    scores, labels = sample(kind)
    found = roc.metrics(scores, labels)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores), rel=1e-12)
    assert found.average_precision == pytest.approx(average_precision_score(labels, scores), rel=1e-12)
    assert found.fpr_at_tpr == pytest.approx(fpr[tpr >= 0.95][0], rel=1e-12)
    assert roc.auroc(scores, labels) == found.auroc
    assert roc.average_precision(scores, labels) == found.average_precision
    assert roc.fpr_at_tpr(scores, labels, 0.5) == pytest.approx(fpr[tpr >= 0.5][0], rel=1e-12)


def test_larger_is_more_anomalous():
    scores, labels = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([False, False, True, True])
    assert roc.metrics(scores, labels) == (1.0, 1.0, 0.0)
    assert roc.metrics(-scores, labels) == (0.0, pytest.approx((1 / 3 + 2 / 4) / 2), 1.0)


def test_a_tied_pair_counts_one_half():
    assert roc.auroc(torch.tensor([1.0, 1.0]), torch.tensor([True, False])) == 0.5
    assert roc.auroc(torch.tensor([1.0, 1.0, 2.0]), torch.tensor([True, False, False])) == 0.25


@pytest.mark.parametrize("function", [roc.auroc, roc.metrics, roc.delong, lambda s, y: roc.bootstrap(s, y, 0)])
@pytest.mark.parametrize("labels", [[True, True], [False, False]])
def test_one_class_is_an_error_of_one_line(function, labels):
    with pytest.raises(DataError, match="both kinds are needed") as error:
        function(torch.tensor([1.0, 2.0]), torch.tensor(labels))
    assert "\n" not in str(error.value)


def test_unusable_scores_are_errors():
    with pytest.raises(DataError, match="NaN"):
        roc.auroc(torch.tensor([1.0, math.nan]), torch.tensor([True, False]))
    with pytest.raises(DataError, match="do not match"):
        roc.auroc(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([True, False]))
    with pytest.raises(DataError, match="columns"):
        roc.metrics(torch.zeros(2, 2), torch.tensor([True, False]))


@pytest.mark.parametrize("kind", ["smooth", "ties"])
def test_delong_variance_is_that_of_the_placements(kind):
    scores, labels = sample(kind, 80)
    anomalous, normal = scores[labels], scores[~labels]
    wins = (anomalous[:, None] > normal).double() + (anomalous[:, None] == normal).double() / 2
    variance = wins.mean(dim=1).var() / len(anomalous) + wins.mean(dim=0).var() / len(normal)
    found = roc.delong(scores, labels, 0.9)
    assert found.value == pytest.approx(float(wins.mean()), rel=1e-12)
    assert found.high - found.value == pytest.approx(1.6448536269514722 * float(variance.sqrt()), rel=1e-9)
    assert found.value - found.low == pytest.approx(found.high - found.value, rel=1e-9)


def test_delong_covers_the_true_area():
    truth = 0.7602499389065233  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    hits = 0
    for seed in range(400):
        draws = torch.Generator().manual_seed(seed)
        scores = torch.randn(120, generator=draws) + (torch.arange(120) < 50)
        found = roc.delong(scores, torch.arange(120) < 50)
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / 400 <= 0.98


def test_bootstrap_is_that_of_a_loop_over_resamples():
    scores, labels = sample("ties", 60)
    rng, values = np.random.default_rng(4), []
    for counts in roc._resample(labels.numpy(), 200, rng).astype(int):
        rows = np.repeat(np.arange(60), counts)
        values.append(roc.metrics(scores[rows], labels[rows]))
    found = roc.bootstrap(scores, labels, seed=4, resamples=200)[0]
    low, high = np.quantile(np.array(values), [0.025, 0.975], axis=0)
    np.testing.assert_allclose([i.low for i in found], low, rtol=1e-12)
    np.testing.assert_allclose([i.high for i in found], high, rtol=1e-12)
    assert tuple(i.value for i in found) == roc.metrics(scores, labels)


def test_resamples_keep_the_size_of_each_class():
    labels = np.arange(50) < 12
    counts = roc._resample(labels, 300, np.random.default_rng(0))
    assert (counts[:, labels].sum(axis=1) == 12).all() and (counts[:, ~labels].sum(axis=1) == 38).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(50), abs=0.35)
    assert counts.var() == pytest.approx(1 - (12 / 12 + 38 / 38) / 50, abs=0.05)  # multinomial


def test_bootstrap_and_delong_agree_on_smooth_scores():
    scores, labels = sample("smooth", 800)
    boot, exact = roc.bootstrap(scores, labels, seed=0)[0].auroc, roc.delong(scores, labels)
    assert boot.high - boot.low == pytest.approx(exact.high - exact.low, rel=0.1)


def test_bootstrap_is_seeded_and_columns_share_resamples(monkeypatch):
    scores, labels = sample("smooth")
    table = torch.stack([scores, -scores, scores.exp()], dim=1)
    found = roc.bootstrap(table, labels, seed=1, resamples=100)
    assert found[0] == roc.bootstrap(scores, labels, seed=1, resamples=100)[0]
    assert found[0] != roc.bootstrap(scores, labels, seed=2, resamples=100)[0]
    assert found[2] == found[0]  # a monotone map changes nothing
    assert found[1].auroc.low == pytest.approx(1 - found[0].auroc.high)


def test_bootstrap_of_a_thousand_resamples_takes_well_under_a_second_per_column():
    draws = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(2000, 4, generator=draws), torch.arange(2000) < 500
    start = time.perf_counter()
    roc.bootstrap(scores, labels, seed=0)
    assert time.perf_counter() - start < 4.0  # about 0.4 s in all on one idle core


def test_threshold_is_the_split_conformal_quantile():
    scores = torch.arange(1.0, 100.0)  # 99 scores: (n + 1)(1 - rate) is a whole number
    assert roc.threshold_at_fpr(scores, 0.05) == 95.0
    assert roc.threshold_at_fpr(scores[torch.randperm(99)], 0.01) == 99.0
    assert roc.threshold_at_fpr(scores, 0.009) == math.inf
    assert roc.rate_above(scores, 95.0) == pytest.approx(4 / 99)
    assert all(roc.threshold_at_fpr(torch.arange(1.0, n), 0.1) == 0.9 * n for n in (20, 30, 70, 110))


def test_threshold_keeps_its_rate_on_fresh_rows():
    rng, rate = np.random.default_rng(0), []
    for _ in range(3000):
        threshold = roc.threshold_at_fpr(torch.from_numpy(rng.normal(size=30)), 0.1)
        rate.append((rng.normal(size=50) > threshold).mean())
    # Exactly floor(31 * 0.1) / 31 = 3 / 31 = 0.097 for continuous scores; the plain quantile gives 0.12.
    assert np.mean(rate) == pytest.approx(3 / 31, abs=0.004)


def test_threshold_needs_scores_and_a_rate():
    with pytest.raises(DataError, match="trusted scores"):
        roc.threshold_at_fpr(torch.tensor([]), 0.1)
    with pytest.raises(DataError, match="between 0 and 1"):
        roc.threshold_at_fpr(torch.tensor([1.0]), 5)
    with pytest.raises(DataError, match="no scores"):
        roc.rate_above(torch.tensor([]), 0.0)
