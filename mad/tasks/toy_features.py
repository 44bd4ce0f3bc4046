"""Toy ambiguous features: two numbers that agree on the class wherever a model or a detector learns.

In ``train``, ``trusted`` and ``calibration`` both features tell the class, so either will do. In anomalous rows of
``untrusted``, ``validation`` and ``test`` the second tells another class than the first. The label and the true class
of such a row are by convention those of the first feature; what a model answers there shows which one it uses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mad.config import require
from mad.stats.random import derive, normal, uniform
from mad.tasks._base import Rows
from mad.tasks._image_parts import counts, joined, table
from mad.tasks._images import Images
from mad.tasks._splits import Fractions, assemble, clean, held_out

SCALE = 255.0


@dataclass(frozen=True)
class Config(Fractions):
    """How many rows, and how clear the features are."""

    train_rows: int = 2000
    """Rows of the train part, from which calibration and untrusted rows are held out; 1 or more."""

    test_rows: int = 1000
    """Rows of the test part, split into validation and test; 1 or more."""

    noise: float = 0.05
    """Standard deviation of the noise on each feature, 0 or more. Class c of n lies at (c + 0.5) / n; features are
    clipped to [0, 1] and rounded to multiples of 1/255."""

    classes: int = 2
    """Number of classes, 2 to 128."""

    seed: int | None = None
    """Seed of everything drawn; null takes the run's seed."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value is out of range.
        """
        super().__post_init__()
        for name in ("train_rows", "test_rows"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(self.noise >= 0, f"noise must not be negative, got {self.noise}")
        require(2 <= self.classes <= 128, f"classes must lie in 2..128, got {self.classes}")


def digest(config: Config) -> str:
    """Nothing external is read: all rows follow from the config and the seed."""
    return ""


def build(config: Config, seed: int) -> Rows:
    """Draw the rows.

    Args:
        config: the task.
        seed: used unless the config has a seed of its own. The same seed gives the same rows anywhere.

    Returns:
        Rows with ids ``PART-NUMBER``, the number counting train rows first. Inputs are (1, 1, 2): the first
        feature left, the second right. Anomalous rows are inputs of their own, so no row has a variant.

    Raises:
        DataError: a part would be empty.
    """
    seed = derive(seed if config.seed is None else config.seed, "toy_features")
    numbers = torch.arange(config.train_rows + config.test_rows)
    labels = numbers % config.classes
    names = tuple(str(c) for c in range(config.classes))
    is_test = numbers >= config.train_rows
    images = Images(torch.empty((len(numbers), 1, 1, 2), dtype=torch.uint8), labels, is_test, numbers, SCALE, names)
    pools = held_out(config, images, numbers[~is_test], numbers[is_test], seed)
    every_row = torch.ones(len(numbers), dtype=torch.bool)
    parts = assemble(config, images, pools, clean(pools["train"]), pools["train"], every_row, seed)
    rows = joined(parts)
    disagreeing = torch.zeros_like(every_row)
    disagreeing[rows.source[rows.anomalous]] = True
    return Rows(
        table=table(images, parts, labels, torch.full((len(rows),), -1)),
        inputs=_features(config, numbers, labels, disagreeing, seed),
        variants=torch.empty((0, 1, 1, 2)),
        scale=SCALE,
        class_names=names,
        facts={"dataset": "toy_features", "noise": config.noise, **counts(images, parts)},
    )


def _features(config: Config, numbers: Tensor, labels: Tensor, disagreeing: Tensor, seed: int) -> Tensor:
    """(n, 1, 1, 2) uint8; where they disagree the second class is drawn from all others with equal chances."""
    others = config.classes - 1
    step = 1 + (uniform(derive(seed, "other class"), numbers, 1)[:, 0] * others).long()
    second = torch.where(disagreeing, (labels + step) % config.classes, labels)
    centres = (torch.stack([labels, second], dim=1) + 0.5) / config.classes
    values = centres + config.noise * normal(derive(seed, "noise"), numbers, 2)
    return (values.clamp(0, 1) * SCALE).round().to(torch.uint8).reshape(-1, 1, 1, 2)
