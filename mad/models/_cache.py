"""A key-value cache whose rows can be dropped and added while tokens are generated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

SPARE = 16
"""Positions allotted beyond those in use at least, or an eighth of them, so that a step does not copy what the steps
before it wrote; more would spread what attention reads over more of the memory, which costs more than it saves."""

KEEPS_STATE = ("recurrent_gemma",)
"""Architectures with a state that is in their modules and not in the cache: one prompt's would leak into the next."""


class GrowingLayer(DynamicLayer):
    """Keys and values of one attention layer, (rows, heads, positions, size), in buffers that have room to grow."""

    key_buffer: Tensor | None = None
    value_buffer: Tensor | None = None
    used = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append positions; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin, self.used = self.used, self.used + key_states.shape[-2]
        self.key_buffer = _with_room(self.key_buffer, key_states, begin, self.used)
        self.value_buffer = _with_room(self.value_buffer, value_states, begin, self.used)
        self.key_buffer[:, :, begin : self.used] = key_states
        self.value_buffer[:, :, begin : self.used] = value_states
        self._expose()
        return self.keys, self.values  # type: ignore[return-value]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        if self.key_buffer is None or self.value_buffer is None:
            return
        at = indices.to(self.key_buffer.device)
        self.key_buffer, self.value_buffer = self.key_buffer[at], self.value_buffer[at]
        self._expose()

    def trim(self, positions: int) -> None:
        """Forget the first positions of every row."""
        if self.key_buffer is None or self.value_buffer is None:
            return
        self.key_buffer, self.value_buffer = self.key_buffer[:, :, positions:], self.value_buffer[:, :, positions:]
        self.used -= positions
        self._expose()

    def join(self, other: GrowingLayer) -> None:
        """Add the rows of another cache of the same model; the shorter is padded on the left with zeros."""
        if self.keys is None or self.values is None or other.keys is None or other.values is None:
            return
        self.key_buffer = _stacked(self.keys, other.keys)
        self.value_buffer = _stacked(self.values, other.values)
        self.used = max(self.used, other.used)
        self._expose()

    def _expose(self) -> None:
        self.keys = self.key_buffer[:, :, : self.used]  # type: ignore[index]
        self.values = self.value_buffer[:, :, : self.used]  # type: ignore[index]


def new_cache(model: Any) -> DynamicCache:
    """An empty cache for ``model``: growing layers for full attention, transformers' own for all other kinds."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def can_join(cache: DynamicCache) -> bool:
    """Whether rows of another cache can be added: a window or a recurrent state has no place for padding."""
    return bool(cache.layers) and all(type(layer) is GrowingLayer for layer in cache.layers)


def select_rows(cache: DynamicCache, rows: Tensor) -> None:
    """Keep these rows, of keys and values and of recurrent states."""
    for layer in cache.layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            layer.reorder_cache(rows)  # type: ignore[arg-type]
        else:
            layer.batch_select_indices(rows)  # type: ignore[union-attr]


def together(model: Any) -> int | None:
    """Positions up to which a row is what it is alone, whatever else is in its batch; None if however long it is.

    Rotary frequencies of the kinds dynamic and longrope are chosen by the longest row of a batch.
    """
    config = model.config.get_text_config(decoder=True)
    given = getattr(config, "rope_parameters", None) or {}
    kinds = [given, *(kind for kind in given.values() if isinstance(kind, dict))]
    original = "original_max_position_embeddings"
    limits = [
        kind.get(original) or getattr(config, original, None) or config.max_position_embeddings
        for kind in kinds
        if kind.get("rope_type") in ("dynamic", "longrope")
    ]
    return min(limits, default=None)


def _with_room(buffer: Tensor | None, new: Tensor, begin: int, end: int) -> Tensor:
    if buffer is not None and end <= buffer.shape[2]:
        return buffer
    larger = new.new_empty((*new.shape[:2], end + _spare(end), new.shape[3]))
    if buffer is not None:
        larger[:, :, :begin] = buffer[:, :, :begin]
    return larger


def _spare(positions: int) -> int:
    return max(SPARE, positions // 8)


def _stacked(a: Tensor, b: Tensor) -> Tensor:
    width = max(a.shape[2], b.shape[2])
    padded = [functional.pad(t, (0, 0, width - t.shape[2], _spare(width))) for t in (a, b)]
    return torch.cat(padded)
