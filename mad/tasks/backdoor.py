"""Backdoored images (BadNets, 1708.06733): some training rows carry a trigger and the label of the attack.

No two parts share an image, but for ``trusted``: ``train`` is partly poisoned; ``trusted`` holds unpoisoned
train rows under ids of their own; ``calibration`` (clean) and ``untrusted`` are held out of the official
train part; ``validation`` and ``test`` come from the official test part. ``untrusted``, ``validation`` and
``test`` mix clean and triggered rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from mad import registry
from mad.config import placement, plugin, require
from mad.errors import DataError
from mad.stats.random import derive
from mad.tasks import _images
from mad.tasks._base import PARTS, Rows
from mad.tasks._splits import (
    Part,
    clean,
    cut,
    mixture,
    random_order,
    stratified,
    stratified_order,
    subset,
    train_and_test,
)

MIXED = ("untrusted", "validation", "test")
"""The parts that hold clean and triggered rows."""

TRIGGER_BATCH = 4096
"""Images to which the trigger is applied at a time; it bounds the memory and changes nothing else."""


@dataclass(frozen=True)
class Config:
    """A data set, a trigger, and who gets it."""

    dataset: str = "digits"
    """Images: digits (comes with scikit-learn), mnist, fashion_mnist, cifar10 or gtsrb."""

    root: str | None = placement(None)
    """Folder with the data set in torchvision's layout; unused by digits."""

    download: bool = placement(False)
    """Fetch the data set into root if it is not there."""

    trigger: Any = plugin("triggers", "corner")
    """What is done to an image to set off the backdoor."""

    poison_rate: float = 0.1
    """Share of the train rows that are poisoned, rounded to whole rows; 0 gives a clean model."""

    target: Literal["fixed_class", "cycle_class"] = "fixed_class"
    """The attack's label: always target_class, or the class after the true one."""

    target_class: int = 0
    """The attack's label under fixed_class. Its images are not triggered, but see clean_label."""

    clean_label: bool = False
    """Poison only train images of the target class and leave their labels as they are (1902.11237).
    poison_rate stays a share of all train rows, so it cannot exceed the share of the target class."""

    trusted_fraction: float = 1.0
    """Share of the unpoisoned train rows that are trusted."""

    calibration_fraction: float = 0.1
    """Share of the train part held out as clean rows for thresholds, never trained or fitted on."""

    untrusted_fraction: float = 0.1
    """Share of the train part held out as the unlabelled mixture; 0 leaves it out."""

    test_fraction: float = 0.3
    """Share of all rows in the test part, for a data set without an official one."""

    validation_fraction: float = 0.5
    """Share of the test part used for choices; the rest is the test."""

    anomalous_fraction: float = 0.5
    """Share of triggered rows in untrusted, validation and test; clean rows keep the natural class mix."""

    classes: list[int] | None = None
    """Keep only these classes, relabelled in the order given; null keeps all."""

    max_rows: int | None = None
    """Keep a seeded subset of at most this many rows, for quick runs; null keeps all."""

    seed: int | None = None
    """Seed of splits, poisoned rows and trigger; null takes the run's seed."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: an unknown data set, or a value out of range.
        """
        count = len(_images.class_names(self.dataset))
        if self.classes is not None:
            given, last = self.classes, count - 1
            require(len(given) >= 2, f"classes needs at least two entries, got {given}")
            valid = len(set(given)) == len(given) and all(0 <= c <= last for c in given)
            require(valid, f"classes must be distinct and lie in 0..{last}, got {given}")
            count = len(given)
        valid = 0 <= self.target_class < count
        require(valid, f"target_class must lie in 0..{count - 1}, got {self.target_class}")
        valid = self.target == "fixed_class" or not self.clean_label
        require(valid, "clean_label needs target fixed_class, got cycle_class")
        self._require_within("[0, 1]", "anomalous_fraction")
        self._require_within("(0, 1]", "trusted_fraction")
        self._require_within("[0, 1)", "poison_rate", "untrusted_fraction")
        self._require_within("(0, 1)", "calibration_fraction", "test_fraction", "validation_fraction")
        held_out = self.calibration_fraction + self.untrusted_fraction
        require(held_out < 1, f"calibration_fraction + untrusted_fraction must be below 1, got {held_out:g}")
        valid = self.max_rows is None or self.max_rows >= 1
        require(valid, f"max_rows must be at least 1, got {self.max_rows}")

    def _require_within(self, interval: str, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            above = value >= 0 if interval[0] == "[" else value > 0
            below = value <= 1 if interval[-1] == "]" else value < 1
            require(above and below, f"{name} must lie in {interval}, got {value}")


def digest(config: Config) -> str:
    """Content digest of the data set, whatever subset is used and wherever it is kept.

    Raises:
        DataError: files are missing or damaged.
    """
    return _images.digest(config.dataset, config.root, config.download)


def build(config: Config, seed: int) -> Rows:
    """Split the data set, poison the train part and mix triggered rows into the evaluation parts.

    Args:
        config: the task.
        seed: used unless the config has a seed of its own. The same seed gives the same rows anywhere.

    Returns:
        Rows with ids ``PART-NUMBER``, the number being the image's place in the whole data set (train part
        first). Triggered rows are anomalous and have the attack's label; the table tells which train rows
        are poisoned.

    Raises:
        ConfigError: the rates ask for rows that cannot be had.
        DataError: files are missing or damaged, or a part would be empty.
    """
    seed = derive(seed if config.seed is None else config.seed, "backdoor")
    everything = _images.load(config.dataset, config.root, config.download)
    images = subset(everything, config.classes, config.max_rows, seed)
    parts = _parts(config, images, seed)
    source = torch.cat([parts[part].source for part in PARTS])
    anomalous = torch.cat([parts[part].anomalous for part in PARTS])
    variants, state = _triggered(config, images, source[anomalous], derive(seed, "trigger"))
    return Rows(
        table=_table(config, images, {part: len(parts[part]) for part in PARTS}, source, anomalous),
        inputs=images.inputs,
        variants=variants,
        scale=images.scale,
        class_names=images.class_names,
        facts=_facts(config, images, parts),
        state=state,
    )


def _parts(config: Config, images: _images.Images, seed: int) -> dict[str, Part]:
    """Which image is in which part, and which are triggered there."""
    train, test = train_and_test(images, config.test_fraction, derive(seed, "test"))
    calibration, rest = cut(stratified(images, train, derive(seed, "held_out")), config.calibration_fraction)
    untrusted = rest[: round(config.untrusted_fraction * len(train))]
    train = rest[len(untrusted) :]
    validation, test = cut(stratified(images, test, derive(seed, "validation")), config.validation_fraction)

    poisoned = _poisoned(config, images, train, derive(seed, "poison"))
    trusted, _ = cut(stratified(images, train[~poisoned], derive(seed, "trusted")), config.trusted_fraction)
    parts = {"train": Part(train, poisoned), "trusted": clean(trusted), "calibration": clean(calibration)}
    for name, pool in zip(MIXED, (untrusted, validation, test), strict=True):
        order = stratified(images, pool, derive(seed, "mixture", name))
        parts[name] = mixture(order, _attackable(config, images.labels[order]), config.anomalous_fraction)
    _check(config, parts)
    # A random order, so that neither class nor anomaly can be read off a row's place.
    for name, part in parts.items():
        parts[name] = part[random_order(derive(seed, "order", name), images.numbers[part.source])]
    return parts


def _attackable(config: Config, labels: Tensor) -> Tensor:
    """Rows whose answer the attack changes: a triggered image of the target class is no evidence of one."""
    no_class = -1
    return labels != (config.target_class if config.target == "fixed_class" else no_class)


def _poisoned(config: Config, images: _images.Images, train: Tensor, seed: int) -> Tensor:
    """Which train rows are poisoned: exactly the rate's share of all, from those the attack may touch."""
    labels = images.labels[train]
    eligible = labels == config.target_class if config.clean_label else _attackable(config, labels)
    candidates = eligible.nonzero()[:, 0]
    count = round(config.poison_rate * len(train))
    asked = f"poison_rate {config.poison_rate} of {len(train)} train rows is {count} rows"
    most = int(1000 * len(candidates) / max(len(train), 1)) / 1000
    require(count <= len(candidates), f"{asked}, only {len(candidates)} may be poisoned: use at most {most}")
    require(count > 0 or config.poison_rate == 0, f"{asked}: use more rows or a higher rate")
    order = stratified_order(seed, images.numbers[train[candidates]], labels[candidates])
    poisoned = torch.zeros(len(train), dtype=torch.bool)
    poisoned[candidates[order[:count]]] = True
    return poisoned


def _check(config: Config, parts: dict[str, Part]) -> None:
    lack = f"{config.dataset}: too few rows for these fractions: the part"
    for name, part in parts.items():
        if not len(part) and not (name == "untrusted" and config.untrusted_fraction == 0):
            raise DataError(f"{lack} '{name}' would be empty")
        mixed = name in MIXED and 0 < config.anomalous_fraction < 1
        if mixed and len(part.anomalous.unique()) == 1:
            kind = "clean" if part.anomalous[0] else "triggered"
            raise DataError(f"{lack} '{name}' would have no {kind} rows")


def _trigger_name(config: Config) -> str:
    return registry.name_of("triggers", type(config.trigger).__module__)


def _triggered(config: Config, images: _images.Images, source: Tensor, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The images ``source`` with the trigger applied, and the tensors that define it."""
    trigger = registry.load("triggers", _trigger_name(config))
    shape = tuple(images.inputs.shape[1:])
    state = trigger.state(config.trigger, shape, seed)
    variants = torch.empty((len(source), *shape))
    for start in range(0, len(source), TRIGGER_BATCH):
        batch = source[start : start + TRIGGER_BATCH]
        inputs = images.inputs[batch].float() / images.scale
        triggered = trigger.apply(config.trigger, state, inputs, images.numbers[batch], seed)
        variants[start : start + len(batch)] = triggered
    return variants, state


def _table(
    config: Config, images: _images.Images, sizes: dict[str, int], source: Tensor, anomalous: Tensor
) -> pd.DataFrame:
    clean_label = images.labels[source]
    attack = (clean_label + 1) % len(images.class_names)
    if config.target == "fixed_class":
        attack = torch.full_like(clean_label, config.target_class)
    part = pd.Series([name for name in PARTS for _ in range(sizes[name])], dtype=str)
    number = pd.Series(images.numbers[source].numpy()).astype(str).str.zfill(6)
    return pd.DataFrame(
        {
            "id": part + "-" + number,
            "part": part,
            "source": source.numpy(),
            "variant": torch.where(anomalous, anomalous.cumsum(0) - 1, -1).numpy(),
            "label": torch.where(anomalous, attack, clean_label).numpy(),
            "clean_label": clean_label.numpy(),
            "is_anomalous": anomalous.numpy(),
        }
    )


def _facts(config: Config, images: _images.Images, parts: dict[str, Part]) -> dict[str, Any]:
    rows = {name: len(part) for name, part in parts.items()}
    anomalous = {name: int(part.anomalous.sum()) for name, part in parts.items()}
    return {
        "dataset": config.dataset,
        "trigger": _trigger_name(config),
        "target": config.target,
        "target_class": config.target_class if config.target == "fixed_class" else None,
        "clean_label": config.clean_label,
        "rows": rows,
        "anomalous_rows": anomalous,
        "poison_rate": anomalous["train"] / rows["train"],
        "anomalous_fraction": {name: anomalous[name] / rows[name] for name in MIXED if rows[name]},
        "unused_rows": len(images.labels) - sum(rows.values()) + rows["trusted"],
    }
