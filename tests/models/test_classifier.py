import subprocess
import sys

import pytest
import torch

from mad.errors import ConfigError
from mad.models.architectures import cnn, mlp, torchvision
from mad.models.classifier import Classifier, build_classifier

SHAPE, MEAN, STD = (3, 8, 8), (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
SUM_OF_WEIGHTS = """
import torch
from mad.models.architectures import cnn
from mad.models.classifier import build_classifier
torch.manual_seed(99); torch.rand(5)
model = build_classifier(cnn.Config(), (3, 8, 8), 10, (0.5, 0.4, 0.3), (0.2, 0.25, 0.5), seed=7)
print(sum(p.double().abs().sum().item() for p in model.parameters()))
"""


def build(config, seed=0, num_outputs=10):
    return build_classifier(config, SHAPE, num_outputs, MEAN, STD, seed)


@pytest.mark.parametrize("config", [mlp.Config(), cnn.Config(), torchvision.Config()], ids=lambda c: c.__module__)
def test_same_seed_same_weights_and_other_seed_other_weights(config):
    first, again, other = build(config, 3), build(config, 3), build(config, 4)
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        if a.ndim > 1:
            assert not torch.equal(a, c), name


def test_b1_18_weights_do_not_depend_on_the_process_or_on_earlier_draws():
    here = build(cnn.Config(), seed=7)
    total = sum(p.double().abs().sum().item() for p in here.parameters())
    there = subprocess.run([sys.executable, "-c", SUM_OF_WEIGHTS], capture_output=True, text=True, check=True)
    assert float(there.stdout) == total


def test_building_leaves_the_global_random_state_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    build(cnn.Config(), seed=5)
    assert torch.equal(torch.rand(3), expected)


def test_building_ignores_the_default_device():
    with torch.device("meta"):
        model = build(mlp.Config(), seed=5)
    assert torch.equal(model.network.head.weight, build(mlp.Config(), seed=5).network.head.weight)


def test_normalisation_is_part_of_the_model():
    model = build(mlp.Config())
    x = torch.rand(4, *SHAPE)
    normalised = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(model(x), model.network(normalised))
    assert {"mean", "std"} <= set(model.state_dict())
    assert not any(name in ("mean", "std") for name, _ in model.named_parameters())


def test_gradient_reaches_the_pixels():
    x = torch.rand(2, *SHAPE, requires_grad=True)
    build(mlp.Config())(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((3, 8), 2, MEAN, STD), "input_shape"),
        (((3, 0, 8), 2, MEAN, STD), "input_shape"),
        (((), 2, (), ()), "input_shape"),
        ((SHAPE, 0, MEAN, STD), "num_outputs"),
        ((SHAPE, 2, MEAN[:1], STD[:1]), "mean has 1 channels, inputs have 3"),
        ((SHAPE, 2, MEAN, STD[:2]), "std has 2"),
        ((SHAPE, 2, MEAN, (1.0, 0.0, 1.0)), "std: must be positive"),
    ],
)
def test_bad_arguments_are_told_in_one_line(arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build_classifier(mlp.Config(), *arguments, seed=0)
    assert "\n" not in str(caught.value)


def test_any_module_can_be_wrapped():
    model = Classifier(torch.nn.Flatten(), (0.0,), (0.5,))
    assert torch.equal(model(torch.ones(1, 1, 2, 2)), torch.full((1, 4), 2.0))
