"""Parts of a task whose anomalous rows are found, not made: they have texts of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mad.errors import DataError
from mad.stats.random import derive
from mad.tasks._splits import MIXED, Part, clean, cut, random_order


class Sizes(Protocol):
    """Options of the sizes; see ``mad.tasks._splits.Fractions``."""

    @property
    def trusted_fraction(self) -> float: ...
    @property
    def calibration_fraction(self) -> float: ...
    @property
    def untrusted_fraction(self) -> float: ...
    @property
    def validation_fraction(self) -> float: ...
    @property
    def test_fraction(self) -> float: ...
    def anomalous_share(self, part: str) -> float: ...


@dataclass(frozen=True)
class Found:
    """Which of N rows are what.

    Attributes:
        numbers: (N,) int64, what names each row in the whole data set.
        anomalous: (N,) bool.
        training_only: (N,) bool, rows that are neither clean nor anomalous: the model is trained on them.
    """

    numbers: Tensor
    anomalous: Tensor
    training_only: Tensor


def natural_parts(options: Sizes, found: Found, seed: int) -> dict[str, Part]:
    """Cut rows into parts that share none, but for ``trusted``, which holds the clean train rows.

    Clean and anomalous rows are cut alike; in each mixed part those of one kind are left out that are too many for
    the share of anomalous rows asked for.

    Raises:
        DataError: there are no rows of a kind, or too few for each part to have what it needs.
    """
    kinds = (~found.anomalous & ~found.training_only, found.anomalous)
    for which, kind in zip(kinds, ("clean", "anomalous"), strict=True):
        if not which.any():
            raise DataError(f"there are no {kind} rows")
    pools = [_cut(options, found, which.nonzero()[:, 0], seed) for which in kinds]
    normal, anomalous = pools
    train = torch.cat([normal["train"], anomalous["train"], found.training_only.nonzero()[:, 0]])
    trusted, _ = cut(normal["train"], options.trusted_fraction)
    parts = {"train": Part(train, found.anomalous[train]), "trusted": clean(trusted)}
    parts["calibration"] = clean(normal["calibration"])
    for name in MIXED:
        parts[name] = _mixed(options.anomalous_share(name), normal[name], anomalous[name])
    for name, part in parts.items():
        _check(options, name, part)
        parts[name] = part[random_order(derive(seed, "order", name), found.numbers[part.source])]
    return parts


def _cut(options: Sizes, found: Found, rows: Tensor, seed: int) -> dict[str, Tensor]:
    """Rows of one kind by part."""
    order = rows[random_order(derive(seed, "cut"), found.numbers[rows])]
    held_out, train = cut(order, options.test_fraction)
    validation, test = cut(held_out, options.validation_fraction)
    untrusted, rest = cut(train, options.untrusted_fraction)
    calibration = rest[: round(options.calibration_fraction * len(train))]
    return {
        "train": rest[len(calibration) :],
        "calibration": calibration,
        "untrusted": untrusted,
        "validation": validation,
        "test": test,
    }


def _mixed(share: float, normal: Tensor, anomalous: Tensor) -> Part:
    """As many rows of both kinds as there are in the proportion asked for."""
    total = min(len(normal) / (1 - share) if share < 1 else torch.inf, len(anomalous) / share if share else torch.inf)
    many = round(share * int(total + 1e-9))
    few = int(total + 1e-9) - many
    source = torch.cat([normal[:few], anomalous[:many]])
    return Part(source, torch.arange(len(source)) >= few)


def _check(options: Sizes, name: str, part: Part) -> None:
    if not len(part) and not (name == "untrusted" and options.untrusted_fraction == 0):
        raise DataError(f"too few rows for these fractions: the part '{name}' would be empty")
    mixed = name in MIXED and 0 < options.anomalous_share(name) < 1 and len(part)
    if mixed and len(part.anomalous.unique()) == 1:
        kind = "clean" if part.anomalous[0] else "anomalous"
        raise DataError(f"too few rows for these fractions: the part '{name}' would have no {kind} rows")
