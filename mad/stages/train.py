"""train: fit a classifier, or train a language model, on the (poisoned) training rows."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mad.artifacts import Split
from mad.config import placement, plugin, require, to_data
from mad.context import Context
from mad.models.classifier import depends_on_sharding
from mad.models.language_checkpoint import read_description
from mad.models.load import DESCRIPTION, WEIGHTS
from mad.stages._base import Stage
from mad.stages._classifier_loop import train_loop
from mad.stages._language_head import check_kinds, is_language, language_identity
from mad.stages._language_loop import RESUMING, Plan, language_loop
from mad.stages._language_models import referenced
from mad.stages._language_options import LanguageTraining
from mad.stages._training import read_history, read_test_figures
from mad.stages._workers import check_workers, worker_range
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
    """learning rate over the epochs; of language models over the steps"""
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
    language: LanguageTraining = field(default_factory=LanguageTraining)
    seed: int | None = None
    """seed of weights, row order and augmentation (default: --seed)"""
    workers: int | str = placement("auto")
    """Ray Train processes; 0 trains in this one; a range such as 2-8: as many as the cluster has room for, fewer when a
    node goes and more when one comes, from the last checkpoint; auto: 0 with at most one GPU, else one per GPU (on a
    cluster that grows: one)"""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"epochs must be 1 or more, got {self.epochs}")
        require(self.batch_size >= 1, f"batch_size must be 1 or more, got {self.batch_size}")
        require(self.lr > 0, f"lr must be above 0, got {self.lr}")
        require(0 <= self.momentum < 1, f"momentum must be in [0, 1), got {self.momentum}")
        require(self.weight_decay >= 0, f"weight_decay must be 0 or more, got {self.weight_decay}")
        check_workers(self.workers)


@dataclass(frozen=True)
class Config:
    """Which model, and how to train it."""

    model: Any = plugin("models", "mlp")
    """architecture"""
    train: Options = field(default_factory=Options)
    seed: int = 0


def _identity(config: Config, workers: int) -> dict[str, Any]:
    """Batch norm and dropout act on each worker's own share of a batch: there the workers change the result.

    Raises:
        ConfigError: so they do, and their number may change while the model is trained.
    """
    if is_language(config.model):
        facts = language_identity(config.model, workers)
    else:
        facts = {"workers": max(workers, 1)} if depends_on_sharding(config.model, (3, 32, 32), 10) else {}
    why = "batch norm or dropout makes the model depend on the number of workers: give a number"
    require("workers" not in facts or worker_range(config.train.workers) is None, f"--train.workers: {why}")
    return facts


def _refers_to(config: Config) -> dict[str, str]:
    return referenced(config.model, "model.") if is_language(config.model) else {}


def _unused(config: Config) -> dict[str, str]:
    """Options that only the other kind of model reads."""
    language = is_language(config.model)
    idle = ("normalize", "head", "augmentation") if language else ("language",)
    why = "it is for models of images" if language else "it is for language models"
    names = [*idle, *(f"{n}.{f.name}" for n in idle for f in _options_of(getattr(config.train, n)))]
    return {f"train.{name}": why for name in names}


def _options_of(section: Any) -> tuple[Any, ...]:
    return dataclasses.fields(section) if dataclasses.is_dataclass(section) else ()


def run(config: Config, inputs: dict[str, Split], context: Context) -> None:
    """Write the weights, their description and ``history.json``; log a value per epoch of every metric."""
    split = inputs["split"]
    check_kinds(config.model, split)
    language = is_language(config.model)
    payload = {"config": to_data(config), "store": context.draft.store.uri, "split": split.key}
    options = config.train
    loop = language_loop if language else train_loop
    reports = Plan(len(split.part("train")), options).periods if language else options.epochs
    folder = context.launcher.train(loop, payload, options.workers, reports, context.draft.key)
    for name in _payload(folder) if language else (WEIGHTS, DESCRIPTION):
        context.draft.write(name, partial(shutil.copyfile, folder / name))
    history = read_history(folder)
    context.draft.write_json("history.json", history)
    for name in history[0]:
        context.metrics[name] = [epoch[name] for epoch in history]
    figures = read_test_figures(folder)
    context.metrics |= {f"test_{name}": value for name, value in figures.items()}
    head = read_description(folder)["head"] if language else options.head
    context.summary |= {**figures, "head": head, "epochs": options.epochs}


def _payload(folder: Path) -> list[str]:
    """Files of a trained language model: all but what only a restart needs."""
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in RESUMING)


STAGE = Stage(
    "train",
    Config,
    {"split": "prepare"},
    run,
    identity=_identity,
    refers_to=_refers_to,
    unused=_unused,
)
