"""Keys: an artifact is named by what made it."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.util
from collections.abc import Container
from functools import cache
from importlib import metadata
from importlib.machinery import ModuleSpec
from typing import Any

from mad.config import canonical, fingerprint
from mad.stages._base import Stage

RESULT_CODE = tuple(
    f"mad.{room}" for room in ("stages", "tasks", "models", "detectors", "behaviors", "stats", "artifacts")
)

LANGUAGE = "mad.models.language"
"""Whatever loads a language model imports this."""


def identity(stage: Stage, config: Any, inputs: dict[str, str], device: str, workers: int) -> dict[str, Any]:
    """Everything that may change a stage's result, as plain JSON.

    Args:
        stage: the stage.
        config: its Config.
        inputs: input name to key.
        device: device class, "cpu" or "cuda".
        workers: number of workers; enters only where the stage says that it changes the result.
    """
    modules = [stage.run.__module__, *sorted(_plugin_modules(config))]
    return {
        "stage": stage.name,
        "version": stage.version,
        "modules": modules,
        "code": code_digest(*modules),
        "config": _without(canonical(config), stage.unused(config)),
        "inputs": inputs,
        "numerics": {"device": device, **{name: _version(name) for name in _libraries(*modules)}},
        "more": stage.identity(config, workers),
    }


def _without(config: dict[str, Any], options: Container[str]) -> dict[str, Any]:
    """The sections of a config, less some dotted options."""
    sections = {name: section for name, section in config.items() if isinstance(section, dict)}
    return config | {
        name: {option: value for option, value in section.items() if f"{name}.{option}" not in options}
        for name, section in sections.items()
    }


@cache
def _libraries(*modules: str) -> list[str]:
    """Distributions whose arithmetic the modules rest on."""
    code = reached(*modules)
    imported = {name.split(".")[0] for module in code for name in _imported(module)}
    found = [*(["transformers"] if LANGUAGE in code else []), *(["scikit-learn"] if "sklearn" in imported else [])]
    return ["torch", "torchvision", *found]


@cache
def _version(library: str) -> str:
    return metadata.version(library)


def key_of(stage_name: str, facts: dict[str, Any]) -> str:
    """The content-hash name of an artifact with that identity."""
    return f"{stage_name}-{fingerprint(facts)}"


def _plugin_modules(config: Any) -> set[str]:
    found: set[str] = set()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("plugin"):
            found.add(type(value).__module__)
        if dataclasses.is_dataclass(value):
            found |= _plugin_modules(value)
    return found


@cache
def reached(*modules: str) -> frozenset[str]:
    """The modules and all result-making modules they import.

    Of a plug-in outside the package, its whole own package is result-making.
    """
    roots = (*RESULT_CODE, *(m.split(".")[0] for m in modules if not m.startswith("mad.")))
    waiting, seen = list(modules), set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            ours = [m for m in _imported(name) if any(m == root or m.startswith(f"{root}.") for root in roots)]
            waiting += [m for m in ours if _spec(m) is not None]
    return frozenset(seen)


@cache
def code_digest(*modules: str) -> str:
    """Digest of the modules and of all result-making modules they import; comments and docstrings do not count."""
    digest = hashlib.sha256()
    for name in sorted(reached(*modules)):
        digest.update(f"{name}\n{_meaning(name)}\n".encode())
    return digest.hexdigest()[:20]


@cache
def _spec(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None


def _tree(module: str) -> ast.Module | None:
    spec = _spec(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    with open(spec.origin, encoding="utf-8") as file:
        return ast.parse(file.read())


@cache
def _meaning(module: str) -> str:
    tree = _tree(module)
    return ast.dump(_without_docstrings(tree)) if tree else ""


@cache
def _imported(module: str) -> list[str]:
    """Names that ``module`` imports; of ``from a import b`` both ``a`` and ``a.b``, which need not be a module.

    Whether it is one is asked of result-making names only: looking for a module imports the package it is in.
    """
    tree, spec, names = _tree(module), _spec(module), []
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = spec.parent if spec else None
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names += [source, *(f"{source}.{alias.name}" for alias in node.names)]
    return names


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [n for n in body if not _is_text(n)]  # type: ignore[attr-defined]
    return tree


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
