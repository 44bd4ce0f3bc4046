"""Which images a task takes: options and subsets of the image data sets."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from mad.config import placement, require
from mad.stats.random import derive
from mad.tasks import _images
from mad.tasks._images import Images
from mad.tasks._splits import cut, require_within, stratified, stratified_order


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """A data set, or some of it."""

    dataset: str = "digits"
    """Images: digits (comes with scikit-learn), mnist, fashion_mnist, cifar10 or gtsrb."""

    root: str | None = placement(None)
    """Folder with the data set in torchvision's layout; unused by digits."""

    download: bool = placement(False)
    """Fetch the data set into root if it is not there."""

    classes: list[int] | None = None
    """Keep only these classes, relabelled in the order given; null keeps all."""

    max_rows: int | None = None
    """Keep a seeded subset of at most this many rows, for quick runs; null keeps all."""

    test_fraction: float = 0.3
    """Share of all rows in the test part, for a data set without an official one."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: an unknown data set, or a value out of range.
        """
        last = len(_images.class_names(self.dataset)) - 1
        if self.classes is not None:
            given = self.classes
            require(len(given) >= 2, f"classes needs at least two entries, got {given}")
            valid = len(set(given)) == len(given) and all(0 <= c <= last for c in given)
            require(valid, f"classes must be distinct and lie in 0..{last}, got {given}")
        require_within(self, "(0, 1)", "test_fraction")
        valid = self.max_rows is None or self.max_rows >= 1
        require(valid, f"max_rows must be at least 1, got {self.max_rows}")

    def class_count(self) -> int:
        """Number of classes, without reading the data set."""
        return len(_images.class_names(self.dataset) if self.classes is None else self.classes)

    def load(self, seed: int) -> Images:
        """Read the images; ``seed`` chooses them where only some are kept.

        Raises:
            DataError: files are missing or damaged.
        """
        everything = _images.load(self.dataset, self.root, self.download)
        return subset(everything, self.classes, self.max_rows, seed)


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
