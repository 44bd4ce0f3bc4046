"""The last linear layer of a classifier: what some detectors read it for, and whether there is one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mad.errors import ConfigError
from mad.models.capture import capture
from mad.models.classifier import Classifier, Shape

TOLERANCE = 1e-4


def head_name(classifier: Classifier, input_shape: Shape) -> str | None:
    """Name, relative to ``classifier.network``, of the linear layer that gives the logits; None without one.

    It is found by its effect: applied to what went into it, it must give the logits of the whole model.

    Args:
        classifier: in eval mode.
        input_shape: (C, H, W) of one input.
    """
    device = classifier.mean.device
    probe = torch.linspace(0, 1, 2, device=device)[:, None, None, None].expand(2, *input_shape)
    modules = classifier.network.named_modules()
    # Usually the one registered last; but that may be for training only, or be called before another.
    for name in reversed([name for name, module in modules if isinstance(module, nn.Linear)]):
        try:
            read, logits = capture(classifier.network, [f"{name}.input"], lambda: classifier(probe))
        except ConfigError:  # not called
            continue
        if _gives(logits, read[f"{name}.input"], *head_weights(classifier, name)):
            return name
    return None


def _gives(logits: Tensor, h: Tensor, weight: Tensor, bias: Tensor) -> bool:
    if h.ndim != 2 or logits.shape != (len(h), len(weight)):
        return False
    scale = logits.abs().max().clamp(min=1)
    return bool((h @ weight.T + bias - logits).abs().max() <= TOLERANCE * scale)


def head_weights(classifier: Classifier, name: str) -> tuple[Tensor, Tensor]:
    """(k, d) weight and (k,) bias of a linear layer, detached; a layer without a bias has zeros."""
    layer = classifier.network.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    bias = torch.zeros(layer.out_features, device=layer.weight.device) if layer.bias is None else layer.bias
    return layer.weight.detach(), bias.detach()
