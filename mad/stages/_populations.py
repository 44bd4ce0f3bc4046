"""Slices of extracted features as the populations detectors read."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from functools import lru_cache

from mad.artifacts import Features
from mad.detectors._base import Batch, Population
from mad.errors import ConfigError, nearest


def chosen_layers(features: Features, patterns: list[str]) -> list[str]:
    """Extracted layers that match any of the globs (all without globs), in model order.

    Raises:
        ConfigError: a glob matches nothing.
    """
    for pattern in patterns:
        if not fnmatch.filter(features.layers, pattern):
            raise ConfigError(f"no extracted layer matches '{pattern}'{nearest(pattern, features.layers)}")
    return [n for n in features.layers if not patterns or any(fnmatch.fnmatchcase(n, p) for p in patterns)]


def batches(features: Features, part: str, layers: list[str]) -> Iterator[Batch]:
    """The rows of a part, chunk by chunk, as views of the memory-mapped files."""
    start, stop = features.bounds(part)
    offset = 0
    for chunk in features.chunks:
        size = len(next(iter(chunk.values())))
        low, high = max(start - offset, 0), min(stop - offset, size)
        if low < high:
            yield Batch(
                features={name: chunk[name][low:high] for name in layers},
                logits=chunk["logits"][low:high] if "logits" in chunk else None,
                mask=chunk["mask"][low:high] if "mask" in chunk else None,
            )
        offset += size


def population(features: Features, part: str) -> Population:
    """A part of the features for fitting; its statistics are kept for the next detector on the same part."""
    return _population(_Key(features), part)


class _Key:
    """Features compared by key: equal keys hold equal bytes."""

    def __init__(self, features: Features):
        self.features = features

    def __hash__(self) -> int:
        return hash(self.features.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.features.folder == other.features.folder


@lru_cache(maxsize=4)
def _population(key: _Key, part: str) -> Population:
    return Population(list(batches(key.features, part, key.features.layers)), part)
