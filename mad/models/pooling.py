"""From activations to features: which positions or pixels are kept, and how they are summarised.

Padding never enters: sequences are read through their mask, so that a row's features do not depend on the
side or the amount of padding.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from mad.config import require
from mad.errors import ConfigError, DataError

HOWS = ("last", "mean", "max", "all", "flatten")
_SLICE = re.compile(r"(-?\d+)?:(-?\d+)?")


def check_how(how: str) -> None:
    """Raise ConfigError unless ``how`` is one of ``HOWS`` or a slice such as ``0:4``, ``-4:`` or ``2:``."""
    if how not in HOWS:
        width = _slice_width(_slice(how))
        require(width is None or width > 0, f"pool '{how}' keeps no position")


def kept_positions(how: str, length: int) -> range:
    """Which of the real positions of a sequence are kept one by one: none of them, where they are summarised.

    Raises:
        ConfigError: an unknown ``how``.
    """
    check_how(how)
    if how == "all":
        return range(length)
    return range(0) if how in HOWS else range(length)[_slice(how)]


def pool(h: Tensor, mask: Tensor | None = None, how: str = "last", channel_axis: int | None = None) -> Tensor:
    """Summarise one layer's activations of n rows.

    Args:
        h: (n, d) vectors, returned as they are; (n, t, d) sequences; or 4-D convolution maps.
        mask: (n, t), nonzero where a position of a sequence is real; None if all are. Not used for vectors
            and maps.
        how: ``last`` real position (sequences only), ``mean`` or ``max`` over real positions or pixels,
            ``all`` of them, ``flatten`` to one vector, or a slice of the real positions of each row, counted
            without padding (sequences only).
        channel_axis: which axis of a map holds its channels: 1 for (n, c, h, w), 3 for (n, h, w, c).

    Returns:
        ``last``, ``mean``, ``max``: (n, d). ``all``: (n, t, d) with padding still in it, or (n, h*w, c).
        ``flatten``: (n, t*d), or (n, c*h*w) in the order c, h, w. Slice of k positions: (n, k, d).
        The dtype of ``h``; means are summed in float32 at least.

    Raises:
        ConfigError: an unknown ``how``, or one that does not suit this shape.
        DataError: a mask of another shape, a row without real positions, or too short for the slice.
    """
    check_how(how)
    if h.ndim == 2:
        return h
    if h.ndim == 3:
        return _pool_sequence(h, _full_mask(h, mask), how)
    if h.ndim == 4:
        return _pool_map(h, how, channel_axis)
    raise DataError(f"activations of shape {tuple(h.shape)}: expected 2, 3 or 4 dimensions")


def _pool_sequence(h: Tensor, mask: Tensor, how: str) -> Tensor:
    if how == "all":
        return h
    if how == "flatten":
        if not bool(mask.all()):
            raise DataError("pool 'flatten' needs rows of one length, but the mask has padding")
        return h.flatten(1)
    empty = (~mask.any(dim=1)).nonzero()
    if len(empty):
        raise DataError(f"row {int(empty[0])} has no real position: its mask is all zero")
    if how == "mean":
        # Filled, not multiplied by the mask: what stands at padding may be NaN.
        total = h.masked_fill(~mask[..., None], 0).sum(dim=1, dtype=_sum_dtype(h))
        return (total / mask.sum(dim=1, keepdim=True)).to(h.dtype)
    if how == "max":
        return h.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)
    rows = torch.arange(len(h), device=h.device)
    if how == "last":
        places = torch.arange(h.shape[1], device=h.device)
        return h[rows, (mask * places).argmax(dim=1)]
    return h[rows[:, None], _slice_places(mask, how)]


def _pool_map(h: Tensor, how: str, channel_axis: int | None) -> Tensor:
    spatial = how in HOWS and how != "last"
    require(spatial, f"pool '{how}' reads positions in order, a map has none: use mean, max, all or flatten")
    if channel_axis is None:
        raise ConfigError(f"activations of shape {tuple(h.shape)} are maps: set the channel axis")
    known = channel_axis in (1, 2, 3, -1, -2, -3)
    require(known, f"channel axis: expected 1, 2 or 3 (axis 0 holds rows), got {channel_axis}")
    h = h.movedim(channel_axis, 1)
    if how == "flatten":
        return h.flatten(1)
    if how == "all":
        return h.flatten(2).transpose(1, 2)
    if how == "max":
        return h.amax(dim=(2, 3))
    return h.mean(dim=(2, 3), dtype=_sum_dtype(h)).to(h.dtype)


def _full_mask(h: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return torch.ones(h.shape[:2], dtype=torch.bool, device=h.device)
    if mask.shape != h.shape[:2]:
        raise DataError(f"mask {tuple(mask.shape)} does not fit activations {tuple(h.shape)}")
    return mask.to(h.device).bool()


def _sum_dtype(h: Tensor) -> torch.dtype:
    return torch.promote_types(h.dtype, torch.float32)


def _slice(how: str) -> slice:
    found = _SLICE.fullmatch(how)
    if not found:
        raise ConfigError(f"pool: expected {', '.join(HOWS)} or a slice such as 0:4, got '{how}'")
    start, stop = (None if bound is None else int(bound) for bound in found.groups())
    return slice(start, stop)


def _slice_width(part: slice) -> int | None:
    """How many positions the slice keeps in a row that is long enough; None if that depends on the row."""
    start, stop = part.start or 0, part.stop
    if stop is None:
        return -start if start < 0 else None
    return stop - start if (start < 0) == (stop < 0) else None


def _slice_places(mask: Tensor, how: str) -> Tensor:
    """(n, k) places of the positions that the slice keeps, counted in each row's real positions."""
    part = _slice(how)
    lengths = mask.sum(dim=1).tolist()
    kept = [list(range(length))[part] for length in lengths]
    width = _slice_width(part) or max(map(len, kept))
    for row, (ranks, length) in enumerate(zip(kept, lengths, strict=True)):
        if len(ranks) != width or not width:
            kept_here = f"keeps {len(ranks)} of them, not {width}"
            raise DataError(f"row {row} has {length} real positions: pool '{how}' {kept_here}")
    # A stable sort by "is padding" puts the real positions first, in their order.
    order = torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)
    return order.gather(1, torch.tensor(kept, device=mask.device))
