"""Every detector on what extract can hand it: no logits, positions, half precision, other rows, no linear head."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from mad import registry
from mad.detectors._population import NO_LOGITS, NO_PENULTIMATE
from mad.errors import FitError
from mad.models.load import load_classifier
from mad.stats.divergence import kl

NAMES = registry.names("detectors")
HEADLESS = '''
"""A map per class, averaged: no linear layer."""
from dataclasses import dataclass
from torch import nn
LAYERS = ("0.output",)
@dataclass(frozen=True)
class Config:
    """Nothing to set."""
def build(config, input_shape, num_outputs):
    """Two convolutions."""
    hidden = nn.Conv2d(input_shape[0], 6, 3), nn.ReLU(), nn.Conv2d(6, num_outputs, 1)
    return nn.Sequential(*hidden, nn.AdaptiveAvgPool2d(1), nn.Flatten())
'''
MAPS = {
    "model": "cnn",
    "model.channels": "[4, 4]",
    "model.dense": "[8]",
    "model.pooling": "none",
    "task.max_rows": "200",
    "train.epochs": "15",
    "train.lr": "0.02",
    "extract.pool": "all",
}


def options(name: str) -> dict[str, str]:
    """Flags that choose a detector and keep it short."""
    has_epochs = hasattr(registry.load("detectors", name).Config, "epochs")
    brief = {"detector.epochs": "1"} if has_epochs else {"detector.max_reference": "100"} if name == "ted" else {}
    return {"detector": name, "detect.bootstrap": "0", **brief}


def detect(world, name: str, artifacts: dict):
    """Scores of a detector on the features of a chain."""
    given = {stage: artifacts[stage] for stage in ("prepare", "train", "extract")}
    return world.run("detect", options(name), **given)["detect"]


def extracted(world, flags: dict[str, str]) -> dict:
    """The shared model's features, read in another way."""
    return world.run("extract", flags, prepare=world.split, train=world.checkpoint)


READS_LOGITS = ["beatrix", "energy", "finetuning", "max_logit", "msp", "ted"]
READS_HEAD = ["react", "vim"]


@pytest.mark.parametrize("name", NAMES)
def test_without_logits_a_detector_works_or_says_what_to_do(world, name):
    without = extracted(world, {"extract.logits": "false"})
    if name not in READS_LOGITS + READS_HEAD:
        assert 0 <= detect(world, name, without).summary["auroc"] <= 1
        return
    with pytest.raises(FitError) as error:
        detect(world, name, without)
    told = str(error.value).partition("': ")[2] or str(error.value)  # behind the layer, where one is named
    messages = NO_PENULTIMATE if name in READS_HEAD else NO_LOGITS
    assert told in (messages.format("trusted"), messages.format("these"))


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_barely_moves_the_scores(world, name):
    half = extracted(world, {"extract.dtype": "bfloat16"})
    assert half["extract"].chunks[0]["layers.0.output"].dtype == torch.bfloat16
    found, full = (detect(world, name, {**world.artifacts, **given}) for given in (half, {}))
    assert np.isfinite(found.table("scores.parquet")["score"]).all()
    assert found.summary["auroc"] == pytest.approx(full.summary["auroc"], abs=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_every_pixel_of_a_map_is_a_position(world, name):
    maps = world.run("extract", {**MAPS, "extract.layers": "[layers.0.output, layers.1.output]"})
    assert maps["extract"].chunks[0]["layers.1.output"].shape[1:] == (64, 4)
    table = detect(world, name, maps).table("scores.parquet")
    assert np.isfinite(table["score"]).all() and table["score"].nunique() > 1


@pytest.mark.parametrize("name", ["abstraction", "ted"])
def test_layers_with_other_positions_cannot_be_followed(world, name):
    mixed = world.run("extract", {**MAPS, "extract.layers": "[layers.1.output, layers.2.output]"})
    with pytest.raises(FitError, match="'layers.1.output' and 'layers.2.output' .* positions: pool them alike$"):
        detect(world, name, mixed)


@pytest.mark.parametrize("name", ["finetuning", *READS_LOGITS[1:2], *READS_HEAD])
def test_a_model_without_a_linear_head(world, tmp_path, monkeypatch, name):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "__init__.py").touch()
    (tmp_path / "outside" / "headless.py").write_text(HEADLESS)
    monkeypatch.syspath_prepend(tmp_path)
    flags = {"model": "outside.headless", "task.max_rows": "200", "train.epochs": "1"}
    headless = world.run("extract", flags)
    if name not in READS_HEAD:
        assert 0 <= detect(world, name, headless).summary["auroc"] <= 1
        return
    with pytest.raises(FitError) as error:
        detect(world, name, headless)
    assert str(error.value) == NO_PENULTIMATE.format("trusted")


def test_a_fine_tuned_copy_reads_the_inputs_of_the_rows_it_scores(world):
    # Fitted on the rows of one trigger, it judges those of another.
    flags = {"detector": "finetuning", "detector.epochs": "2"}
    fitted = world.run("fit", flags, extract=world.features)["fit"]
    other = world.run("detect", {"task.trigger": "noise", "detect.bootstrap": "0"}, fit=fitted)
    model, rows = load_classifier(world.checkpoint.folder), other["attack"].part("test")
    tuned, state = copy.deepcopy(model), fitted.tensors("state.safetensors")
    tuned.load_state_dict({name.removeprefix("copy/"): tensor for name, tensor in state.items()})
    images = other["attack"].images(rows)
    assert not torch.equal(images, world.split.images(world.split.part("test")))
    with torch.no_grad():
        expected = kl(model(images).double(), tuned.double()(images.double()))
    table = other["detect"].table("scores.parquet")
    found = table.loc[table["part"] == "test", "score/output"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9)
