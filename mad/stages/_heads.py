"""Losses and decisions of the three classifier heads."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mad.errors import ConfigError


def num_outputs(head: str, num_classes: int) -> int:
    """Width of the last layer.

    Raises:
        ConfigError: a binary head on more than two classes.
    """
    if head == "binary":
        if num_classes != 2:
            raise ConfigError(f"--train.head binary needs 2 classes, the task has {num_classes}: set --task.classes")
        return 1
    return num_classes


def row_losses(head: str, logits: Tensor, labels: Tensor) -> Tensor:
    """(n,) losses of (n, k) logits against (n,) integer labels; multilabel treats each class by itself."""
    if head == "multiclass":
        return F.cross_entropy(logits, labels, reduction="none")
    if head == "binary":
        return F.binary_cross_entropy_with_logits(logits[:, 0], labels.float(), reduction="none")
    targets = F.one_hot(labels, logits.shape[1]).float()
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)


def is_answered(head: str, logits: Tensor, labels: Tensor, exact: bool = True) -> Tensor:
    """(n,) bool: does the model answer ``labels``?

    For a multilabel head, ``exact`` asks that every class be decided right; otherwise only that the label's own
    class be on.
    """
    if head == "multiclass":
        return logits.argmax(dim=1) == labels
    if head == "binary":
        return (logits[:, 0] > 0).long() == labels
    if exact:
        return ((logits > 0) == F.one_hot(labels, logits.shape[1]).bool()).all(dim=1)
    return torch.gather(logits, 1, labels[:, None])[:, 0] > 0
