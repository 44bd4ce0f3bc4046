"""Slices of extracted features as the populations detectors read."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

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


def population(features: Features, part: str, layers: list[str]) -> Population:
    """A part of the features for fitting."""
    return Population(list(batches(features, part, layers)), part)
