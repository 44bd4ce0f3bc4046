"""Slices of extracted features as the populations detectors read."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from functools import lru_cache, partial

import torch

from mad.artifacts import Features
from mad.detectors._base import Batch, Population
from mad.errors import ConfigError, nearest
from mad.stages._subject import Subject

OUTPUTS = ("logits", "mask", "penultimate")
"""Tensors of a chunk that are no activations asked for."""


def chosen_layers(features: Features, patterns: list[str]) -> list[str]:
    """Extracted layers that match any of the globs (all without globs), in model order.

    Raises:
        ConfigError: a glob matches nothing.
    """
    for pattern in patterns:
        if not fnmatch.filter(features.layers, pattern):
            raise ConfigError(f"no extracted layer matches '{pattern}'{nearest(pattern, features.layers)}")
    return [n for n in features.layers if not patterns or any(fnmatch.fnmatchcase(n, p) for p in patterns)]


def batches(features: Features, part: str, layers: list[str], subject: Subject | None = None) -> Iterator[Batch]:
    """The rows of a part, chunk by chunk, as views of the memory-mapped files.

    Args:
        features: the rows.
        part: which of them.
        layers: activations that are wanted.
        subject: reads the model's inputs, when a detector asks for those of a batch.
    """
    start, stop = features.bounds(part)
    offset = 0
    for chunk in features.chunks:
        size = len(next(iter(chunk.values())))
        low, high = max(start - offset, 0), min(stop - offset, size)
        if low < high:
            others = {name: chunk[name][low:high] for name in OUTPUTS if name in chunk}
            inputs = partial(subject.inputs, offset + low, offset + high) if subject else None
            yield Batch({name: chunk[name][low:high] for name in layers}, inputs=inputs, **others)
        offset += size


def population(features: Features, part: str, subject: Subject | None = None) -> Population:
    """A part of the features for fitting; its statistics are kept for the next detector on the same part."""
    return _population(_Key(features, subject), part)


class _Key:
    """Features compared by key: equal keys hold equal bytes."""

    def __init__(self, features: Features, subject: Subject | None):
        self.features, self.subject = features, subject

    def __hash__(self) -> int:
        return hash(self.features.key)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Key):
            return False
        return self.features.folder == other.features.folder and bool(self.subject) == bool(other.subject)


@lru_cache(maxsize=4)
def _population(key: _Key, part: str) -> Population:
    features = key.features
    start, stop = features.bounds(part)
    labels = torch.from_numpy(features.rows["is_anomalous"].to_numpy(copy=True)[start:stop])
    return Population(list(batches(features, part, features.layers, key.subject)), part, labels)
