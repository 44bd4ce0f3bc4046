"""Seeded splits that keep the classes in proportion, and mixtures of clean and anomalous rows."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from mad.stats.random import derive, uniform
from mad.tasks._images import Images


@dataclasses.dataclass(frozen=True)
class Part:
    """The rows of one part.

    Attributes:
        source: (n,) int64, indices of the images.
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


def stratified(images: Images, source: Tensor, seed: int) -> Tensor:
    """The indices ``source`` in :func:`stratified_order` of their classes."""
    return source[stratified_order(seed, images.numbers[source], images.labels[source])]


def cut(source: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """The first ``fraction`` of the rows, rounded to whole rows, and the rest."""
    count = round(fraction * len(source))
    return source[:count], source[count:]


def subset(images: Images, classes: list[int] | None, max_rows: int | None, seed: int) -> Images:
    """Keep some classes, relabelled in the order given, and then at most ``max_rows`` images.

    The rows are chosen so that classes and official parts keep their proportions. Numbers stay those of the
    whole data set.

    Args:
        images: the whole data set.
        classes: distinct labels of the data set, or None for all.
        max_rows: None for all.
        seed: of the choice of rows.
    """
    labels, names = images.labels, images.class_names
    kept = torch.arange(len(labels))
    if classes is not None:
        relabel = torch.full((len(names),), -1)
        relabel[classes] = torch.arange(len(classes))
        labels, names = relabel[labels], tuple(names[c] for c in classes)
        kept = kept[labels >= 0]
    if max_rows is not None and max_rows < len(kept):
        is_test = torch.zeros_like(labels, dtype=torch.bool) if images.is_test is None else images.is_test
        test_rows = round(max_rows * int(is_test[kept].sum()) / len(kept))
        chosen = []
        for part, count in ((kept[~is_test[kept]], max_rows - test_rows), (kept[is_test[kept]], test_rows)):
            order = stratified_order(derive(seed, "subset"), images.numbers[part], labels[part])
            chosen.append(part[order[:count]])
        kept = torch.cat(chosen).sort().values
    return dataclasses.replace(
        images,
        inputs=images.inputs[kept],
        labels=labels[kept],
        is_test=None if images.is_test is None else images.is_test[kept],
        numbers=images.numbers[kept],
        class_names=names,
    )


def train_and_test(images: Images, test_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the official parts, or of a seeded split where the data set has none."""
    everything = torch.arange(len(images.labels))
    if images.is_test is not None:
        return everything[~images.is_test], everything[images.is_test]
    test, train = cut(stratified(images, everything, seed), test_fraction)
    return train, test


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
