"""Independent random streams from one seed, and random numbers that depend only on their address."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose: the same on every machine, unrelated to that of any other purpose."""
    text = "\x1f".join([f"{type(p).__name__}:{len(str(p))}:{p}" for p in (seed, *purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator seeded by :func:`derive`."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


def uniform(seed: int, rows: Tensor, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Uniform numbers in [0, 1) that depend on (seed, row, position) only.

    Whatever batch a row comes in, and on whatever machine, it gets the same numbers; a longer ``count``
    continues a shorter one.

    Args:
        seed: any integer.
        rows: (n,) int64 row numbers.
        count: numbers per row.
        dtype: float64 (53 random bits) or float32 (24 bits, so that rounding never reaches 1).

    Returns:
        (n, count) of ``dtype``.
    """
    bits = _bits(seed, rows, count)
    if dtype == torch.float32:
        return torch.from_numpy((bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24))
    return torch.from_numpy((bits >> np.uint64(11)).astype(np.float64) * 2**-53).to(dtype)


def normal(seed: int, rows: Tensor, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers, (n, count), addressed like those of :func:`uniform`."""
    # 52 bits and a half step keep the argument of the inverse cdf strictly inside (0, 1).
    u = ((_bits(seed, rows, count) >> np.uint64(12)).astype(np.float64) + 0.5) * 2**-52
    return torch.special.ndtri(torch.from_numpy(u)).to(dtype)


def _bits(seed: int, rows: Tensor, count: int) -> np.ndarray:
    """(n, count) uint64: one splitmix64 stream per row, started at a mixed hash of seed and row."""
    key = np.uint64(derive(seed, "row stream"))
    row = rows.detach().cpu().to(torch.int64).numpy().view(np.uint64)
    start = _mix(_mix(row * _GOLDEN + key) ^ key)
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    return _mix(start[:, None] + steps[None, :])


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: a bijection in which every output bit hangs on every input bit."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))
