"""Fine-tuning: the divergence by hand, eval mode throughout, the kinds of answers, a really backdoored model."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical, kl_divergence

from mad import config as configs
from mad.detectors._base import Batch, Population
from mad.detectors.finetuning import Config, Detector
from mad.errors import ConfigError, FitError


@dataclass
class Given:
    """A subject with a model."""

    model: nn.Module


def network(outputs: int, hidden: int = 6) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = nn.Linear(4, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.5), nn.Linear(hidden, outputs)
        model = nn.Sequential(*parts)
        model(3 + 2 * torch.randn(200, 4))  # running statistics that are not those of the rows
    return model.eval()


def rows(model: nn.Module, n: int = 80, seed: int = 1, **changes) -> Batch:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        batch = Batch({"x": x}, model(x), inputs=lambda: x)
    return dataclasses.replace(batch, **changes)


def fit(model: nn.Module, trusted: Batch, seed: int = 3, **options) -> Detector:
    detector = Detector(configs.parse(Config, {"epochs": 3, **options}))
    detector.subject = Given(model)
    detector.fit({"trusted": Population([trusted])}, seed)
    return detector


def tuned(model: nn.Module, detector: Detector) -> nn.Module:
    """The copy, put together from the state."""
    other = copy.deepcopy(model)
    other.load_state_dict({name.removeprefix("copy/"): tensor for name, tensor in detector.state.items()})
    return other.double().eval()


@pytest.mark.parametrize(("outputs", "answer"), [(3, "class"), (1, "class"), (3, "labels")])
def test_score_is_the_divergence_of_the_copy_from_the_model(outputs, answer):
    model = network(outputs)
    batch = rows(model, seed=2)
    detector = fit(model, rows(model), answer=answer)
    with torch.no_grad():
        first, second = batch.logits.double(), tuned(model, detector)(batch.inputs().double())
    if answer == "labels":
        expected = kl_divergence(Bernoulli(logits=first), Bernoulli(logits=second)).sum(dim=1)
    elif outputs == 1:
        expected = kl_divergence(Bernoulli(logits=first[:, 0]), Bernoulli(logits=second[:, 0]))
    else:
        expected = kl_divergence(Categorical(logits=first), Categorical(logits=second))
    found = detector.score(batch)
    assert list(found) == ["output"] and found["output"].mean() > 1e-3
    torch.testing.assert_close(found["output"], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("outputs", "answer"), [(3, "class"), (1, "class"), (3, "labels")])
def test_the_copy_learns_the_answers_of_the_model(outputs, answer):
    # Adam on the mean cross-entropy against the predicted classes, in eval mode: once by hand.
    model, batch = network(outputs), rows(network(outputs))
    detector = fit(model, batch, answer=answer, epochs=1, batch_size=80, lr=0.01)
    other = copy.deepcopy(model).eval()
    optimizer = torch.optim.Adam(other.parameters(), lr=0.01)
    logits = other(batch.inputs())
    if outputs == 1 or answer == "labels":
        targets = (batch.logits > 0).float()
        loss = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1).mean()
    else:
        loss = nn.functional.cross_entropy(logits, batch.logits.argmax(dim=1))
    loss.backward()
    optimizer.step()
    for name, parameter in other.named_parameters():
        # Adam's first step is the sign of the gradient: where that is next to 0, rounding decides.
        sure = parameter.grad.abs() > 1e-5
        torch.testing.assert_close(detector.state[f"copy/{name}"][sure], parameter.detach()[sure], rtol=1e-4, atol=1e-5)


def test_neither_dropout_nor_batch_statistics_play_a_part():
    model = network(3)
    batch = rows(model)
    detector = fit(model, batch)
    training = copy.deepcopy(model).train()
    again = fit(training, batch)
    assert all(torch.equal(again.state[name], tensor) for name, tensor in detector.state.items())
    for name, buffer in model.named_buffers():
        assert torch.equal(detector.state[f"copy/{name}"], buffer), name
    assert training.training and torch.equal(again.score(batch)["output"], detector.score(batch)["output"])


def test_the_score_has_a_gradient_in_the_inputs():
    model = network(3)
    detector, x = fit(model, rows(model)), rows(model, seed=5).inputs().clone().requires_grad_()
    score = detector.score(Batch({"x": x}, model(x), inputs=lambda: x))["output"].sum()
    assert torch.autograd.grad(score, x)[0].abs().max() > 0


def test_what_is_missing_is_told():
    model = network(3)
    batch = rows(model)
    with pytest.raises(FitError, match="fine-tuning needs the model: set the detector's subject first"):
        Detector(Config()).fit({"trusted": Population([batch])}, 0)
    with pytest.raises(FitError, match="these rows come without"):
        fit(model, dataclasses.replace(batch, inputs=None))
    with pytest.raises(FitError, match="trusted rows carry no logits: extract with --extract.logits true"):
        fit(model, dataclasses.replace(batch, logits=None))
    with pytest.raises(FitError, match="carry no logits"):
        fit(model, batch).score(dataclasses.replace(batch, logits=None))
    with pytest.raises(FitError, match="79 inputs for 80 rows"):
        fit(model, dataclasses.replace(batch, inputs=lambda: batch.inputs()[1:]))


def test_values_that_are_not_finite_are_errors():
    model = network(3)
    batch = rows(model)
    spoilt = batch.inputs().index_fill(0, torch.tensor([2]), torch.inf)
    with pytest.raises(FitError, match="trusted inputs hold 4 NaN or infinite"):
        fit(model, dataclasses.replace(batch, inputs=lambda: spoilt))
    with pytest.raises(FitError, match="trusted logits hold 3 NaN or infinite"):
        fit(model, dataclasses.replace(batch, logits=batch.logits.index_fill(0, torch.tensor([2]), torch.nan)))
    with pytest.raises(FitError, match="^the loss of epoch . is not finite: lower lr"):
        fit(model, batch, lr=1e30)
    with pytest.raises(FitError, match="logits of the fine-tuned model hold .* NaN or infinite"):
        fit(model, batch).score(dataclasses.replace(batch, inputs=lambda: spoilt))


def test_a_copy_of_another_model_is_refused():
    detector = fit(network(3), rows(network(3)))
    detector.subject = Given(network(3, hidden=7))
    with pytest.raises(FitError, match=r"the fine-tuned copy is of another model: '0.bias' is \(6,\), here \(7,\)"):
        detector.score(rows(network(3)))


def test_options_out_of_range_are_errors():
    for options in ({"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"weight_decay": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            Config(**options)


def test_a_backdoor_is_told_after_saving_and_loading(engine, run):
    # The whole chain: the detector that scores is the one read back from the store.
    settings = {"task.max_rows": "1797", "train.epochs": "20", "detector": "finetuning"}
    artifacts = run(engine, "detect", settings)
    assert artifacts["train"].summary["attack_success_rate"] > 0.95
    assert artifacts["detect"].summary["auroc"] > 0.9
    assert set(artifacts["detect"].json("metrics.json")["metrics"]) == {"score", "score/output"}
