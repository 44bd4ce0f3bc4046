"""Mistakes of earlier detectors, each caught here if it comes back."""

from __future__ import annotations

import pytest
import torch

from mad import config, registry
from mad.detectors._base import Batch, Population
from mad.stats.conformal import aggregate
from mad.stats.roc import auroc
from tests.detectors.worlds import world

HALF = torch.arange(200) >= 100


def fit(name: str, trusted=None, untrusted=None, **options):
    module = registry.load("detectors", name)
    detector = module.Detector(config.parse(module.Config, options))
    given = {"trusted": trusted, "untrusted": untrusted}
    detector.fit({k: Population([Batch({"x": h})], k) for k, h in given.items() if h is not None}, seed=0)
    return detector


def score(detector, h):
    return detector.score(Batch({"x": h}))["x"]


def test_shrinkage_target_is_the_trace_per_dimension_not_the_trace():
    # At full shrinkage S = (tr S / d) I, so trusted rows score 1 on average; the trace alone gives 1 / d.
    x = torch.randn(500, 32, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 5, 32)
    assert score(fit("mahalanobis", x, shrinkage=1.0), x).mean() == pytest.approx(1.0, rel=1e-9)


def test_movement_off_the_trusted_span_is_seen():
    draws = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(64, 64, generator=draws))[0]
    live = torch.randn(500, 64, generator=draws)
    live[:, 40:] = 0
    live[400:, 40] = 0.5
    x = live @ turn
    floor, drop = (score(fit("mahalanobis", x[:300], null_space=n), x[300:]) for n in ("floor", "drop"))
    assert auroc(floor, HALF) == 1.0 and auroc(drop, HALF) < 0.65  # dropping is blind to it


def test_the_relative_diagonal_is_not_cut_at_an_absolute_variance():
    # Small units: an absolute threshold on variances would drop every coordinate.
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(2)).double()
    large, small = (score(fit("mahalanobis", s * x, relative="diagonal"), s * (x + 1)) for s in (1.0, 1e-7))
    torch.testing.assert_close(small, large, rtol=1e-8, atol=1e-10)


def _correlated(seed: int):
    """Trusted rows with variances from 1e-2 to 1e2, turned; anomalies move along the smallest."""
    draws = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(20, 20, generator=draws))[0]
    live = torch.randn(4200, 20, generator=draws) * torch.logspace(-1, 1, 20)
    live[1800:2000, 0] += 0.4
    live[4100:, 0] += 0.4
    x = live @ turn
    return x[2000:4000], x[:2000], x[4000:]


def test_que_exponentiates_the_whitened_untrusted_covariance():
    # In raw units the largest variance leads, and the planted direction has the smallest.
    trusted, untrusted, test = _correlated(3)
    whitened = auroc(score(fit("que", trusted, untrusted), test), HALF)
    distance = auroc(score(fit("mahalanobis", trusted), test), HALF)
    raw = torch.cov((untrusted - trusted.mean(dim=0)).double().T)
    q = torch.linalg.matrix_exp(4 * raw / torch.linalg.matrix_norm(raw, ord=2))
    mean, covariance = trusted.double().mean(dim=0), torch.cov(trusted.double().T)
    values, vectors = torch.linalg.eigh(covariance)
    white = (test.double() - mean) @ vectors / values.sqrt()
    mixed = auroc(torch.einsum("ni,ij,nj->n", white, q, white), HALF)
    assert whitened > 0.97 and whitened > distance + 0.05 and whitened > mixed + 0.05


def test_que_state_holds_all_that_scoring_reads():
    trusted, untrusted, test = _correlated(4)
    detector = fit("que", trusted, untrusted)
    again = type(detector)(detector.config, {k: v.clone() for k, v in detector.state.items()})
    assert torch.equal(score(again, test), score(detector, test))


