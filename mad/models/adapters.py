"""Low-rank adapters (LoRA 2106.09685, QLoRA 2305.14314) on language models, and new classification heads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mad.config import require
from mad.errors import ConfigError
from mad.models._adapters import Base, adapter_folder, check_base, peft_quietly
from mad.models.text_classifier import Head
from mad.stats.random import derive


@dataclass(frozen=True)
class LoraOptions:
    """Size of the adapter; for tuning lora."""

    rank: int = 8
    """rank of the update of each matrix"""
    alpha: float = 16.0
    """the update is multiplied by alpha / rank"""
    dropout: float = 0.0
    """share of inputs of the adapter dropped while training, in [0, 1)"""
    targets: list[str] = field(default_factory=list)
    """ends of the names of the linear layers that get one, such as '[q_proj, v_proj]'; [] is all but the head"""

    def __post_init__(self) -> None:
        require(self.rank >= 1, f"rank must be 1 or more, got {self.rank}")
        require(self.alpha > 0, f"alpha must be above 0, got {self.alpha}")
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")


def add_adapter(model: Any, options: LoraOptions, head: Head, seed: int) -> Any:
    """Freeze a model and put a trainable adapter into it; a classification head is trained with it.

    The adapter changes nothing until it is trained, and its weights depend on the seed only.

    Raises:
        ConfigError: a target that is no linear layer of the model.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for target in options.targets:
        known = any(name == target or name.endswith(f".{target}") for name in linear)
        ends = sorted({name.rpartition(".")[2] for name in linear})
        require(known, f"lora.targets: no linear layer ends in '{target}'; the model has {', '.join(ends)}")
    classifies = head == "classification"
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # type: ignore[arg-type]
        lora_dropout=options.dropout,
        target_modules=list(options.targets) or "all-linear",
        task_type=TaskType.SEQ_CLS if classifies else TaskType.CAUSAL_LM,
        modules_to_save=head_modules(model) if classifies else None,
    )
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), peft_quietly():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def load_adapter(model: Any, adapter: str, revision: str | None, base: Base, trainable: bool = False) -> Any:
    """Put a saved adapter into its base model.

    Args:
        model: the loaded base model; its modules are changed.
        adapter: folder or hub id.
        revision: of a hub adapter.
        base: what the base model is called and holds.
        trainable: whether its weights are to be trained on.

    Raises:
        ConfigError: it is absent, or was made on another model.
    """
    from peft import PeftModel

    folder = adapter_folder(adapter, revision)
    check_base(folder, adapter, base)
    shapes_only = any(p.is_meta for p in model.parameters())  # which nothing can be copied into
    try:
        with peft_quietly():
            return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable, low_cpu_mem_usage=shapes_only)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"adapter {adapter} does not fit the base model: {reason}") from None


def prepare_quantized(model: Any, checkpointing: bool) -> Any:
    """Make an adapter on 4 or 8 bit weights trainable: norms in float32, gradients that reach the adapter."""
    from peft import prepare_model_for_kbit_training

    return prepare_model_for_kbit_training(
        model, use_gradient_checkpointing=checkpointing, gradient_checkpointing_kwargs={"use_reentrant": False}
    )


def head_modules(model: Any) -> list[str]:
    """Names of the modules of a classification head: the children with weights beside the base model."""
    return [
        name
        for name, child in model.named_children()
        if name != model.base_model_prefix and any(True for _ in child.parameters())
    ]


def new_head(model: Any, seed: int) -> None:
    """Draw all layers of a classification head anew; the weights of each depend on its name and the seed only.

    Linear layers are replaced, so that those of a quantised model are whole again.

    Raises:
        ConfigError: the model has no head beside its base.
    """
    std, names = getattr(model.config, "initializer_range", 0.02), head_modules(model)
    require(bool(names), f"{type(model).__name__} has no classification head that could be drawn anew")
    for name in names:
        for inner, module in [*model.get_submodule(name).named_modules(prefix=name)]:
            if isinstance(module, nn.Linear):
                model.set_submodule(inner, _drawn(module, std, derive(seed, inner)))


def _drawn(old: nn.Linear, std: float, seed: int) -> nn.Linear:
    """A linear layer of the same shape with normal weights and no bias to begin with."""
    dtype = old.weight.dtype if old.weight.dtype.is_floating_point else torch.float32
    weight = torch.empty(old.out_features, old.in_features, dtype=dtype)
    new = nn.Linear(old.in_features, old.out_features, bias=old.bias is not None, dtype=dtype, device="meta")
    new.weight = nn.Parameter(weight.normal_(0, std, generator=torch.Generator().manual_seed(seed)))
    if old.bias is not None:
        new.bias = nn.Parameter(torch.zeros(old.out_features, dtype=dtype))
    return new.to(old.weight.device)
