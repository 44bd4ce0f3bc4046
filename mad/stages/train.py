"""train: fit a classifier on the (poisoned) training rows."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mad.artifacts import Split
from mad.config import placement, plugin, require, to_data
from mad.context import Context
from mad.models.classifier import depends_on_sharding
from mad.models.load import DESCRIPTION, WEIGHTS
from mad.stages._base import Stage
from mad.stages._classifier_loop import read_history, read_test_figures, train_loop
from mad.tasks._augment import Augmentation


@dataclass(frozen=True)
class Options:
    """How to train."""

    epochs: int = 20
    """passes over the training rows"""
    batch_size: int = 64
    """rows per step, over all workers together"""
    lr: float = 1e-3
    """learning rate at the start"""
    schedule: Literal["constant", "cosine"] = "constant"
    """learning rate over epochs"""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """sgd uses momentum"""
    momentum: float = 0.9
    """momentum of sgd"""
    weight_decay: float = 0.0
    """L2 penalty (adam, sgd) or decoupled decay (adamw)"""
    head: Literal["multiclass", "binary", "multilabel"] = "multiclass"
    """softmax over classes, one logit for two classes, or one sigmoid per class"""
    normalize: bool = True
    """subtract the channel mean of the training rows and divide by their standard deviation, inside the model"""
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """arithmetic of the forward pass on a GPU; auto: bfloat16 there, float32 on a CPU"""
    seed: int | None = None
    """seed of weights, row order and augmentation (default: --seed)"""
    workers: int | Literal["auto"] = placement("auto")
    """Ray Train processes; 0 trains in this one; auto: 0 with at most one GPU, else one per GPU"""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"epochs must be 1 or more, got {self.epochs}")
        require(self.batch_size >= 1, f"batch_size must be 1 or more, got {self.batch_size}")
        require(self.lr > 0, f"lr must be above 0, got {self.lr}")
        require(0 <= self.momentum < 1, f"momentum must be in [0, 1), got {self.momentum}")
        require(self.weight_decay >= 0, f"weight_decay must be 0 or more, got {self.weight_decay}")
        require(self.workers == "auto" or int(self.workers) >= 0, f"workers must be 0 or more, got {self.workers}")


@dataclass(frozen=True)
class Config:
    """Which model, and how to train it."""

    model: Any = plugin("models", "mlp")
    """architecture"""
    train: Options = field(default_factory=Options)
    seed: int = 0


def _identity(config: Config, workers: int) -> dict[str, Any]:
    """Batch norm and dropout act on each worker's own share of a batch: there the workers change the result."""
    return {"workers": max(workers, 1)} if depends_on_sharding(config.model, (3, 32, 32), 10) else {}


def run(config: Config, inputs: dict[str, Split], context: Context) -> None:
    """Write the weights, their description and ``history.json``; log a value per epoch of every metric."""
    split = inputs["split"]
    payload = {"config": to_data(config), "store": context.draft.store.uri, "split": split.key}
    options = config.train
    folder = context.launcher.train(train_loop, payload, options.workers, options.epochs, context.draft.key)
    for name in (WEIGHTS, DESCRIPTION):
        context.draft.write(name, lambda path, name=name: _copy(folder / name, path))  # type: ignore[misc]
    history = read_history(folder)
    context.draft.write_json("history.json", history)
    for name in history[0]:
        context.metrics[name] = [epoch[name] for epoch in history]
    figures = read_test_figures(folder)
    context.metrics |= {f"test_{name}": value for name, value in figures.items()}
    context.summary |= {**figures, "head": options.head, "epochs": len(history)}


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


STAGE = Stage("train", Config, {"split": "prepare"}, run, identity=_identity)