def test_spectral_per_class_is_not_led_by_the_spread_between_classes():
    draws = torch.Generator().manual_seed(5)
    classes = torch.arange(600) % 2
    h = torch.randn(600, 10, generator=draws)
    h[:, 0] += 20.0 * classes  # far larger than the planted shift
    anomalous = (torch.arange(600) % 10 == 0) | (torch.arange(600) % 10 == 1)
    h[anomalous, 1] += 6.0
    batch = Batch({"x": h}, torch.nn.functional.one_hot(classes, 2).float())
    found = {}
    for per_class in (True, False):
        module = registry.load("detectors", "spectral")
        detector = module.Detector(module.Config(per_class=per_class))
        detector.fit({"untrusted": Population([batch], "untrusted")}, seed=0)
        found[per_class] = auroc(detector.score(batch)["x"], anomalous)
    assert found[True] > 0.95 and found[False] < 0.6


@pytest.mark.parametrize("name", ["mahalanobis", "spectral", "que", "knn", "vae"])
def test_padding_enters_neither_the_fit_nor_the_score(name):
    def padded(batch: Batch, width: int) -> Batch:
        n = len(batch.mask)
        features = {k: torch.cat([h, torch.zeros(n, width, h.shape[2])], dim=1) for k, h in batch.features.items()}
        return Batch(features, batch.logits, torch.cat([batch.mask, torch.zeros(n, width).bool()], dim=1))

    given, module = world(positions=3), registry.load("detectors", name)
    found = []
    for width in (0, 5):
        detector = module.Detector(module.Config())
        parts = {n: Population([padded(getattr(given, n), width)], n) for n in ("trusted", "untrusted")}
        detector.fit(parts, seed=0)
        found.append(detector.score(padded(given.test, width)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", ["mahalanobis", "spectral", "que", "knn", "vae"])
def test_sums_do_not_run_in_half_precision(name):
    # 4,000 values near 60 pass the largest float16, 65,504, when they are added up in float16.
    draws = torch.Generator().manual_seed(6)
    x = (60 + torch.randn(4200, 4, generator=draws)).half()
    x[3800:4000, 0] += 8
    x[4100:, 0] += 8
    scores = score(fit(name, x[:2000], x[2000:4000]), x[4000:])
    assert torch.isfinite(scores).all() and auroc(scores, HALF) > 0.95


def test_no_layer_wins_by_its_unit():
    given = world()
    huge = {"first": 1.0, "block.second": 1e4}
    module = registry.load("detectors", "knn")
    detector = module.Detector(module.Config())
    scale = lambda b: Batch({k: huge[k] * h for k, h in b.features.items()})  # noqa: E731
    fitted, held_out = (
        {k: h[part] for k, h in given.trusted.features.items()} for part in (slice(200), slice(200, 300))
    )
    joined = []
    for change in (scale, lambda b: b):
        detector.fit({"trusted": Population([change(Batch(fitted))])}, seed=0)
        scores, calibration = detector.score(change(given.test)), detector.score(change(Batch(held_out)))
        joined.append(aggregate(scores, calibration, "max"))
    torch.testing.assert_close(joined[0], joined[1], rtol=1e-4, atol=1e-4)


def test_vae_scores_the_same_input_the_same_twice():
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(7))
    detector = fit("vae", x, epochs=2)
    torch.manual_seed(0)
    first = score(detector, x)
    torch.manual_seed(1)
    assert torch.equal(first, score(detector, x))


def test_vae_uses_its_latent_code():
    # A reconstruction that is a mean against a KL that is a sum makes the posterior collapse onto the prior.
    draws = torch.Generator().manual_seed(8)
    x = torch.randn(1000, 2, generator=draws) @ torch.randn(2, 40, generator=draws)
    detector = fit("vae", x, latent_dim=2, epochs=30)
    residual = score(fit("vae", x, latent_dim=2, epochs=30, beta=0.0), x).mean()
    assert score(detector, x).mean() < 0.35 < 0.5  # the collapsed network scores 1/2, the variance
    assert residual < score(detector, x).mean()


def test_vae_length_does_not_change_the_weight_of_the_kl():
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(9))
    detector = fit("vae", x, epochs=2)
    once, thrice = score(detector, x[:, None]), score(detector, x[:, None].expand(-1, 3, -1))
    torch.testing.assert_close(thrice, once, rtol=1e-12, atol=0)
