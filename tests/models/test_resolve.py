import pytest
import torch
from torch import nn

from mad.errors import ConfigError
from mad.models.capture import capture, resolve


def chain():
    """``layers`` holds ``layers.0`` to ``layers.11`` and is itself never called."""
    return nn.ModuleDict({"layers": nn.ModuleList(nn.Identity() for _ in range(12))})


def test_globs_expand_in_natural_order():
    names = resolve(chain(), ["layers.*"])
    assert names == [f"layers.{i}.output" for i in range(12)]
    assert resolve(chain(), ["layers.1?.input", "layers.[0-2]", "layers.2"]) == [
        "layers.0.output",
        "layers.1.output",
        "layers.2.output",
        "layers.10.input",
        "layers.11.input",
    ]


def test_one_star_stays_within_a_part_and_two_cross():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    assert resolve(model, ["*"]) == ["0.output", "1.output"]
    assert resolve(model, ["**"]) == ["0.0.output", "0.1.output", "0.output", "1.output"]
    assert resolve(model, ["*.{1,7}.input"]) == ["0.1.input"]
    assert resolve(model, ["[!1]"]) == ["0.output"]


def test_a_module_called_output_is_reached_by_the_suffix():
    model = nn.ModuleDict({"layer": nn.ModuleDict({"output": nn.Linear(2, 2)})})
    assert resolve(model, ["layer.output.output"]) == ["layer.output.output"]
    features, _ = capture(model, ["layer.output.output"], lambda: model["layer"]["output"](torch.rand(1, 2)))
    assert features["layer.output.output"].shape == (1, 2)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ([], "no activations asked for"),
        (["layers.12"], r"'layers.12' \(did you mean layers"),
        (["layers.0", "layer.*.output"], r"'layer.\*.output' \(did you mean layers"),
        (["layers"], "no module matches 'layers'"),
        (["layers.{1"], "no module matches"),
        (["layers.[9-1]"], "is no pattern"),
        (["layers.0.output,layers.1"], "no module matches 'layers.0.output,layers.1'"),
    ],
)
def test_patterns_that_match_nothing_are_told_in_one_line(patterns, message):
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(chain(), patterns)
    assert "\n" not in str(caught.value)
