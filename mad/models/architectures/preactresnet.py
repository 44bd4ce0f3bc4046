"""Pre-activation residual networks (He et al. 2016, Identity mappings in deep residual networks, 1603.05027).

The stem is one 3 x 3 convolution without pooling, as usual for images of 32 x 32 pixels; the last map is
averaged over space, so any image size fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mad.config import require

LAYERS = ("stage*.output",)

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BOTTLENECK_FROM = 50
EXPANSION = 4


@dataclass(frozen=True)
class Config:
    """Options of the residual network."""

    depth: Literal[18, 34, 50, 101, 152] = 18
    """Number of weighted layers; from 50 on the blocks are bottlenecks."""
    width: int = 64
    """Channels of the first stage; each later stage has twice as many as the one before."""

    def __post_init__(self) -> None:
        require(self.depth in BLOCKS, f"depth: choose from {', '.join(map(str, BLOCKS))}, got {self.depth}")
        require(self.width >= 1, f"width: must be 1 or more, got {self.width}")


class Block(nn.Module):
    """Residual unit: (norm, ReLU, convolution) two or three times, plus the skip path.

    The skip path starts behind the first norm and ReLU where the unit changes the shape or is the first of
    the network; everywhere else it is the identity.
    """

    def __init__(self, convs: list[nn.Conv2d], first: bool):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(conv.in_channels) for conv in convs)
        self.convs = nn.ModuleList(convs)
        inputs, outputs = convs[0].in_channels, convs[-1].out_channels
        stride = max(conv.stride[0] for conv in convs)
        projects = stride != 1 or inputs != outputs
        self.shortcut = _conv(inputs, outputs, 1, stride) if projects else nn.Identity()
        self.skips_preactivation = projects or first

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c', h', w')."""
        h = skip = x
        for i, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            h = torch.relu(norm(h))
            if i == 0 and self.skips_preactivation:
                skip = h
            h = conv(h)
        return h + self.shortcut(skip)


class PreActResNet(nn.Module):
    """``stem``, ``stage1`` to ``stage4``, ``norm`` and a linear ``head``."""

    stage1: nn.Sequential
    stage2: nn.Sequential
    stage3: nn.Sequential
    stage4: nn.Sequential

    def __init__(self, config: Config, num_channels: int, num_outputs: int):
        super().__init__()
        self.stem = _conv(num_channels, config.width, 3)
        channels = config.width
        for number, count in enumerate(BLOCKS[config.depth]):
            width = config.width * 2**number
            blocks = []
            for i in range(count):
                stride = 2 if i == 0 and number > 0 else 1
                blocks.append(Block(_unit(config.depth, channels, width, stride), first=i == number == 0))
                channels = width * (EXPANSION if config.depth >= BOTTLENECK_FROM else 1)
            self.add_module(f"stage{number + 1}", nn.Sequential(*blocks))
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) to (n, num_outputs) logits."""
        h = self.stage4(self.stage3(self.stage2(self.stage1(self.stem(x)))))
        return self.head(torch.relu(self.norm(h)).mean(dim=(2, 3)))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _unit(depth: int, inputs: int, width: int, stride: int) -> list[nn.Conv2d]:
    if depth < BOTTLENECK_FROM:
        return [_conv(inputs, width, 3, stride), _conv(width, width, 3)]
    return [_conv(inputs, width, 1), _conv(width, width, 3, stride), _conv(width, EXPANSION * width, 1)]


def build(config: Config, input_shape: tuple[int, int, int], num_outputs: int) -> nn.Module:
    """Build the residual network for inputs (C, H, W)."""
    return PreActResNet(config, input_shape[0], num_outputs)
