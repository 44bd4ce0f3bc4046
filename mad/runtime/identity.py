"""Keys: an artifact is named by what made it."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.util
import sys
from functools import cache
from importlib.metadata import version
from typing import Any

from mad.config import canonical, fingerprint
from mad.stages._base import Stage

RESULT_CODE = tuple(f"mad.{room}" for room in ("stages", "tasks", "models", "detectors", "behaviors", "stats"))


def identity(stage: Stage, config: Any, inputs: dict[str, str], device: str, workers: int) -> dict[str, Any]:
    """Everything that may change a stage's result, as plain JSON.

    Args:
        stage: the stage.
        config: its Config.
        inputs: input name to key.
        device: device class, "cpu" or "cuda".
        workers: number of workers; enters only where the stage says that it changes the result.
    """
    return {
        "stage": stage.name,
        "version": stage.version,
        "code": code_digest(sys.modules[stage.run.__module__].__name__, *sorted(_plugin_modules(config))),
        "config": canonical(config),
        "inputs": inputs,
        "numerics": {"device": device, "torch": version("torch")},
        "more": stage.identity(config, workers),
    }


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
def code_digest(*modules: str) -> str:
    """Digest of the modules and of all result-making modules they import; comments and docstrings do not count."""
    roots = (*RESULT_CODE, *(m.split(".")[0] for m in modules if not m.startswith("mad.")))
    waiting, seen = list(modules), set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [m for m in _imported(name) if m.startswith(roots)]
    digest = hashlib.sha256()
    for name in sorted(seen):
        tree = _tree(name)
        digest.update(f"{name}\n{ast.dump(_without_docstrings(tree)) if tree else ''}\n".encode())
    return digest.hexdigest()[:20]


def _tree(module: str) -> ast.Module | None:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    with open(spec.origin, encoding="utf-8") as file:
        return ast.parse(file.read())


def _imported(module: str) -> list[str]:
    """Names of modules that ``module`` may import: ``from a import b`` counts as ``a`` and ``a.b``."""
    tree, names = _tree(module), []
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            candidates = [f"{node.module}.{alias.name}" for alias in node.names]
            names += [node.module, *(c for c in candidates if _tree(c) is not None)]
    return names


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [n for n in body if not _is_text(n)]  # type: ignore[attr-defined]
    return tree


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
