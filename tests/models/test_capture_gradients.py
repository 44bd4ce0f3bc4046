"""Activations read with gradients are parts of the graph, and of no graph where gradients are off."""

import torch
from torch import nn

from mad.models.architectures import mlp
from mad.models.capture import capture, resolve
from mad.models.classifier import build_classifier


def test_with_grad_activations_can_be_differentiated():
    model = build_classifier(mlp.Config(hidden=(6, 5)), (1, 4, 4), 3, (0.2,), (0.4,), seed=0)
    x = torch.rand(7, 1, 4, 4, requires_grad=True)
    names = resolve(model.network, ["layers.0", "head.input"])
    found, logits = capture(model.network, names, lambda: model(x), grad=True)
    (got,) = torch.autograd.grad(found["layers.0.output"].sum() + 2 * logits.sum(), x)
    first = model.network.layers[0](((x - 0.2) / 0.4).flatten(1))
    (wanted,) = torch.autograd.grad(first.sum() + 2 * model(x).sum(), x)
    assert torch.allclose(got, wanted, atol=1e-6) and got.abs().max() > 0


def test_with_grad_an_edit_in_place_spoils_neither_value_nor_gradient():
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True)), torch.randn(16, 3)
    x.requires_grad_()
    # amax keeps its argument for the way back, and the ReLU edits that argument afterwards.
    read = capture(model, ["0.output"], lambda: model(x), reduce=lambda name, h: h.amax(dim=1), grad=True)[0][
        "0.output"
    ]
    (got,) = torch.autograd.grad(read.sum(), x)
    (wanted,) = torch.autograd.grad(model[0](x).amax(dim=1).sum(), x)
    assert torch.equal(read, model[0](x).amax(dim=1)) and torch.equal(got, wanted)


def test_grad_is_kept_only_where_gradients_are_on():
    model, x = nn.Sequential(nn.Linear(2, 2)), torch.rand(3, 2, requires_grad=True)
    with torch.no_grad():
        found, result = capture(model, ["0.output"], lambda: model(x), grad=True)
    assert not found["0.output"].requires_grad and not result.requires_grad
    assert not capture(model, ["0.output"], lambda: model(x))[0]["0.output"].requires_grad
