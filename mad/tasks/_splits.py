"""Seeded splits that keep the classes in proportion, and mixtures of clean and anomalous rows."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import torch
from torch import Tensor

from mad.config import require
from mad.errors import DataError
from mad.stats.random import derive, uniform

MIXED = ("untrusted", "validation", "test")
"""The parts that hold clean and anomalous rows."""


class Labelled(Protocol):
    """A data set of images or texts.

    Attributes:
        numbers: (N,) int64, what names each item in the whole data set, whatever subset is taken.
        labels: (N,) int64, the class of each.
    """

    @property
    def numbers(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...


@dataclasses.dataclass(frozen=True)
class Fractions:
    """How large the parts are, and how much of the mixed ones is anomalous: options of every task."""

    trusted_fraction: float = 1.0
    """Share of the train rows left as they were that is trusted, above 0 and up to 1."""

    calibration_fraction: float = 0.1
    """Share of the train part held out as clean rows for thresholds, never trained or fitted on."""

    untrusted_fraction: float = 0.1
    """Share of the train part held out as the unlabelled mixture; 0 leaves it out."""

    validation_fraction: float = 0.5
    """Share of the test part used for choices; the rest is the test."""

    anomalous_fraction: float = 0.5
    """Share of anomalous rows in untrusted, validation and test, 0 to 1; clean rows keep the natural class mix."""

    untrusted_anomalous_fraction: float | None = None
    """Share of anomalous rows in untrusted alone, 0 to 1; null takes anomalous_fraction."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value is out of range.
        """
        shares = ("anomalous_fraction", "untrusted_anomalous_fraction")
        require_within(self, "[0, 1]", *(name for name in shares if getattr(self, name) is not None))
        require_within(self, "(0, 1]", "trusted_fraction")
        require_within(self, "[0, 1)", "untrusted_fraction")
        require_within(self, "(0, 1)", "calibration_fraction", "validation_fraction")
        held_out = self.calibration_fraction + self.untrusted_fraction
        require(held_out < 1, f"calibration_fraction + untrusted_fraction must be below 1, got {held_out:g}")

    def anomalous_share(self, part: str) -> float:
        """Share of anomalous rows wanted in one of the mixed parts."""
        own = self.untrusted_anomalous_fraction if part == "untrusted" else None
        return self.anomalous_fraction if own is None else own


def require_within(options: Any, interval: str, *names: str) -> None:
    """Check that options lie in an interval, written with square brackets at the ends that belong to it.

    Raises:
        ConfigError: one does not.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    for name in names:
        value = getattr(options, name)
        above = value >= low if interval[0] == "[" else value > low
        below = value <= high if interval[-1] == "]" else value < high
        require(above and below, f"{name} must lie in {interval}, got {value}")


@dataclasses.dataclass(frozen=True)
class Part:
    """The rows of one part.

    Attributes:
        source: (n,) int64, indices into the data set.
        anomalous: (n,) bool.
    """

    source: Tensor
    anomalous: Tensor

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.source)

    def __getitem__(self, which: Tensor) -> Part:
        """Some of the rows, or all in another order."""
        return Part(self.source[which], self.anomalous[which])


def clean(source: Tensor) -> Part:
    """A part of clean rows only."""
    return Part(source, torch.zeros(len(source), dtype=torch.bool))


def random_order(seed: int, numbers: Tensor) -> Tensor:
    """A random order of rows: (n,) int64, a permutation of the positions 0..n-1."""
    return torch.argsort(uniform(seed, numbers, 1)[:, 0], stable=True)


def stratified_order(seed: int, numbers: Tensor, labels: Tensor) -> Tensor:
    """A random order of which every stretch holds the classes in proportion.

    Each class is shuffled by itself and spread evenly over the order, so that cutting the order anywhere
    gives parts of exactly the sizes asked for, with each class within about one row of its share.

    Args:
        seed: of the shuffle.
        numbers: (n,) int64, what the random numbers of each row depend on, besides the seed.
        labels: (n,) int64, not negative.

    Returns:
        (n,) int64, a permutation of the positions 0..n-1.
    """
    order = random_order(seed, numbers)
    groups = labels[order]
    by_group = torch.argsort(groups, stable=True)
    sizes = torch.bincount(groups)
    starts = sizes.cumsum(0) - sizes
    rank = torch.empty_like(order)
    rank[by_group] = torch.arange(len(groups)) - starts[groups[by_group]]
    # A random start for each class: with a common one, short stretches would favour the larger classes.
    start = uniform(derive(seed, "start"), torch.arange(len(sizes)), 1)[:, 0]
    share = (rank + start[groups]) / sizes[groups]
    return order[torch.argsort(share, stable=True)]


