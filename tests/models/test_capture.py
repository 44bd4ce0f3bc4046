import pytest
import torch
from torch import nn

from mad.errors import ConfigError
from mad.models.architectures import mlp
from mad.models.capture import capture, resolve
from mad.models.classifier import build_classifier


class Edits(nn.Module):
    """Edits in place what ``linear`` gave and what ``inner`` was given."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.inner = Zeroes()

    def forward(self, x):
        h = self.linear(x)
        h.relu_()
        h += 1
        return self.inner(h)


class Zeroes(nn.Module):
    def forward(self, h):
        return h.zero_() + 2


class Hugging(nn.Module):
    """Calls its blocks as Hugging Face models do: keywords only, tuples and mappings out."""

    def __init__(self):
        super().__init__()
        self.attention = Attention()
        self.block = Block()

    def forward(self, x):
        h, _ = self.attention(mask=torch.zeros(1), hidden=x)
        return self.block(h)["last_hidden"]


class Attention(nn.Module):
    def forward(self, hidden, mask=None):
        return hidden + 1, mask


class Block(nn.Module):
    def forward(self, h):
        return {"nothing": None, "last_hidden": [h * 2]}


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x + self.calls


class Chain(nn.Module):
    """``layers.0`` to ``layers.11``, each adding how often it was called."""

    def __init__(self, repeats=1):
        super().__init__()
        self.layers = nn.ModuleList(Counter() for _ in range(12))
        self.repeats = repeats

    def forward(self, x):
        for _ in range(self.repeats):
            for layer in self.layers:
                x = layer(x)
        return x


def test_captured_values_equal_a_manual_forward():
    model = build_classifier(mlp.Config(hidden=(6, 5)), (1, 4, 4), 3, (0.2,), (0.4,), seed=0)
    x = torch.rand(7, 1, 4, 4)
    names = resolve(model.network, ["layers.*", "head.input", "head"])
    features, logits = capture(model.network, names, lambda: model(x))
    with torch.no_grad():
        h0 = model.network.layers[0](((x - 0.2) / 0.4).flatten(1))
        h1 = model.network.layers[1](h0)
        expected = {
            "head.input": h1,
            "head.output": model.network.head(h1),
            "layers.0.output": h0,
            "layers.1.output": h1,
        }
    assert list(features) == list(expected) == names
    for name, h in expected.items():
        torch.testing.assert_close(features[name], h)
        assert not features[name].requires_grad
    assert not logits.requires_grad
    torch.testing.assert_close(logits, model(x))


def test_order_of_the_result_is_that_of_the_names():
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    features, _ = capture(model, ["1.output", "0.output", "1.output"], lambda: model(torch.ones(1, 2)))
    assert list(features) == ["1.output", "0.output"]


def test_b1_27_values_survive_later_edits_in_place():
    model = Edits()
    x = torch.randn(8, 4)
    names = ["linear.input", "linear.output", "inner.input", "inner.output"]
    features, result = capture(model, names, lambda: model(x))
    with torch.no_grad():
        linear = model.linear(x)
    assert torch.equal(features["linear.input"], x)
    assert torch.equal(features["linear.output"], linear)
    assert torch.equal(features["inner.input"], linear.relu() + 1)
    assert torch.equal(result, torch.full((8, 4), 2.0))


def test_b1_27_an_in_place_relu_does_not_corrupt_the_layer_before():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True))
    x = torch.randn(16, 3)
    features, _ = capture(model, ["0.output", "1.input", "1.output"], lambda: model(x))
    linear = model[0](x)
    assert (linear < 0).any()
    assert torch.equal(features["0.output"], linear)
    assert torch.equal(features["1.input"], linear)
    assert torch.equal(features["1.output"], linear.relu())


@pytest.mark.parametrize("stop_early", [False, True])
def test_values_survive_edits_by_the_caller(stop_early):
    model, x = nn.Sequential(nn.Identity()), torch.ones(2, 2)
    features, _ = capture(model, ["0.output"], lambda: model(x), stop_early)
    x.zero_()
    assert torch.equal(features["0.output"], torch.ones(2, 2))


def test_b1_27_tuples_mappings_and_keyword_only_calls():
    model, x = Hugging(), torch.rand(2, 3)
    names = ["attention.input", "attention.output", "block.input", "block.output"]
    features, _ = capture(model, names, lambda: model(x=x))
    assert torch.equal(features["attention.input"], x)
    assert torch.equal(features["attention.output"], x + 1)
    assert torch.equal(features["block.input"], x + 1)
    assert torch.equal(features["block.output"], (x + 1) * 2)


def test_early_stop_leaves_later_modules_unrun():
    model, x = Chain(), torch.zeros(1)
    features, result = capture(model, ["layers.3.output"], lambda: model(x), stop_early=True)
    assert result is None
    assert features["layers.3.output"].item() == 4
    assert [layer.calls for layer in model.layers] == [1] * 4 + [0] * 8


def test_early_stop_at_an_input_does_not_run_that_module():
    model = Chain()
    capture(model, ["layers.3.input"], lambda: model(torch.zeros(1)), stop_early=True)
    assert [layer.calls for layer in model.layers] == [1] * 3 + [0] * 9


def test_early_stop_waits_for_every_name():
    model = Chain()
    names = resolve(model, ["layers.{0,5}"])
    features, _ = capture(model, names, lambda: model(torch.zeros(1)), stop_early=True)
    assert {name: h.item() for name, h in features.items()} == {"layers.0.output": 1, "layers.5.output": 6}
    assert model.layers[6].calls == 0


def test_b1_27_without_early_stop_the_whole_pass_runs():
    model = Chain()
    _, result = capture(model, ["layers.0.output"], lambda: model(torch.zeros(1)))
    assert result.item() == 12


def test_early_stop_passes_through_a_model_that_catches_exceptions():
    chain = Chain()

    def call():
        try:
            return chain(torch.zeros(1))
        except Exception:
            return "swallowed"

    assert capture(chain, ["layers.0.output"], call, stop_early=True)[1] is None


def test_captures_nest():
    model, x = Chain(), torch.zeros(1)
    inner = {}

    def call():
        inner.update(capture(model, ["layers.5.output"], lambda: model(x))[0])

    features, _ = capture(model, ["layers.2.output"], call, stop_early=True)
    assert features["layers.2.output"].item() == 3
    assert not inner and model.layers[3].calls == 0


def test_b1_27_the_last_call_of_a_repeated_module_counts():
    model = Chain(repeats=3)
    features, _ = capture(model, ["layers.0.output", "layers.11.output"], lambda: model(torch.zeros(1)))
    assert features["layers.0.output"].item() == 12 + 24 + 3
    assert features["layers.11.output"].item() == 12 + 24 + 36


def test_reduce_sees_each_activation_inside_the_hook():
    model = Edits()
    x = torch.randn(8, 4)
    features, _ = capture(model, ["linear.output"], lambda: model(x), reduce=lambda name, h: h[:, 1:3])
    assert torch.equal(features["linear.output"], model.linear(x)[:, 1:3])
    features, _ = capture(model, ["linear.output"], lambda: model(x), reduce=lambda name, h: h.mean(0))
    torch.testing.assert_close(features["linear.output"], model.linear(x).mean(0))


def test_nothing_is_copied_when_reduce_made_a_new_tensor():
    made = []

    def halve(name, h):
        made.append(h.half())
        return made[-1]

    model = nn.Sequential(nn.Linear(3, 3))
    features, _ = capture(model, ["0.output"], lambda: model(torch.rand(2, 3)), reduce=halve)
    assert features["0.output"].data_ptr() == made[0].data_ptr()


def test_b1_25_captured_values_do_not_keep_larger_tensors_alive():
    class Cut(nn.Module):
        def forward(self, x):
            return x[:, :1]

    model = nn.Sequential(Cut())
    features, _ = capture(model, ["0.output"], lambda: model(torch.rand(4, 1000)))
    assert features["0.output"].untyped_storage().nbytes() == 4 * 4


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_hooks_are_removed_whatever_happens():
    model = Chain()
    names = ["layers.0.output", "layers.1.input"]

    def fail():
        model(torch.zeros(1))
        raise RuntimeError("out of memory")

    capture(model, names, lambda: model(torch.zeros(1)))
    capture(model, names, lambda: model(torch.zeros(1)), stop_early=True)
    with pytest.raises(RuntimeError, match="out of memory"):
        capture(model, names, fail)
    with pytest.raises(ConfigError):
        capture(model, [*names, "layers.77.output"], fail)
    assert hooks(model) == 0


def test_mode_and_gradient_settings_are_left_alone():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    for training in (True, False):
        model.train(training)
        capture(model, ["0.output"], lambda: model(torch.rand(1, 2)), stop_early=True)
        assert model.training is training and torch.is_grad_enabled()
    with torch.inference_mode():
        features, _ = capture(model, ["0.output"], lambda: model(torch.rand(1, 2)))
    assert features["0.output"].shape == (1, 2)


def test_names_that_cannot_be_read_are_told_in_one_line():
    model = nn.ModuleDict({"used": nn.Identity(), "idle": nn.Identity()})

    def read(name, value):
        return capture(model, [name], lambda: model["used"](value))

    with pytest.raises(ConfigError, match="no module is called 'usd'.*used"):
        read("usd.output", torch.ones(1))
    with pytest.raises(ConfigError, match=r"'idle\.output' cannot be read: the module was not called"):
        read("idle.output", torch.ones(1))
    with pytest.raises(ConfigError, match=r"'used\.output' cannot be read: it holds no tensor, but str"):
        read("used.output", "text")
    assert hooks(model) == 0
