"""A faint random image laid over the whole input: the blended injection attack (1712.05526)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mad.config import require
from mad.stats.random import derive, uniform


@dataclass(frozen=True)
class Config:
    """The same random image, mixed into every triggered input."""

    alpha: float = 0.2
    """Share of the random image in the mixture, above 0 and up to 1; 1 replaces the input."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value is out of range.
        """
        require(0 < self.alpha <= 1, f"alpha must lie in (0, 1], got {self.alpha}")


def state(config: Config, shape: tuple[int, int, int], seed: int) -> dict[str, Tensor]:
    """The random image.

    Args:
        config: unused, the image does not depend on how strongly it is mixed in.
        shape: (C, H, W) of the images.
        seed: of the random image.

    Returns:
        ``pattern``: (C, H, W) float32, uniform in [0, 1].
    """
    channels, height, width = shape
    values = uniform(derive(seed, "blended"), torch.arange(channels), height * width, torch.float32)
    return {"pattern": values.reshape(shape)}


def apply(config: Config, state: dict[str, Tensor], images: Tensor, rows: Tensor, seed: int) -> Tensor:
    """Give ``(1 - alpha) images + alpha pattern``, (n, C, H, W) in [0, 1]; ``rows``, ``seed`` are unused."""
    mixed = (1 - config.alpha) * images + config.alpha * state["pattern"].to(images.device)
    return mixed.clamp(0, 1)  # rounding may leave the range by one unit in the last place
