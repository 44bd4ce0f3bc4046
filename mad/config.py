"""Strict typed configs: frozen dataclasses filled from nested dicts, YAML or dotted flags.

A field made with :func:`plugin` holds the ``Config`` of a plug-in module; written as data it is the
plug-in's name, or a dict with ``name`` and that plug-in's options. A field made with :func:`placement`
says where or how fast something runs, never what comes out: it stays out of the canonical JSON and so
out of every artifact key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from typing import Any, NamedTuple, TypeVar

import docstring_parser

from mad import registry
from mad.errors import ConfigError, nearest
from mad.values import parse_values, type_name

T = TypeVar("T")
Data = dict[str, Any]


def plugin(kind: str, default: str) -> Any:
    """A dataclass field that holds the config of a plug-in of ``kind``, by default that of ``default``."""
    return dataclasses.field(
        default_factory=lambda: registry.load(kind, default).Config(), metadata={"plugin": kind, "default": default}
    )


def placement(default: Any) -> Any:
    """A dataclass field that cannot change a result (workers, data folder, download)."""
    return dataclasses.field(default=default, metadata={"placement": True})


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with ``message`` unless ``condition`` holds; for checks in ``__post_init__``."""
    if not condition:
        raise ConfigError(message)


def canonical(config: Any, kind: str | None = None) -> Any:
    """Plain JSON data that says everything about ``config`` that may change a result."""
    return _plain(config, kind, everything=False)


def to_data(config: Any, kind: str | None = None) -> Any:
    """Plain data with every field, placement included: what :func:`parse` reads back."""
    return _plain(config, kind, everything=True)


def _plain(value: Any, kind: str | None, everything: bool) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        data = {"name": registry.name_of(kind, type(value).__module__)} if kind else {}
        for field in dataclasses.fields(value):
            if everything or not field.metadata.get("placement"):
                data[field.name] = _plain(getattr(value, field.name), field.metadata.get("plugin"), everything)
        return data
    if isinstance(value, (list, tuple)):
        return [_plain(v, None, everything) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v, None, everything) for k, v in value.items()}
    return value


