"""A smooth, faint warp of the whole image: WaNet (2102.10369)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mad.config import require
from mad.stats.random import derive, uniform


@dataclass(frozen=True)
class Config:
    """The same warp of every triggered input, and other warps that keep the model from answering to any."""

    grid_size: int = 4
    """Control points along each side, k in the paper; at least 2 and at most the shorter side in pixels."""

    strength: float = 0.5
    """Mean shift of a control point, s in the paper, in units of half a pixel; above 0."""

    grid_rescale: float = 1.0
    """Factor on the places that pixels are taken from: below 1 enlarges the image about its centre; above 0."""

    noise_ratio: float = 2.0
    """Noise mode: so many train rows per poisoned row are warped by a field perturbed for each row and keep
    their true label (cross ratio); 0 turns it off."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value is out of range.
        """
        require(self.grid_size >= 2, f"grid_size must be at least 2, got {self.grid_size}")
        require(self.strength > 0, f"strength must be above 0, got {self.strength}")
        require(self.grid_rescale > 0, f"grid_rescale must be above 0, got {self.grid_rescale}")
        require(self.noise_ratio >= 0, f"noise_ratio must not be negative, got {self.noise_ratio}")


def state(config: Config, shape: tuple[int, int, int], seed: int) -> dict[str, Tensor]:
    """The warping field: random shifts of the control points, interpolated between them by cubic splines.

    Args:
        config: size and strength of the field.
        shape: (C, H, W) of the images.
        seed: of the shifts.

    Returns:
        ``grid``: (H, W, 2) float32, the place (x, y) that each pixel is taken from; -1 and 1 are the centres of
        the first and last pixel.

    Raises:
        ConfigError: there are more control points than pixels.
    """
    _, height, width = shape
    size = config.grid_size
    require(size <= min(height, width), f"grid_size {size} is larger than the {height}x{width} images")
    shifts = 2 * uniform(derive(seed, "wanet"), torch.arange(2), size * size).reshape(1, 2, size, size) - 1
    shifts = shifts / shifts.abs().mean()
    field = functional.interpolate(shifts, size=(height, width), mode="bicubic", align_corners=True)[0]
    x = torch.linspace(-1, 1, width, dtype=torch.float64).expand(height, width)
    y = torch.linspace(-1, 1, height, dtype=torch.float64)[:, None].expand(height, width)
    # grid_sample wants the column before the row; the other way round is a transposed image.
    untouched = torch.stack([x, y], dim=-1)
    grid = untouched + config.strength * field.permute(1, 2, 0) * _pixel(height, width)
    return {"grid": (config.grid_rescale * grid).clamp(-1, 1).float()}


def apply(config: Config, state: dict[str, Tensor], images: Tensor, rows: Tensor, seed: int) -> Tensor:
    """Warp images (n, C, H, W) in [0, 1]; ``rows`` and ``seed`` are unused, all get the same field."""
    grid = state["grid"].to(images.device, images.dtype)
    return _sample(images, grid.expand(len(images), *grid.shape))


def decoy_count(config: Config, poisoned: int) -> int:
    """Train rows to warp in noise mode."""
    return round(config.noise_ratio * poisoned)


def decoys(config: Config, state: dict[str, Tensor], images: Tensor, rows: Tensor, seed: int) -> Tensor:
    """Warp images by the field with noise of its own for every image: up to half a pixel in x and in y.

    Args:
        config: unused, the noise does not depend on the strength.
        state: the field.
        images: (n, C, H, W) float32 in [0, 1].
        rows: (n,) int64, what names each image.
        seed: of the noise.

    Returns:
        (n, C, H, W) in [0, 1].
    """
    grid = state["grid"]
    draws = 2 * uniform(derive(seed, "wanet", "noise"), rows, grid.numel()) - 1
    noise = draws.reshape(len(rows), *grid.shape) * _pixel(*grid.shape[:2])
    return _sample(images, (grid + noise).clamp(-1, 1).to(images.device, images.dtype))


def _pixel(height: int, width: int) -> Tensor:
    """(2,) half a pixel in x and y, in units in which the image is 2 wide and 2 high."""
    return 1 / torch.tensor([width, height], dtype=torch.float64)


def _sample(images: Tensor, grid: Tensor) -> Tensor:
    """Bilinear values of (n, C, H, W) at (n, H, W, 2) places."""
    warped = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return warped.clamp(0, 1)  # rounding may leave the range by one unit in the last place
