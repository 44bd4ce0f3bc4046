"""The last linear layer is told by what it does, wherever it was registered."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mad.models.classifier import Classifier
from mad.models.head import head_name, head_weights

SHAPE = (1, 2, 2)


class Network(nn.Module):
    """A hidden and a last layer, and others that are registered behind them."""

    def __init__(self, **others: nn.Module):
        super().__init__()
        self.hidden, self.answer = nn.Linear(4, 5), nn.Linear(5, 3)
        self.others = nn.ModuleDict(others)

    def forward(self, x):
        h = self.hidden(x.flatten(1)).relu()
        if "before" in self.others:
            h = self.others["before"](h)
        z = self.answer(h)
        return self.others["after"](z) if "after" in self.others else z


def classifier(network: nn.Module) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in network.parameters():
            nn.init.normal_(parameter)
    return Classifier(network, [0.5], [0.25]).eval()


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"unused": nn.Linear(5, 3)},  # a head for training only: never called in eval mode
        {"unused": nn.Linear(5, 7)},
        {"before": nn.Linear(5, 5)},  # called earlier than it was registered
        {"after": nn.Dropout()},
    ],
    ids=["alone", "unused", "unused-wider", "earlier", "dropout"],
)
def test_the_layer_that_gives_the_logits_is_found(others):
    model = classifier(Network(**others))
    assert head_name(model, SHAPE) == "answer"
    weight, bias = head_weights(model, "answer")
    assert torch.equal(weight, model.network.answer.weight) and torch.equal(bias, model.network.answer.bias)
    assert not weight.requires_grad and not bias.requires_grad


@pytest.mark.parametrize("after", [nn.Softmax(dim=1), nn.BatchNorm1d(3), nn.Conv1d(1, 1, 1), nn.Tanh()])
def test_what_follows_the_last_linear_layer_makes_it_none(after):
    if isinstance(after, nn.Conv1d):
        after = nn.Sequential(nn.Unflatten(1, (1, 3)), after, nn.Flatten())
    assert head_name(classifier(Network(after=after)), SHAPE) is None


def test_a_model_without_linear_layers_has_none():
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert head_name(classifier(network), SHAPE) is None


def test_a_layer_without_bias_has_a_bias_of_zeros():
    model = classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False)))
    assert head_name(model, SHAPE) == "1" and head_weights(model, "1")[1].tolist() == [0.0, 0.0, 0.0]
