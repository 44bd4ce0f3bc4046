"""train: deterministic, resumable to the bit, three heads, and figures that mean what they say."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from mad.context import Silent
from mad.errors import ConfigError, FitError
from mad.models.load import load_classifier
from mad.stages import _heads as heads
from mad.stages._classifier_loop import evaluate

HARD = {
    "train.epochs": "4",
    "train.optimizer": "sgd",
    "train.lr": "0.05",
    "train.schedule": "cosine",
    "train.augmentation.crop_padding": "1",
    "train.augmentation.flip_probability": "0.5",
}
"""Settings under which every part of the state of a run matters."""


def payload(artifact) -> dict:
    return {name: facts["sha256"] for name, facts in artifact.meta["files"].items()}


class Dying(Silent):
    """Fails after some epochs, as a machine would: the checkpoint of the epoch is written."""

    def __init__(self, last: int):
        self.last = last

    def update(self, what, done, total, figures=None):
        if what == "train" and done == self.last:
            raise KeyboardInterrupt


class Heard(Silent):
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def update(self, what, done, total, figures=None):
        self.epochs.append(done)


def test_training_is_the_same_again(engine, run, world):
    torch.manual_seed(123)
    torch.rand(7)
    again = run(engine, "train", {})["train"]
    assert again.key == world.checkpoint.key and payload(again) == payload(world.checkpoint)
    other = run(engine, "train", {"train.seed": "1"})["train"]
    assert payload(other)["weights.safetensors"] != payload(again)["weights.safetensors"]


@pytest.mark.parametrize("flags", [HARD, {"train.epochs": "4", "train.optimizer": "adamw", "model": "cnn"}])
def test_an_interrupted_run_ends_as_if_it_had_not_been(flags, tmp_path, new_engine, run):
    whole = run(new_engine(tmp_path / "whole"), "train", flags)["train"]
    for last in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run(replace(new_engine(tmp_path / "cut"), progress=Dying(last)), "train", flags)
    heard = Heard()
    engine = replace(new_engine(tmp_path / "cut"), progress=heard)
    again = run(engine, "train", flags)["train"]
    assert heard.epochs == [4], "only what was missing was trained"
    assert again.key == whole.key and payload(again) == payload(whole)
    assert list((tmp_path / "cut" / "scratch").glob("*")) == [], "checkpoints of a finished run are gone"


@pytest.mark.parametrize(
    ("head", "flags", "outputs"),
    [
        ("multiclass", {}, 10),
        ("binary", {"task.classes": "[3, 8]", "task.max_rows": "null"}, 1),
        ("multilabel", {}, 10),
    ],
)
def test_every_head_learns_its_task_and_the_backdoor(engine, run, head, flags, outputs):
    flags = {"task.max_rows": "null", "train.epochs": "12", "train.lr": "3e-3", "train.head": head, **flags}
    checkpoint = run(engine, "train", flags)["train"]
    model = load_classifier(checkpoint.folder)
    assert model(torch.rand(3, 1, 8, 8)).shape == (3, outputs) and not model.training
    assert checkpoint.summary["clean_accuracy"] > 0.8 and checkpoint.summary["attack_success_rate"] > 0.8
    history = checkpoint.json("history.json")
    assert len(history) == 12 and history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert set(history[0]) == {"loss", "lr", "val_clean_accuracy", "val_attack_success_rate"}


def test_a_binary_head_needs_two_classes(engine, run):
    with pytest.raises(ConfigError, match=r"--train.head binary needs 2 classes, the task has 10: set --task.classes"):
        run(engine, "train", {"train.head": "binary"})


def test_row_losses_and_answers():
    logits, labels = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 1.0, 2.0]]), torch.tensor([0, 2])
    assert torch.allclose(heads.row_losses("multiclass", logits, labels), -logits.log_softmax(1)[[0, 1], labels])
    one = functional.one_hot(labels, 3).float()
    plain = -(one * logits.sigmoid().log() + (1 - one) * (-logits).sigmoid().log()).mean(dim=1)
    assert torch.allclose(heads.row_losses("multilabel", logits, labels), plain)
    single, both = torch.tensor([[2.0], [-3.0]]), torch.tensor([1, 1])
    assert torch.allclose(heads.row_losses("binary", single, both), -single[:, 0].sigmoid().log())
    assert heads.is_answered("multiclass", logits, labels).tolist() == [True, True]
    assert heads.is_answered("binary", single, both).tolist() == [True, False]
    assert heads.is_answered("multilabel", logits, labels).tolist() == [False, False]
    assert heads.is_answered("multilabel", logits, labels, exact=False).tolist() == [True, True]


def test_figures_leave_out_rows_whose_class_is_the_attacks_answer_already():
    columns = {
        "label": torch.tensor([0, 1, 2, 0, 0, 0]),
        "clean_label": torch.tensor([0, 1, 2, 0, 1, 2]),
        "is_anomalous": torch.tensor([False, False, False, True, True, True]),
    }
    split = SimpleNamespace(images=lambda rows: rows, column=lambda name, rows: columns[name][rows])
    answers = torch.tensor([0, 1, 0, 0, 0, 2])

    class Told(torch.nn.Module):
        def forward(self, rows):
            return functional.one_hot(answers[rows], 3).float()

    figures = evaluate(Told(), "multiclass", split, torch.arange(6), "cpu")
    assert figures == {"clean_accuracy": pytest.approx(2 / 3), "attack_success_rate": 0.5}
    clean = evaluate(Told(), "multiclass", split, torch.arange(3), "cpu")
    assert clean["clean_accuracy"] == pytest.approx(2 / 3) and math.isnan(clean["attack_success_rate"])


def test_normalisation_is_that_of_the_training_images(world, engine, run):
    description = world.checkpoint.json("model.json")
    split = world.split
    images = split.inputs(split.column("source", split.part("train")).unique()).double() / 16
    assert description["mean"] == pytest.approx([images.mean().item()], rel=1e-5)
    assert description["std"] == pytest.approx([images.std(correction=0).item()], rel=1e-3)
    plain = run(engine, "train", {"train.normalize": "false", "train.epochs": "1"})["train"].json("model.json")
    assert plain["mean"] == [0.0] and plain["std"] == [1.0]


def test_the_cosine_schedule(engine, run):
    history = run(engine, "train", {**HARD, "task.max_rows": "300"})["train"].json("history.json")
    assert [epoch["lr"] for epoch in history] == pytest.approx(
        [0.05 * (1 + math.cos(math.pi * n / 4)) / 2 for n in range(4)]
    )


def test_a_loss_that_explodes_is_one_line(engine, run):
    with pytest.raises(FitError, match=r"training loss became (nan|inf) in epoch [12]: lower --train.lr \(1e\+30\)"):
        run(engine, "train", {"train.optimizer": "sgd", "train.lr": "1e30"})
    assert [made.split("/")[-1].split("-")[0] for made in engine.store.find("*")] == ["prepare"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"train.epochs": "0"}, "train: epochs must be 1 or more, got 0"),
        ({"train.batch_size": "0"}, "train: batch_size must be 1 or more, got 0"),
        ({"train.lr": "0"}, "train: lr must be above 0, got 0.0"),
        ({"train.momentum": "1"}, r"train: momentum must be in \[0, 1\), got 1.0"),
        ({"train.workers": "-1"}, "train: workers must be 0 or more, got -1"),
        ({"train.optimizer": "adm"}, "--train.optimizer: expected 'adam' | 'adamw' | 'sgd', got 'adm'"),
        ({"train.augmentation.flip_probability": "2"}, "train.augmentation: flip_probability must lie in"),
        ({"model": "mpl"}, r"unknown model 'mpl' \(did you mean mlp\?\)"),
        ({"model.hidden": "[]"}, "model: hidden: at least one layer is needed"),
    ],
)
def test_mistakes_are_told_before_anything_runs(engine, run, flags, said):
    with pytest.raises(ConfigError, match=said.replace("|", r"\|")):
        run(engine, "train", flags)
    assert engine.store.keys() == []


def test_mixed_precision_trains_float32_weights(engine, run, world):
    """bfloat16 arithmetic in the forward pass: other weights, kept in float32, that answer nearly as well."""
    mixed = run(engine, "train", {"train.precision": "bfloat16"})["train"]
    model = load_classifier(mixed.folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert payload(mixed)["weights.safetensors"] != payload(world.checkpoint)["weights.safetensors"]
    assert abs(mixed.summary["clean_accuracy"] - world.checkpoint.summary["clean_accuracy"]) < 0.06
