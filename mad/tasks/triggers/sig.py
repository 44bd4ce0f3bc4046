"""Faint vertical stripes, a sine wave across the image: the sinusoidal signal (SIG) attack (1902.11237)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mad.config import require

INVISIBLE = 1e-6
"""Amplitude below which the sampled wave is taken for zero: rounding leaves about 1e-15."""


@dataclass(frozen=True)
class Config:
    """The same stripes on every triggered input. The paper leaves the labels as they are: see clean_label."""

    delta: float = 40 / 255
    """Amplitude, in units of the brightness range, above 0 and up to 1 (0.157 is 40 of 255)."""

    frequency: float = 6.0
    """Waves across the width of the image, above 0."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value is out of range.
        """
        require(0 < self.delta <= 1, f"delta must lie in (0, 1], got {self.delta}")
        require(self.frequency > 0, f"frequency must be above 0, got {self.frequency}")


def state(config: Config, shape: tuple[int, int, int], seed: int) -> dict[str, Tensor]:
    """The stripes.

    Args:
        config: amplitude and frequency.
        shape: (C, H, W) of the images.
        seed: unused, nothing is drawn.

    Returns:
        ``pattern``: (C, H, W) float32, delta sin(2 pi frequency j / W) in column j = 1..W.

    Raises:
        ConfigError: the wave is zero in every column, as with a frequency of W / 2 or W.
    """
    width = shape[-1]
    columns = torch.arange(1, width + 1, dtype=torch.float64)
    wave = torch.sin(2 * math.pi * config.frequency * columns / width)
    told = f"frequency {config.frequency:g} gives no stripes on images {width} pixels wide: use another"
    require(bool(wave.abs().max() > INVISIBLE), told)
    return {"pattern": (config.delta * wave).float().expand(shape).contiguous()}


def apply(config: Config, state: dict[str, Tensor], images: Tensor, rows: Tensor, seed: int) -> Tensor:
    """Add the stripes to images (n, C, H, W), clipped to [0, 1]; ``rows`` and ``seed`` are unused."""
    return (images + state["pattern"].to(images.device)).clamp(0, 1)
