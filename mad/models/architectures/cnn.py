"""Plain convolutional network for small images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from mad.config import require

LAYERS = ("layers.*.output",)

# Rounding up keeps a map of one pixel alive, so any depth fits any image.
POOLINGS: dict[str, Callable[[], nn.Module]] = {
    "max": partial(nn.MaxPool2d, 2, ceil_mode=True),
    "mean": partial(nn.AvgPool2d, 2, ceil_mode=True),
    "none": nn.Identity,
}


@dataclass(frozen=True)
class Config:
    """Options of the convolutional network."""

    channels: tuple[int, ...] = (32, 64)
    """Output channels of each convolution block; at least one."""
    kernel_sizes: tuple[int, ...] = (3,)
    """Kernel size of each block (padded by half of it), or one size for all."""
    strides: tuple[int, ...] = (1,)
    """Stride of each block, or one stride for all."""
    dense: tuple[int, ...] = (128,)
    """Width of each fully connected block behind the convolutions; may be empty."""
    pooling: Literal["max", "mean", "none"] = "max"
    """Pooling of 2 x 2 pixels at the end of each convolution block."""
    readout: Literal["mean", "max", "flatten"] = "mean"
    """How the last map becomes a vector: mean or maximum over space, or all of its values."""

    def __post_init__(self) -> None:
        require(len(self.channels) > 0, "channels: at least one convolution block is needed")
        for name in ("channels", "kernel_sizes", "strides", "dense"):
            values = getattr(self, name)
            require(all(value >= 1 for value in values), f"{name}: values must be 1 or more, got {values}")
        for name in ("kernel_sizes", "strides"):
            count, wanted = len(getattr(self, name)), len(self.channels)
            require(count in (1, wanted), f"{name}: give 1 or {wanted} values (one per block), got {count}")


class CNN(nn.Module):
    """Blocks ``layers.*`` (convolutions first, then dense ones) and a linear ``head``."""

    def __init__(self, config: Config, input_shape: tuple[int, int, int], num_outputs: int):
        super().__init__()
        convolutions = _convolutions(config, input_shape[0])
        self.num_convolutions = len(convolutions)
        self.readout = {"mean": nn.AdaptiveAvgPool2d(1), "max": nn.AdaptiveMaxPool2d(1)}.get(
            config.readout, nn.Identity()
        )
        width = config.channels[-1]
        if config.readout == "flatten":
            with torch.no_grad():
                width = math.prod(nn.Sequential(*convolutions)(torch.empty(1, *input_shape)).shape[1:])
        widths = [width, *config.dense]
        dense = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
        self.layers = nn.ModuleList([*convolutions, *dense])
        self.head = nn.Linear(widths[-1], num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) to (n, num_outputs) logits."""
        for block in islice(self.layers, self.num_convolutions):
            x = block(x)
        x = self.readout(x).flatten(1)
        for block in islice(self.layers, self.num_convolutions, None):
            x = block(x)
        return self.head(x)


def _convolutions(config: Config, num_channels: int) -> list[nn.Module]:
    count = len(config.channels)
    kernels = config.kernel_sizes if len(config.kernel_sizes) == count else config.kernel_sizes * count
    strides = config.strides if len(config.strides) == count else config.strides * count
    inputs = (num_channels, *config.channels)
    blocks: list[nn.Module] = []
    for a, b, kernel, stride in zip(inputs, config.channels, kernels, strides, strict=False):
        convolution = nn.Conv2d(a, b, kernel, stride, padding=kernel // 2)
        blocks.append(nn.Sequential(convolution, nn.ReLU(), POOLINGS[config.pooling]()))
    return blocks


def build(config: Config, input_shape: tuple[int, int, int], num_outputs: int) -> nn.Module:
    """Build the network for inputs (C, H, W)."""
    return CNN(config, input_shape, num_outputs)
