"""The abstract model: its score by hand, its safeguards against constant maps, its chain of layers, its errors."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity, silu

from mad import config as configs
from mad.detectors._base import Batch, Population
from mad.detectors._training import Alone, Step
from mad.detectors._whitening import whitening
from mad.detectors.abstraction import Config, Consistency, Detector
from mad.errors import ConfigError, FitError
from mad.stats.roc import auroc
from tests.detectors.worlds import take, with_features, world


def fit(given, seed=3, **options) -> Detector:
    detector = Detector(configs.parse(Config, options))
    detector.fit(given if isinstance(given, dict) else given.populations(), seed)
    return detector


def network(state: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    """A network of at most one hidden layer."""
    x = x @ state[f"{name}.0.weight"].T + state[f"{name}.0.bias"]
    return silu(x) @ state[f"{name}.1.weight"].T + state[f"{name}.1.bias"] if f"{name}.1.weight" in state else x


@pytest.mark.parametrize("consistency", ["local", "global"])
def test_score_is_the_loss_of_each_predicted_layer(consistency):
    draws = torch.Generator().manual_seed(0)
    rows = Batch({k: torch.randn(60, d, generator=draws) for k, d in (("c", 5), ("a", 4), ("b", 6))})
    rows = Batch(rows.features, torch.randn(60, 3, generator=draws))
    detector = fit(
        {"trusted": Population([rows])}, consistency=consistency, loss=["l2", "cosine"], epochs=2, hidden=[7]
    )
    state = {name: tensor.double() for name, tensor in detector.state.items()}
    tau = {
        k: network(state, f"{k}/tau", (h.double() - state[f"{k}/mean"]) / state[f"{k}/scale"])
        for k, h in rows.features.items()
    }
    first = network(state, "a/step", tau["c"])
    second = network(state, "b/step", tau["a"] if consistency == "local" else first)
    last = network(state, "logits/step", tau["b"] if consistency == "local" else second)
    answer, predicted = (z.double().log_softmax(dim=1) for z in (rows.logits, last))
    expected = {
        "a": (tau["a"] - first).square().mean(dim=1),
        "b": 1 - cosine_similarity(tau["b"], second),
        "logits": (answer.exp() * (answer - predicted)).sum(dim=1),
    }
    scores = detector.score(rows)
    assert list(scores) == ["a", "b", "logits"]
    for name, values in expected.items():
        torch.testing.assert_close(scores[name], values, rtol=1e-9, atol=1e-12)


def test_a_layer_trained_by_cross_entropy_is_scored_without_the_entropy_of_its_target():
    given = world()
    scores = fit(given, loss="cross_entropy", epochs=30).score(given.test)["block.second"]
    assert scores.min() >= 0 and auroc(scores, given.is_anomalous) > 0.95


def unrelated(n: int = 400) -> dict[str, Population]:
    """Two layers that share nothing: what agrees best is constant."""
    draws = torch.Generator().manual_seed(1)
    features = {"first": torch.randn(n, 10, generator=draws), "second": torch.randn(n, 8, generator=draws)}
    return {"trusted": Population([Batch(features)])}


def spread(detector: Detector, rows: Batch) -> float:
    """Mean deviation of what the losses compare: abstract states, or their softmax."""
    state = {name: tensor.double() for name, tensor in detector.state.items()}
    x = (rows.features["second"].double() - state["second/mean"]) / state["second/scale"]
    z = network(state, "second/tau", x)
    if detector.config.loss == "cosine":
        z = z / z.norm(dim=1, keepdim=True)
    elif detector.config.loss != "l2":
        z = 4 * z.softmax(dim=1)
    return float(z.std(dim=0).mean())


@pytest.mark.parametrize(
    ("loss", "hidden"), [("l2", []), ("l2", [16]), ("cosine", [16]), ("kl", []), ("cross_entropy", [16])]
)
def test_maps_become_constant_without_a_safeguard_and_only_then(loss, hidden):
    given = unrelated()
    rows = given["trusted"].batches[0]
    options = {"loss": loss, "hidden": hidden, "abstract_dim": 4, "epochs": 60, "lr": 0.02, "batch_size": 100}
    found = {
        kind: fit(given, safeguard=kind, safeguard_weight=10.0, **options) for kind in ("none", "whiten", "reconstruct")
    }
    spreads = {kind: spread(detector, rows) for kind, detector in found.items()}
    assert found["none"].score(rows)["second"].mean() < 0.01 and spreads["none"] < 0.02
    assert spreads["whiten"] > 0.4 and spreads["reconstruct"] > 0.4


def test_the_whitening_terms_have_the_value_and_gradient_of_their_definition():
    draws = torch.Generator().manual_seed(2)
    abstract = [(2 + torch.randn(30, d, generator=draws, dtype=torch.float64)).requires_grad_() for d in (3, 5)]

    def defined(full: bool) -> torch.Tensor:
        terms = []
        for z in abstract:
            dim, covariance = z.shape[1], torch.cov(z.T, correction=0)
            off = (covariance - torch.eye(dim)).square().sum() / dim if full else (covariance.trace() / dim - 1) ** 2
            terms.append(z.mean(dim=0).square().sum() / dim + off)
        return sum(terms)

    for full in (True, False):
        found = whitening(abstract, Step(torch.arange(30), 30, 0, Alone()), full)
        assert found.shape == (30,)
        torch.testing.assert_close(found.mean(), defined(full))
        for a, b in zip(*(torch.autograd.grad(v, abstract) for v in (found.mean(), defined(full))), strict=True):
            torch.testing.assert_close(a, b)


def test_whitened_states_have_mean_zero_and_covariance_one():
    given = unrelated(2000)
    detector = fit(given, abstract_dim=4, epochs=60, lr=0.01, safeguard_weight=30.0, batch_size=500)
    state = {name: tensor.double() for name, tensor in detector.state.items()}
    for layer, h in given["trusted"].batches[0].features.items():
        z = network(state, f"{layer}/tau", (h.double() - state[f"{layer}/mean"]) / state[f"{layer}/scale"])
        assert z.mean(dim=0).abs().max() < 0.1
        assert (torch.cov(z.T) - torch.eye(4)).abs().max() < 0.15


def test_what_one_layer_says_must_follow_from_the_other():
    # Each layer looks normal by itself: only that they disagree gives anomalies away.
    draws = torch.Generator().manual_seed(4)
    code, turn = torch.randn(900, 3, generator=draws), torch.randn(3, 6, generator=draws)
    first, second = code @ turn, torch.tanh(code) @ torch.randn(3, 5, generator=draws)
    wrong = torch.arange(300) >= 150
    shown = second[600:].clone()
    shown[wrong] = shown[wrong].roll(1, dims=0)
    trusted = {"trusted": Population([Batch({"first": first[:600], "second": second[:600]})])}
    detector = fit(trusted, abstract_dim=3, epochs=60, lr=0.01)
    found = auroc(detector.score(Batch({"first": first[600:], "second": shown}))["second"], wrong)
    assert found > 0.95


def test_positions_are_points_that_stay_aligned():
    given = world(positions=3)
    detector = fit(given, epochs=3)
    scores = detector.score(given.test)
    one = take(given.test, slice(5, 6))
    real = int(one.mask.sum())
    points = Batch({k: h[0, :real] for k, h in one.features.items()}, one.logits.expand(real, -1))
    for name, values in detector.score(points).items():
        torch.testing.assert_close(values.mean(), scores[name][5], rtol=1e-9, atol=0)
    flat = Batch(
        {**given.test.features, "first": given.test.features["first"][:, 0]}, given.test.logits, given.test.mask
    )
    with pytest.raises(FitError, match="layers 'first' and 'block.second' differ in their positions: pool them alike"):
        detector.score(flat)


def test_dimensions_losses_and_weights_can_be_given_per_layer():
    given = world()
    detector = fit(given, abstract_dim=[5, 3], loss=["kl"], loss_weights=[0.0, 2.0], safeguard="none", epochs=2)
    assert detector.state["first/tau.0.weight"].shape == (5, 12)
    assert detector.state["block.second/step.1.weight"].shape == (3, 64)
    start = Consistency(given.populations()["trusted"], detector.config, 3).initial
    # A loss of weight 0 moves nothing that only it depends on.
    assert torch.equal(start["block.second/step.0.weight"], detector.state["block.second/step.0.weight"])
    assert not torch.equal(start["logits/step.0.weight"], detector.state["logits/step.0.weight"])
    assert fit(given, epochs=1).state["block.second/tau.0.weight"].shape == (8, 8)  # 16 is more than the width
    for options, wanted in (
        ({"abstract_dim": [4]}, "abstract_dim has 1 values, 2 needed: one for each of first, block.second"),
        ({"loss": ["l2", "kl"]}, "loss has 2 values, 1 needed: one for each of block.second"),
        ({"loss_weights": [1.0]}, "loss_weights has 1 values, 2 needed: one for each of block.second, logits"),
    ):
        with pytest.raises(FitError, match=wanted):
            fit(given, **options)


def test_logits_are_the_last_layer_where_there_are_any():
    given = world()
    without = given.change(lambda batch: Batch(batch.features))
    assert list(fit(given, epochs=1).score(given.test)) == ["block.second", "logits"]
    assert list(fit(given, epochs=1, logits=False).score(without.test)) == ["block.second"]
    assert list(fit(without, epochs=1).score(given.test)) == ["block.second"]
    with pytest.raises(FitError, match="the rows carry no logits, abstraction was fitted with them"):
        fit(given, epochs=1).score(without.test)


def test_one_layer_is_enough_only_with_logits():
    given = world().change(lambda batch: Batch({"first": batch.features["first"]}, batch.logits))
    assert list(fit(given, epochs=1).score(given.test)) == ["logits"]
    with pytest.raises(FitError, match="predicts one layer from another, and there is only 'first': extract more"):
        fit(given, logits=False)


def test_a_single_logit_is_a_distribution_over_two_classes():
    given = world().change(lambda batch: Batch(batch.features, batch.logits[:, :1]))
    scores = fit(given, epochs=20).score(given.test)["logits"]
    assert (scores > 0).all() and scores.std() > 0


def test_layers_must_be_those_of_the_fit():
    given = world()
    detector = fit(given, epochs=1)
    only = with_features(given.test, lambda h: h)
    with pytest.raises(FitError, match="layer 'block.second' is missing: abstraction follows all layers"):
        detector.score(Batch({"first": only.features["first"]}, only.logits))
    with pytest.raises(FitError, match=r"layer 'x' was not fitted \(fitted: first, block.second\)"):
        detector.score(Batch({**only.features, "x": only.features["first"]}, only.logits))


def test_options_out_of_range_are_errors():
    for options in ({"abstract_dim": 0}, {"abstract_dim": [3, 0]}, {"hidden": [0]}, {"step_hidden": [0]}, {"lr": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            Config(**options)
    for name in ("safeguard_weight", "weight_decay"):
        with pytest.raises(ConfigError, match=f"{name} must not be negative"):
            Config(**{name: -1.0})
    with pytest.raises(ConfigError, match="loss_weights must not be negative"):
        Config(loss_weights=[-1.0])