def stratified(data: Labelled, source: Tensor, seed: int) -> Tensor:
    """The indices ``source`` in :func:`stratified_order` of their classes."""
    return source[stratified_order(seed, data.numbers[source], data.labels[source])]


def cut(source: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """The first ``fraction`` of the rows, rounded to whole rows, and the rest."""
    count = round(fraction * len(source))
    return source[:count], source[count:]


def mixture(order: Tensor, attackable: Tensor, anomalous_fraction: float) -> Part:
    """The largest mixture with the anomalous share asked for whose clean rows keep the natural class mix.

    Of n rows, of which a share s can be attacked, n / (1 - f + f / s) make a mixture with f anomalous: rows
    that cannot be attacked are clean or left out.

    Args:
        order: (n,) int64, indices in :func:`stratified_order`.
        attackable: (n,) bool, which of them may become anomalous.
        anomalous_fraction: share of anomalous rows, in [0, 1].
    """
    if not attackable.any():
        return clean(order if anomalous_fraction == 0 else order[:0])
    attackable_share = int(attackable.sum()) / len(order)
    cost = 1 - anomalous_fraction + anomalous_fraction / attackable_share  # rows of the pool per row of it
    total = int(len(order) / cost + 1e-9)  # n / (n / m) may come out just below m
    anomalous = round(anomalous_fraction * total)
    rest, may = order[total - anomalous :], attackable[total - anomalous :]
    source = torch.cat([order[: total - anomalous], rest[may][:anomalous]])
    return Part(source, torch.arange(len(source)) >= total - anomalous)


def held_out(options: Fractions, data: Labelled, train: Tensor, test: Tensor, seed: int) -> dict[str, Tensor]:
    """Cut the train and test items into those of each part but ``trusted``: indices, in stratified orders.

    Args:
        options: the sizes.
        data: the data set.
        train: (n,) int64, indices of the train part.
        test: (m,) int64, indices of the test part.
        seed: of the cuts.
    """
    calibration, rest = cut(stratified(data, train, derive(seed, "held_out")), options.calibration_fraction)
    untrusted = rest[: round(options.untrusted_fraction * len(train))]
    validation, test = cut(stratified(data, test, derive(seed, "validation")), options.validation_fraction)
    rest = rest[len(untrusted) :]
    return {
        "train": rest,
        "calibration": calibration,
        "untrusted": untrusted,
        "validation": validation,
        "test": test,
    }


def assemble(
    options: Fractions,
    data: Labelled,
    pools: dict[str, Tensor],
    train: Part,
    untouched: Tensor,
    attackable: Tensor,
    seed: int,
) -> dict[str, Part]:
    """The parts of a task, each in a random order, so that neither class nor anomaly shows in a row's place.

    Args:
        options: the sizes and mixtures.
        data: the data set.
        pools: indices by part, as :func:`held_out` gives them.
        train: the train rows, poisoned or not.
        untouched: (n,) int64, indices of the train rows that may be trusted.
        attackable: (N,) bool, which items of the data set may become anomalous.
        seed: of the choices and orders.

    Raises:
        DataError: a part would be empty, or a mixture would lack one of its kinds.
    """
    trusted, _ = cut(stratified(data, untouched, derive(seed, "trusted")), options.trusted_fraction)
    parts = {"train": train, "trusted": clean(trusted), "calibration": clean(pools["calibration"])}
    for name in MIXED:
        order = stratified(data, pools[name], derive(seed, "mixture", name))
        parts[name] = mixture(order, attackable[order], options.anomalous_share(name))
    _check(options, parts)
    for name, part in parts.items():
        parts[name] = part[random_order(derive(seed, "order", name), data.numbers[part.source])]
    return parts


def _check(options: Fractions, parts: dict[str, Part]) -> None:
    lack = "too few rows for these fractions: the part"
    for name, part in parts.items():
        if not len(part) and not (name == "untrusted" and options.untrusted_fraction == 0):
            raise DataError(f"{lack} '{name}' would be empty")
        mixed = name in MIXED and 0 < options.anomalous_share(name) < 1
        if mixed and len(part.anomalous.unique()) == 1:
            kind = "clean" if part.anomalous[0] else "anomalous"
            raise DataError(f"{lack} '{name}' would have no {kind} rows")