def canonical_json(data: Any) -> str:
    """One spelling per value: sorted keys, no spaces, whole numbers without a decimal point."""
    return json.dumps(_whole_as_int(data), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _whole_as_int(value: Any) -> Any:
    """A config made in Python may hold 1 where a parsed one holds 1.0: both say the same."""
    if isinstance(value, dict):
        return {k: _whole_as_int(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_whole_as_int(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def fingerprint(data: Any) -> str:
    """Twenty hex digits (80 bits) that name plain JSON data."""
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()[:20]


def parse(cls: type[T], data: Any, where: str = "") -> T:
    """Build ``cls`` from plain data, strictly.

    Args:
        cls: a dataclass, possibly with plug-in or dataclass fields.
        data: nested dicts as from YAML, JSON or the command line; strings are converted to the field's type.
        where: dotted path of ``data``, for messages.

    Raises:
        ConfigError: unknown key (with the nearest names), wrong type, or a value out of range.
    """
    prefix = f"{where}." if where else ""
    if not isinstance(data, dict):
        raise ConfigError(f"{where or 'config'}: expected options, got {data!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise ConfigError(f"unknown option '{prefix}{key}'{nearest(str(key), fields)}")
    nested = {name: child for name in fields if (child := child_class(fields[name], data.get(name))) is not None}
    values: Data = {
        name: parse(child, _options(data[name]) if fields[name].metadata.get("plugin") else data[name], prefix + name)
        for name, child in nested.items()
        if name in data
    }
    leaves = {k: v for k, v in data.items() if k not in nested}
    values |= parse_values(cls, leaves, frozenset(nested), prefix)
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from None


def _options(value: Any) -> Any:
    return {k: v for k, v in value.items() if k != "name"} if isinstance(value, dict) else {}


def child_class(field: dataclasses.Field[Any], value: Any) -> type | None:
    """The dataclass that parses this field, or None for a plain value.

    Raises:
        ConfigError: the value names no plug-in of the field's kind.
    """
    kind = field.metadata.get("plugin")
    if kind:
        name = value.get("name", field.metadata["default"]) if isinstance(value, dict) else value
        if value is not None and not isinstance(name, str):
            raise ConfigError(f"--{field.name}: expected the name of a {kind[:-1]}, got {value!r}")
        return registry.load(kind, name or field.metadata["default"]).Config
    if field.default_factory is not dataclasses.MISSING and dataclasses.is_dataclass(field.default_factory):
        return field.default_factory  # type: ignore[return-value]
    return None


def merge(cls: type, base: Data, over: Data) -> Data:
    """Lay ``over`` on ``base``. A plug-in of another name replaces the old one with its options."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    merged = dict(base)
    for key, value in over.items():
        field = fields.get(key)
        old = merged.get(key)
        if field is None or child_class(field, value if value is not None else old) is None:
            merged[key] = value
            continue
        old = {"name": old} if isinstance(old, str) else dict(old or {})
        if field.metadata.get("plugin"):
            new = {"name": value} if isinstance(value, str) else dict(value or {})
            old.setdefault("name", field.metadata["default"])
            new.setdefault("name", old["name"])
            old = old if new["name"] == old["name"] else {"name": new["name"]}
            merged[key] = merge(child_class(field, new), old, _options(new))  # type: ignore[arg-type]
        elif isinstance(value, dict):
            merged[key] = merge(child_class(field, value), old, value)  # type: ignore[arg-type]
        else:
            merged[key] = value
    return merged


def nest(dotted: str, value: Any) -> Data:
    """``nest("a.b", 1)`` is ``{"a": {"b": 1}}``."""
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return value


def merge_flags(cls: type, base: Data, flags: dict[str, Any]) -> Data:
    """Lay dotted flags on ``base``; shorter names first, so that a plug-in is chosen before its options."""
    for dotted in sorted(flags, key=lambda name: name.count(".")):
        base = merge(cls, base, nest(dotted, flags[dotted]))
    return base


def split_flags(argv: list[str]) -> dict[str, str]:
    """Read ``--dotted.name VALUE``, ``--dotted.name=VALUE`` and bare ``--dotted.name`` (true).

    Raises:
        ConfigError: a word that belongs to no flag, or a flag given twice.
    """
    flags: dict[str, str] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise ConfigError(f"unexpected argument '{word}': options are written --name VALUE")
        name, equals, value = word[2:].partition("=")
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else "true"
        if name in flags:
            raise ConfigError(f"--{name} is given twice")
        flags[name] = value
    return flags


class Option(NamedTuple):
    """One line of ``-h``."""

    name: str
    type: str
    default: Any
    help: str


def field_docs(cls: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass and of those it derives from; empty for one made at run time."""
    bases = [base for base in reversed(cls.__mro__) if dataclasses.is_dataclass(base)]
    try:
        found = [p for base in bases for p in docstring_parser.parse_from_object(base).params]
    except OSError:
        return {}
    return {p.arg_name: " ".join((p.description or "").split()) for p in found}


def describe(cls: type, data: Data, prefix: str = "") -> list[Option]:
    """Every option of ``cls``, and of the plug-ins that ``data`` chooses, in the order of definition."""
    docs = field_docs(cls)
    hints = typing.get_type_hints(cls)
    options: list[Option] = []
    for field in dataclasses.fields(cls):
        name, value, kind = prefix + field.name, data.get(field.name), field.metadata.get("plugin")
        child = child_class(field, value)
        doc = field.metadata.get("doc") or docs.get(field.name, "")
        if kind:
            chosen = value if isinstance(value, str) else (value or {}).get("name", field.metadata["default"])
            options.append(Option(name, "|".join(registry.names(kind)), chosen, doc))
        if child is not None:
            options += describe(child, value if isinstance(value, dict) else {}, name + ".")
        else:
            options.append(Option(name, type_name(hints[field.name]), data.get(field.name, _default(field)), doc))
    return options


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


def find_field(cls: type, data: Data, dotted: str) -> dataclasses.Field[Any] | None:
    """The field of the option ``dotted``, with the plug-ins that ``data`` chooses; None if there is none."""
    name, _, rest = dotted.partition(".")
    field = next((f for f in dataclasses.fields(cls) if f.name == name), None)
    if field is None or not rest:
        return field
    value = data.get(name)
    child = child_class(field, value)
    return find_field(child, value if isinstance(value, dict) else {}, rest) if child else None
