"""A pretrained language model, trained on in full or by a low-rank adapter (LoRA; QLoRA on 4 bit weights)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mad.config import require
from mad.models import language
from mad.models._adapters import Base
from mad.models.adapters import LoraOptions, add_adapter, load_adapter, new_head, prepare_quantized
from mad.models.language import LanguageOptions
from mad.models.text_classifier import Head, check_labels

LAYERS = ("**.{layers,h,layer}.*.output",)

LANGUAGE = True


@dataclass(frozen=True)
class Config(LanguageOptions):
    """Which model, and which of its weights are trained."""

    tuning: Literal["full", "lora"] = "lora"
    """full: all weights; lora: a low-rank adapter on frozen weights, or the given adapter itself"""
    lora: LoraOptions = field(default_factory=LoraOptions)
    head: Literal["auto", "causal", "classification"] = "auto"
    """what gives the answer: the next token, or a linear head over the last token; auto: the head where the task has
    classes and no answers in words"""

    def __post_init__(self) -> None:
        """Check what does not go together.

        Raises:
            ConfigError: one of these.
        """
        super().__post_init__()
        lora = self.tuning == "lora"
        bits = self.quantization
        require(lora or bits == "none", f"quantization {bits}: such weights are not trained: set tuning lora")
        require(lora or self.lora == LoraOptions(), "lora.*: tuning full trains no adapter")
        require(lora or self.adapter is None, "adapter: tuning full would leave it out: merge it first")
        alone = self.adapter is None or self.lora == LoraOptions()
        require(alone, "lora.*: the given adapter is trained on, with the rank it has")
        require(not self.merge_adapter, "merge_adapter: the adapter is what is trained")


def identity(config: Config) -> dict[str, Any]:
    """What names the contents of the model that training begins with."""
    _check_named(config)
    return language.identity(_language_options(config))


def base_of(config: Config) -> dict[str, Any]:
    """What an adapter says of its base model: ``model``, ``revision``, and the digest or commit of its contents."""
    contents = Base(config.model, config.revision).contents
    return {"model": config.model, "revision": contents.get("commit"), **contents}


def build_language(config: Config, texts: Sequence[str], classes: int, head: Head, seed: int, device: str) -> Any:
    """The model, with the adapter if one is trained, and its tokenizer.

    Args:
        config: which model.
        texts: unused: the tokenizer is the model's own.
        classes: outputs of a classification head.
        head: kind of head.
        seed: of a new head and of a new adapter.
        device: where the model goes.

    Raises:
        ConfigError: the model cannot be had, or its trained head has fewer outputs than the task has classes.
        ArtifactError: the adapter does not fit the model.
    """
    model, tokenizer = load_base(config, classes, head, seed, device)
    if config.tuning == "full":
        return model.requires_grad_(True), tokenizer
    if config.adapter is not None:
        base = Base(config.model, config.revision)
        return load_adapter(model, config.adapter, config.adapter_revision, base, trainable=True), tokenizer
    return add_adapter(model, config.lora, head, seed), tokenizer


def load_base(config: Config, classes: int, head: Head, seed: int, device: str) -> Any:
    """The model without any adapter, ready to take one, and its tokenizer."""
    _check_named(config)
    options = dataclasses.replace(_language_options(config), adapter=None, adapter_revision=None)
    if head == "causal":
        model, tokenizer = language.load_language_model(options, device)
    else:
        trained = _trained_classes(config)
        if trained is not None:
            check_labels(classes - 1, trained)
        labels = classes if trained is None else None
        model, tokenizer = language.load_language_model(options, device, "classifier", labels)
        if trained is None:
            new_head(model, seed)
    if config.quantization != "none":
        model = prepare_quantized(model, checkpointing=False)
    return model, tokenizer


def _trained_classes(config: Config) -> int | None:
    """Outputs of the classification head that a checkpoint brings; None if it brings none."""
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(
            config.model, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError):
        return None  # loading the model will say why
    built = getattr(found, "architectures", None) or []
    return found.num_labels if any("SequenceClassification" in name for name in built) else None


def _language_options(config: Config) -> LanguageOptions:
    return LanguageOptions(**{f.name: getattr(config, f.name) for f in dataclasses.fields(LanguageOptions)})


def _check_named(config: Config) -> None:
    require(bool(config.model), "--model.model: which model? give a hub id, a folder or the name of a trained model")
