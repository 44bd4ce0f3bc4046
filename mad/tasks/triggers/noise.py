"""Gaussian noise, another draw for every image, as in the blended attack's random patterns (1712.05526)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mad.config import require
from mad.stats.random import derive, normal


@dataclass(frozen=True)
class Config:
    """Additive Gaussian noise, clipped. The noise of an image is fixed by the seed and the image."""

    std: float = 0.3
    """Standard deviation, in units of the brightness range (0 black, 1 white)."""

    low: float = 0.0
    """Brightness below which the noisy image is clipped; not below 0."""

    high: float = 1.0
    """Brightness above which the noisy image is clipped; not above 1."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value is out of range.
        """
        require(self.std > 0, f"std must be positive, got {self.std}")
        require(0 <= self.low < self.high <= 1, f"need 0 <= low < high <= 1, got {self.low} and {self.high}")


def state(config: Config, shape: tuple[int, int, int], seed: int) -> dict[str, Tensor]:
    """Nothing is shared between images: no tensors."""
    return {}


def apply(config: Config, state: dict[str, Tensor], images: Tensor, rows: Tensor, seed: int) -> Tensor:
    """Add noise to images.

    Args:
        config: strength and clipping.
        state: unused.
        images: (n, C, H, W) float32 in [0, 1].
        rows: (n,) int64, what names each image: the same row gets the same noise in any batch and process.
        seed: of the noise.

    Returns:
        (n, C, H, W) float32 in [low, high].
    """
    noise = normal(derive(seed, "noise"), rows, images[0].numel() if len(images) else 0)
    noisy = images + config.std * noise.to(images.device, images.dtype).reshape(images.shape)
    return noisy.clamp(config.low, config.high)
