"""Plug-ins found by module name: a new file in the right folder is enough.

A name is looked up as a module of the package (``mad.detectors.mahalanobis``), as an entry point of
the group ``mad.<kind>``, or as any importable dotted path (``my_package.my_detector``).
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points
from types import ModuleType

from mad.errors import ConfigError, nearest

FOLDERS = {
    "tasks": "mad.tasks",
    "triggers": "mad.tasks.triggers",
    "models": "mad.models.architectures",
    "detectors": "mad.detectors",
    "stages": "mad.stages",
}


def names(kind: str) -> list[str]:
    """List the plug-ins of a kind: modules of its folder without a leading underscore, and entry points."""
    package = importlib.import_module(FOLDERS[kind])
    shipped = {m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_") and not m.ispkg}
    return sorted(shipped | {e.name for e in entry_points(group=f"mad.{kind}")})


def load(kind: str, name: str) -> ModuleType:
    """Import the plug-in module called ``name``.

    Raises:
        ConfigError: no such plug-in, or the module defines no ``Config``.
    """
    unknown = ConfigError(f"unknown {kind[:-1]} '{name}'{nearest(name, names(kind))}")
    if not name or any(part.startswith("_") for part in name.split(".")):
        raise unknown
    target = _module_name(kind, name)
    try:
        module = importlib.import_module(target)
    except ModuleNotFoundError as error:
        if error.name and (target == error.name or target.startswith(error.name + ".")):
            raise unknown from None
        raise
    if not hasattr(module, "Config"):
        raise unknown
    return module


def name_of(kind: str, module_name: str) -> str:
    """The name by which ``load`` finds the module again."""
    folder = FOLDERS[kind] + "."
    if module_name.startswith(folder):
        return module_name.removeprefix(folder)
    for entry in entry_points(group=f"mad.{kind}"):
        if entry.module == module_name:
            return entry.name
    return module_name


def _module_name(kind: str, name: str) -> str:
    for entry in entry_points(group=f"mad.{kind}", name=name):
        return entry.module
    return f"{FOLDERS[kind]}.{name}" if name in names(kind) else name
