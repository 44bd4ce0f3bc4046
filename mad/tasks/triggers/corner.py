"""A small bright square in a corner of the image: the single-pixel backdoor of BadNets (1708.06733)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mad.config import require
from mad.tasks.triggers._base import Corner, corner_window


@dataclass(frozen=True)
class Config:
    """A bright square in a corner, in all channels."""

    corner: Corner = "top_left"
    """Corner that holds the square; "top_left" is row 0, column 0."""

    size: int = 1
    """Side of the square, in pixels."""

    value: float = 1.0
    """Brightness of the square: 0 is black, 1 is white."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value is out of range.
        """
        require(self.size >= 1, f"size must be at least 1 pixel, got {self.size}")
        require(0 <= self.value <= 1, f"value must lie in [0, 1], got {self.value}")


def state(config: Config, shape: tuple[int, int, int], seed: int) -> dict[str, Tensor]:
    """Where the square is.

    Args:
        config: place, size and brightness.
        shape: (C, H, W) of the images.
        seed: unused, nothing is drawn.

    Returns:
        ``mask``: (C, H, W) bool.

    Raises:
        ConfigError: the square is larger than the image.
    """
    rows, columns = corner_window(config.corner, config.size, shape)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:, rows, columns] = True
    return {"mask": mask}


def apply(config: Config, state: dict[str, Tensor], images: Tensor, rows: Tensor, seed: int) -> Tensor:
    """Put the square on images (n, C, H, W) in [0, 1]; ``rows`` and ``seed`` are unused."""
    return images.masked_fill(state["mask"].to(images.device), config.value)
