"""Mistakes of earlier detectors, each caught here if it comes back.

Some the design has no room for. Networks of detectors are functions of named tensors, so that none can be left in
training mode or lack a model to be torn down with; the model itself is opened in eval mode. There is no cache of
features by input and layer, nor one that may miss a dtype or a shape: an artifact's key hashes the model, the rows,
the options and the code (tests/runtime/test_identity.py). Name, config and layers of a detector are saved with its
tensors (tests/stages/test_fit.py), nothing is pickled, and inputs are read by the main process, never by a loader
that runs the model. That ranks are counted in tiles and Gram features selected in blocks is measured, in time and
in memory, in tests/benchmarks/test_detectors_speed.py. Shapes of features come from the stored tensors: no batch is
drawn, and so no row consumed, to learn them. Figures are made without pyplot's registry and cleared once written.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from mad import config, registry
from mad.detectors._base import Batch, Population
from mad.errors import ConfigError
from mad.stats.conformal import aggregate
from mad.stats.roc import auroc
from tests.detectors.worlds import world

HALF = torch.arange(200) >= 100
UNSUPERVISED = ["mahalanobis", "spectral", "que", "knn", "vae", "gmm", "isolation_forest", "lof", "beatrix"]
OPTIONS = {"beatrix": {"per_class": False}}


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


@pytest.mark.parametrize("name", [*UNSUPERVISED, "ted", "abstraction"])
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


@pytest.mark.parametrize("name", UNSUPERVISED)
def test_sums_do_not_run_in_half_precision(name):
    # 4,000 values near 60 pass the largest float16, 65,504, when they are added up in float16.
    draws = torch.Generator().manual_seed(6)
    x = (60 + torch.randn(4200, 4, generator=draws)).half()
    x[3800:4000, 0] += 8
    x[4100:, 0] += 8
    scores = score(fit(name, x[:2000], x[2000:4000], **OPTIONS.get(name, {})), x[4000:])
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


def _probe(x, labels, **options):
    module = registry.load("detectors", "probe")
    detector = module.Detector(config.parse(module.Config, options))
    detector.fit({"untrusted": Population([Batch({"x": x})], "untrusted", labels)}, seed=0)
    return detector


def test_probe_saves_the_scaling_it_was_fitted_under():
    draws = torch.Generator().manual_seed(10)
    x = 1000 + torch.randn(200, 4, generator=draws) * torch.tensor([1.0, 30.0, 1.0, 1.0])
    x[HALF, 0] += 4
    detector = _probe(x, HALF)
    again = type(detector)(detector.config, {k: v.clone() for k, v in detector.state.items()})
    assert torch.equal(score(again, x), score(detector, x)) and auroc(score(again, x), HALF) > 0.95


def test_rows_of_which_a_probe_or_a_model_is_sure_do_not_tie():
    # Both probabilities of the farther rows are 1 in double precision; the order is not lost.
    x = torch.linspace(-1, 1, 200)[:, None]
    far = torch.tensor([[200.0], [400.0], [800.0]])
    detector = _probe(x, HALF, C=1e4)
    assert torch.sigmoid(score(detector, far)).unique().numel() == 1
    assert (score(detector, far).diff() > 0).all()
    logits = torch.tensor([[60.0, 0.0], [50.0, 0.0], [40.0, 0.0]])
    module = registry.load("detectors", "msp")
    detector = module.Detector(module.Config())
    detector.fit({"trusted": Population([Batch({"x": x[:3]}, logits)])}, seed=0)
    assert logits.double().softmax(dim=1)[:, 0].unique().numel() == 1
    assert (detector.score(Batch({"x": x[:3]}, logits))["output"].diff() > 0).all()


def test_probe_takes_every_layer_and_refuses_what_is_no_option():
    given, module = world(), registry.load("detectors", "probe")
    detector = module.Detector(module.Config())
    detector.fit(given.populations(), seed=0)
    assert list(detector.score(given.test)) == list(given.test.features)
    with pytest.raises(ConfigError, match="save_path"):
        config.parse(module.Config, {"save_path": "probe"})


def test_no_estimator_is_pickled_into_a_state():
    given = world()
    for name in ("gmm", "isolation_forest", "lof", "probe"):
        module = registry.load("detectors", name)
        detector = module.Detector(module.Config())
        detector.fit(given.populations(), seed=0)
        assert all(type(t) is torch.Tensor and t.dtype != torch.uint8 for t in detector.state.values())


def _forgetting():
    """A linear model fine-tuned on its trusted rows: the detector, the rows, the loss of each epoch."""
    draws = torch.Generator().manual_seed(10)
    model = torch.nn.Linear(5, 3).eval()
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 5, generator=draws))
        model.bias.zero_()
    x = torch.randn(120, 5, generator=draws)
    batch = Batch({"x": x}, model(x).detach(), inputs=lambda: x)
    module = registry.load("detectors", "finetuning")
    detector = module.Detector(module.Config(epochs=4, lr=0.05))
    detector.subject = SimpleNamespace(model=model)
    losses = [epoch.loss for epoch in detector.train({"trusted": Population([batch])}, seed=0)]
    return detector, batch, losses


def test_finetuned_weights_survive_saving_and_the_models_own(tmp_path):
    # Setting the model on the detector once put the original weights back, and every divergence became 0.
    detector, batch, _ = _forgetting()
    expected = detector.score(batch)["output"]
    save_file(detector.state, tmp_path / "state")
    again = type(detector)(detector.config, load_file(tmp_path / "state"))
    again.subject = SimpleNamespace(model=copy.deepcopy(detector.subject.model))
    torch.testing.assert_close(again.score(batch)["output"], expected, rtol=1e-12, atol=0)
    assert expected.mean() > 0.01
    with torch.no_grad():
        for parameter in again.subject.model.parameters():
            parameter.zero_()
    torch.testing.assert_close(again.score(batch)["output"], expected, rtol=1e-12, atol=0)


def test_every_epoch_of_finetuning_sees_rows():
    # A map over the data, used up by the first epoch, left the later ones empty.
    _, _, losses = _forgetting()
    assert len(losses) == 4 and all(later < before for before, later in pairwise(losses))


@pytest.mark.parametrize("name", ["vae", "abstraction", "finetuning"])
def test_detectors_that_train_need_no_option_and_no_model_that_they_do_not_use(name):
    module = registry.load("detectors", name)
    given = world()
    detector = module.Detector(config.parse(module.Config, {"epochs": 1}))
    if "model" in detector.needs:
        detector.subject = given.subject
    detector.fit(given.populations(), seed=0)
    assert all(torch.isfinite(scores).all() for scores in detector.score(given.test).values())


def test_constant_maps_do_not_win_the_abstraction():
    # Layers that share nothing agree best on a constant. What is whitened keeps telling rows far away.
    draws = torch.Generator().manual_seed(12)
    features = {"a": torch.randn(400, 6, generator=draws), "b": torch.randn(400, 6, generator=draws)}
    far = Batch({k: h + 8 * (torch.arange(400) >= 200)[:, None] for k, h in features.items()})
    module = registry.load("detectors", "abstraction")
    means = {}
    for safeguard in ("none", "whiten"):
        options = {"safeguard": safeguard, "epochs": 60, "lr": 0.02}
        detector = module.Detector(config.parse(module.Config, options))
        detector.fit({"trusted": Population([Batch(features)])}, seed=0)
        scores = detector.score(far)["b"]
        means[safeguard] = scores[:200].mean()
        if safeguard == "whiten":
            assert auroc(scores, torch.arange(400) >= 200) > 0.99
    assert means["none"] < 0.01 and means["whiten"] > 0.3


def test_beatrix_medians_are_not_averages_over_batches():
    # Of skewed features, medians of four rows at a time average to far more than the median.
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(10)).exp()
    module = registry.load("detectors", "beatrix")
    states = []
    for size in (400, 4):
        detector = module.Detector(module.Config(per_class=False, powers=(1,)))
        detector.fit({"trusted": Population([Batch({"x": h}) for h in x.split(size)])}, seed=0)
        states.append(detector.state)
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    i, j = torch.triu_indices(4, 4)
    entries = x.double()[:, i] * x.double()[:, j]
    state = states[0]
    middle = state["x/scale"] ** 2 * (state["x/lower"] + state["x/upper"])[0, 0] / 2
    torch.testing.assert_close(middle, entries.median(dim=0).values, rtol=1e-9, atol=0)
    batchwise = entries.view(100, 4, -1).median(dim=1).values.mean(dim=0)
    assert ((batchwise - middle).abs() > 0.1 * middle).any()


@pytest.mark.parametrize("name", ["beatrix", "ted"])
def test_the_most_extreme_input_does_not_look_usual(name):
    # Its Gram entries overflow even float64; an entry set to 0 would lie near the median.
    given, module = world(), registry.load("detectors", name)
    test = Batch({k: h.double() for k, h in given.test.features.items()}, given.test.logits)
    for h in test.features.values():
        h[0] *= 1e200
    detector = module.Detector(module.Config())
    detector.fit(given.populations(), seed=0)
    for scores in detector.score(test).values():
        assert torch.isfinite(scores).all()
        assert name == "ted" or scores.argmax() == 0


@pytest.mark.parametrize("name", ["beatrix", "ted"])
def test_positions_are_folded_back_and_all_state_is_kept(name):
    given, module = world(positions=3), registry.load("detectors", name)
    options = {"positions": "points"} if name == "beatrix" else {"max_seq_len": 2}
    detector = module.Detector(config.parse(module.Config, options))
    detector.fit(given.populations(), seed=0)
    again = module.Detector(detector.config, {k: v.clone() for k, v in detector.state.items()})
    for layer, scores in detector.score(given.test).items():
        assert scores.shape == (150,) and torch.equal(again.score(given.test)[layer], scores)


def test_ted_takes_a_single_layer_and_leaves_each_trusted_row_out_of_its_own_ranks():
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(11))
    logits = torch.nn.functional.one_hot(torch.arange(200) % 2, 2).float()
    module = registry.load("detectors", "ted")
    detector = module.Detector(module.Config())
    detector.fit({"trusted": Population([Batch({"x": x}, logits)])}, seed=0)
    # Random classes: half of all rows find the other class first; with themselves in, every rank would be 0.
    assert float(detector.state["trajectory/mean"]) > 0.3
