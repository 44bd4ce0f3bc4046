"""A classifier: normalisation and network in one module, so that attacks and triggers work in pixel space."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mad.config import require

Shape = tuple[int, int, int]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Classifier(nn.Module):
    """Pixels in [0, 1] to logits.

    Attributes:
        network: what the architecture built. Names of activations (``layers.*.output``) are relative to it.
        mean: (C, 1, 1) buffer, subtracted from the pixels.
        std: (C, 1, 1) buffer, by which the rest is divided.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        require(len(mean) == len(std), f"mean has {len(mean)} channels, std has {len(std)}")
        require(all(s > 0 for s in std), f"std: must be positive in every channel, got {list(std)}")
        self.network = network
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) float pixels in [0, 1] to (n, num_outputs) logits."""
        return self.network((x - self.mean) / self.std)


def build_classifier(
    model_config: Any,
    input_shape: Shape,
    num_outputs: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
) -> Classifier:
    """Build an untrained classifier on the CPU, in training mode.

    The weights depend on the arguments only: the same in any process, whatever was drawn before. The global
    random state is left as it was.

    Args:
        model_config: ``Config`` of an architecture (``mad.models.architectures``).
        input_shape: (C, H, W).
        num_outputs: number of logits.
        mean: per channel, in pixel units of [0, 1].
        std: per channel, in pixel units of [0, 1].
        seed: of the initial weights.

    Raises:
        ConfigError: a shape, count or normalisation out of range, or that the architecture cannot take.
    """
    channels = input_shape[0] if input_shape else 0
    require(len(mean) == channels, f"mean has {len(mean)} channels, inputs have {channels}")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # Not torch.manual_seed: it would reseed every accelerator too, which fork_rng would not undo.
        torch.default_generator.manual_seed(seed)
        return Classifier(_build_network(model_config, input_shape, num_outputs), mean, std)


def depends_on_sharding(model_config: Any, input_shape: Shape, num_outputs: int) -> bool:
    """Whether training depends on how batches are dealt out to workers.

    So it does with batch normalisation, and with dropout or stochastic depth, whose masks each worker draws itself.

    The weights are made on the meta device: no memory, no random numbers.
    """
    with torch.random.fork_rng(devices=[]), _EmptyOnMeta():
        network = _build_network(model_config, input_shape, num_outputs)
    return any(
        isinstance(module, BATCH_NORMS)
        or (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
        or type(module).__name__ == "StochasticDepth"
        for module in network.modules()
    )


class _EmptyOnMeta(TorchFunctionMode):
    """Makes weights on the meta device, but not the numbers from which RegNet computes its widths."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        return func(*args, **(kwargs | {"device": "meta"} if func is torch.empty else kwargs))


def _build_network(model_config: Any, input_shape: Shape, num_outputs: int) -> nn.Module:
    require(
        len(input_shape) == 3 and all(size >= 1 for size in input_shape),
        f"input_shape: expected (channels, height, width), got {tuple(input_shape)}",
    )
    require(num_outputs >= 1, f"num_outputs: must be 1 or more, got {num_outputs}")
    architecture = importlib.import_module(type(model_config).__module__)
    return architecture.build(model_config, tuple(input_shape), num_outputs)
