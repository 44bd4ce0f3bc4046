"""A patterned patch at a fixed place: the pattern backdoor of BadNets (1708.06733)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mad.config import require
from mad.stats.random import derive, uniform
from mad.tasks.triggers._base import Corner, corner_window


@dataclass(frozen=True)
class Config:
    """A small checkerboard or patch of random colours."""

    position: Corner | Literal["center"] = "bottom_right"
    """Where the patch lies."""

    size: int = 3
    """Side of the patch, in pixels."""

    pattern: Literal["checkerboard", "random"] = "checkerboard"
    """White and black squares of one pixel, white first; or colours drawn from the seed."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value is out of range.
        """
        require(self.size >= 1, f"size must be at least 1 pixel, got {self.size}")


def state(config: Config, shape: tuple[int, int, int], seed: int) -> dict[str, Tensor]:
    """The patch and its place.

    Args:
        config: place, size and pattern.
        shape: (C, H, W) of the images.
        seed: of the random colours.

    Returns:
        ``mask``: (H, W) bool; ``pattern``: (C, H, W) float32 in [0, 1], 0 outside the mask.

    Raises:
        ConfigError: the patch is larger than the image.
    """
    channels, height, width = shape
    size = config.size
    rows, columns = corner_window("top_left" if config.position == "center" else config.position, size, shape)
    if config.position == "center":
        top, left = (height - size) // 2, (width - size) // 2
        rows, columns = slice(top, top + size), slice(left, left + size)
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[rows, columns] = True
    pattern = torch.zeros(shape)
    if config.pattern == "random":
        colours = uniform(derive(seed, "patch"), torch.arange(channels), size * size, torch.float32)
        pattern[:, rows, columns] = colours.reshape(channels, size, size)
    else:
        steps = torch.arange(size)
        pattern[:, rows, columns] = ((steps[:, None] + steps) % 2 == 0).float()
    return {"mask": mask, "pattern": pattern}


def apply(config: Config, state: dict[str, Tensor], images: Tensor, rows: Tensor, seed: int) -> Tensor:
    """Put the patch on images (n, C, H, W) in [0, 1]; ``rows`` and ``seed`` are unused."""
    mask, pattern = state["mask"].to(images.device), state["pattern"].to(images.device)
    return torch.where(mask, pattern, images)
