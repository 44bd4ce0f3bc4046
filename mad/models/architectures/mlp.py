"""Multi-layer perceptron on flattened inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from mad.config import require

LAYERS = ("layers.*.output",)

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


@dataclass(frozen=True)
class Config:
    """Options of the perceptron."""

    hidden: tuple[int, ...] = (128, 128)
    """Width of each hidden layer; at least one."""
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """Nonlinearity after each hidden layer."""

    def __post_init__(self) -> None:
        require(len(self.hidden) > 0, "hidden: at least one layer is needed, detectors read it")
        require(all(width >= 1 for width in self.hidden), f"hidden: must be 1 or more, got {self.hidden}")


class MLP(nn.Module):
    """Hidden blocks ``layers.0``, ``layers.1``, ... (linear, activation) and a linear ``head``."""

    def __init__(self, config: Config, num_inputs: int, num_outputs: int):
        super().__init__()
        widths = [num_inputs, *config.hidden]
        activation = ACTIVATIONS[config.activation]
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(a, b), activation()) for a, b in pairwise(widths)))
        self.head = nn.Linear(widths[-1], num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) to (n, num_outputs) logits."""
        return self.head(self.layers(x.flatten(1)))


def build(config: Config, input_shape: tuple[int, int, int], num_outputs: int) -> nn.Module:
    """Build the perceptron for inputs (C, H, W)."""
    return MLP(config, math.prod(input_shape), num_outputs)
