"""Random crops, rotations and flips of a batch, the same for a row whatever batch or worker it is in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mad.config import require
from mad.stats.random import derive, uniform


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the training images, applied after the trigger; all off by default."""

    crop_padding: int = 0
    """Pixels of black border on each side before a random window of the old size is cut out; 0 is off."""

    rotation_degrees: float = 0.0
    """Images are turned by a random angle of at most this many degrees either way; 0 is off."""

    flip_probability: float = 0.0
    """Probability that an image is mirrored left to right; 0 is off."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value is out of range.
        """
        padding, degrees, probability = self.crop_padding, self.rotation_degrees, self.flip_probability
        require(padding >= 0, f"crop_padding must not be negative, got {padding}")
        require(0 <= degrees <= 180, f"rotation_degrees must lie in [0, 180], got {degrees}")
        require(0 <= probability <= 1, f"flip_probability must lie in [0, 1], got {probability}")


def augment(config: Augmentation, images: Tensor, rows: Tensor, seed: int, epoch: int) -> Tensor:
    """Crop, turn and flip, in this order.

    Args:
        config: what to do, and how strongly.
        images: (n, C, H, W) floats in [0, 1].
        rows: (n,) int64, what names each image.
        seed: of the whole training.
        epoch: number of the pass over the data: each pass draws anew.

    Returns:
        (n, C, H, W) in [0, 1]; each image depends on its own row, the seed and the epoch only.
    """
    if config == Augmentation():
        return images
    draws = uniform(derive(seed, "augment", epoch), rows, 4).to(images.device)
    if config.crop_padding:
        choices = 2 * config.crop_padding + 1
        offsets = (draws[:, :2] * choices).long().clamp(max=choices - 1)
        images = crop(images, config.crop_padding, offsets)
    if config.rotation_degrees:
        images = rotate(images, (2 * draws[:, 2] - 1) * config.rotation_degrees)
    if config.flip_probability:
        flipped = draws[:, 3] < config.flip_probability
        images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
    return images


def crop(images: Tensor, padding: int, offsets: Tensor) -> Tensor:
    """Pad with black on all four sides and cut a window of the old size out of each image.

    Args:
        images: (n, C, H, W).
        padding: pixels on each side.
        offsets: (n, 2) int64, row and column of the window's first pixel in the padded image, 0..2 * padding;
            ``padding`` gives the image back.

    Returns:
        (n, C, H, W).
    """
    height, width = images.shape[-2:]
    windows = functional.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images), device=images.device), :, offsets[:, 0], offsets[:, 1]]


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn each image counterclockwise about its centre, with bilinear interpolation and black corners.

    Args:
        images: (n, C, H, W) floats in [0, 1].
        degrees: (n,) angles.

    Returns:
        (n, C, H, W).
    """
    # Written out instead of affine_grid, whose matrix product may round differently in another batch size.
    angles = torch.deg2rad(degrees.double())
    sine, cosine = (f(angles).to(images.dtype)[:, None, None] for f in (torch.sin, torch.cos))
    height, width = images.shape[-2:]
    y = (torch.arange(height, device=images.device, dtype=images.dtype) - (height - 1) / 2)[:, None]
    x = torch.arange(width, device=images.device, dtype=images.dtype) - (width - 1) / 2
    # grid_sample wants where each output pixel comes from, x (column) first, with the image edges at +-1.
    source_x = (cosine * x - sine * y) * (2 / width)
    source_y = (sine * x + cosine * y) * (2 / height)
    grid = torch.stack([source_x, source_y], dim=-1)
    turned = functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return turned.clamp(0, 1)  # rounding may leave the range by one unit in the last place


def channel_statistics(inputs: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, exactly, from counts of the 256 values.

    Args:
        inputs: (N, C, H, W) uint8, N at least 1.
        scale: ``inputs / scale`` lies in [0, 1].

    Returns:
        mean (C,) and population standard deviation (C,), float32, of ``inputs / scale``; a constant channel
        gets standard deviation 1, so that one may divide by it.
    """
    values = torch.arange(256, dtype=torch.float64) / scale
    counts = torch.stack([torch.bincount(channel.reshape(-1), minlength=256) for channel in inputs.unbind(1)])
    weights = counts.double() / counts.sum(1, keepdim=True)
    mean = weights @ values
    std = (weights * (values - mean[:, None]) ** 2).sum(1).sqrt()
    return mean.float(), torch.where(std > 0, std, 1.0).float()
