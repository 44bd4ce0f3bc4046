"""Trained language models on disk: a flat folder in Hugging Face's layout, with ``model.json`` beside.

Full weights are ``config.json`` and ``model.safetensors``; an adapter is ``adapter_config.json`` and
``adapter_model.safetensors``, and its ``model.json`` names the base model. The tokenizer is always there.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch

from mad import registry
from mad.config import parse
from mad.errors import ArtifactError, ConfigError
from mad.models._adapters import Base
from mad.models._hub import ADAPTER_CONFIG
from mad.models.adapters import load_adapter
from mad.models.language import quietly
from mad.models.text_classifier import TextClassifier

DESCRIPTION = "model.json"
GENERATED = ("README.md",)
"""What peft writes beside an adapter and nobody reads."""
WHERE_READ = ("is_local", "local_files_only")
"""What a tokenizer remembers of where it was read; a resumed run would end in other files than a whole one."""


def read_description(folder: Path) -> dict[str, Any]:
    """What ``model.json`` says of a model.

    Returns:
        ``kind`` (``language``), ``model`` (data of the architecture's config, with ``name``), ``head``,
        ``class_names``, ``answers``, ``num_outputs`` (0 for plain text), and ``base`` of an adapter.

    Raises:
        ArtifactError: it is missing, damaged, or that of another kind of model.
    """
    path = folder / DESCRIPTION
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged: {error}") from None
    if not isinstance(data, dict) or data.get("kind") != "language":
        raise ArtifactError(f"{path} describes no language model")
    return data


def save_language_checkpoint(
    folder: Path, model: TextClassifier, description: dict[str, Any], state: dict[str, torch.Tensor] | None = None
) -> None:
    """Write a model that :func:`load_text_classifier` reads back.

    Args:
        folder: created if absent.
        model: with or without an adapter.
        description: see :func:`read_description`.
        state: the weights gathered from all workers, where each holds only a part of them.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a checkpoint is written in a moment, and stages show their own progress
    folder.mkdir(parents=True, exist_ok=True)
    adapted: Any = model.adapted  # type: ignore[assignment]
    adapted.save_pretrained(str(folder), **({} if state is None else {"state_dict": state}))
    for name in WHERE_READ:
        model.tokenizer.init_kwargs.pop(name, None)
    model.tokenizer.save_pretrained(str(folder))
    for name in GENERATED:
        (folder / name).unlink(missing_ok=True)
    if "base" in description:
        _name_base(folder / ADAPTER_CONFIG, description["base"])
    text = json.dumps({**description, "kind": "language"}, indent=2, sort_keys=True)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def _name_base(path: Path, base: dict[str, Any]) -> None:
    """What was loaded may have been a local copy; what names the base anywhere is in the description."""
    data = json.loads(path.read_text(encoding="utf-8"))
    data |= {"base_model_name_or_path": base["model"], "revision": base.get("revision")}
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_text_classifier(
    folder: Path, device: str = "cpu", base: Any | None = None, trainable: bool = False
) -> TextClassifier:
    """Read a model in eval mode.

    Args:
        folder: a checkpoint.
        device: where the model goes; "meta" for the shapes alone.
        base: config of the architecture with the base model's folder in place of its key, where it has one; by
            default the config of the description.
        trainable: whether the weights of an adapter are to be trained on.

    Raises:
        ArtifactError: a file is absent or damaged.
        ConfigError: the base model cannot be had, or the adapter does not fit it.
    """
    description = read_description(folder)
    if (folder / ADAPTER_CONFIG).exists():
        config = base or described_config(folder, description)
        module = importlib.import_module(type(config).__module__)
        model, tokenizer = module.load_base(config, description["num_outputs"], description["head"], 0, device)
        model = load_adapter(model, str(folder), None, Base(config.model, config.revision), trainable)
    else:
        model, tokenizer = _full(folder, description["head"], device)
    return TextClassifier(model, tokenizer, description["head"], description["answers"]).eval()


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a checkpoint.

    Raises:
        ArtifactError: it is absent or damaged.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{folder} holds no tokenizer: {' '.join(str(error).split())[:200]}") from None


def described_config(folder: Path, description: dict[str, Any]) -> Any:
    """Config of the architecture that a description names.

    Raises:
        ArtifactError: it names none.
    """
    try:
        options = dict(description["model"])
        return parse(registry.load("models", options.pop("name")).Config, options, "model")
    except (KeyError, TypeError, ConfigError) as error:
        raise ArtifactError(f"{folder / DESCRIPTION} describes no language model: {error}") from None


def _full(folder: Path, head: str, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification if head == "classification" else AutoModelForCausalLM
    placed = {"device_map": device} if device == "meta" else {}
    try:
        with quietly():
            model: Any = kind.from_pretrained(
                str(folder), dtype="auto", use_safetensors=True, local_files_only=True, **placed
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{folder} holds no whole language model: {' '.join(str(error).split())[:200]}") from None
    return model.to(device), load_tokenizer(folder)
