"""Any classification model of torchvision, with untrained weights, for any image size and channel count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torchvision.models
from torch import Tensor, nn
from torch.nn import functional

from mad.config import require
from mad.errors import ConfigError, nearest

# What the families call the blocks between stem and head.
LAYERS = (
    "model.{layer[1-4],layers.*,features.*,blocks.*,trunk_output.*,stage[1-4],encoder.layers.*,"
    "inception??,Mixed_??}.output",
)

FIXED_SIZE = 224
FIXED_FAMILIES = ("vit_", "maxvit_")
"""Models with position embeddings for one image size, which is torchvision's default of 224 pixels."""
LEAST_SIZE = 32
"""Most models shrink the image 32 times: below this their last map is one pixel that saw mostly padding."""


@dataclass(frozen=True)
class Config:
    """Options of a torchvision classifier."""

    classifier: str = "resnet18"
    """Name of the model, as in ``torchvision.models.list_models()``."""
    min_size: int | None = None
    """Height and width in pixels to which smaller inputs are resized (bilinear); null takes what torchvision
    states for the model, at least 32. Transformers of one fixed size resize every input to 224 x 224."""

    def __post_init__(self) -> None:
        known = torchvision.models.list_models(module=torchvision.models)
        name = self.classifier
        require(name in known, f"classifier: unknown model '{name}'{nearest(name, known)}")
        positive = self.min_size is None or self.min_size >= 1
        require(positive, f"min_size: must be 1 or more, got {self.min_size}")
        if name.startswith(FIXED_FAMILIES):
            fits = self.min_size in (None, FIXED_SIZE)
            require(fits, f"min_size: {name} works at {FIXED_SIZE} only, got {self.min_size}")


class Resized(nn.Module):
    """``model``, fed with inputs resized to a size it accepts."""

    def __init__(self, model: nn.Module, size: tuple[int, int]):
        super().__init__()
        self.model = model
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) to (n, num_outputs) logits."""
        if tuple(x.shape[-2:]) != self.size:
            x = functional.interpolate(x, size=self.size, mode="bilinear", align_corners=False)
        return self.model(x)


def build(config: Config, input_shape: tuple[int, int, int], num_outputs: int) -> nn.Module:
    """Build the torchvision model for inputs (C, H, W).

    Raises:
        ConfigError: the model does not accept inputs of this size.
    """
    options = {"num_classes": num_outputs}
    if config.classifier in ("googlenet", "inception_v3"):
        # Auxiliary heads would turn the output of training mode into a tuple.
        options |= {"aux_logits": False, "init_weights": True}
    model = torchvision.models.get_model(config.classifier, weights=None, **options)
    if input_shape[0] != 3:
        _adapt_first_convolution(model, input_shape[0])
    network = Resized(model, _size(config, input_shape))
    _check_accepts(network, input_shape, config.classifier)
    return network


def _size(config: Config, input_shape: tuple[int, int, int]) -> tuple[int, int]:
    if config.classifier.startswith(FIXED_FAMILIES):
        return FIXED_SIZE, FIXED_SIZE
    stated = torchvision.models.get_model_weights(config.classifier).DEFAULT.meta["min_size"]
    least = (max(s, LEAST_SIZE) if config.min_size is None else config.min_size for s in stated)
    height, width = (max(have, need) for have, need in zip(input_shape[1:], least, strict=True))
    return height, width


def _adapt_first_convolution(model: nn.Module, num_channels: int) -> None:
    conv = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    conv.in_channels = num_channels
    conv.weight = nn.Parameter(conv.weight.new_empty(conv.out_channels, num_channels, *conv.kernel_size))
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")


def _check_accepts(network: nn.Module, input_shape: tuple[int, int, int], name: str) -> None:
    """Run the network once on the meta device, where only shapes are computed."""
    tensors = {k: torch.empty_like(v, device="meta") for k, v in network.state_dict().items()}
    network.eval()
    try:
        with torch.no_grad():
            torch.func.functional_call(network, tensors, (torch.empty(1, *input_shape, device="meta"),))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{name} does not accept inputs {input_shape}: {reason}; raise min_size") from None
    finally:
        network.train()
