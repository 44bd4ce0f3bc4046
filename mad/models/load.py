"""Classifiers and optimisers on disk: safetensors for numbers, JSON for the rest, never a pickle.

A classifier is a folder of ``weights.safetensors`` and ``model.json``; the JSON says how to build the module,
the tensors fill it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from mad import registry
from mad.config import parse, require
from mad.errors import ArtifactError, ConfigError
from mad.models.classifier import Classifier, build_classifier

WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.json"
DESCRIBED = ("model", "input_shape", "num_outputs", "mean", "std", "head")
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
SHOWN = 3


def save_classifier(folder: Path, classifier: Classifier, description: dict[str, Any]) -> None:
    """Write a classifier that :func:`load_classifier` reads back.

    Args:
        folder: created if absent.
        classifier: on any device; a tensor that several names share (tied weights) is written once.
        description: JSON data: ``model`` (canonical data of the architecture's config, with ``name``),
            ``input_shape``, ``num_outputs``, ``mean``, ``std``, ``head``. More is kept and not read.

    Raises:
        ConfigError: a part of the description is missing.
    """
    missing = [key for key in DESCRIBED if key not in description]
    require(not missing, f"description of a classifier lacks {', '.join(missing)}")
    folder.mkdir(parents=True, exist_ok=True)
    state = _without_aliases(classifier.state_dict())
    save_file({name: t.contiguous() for name, t in state.items()}, folder / WEIGHTS)
    text = json.dumps(description, indent=2, sort_keys=True)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def load_classifier(folder: Path, device: str | torch.device = "cpu") -> Classifier:
    """Read a classifier in eval mode.

    Raises:
        ArtifactError: a file is absent, damaged or a pickle, or the tensors do not fit the architecture.
    """
    tensors = _read_tensors(folder)
    classifier = _build(folder / DESCRIPTION)
    expected = _without_aliases(classifier.state_dict())
    problems = _mismatches(expected, tensors)
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ArtifactError(f"{folder / WEIGHTS} does not fit its model: {'; '.join(problems[:SHOWN])}{more}")
    # Not strict: names of tied weights are absent, and what they name is filled through the first name.
    classifier.load_state_dict(tensors, strict=False)
    return classifier.to(device).eval()


def optimizer_to_tensors(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of an optimiser as tensors and JSON data.

    Returns:
        Tensors named ``<parameter number>/<name>``, which share their memory with the optimiser, and JSON
        data: the class, the options of each parameter group and the state that is no tensor.

    Raises:
        ConfigError: an option that is not plain data.
    """
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for number, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{number}/{name}"] = value.detach().contiguous()
            else:
                plain.setdefault(str(number), {})[name] = value
    data = {"class": type(optimizer).__name__, "groups": state["param_groups"], "plain": plain}
    try:
        return tensors, json.loads(json.dumps(data))
    except TypeError as error:
        name = type(optimizer).__name__
        raise ConfigError(f"the state of {name} cannot be written without a pickle: {error}") from None


def tensors_to_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], data: dict[str, Any]) -> None:
    """Put the state of :func:`optimizer_to_tensors` into an optimiser built on the same parameters.

    Raises:
        ArtifactError: another class of optimiser, other parameter groups or tensors of another shape.
    """
    name = type(optimizer).__name__
    if data.get("class") != name:
        raise ArtifactError(f"the checkpoint holds the state of {data.get('class')}, the optimiser is {name}")
    current = optimizer.state_dict()["param_groups"]
    if [g["params"] for g in data["groups"]] != [g["params"] for g in current]:
        raise ArtifactError(f"the checkpoint's {name} has other parameter groups than this model's")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {int(number): dict(values) for number, values in data["plain"].items()}
    for key, tensor in tensors.items():
        number, _, kind = key.partition("/")
        shape = parameters[int(number)].shape
        # Step counts have no dimensions; every other tensor is shaped like its parameter.
        if tensor.ndim and tensor.shape != shape:
            have, want = list(tensor.shape), list(shape)
            raise ArtifactError(f"optimiser state '{key}' has shape {have}, its parameter {want}")
        state.setdefault(int(number), {})[kind] = tensor.clone()
    groups = [_with_types_of(saved, have) for saved, have in zip(data["groups"], current, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _with_types_of(saved: dict[str, Any], current: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no tuples: give each option back the type it has in a fresh optimiser."""
    return {k: tuple(v) if isinstance(current.get(k), tuple) else v for k, v in saved.items()}


def _without_aliases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep the first name of each tensor; tied weights have several."""
    kept: dict[str, Tensor] = {}
    seen: set[tuple[Any, ...]] = set()
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() == 0 or place not in seen:
            kept[name] = tensor
        seen.add(place)
    return kept


def _mismatches(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    problems = []
    for name, want in expected.items():
        have = found.get(name)
        if have is None:
            problems.append(f"{name} is missing")
        elif have.shape != want.shape or have.dtype != want.dtype:
            problems.append(f"{name} is {_spelled(have)}, expected {_spelled(want)}")
    return problems + [f"{name} is unknown" for name in found if name not in expected]


def _spelled(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder if folder.is_file() else folder / WEIGHTS
    refusal = "pickles are never loaded, they can run code; give a folder with " + WEIGHTS
    if path.suffix in PICKLES:
        raise ArtifactError(f"{path} is a pickle by its name: {refusal}")
    if not path.is_file():
        pickles = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLES)
        found = f"{folder} holds only {pickles[0]}: {refusal}" if pickles else f"{path}: no such file"
        raise ArtifactError(found)
    try:
        tensors = load_file(path)
    except (SafetensorError, ValueError) as error:
        # Only a file that is no safetensors is sniffed: a safetensors header may begin with any byte.
        # Old pickles start with a protocol byte, those of torch.save since 1.6 are zip archives.
        with path.open("rb") as file:
            start = file.read(2)
        if start[:1] == b"\x80" or start == b"PK":
            raise ArtifactError(f"{path} is a pickle: {refusal}") from None
        raise ArtifactError(f"{path} is damaged or no safetensors file: {error}") from None
    if path == folder:
        raise ArtifactError(f"{path} is a file: give its folder, with {WEIGHTS} and {DESCRIPTION}")
    return tensors


def _build(path: Path) -> Classifier:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        options = dict(data["model"])
        config = parse(registry.load("models", options.pop("name")).Config, options, "model")
        shape = tuple(data["input_shape"])
        return build_classifier(config, shape, data["num_outputs"], data["mean"], data["std"], seed=0)
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise ArtifactError(f"{path} describes no classifier: {error}") from None
