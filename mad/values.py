"""Values of plain options: converted to the type of their field, or refused in one line."""

from __future__ import annotations

import copy
import math
import types
import typing
from functools import lru_cache
from typing import Any

import jsonargparse

from mad.errors import ConfigError

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)


def parse_values(cls: type, given: dict[str, Any], skip: frozenset[str], prefix: str) -> dict[str, Any]:
    """Convert the values of some fields of a dataclass.

    Args:
        cls: the dataclass.
        given: field to value; a string is converted to the type of the field.
        skip: fields that are no plain options.
        prefix: of the dotted names, for messages.

    Raises:
        ConfigError: a value of another type, or not finite.
    """
    hints, values = _hints(cls), {}
    for key, value in given.items():
        try:
            values[key] = value if _is_done(hints[key], value) else _parse(cls, skip, key, value)
            known = values[key] is not None or type(None) in typing.get_args(hints[key])
        except jsonargparse.ArgumentError:
            known = False
        if not known or not _is_finite(values[key]):
            listed = " (written '[a, b]')" if "list[" in type_name(hints[key]) else ""
            raise ConfigError(f"--{prefix}{key}: expected {type_name(hints[key])}{listed}, got {value!r}")
    return values


def type_name(kind: Any) -> str:
    """How a field's type reads in a message: ``float | 'ledoit_wolf'``."""
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(repr(a) for a in typing.get_args(kind))
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " | ".join(type_name(a) for a in typing.get_args(kind))
    if kind is type(None):
        return "null"
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


def _is_done(kind: Any, value: Any) -> bool:
    """Whether a value is a float where a float is asked for: the parser, which takes milliseconds, would keep it."""
    known = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    others = [k for k in known if k is not float and typing.get_origin(k) is not typing.Literal]
    return type(value) is float and float in known and others in ([], [type(None)])


def _parse(cls: type, skip: frozenset[str], key: str, value: Any) -> Any:
    plain = value is None or isinstance(value, (bool, int, float, str))
    # A list that the caller holds, or that is remembered, must stay as it is.
    return copy.deepcopy(_remembered(cls, skip, key, value) if plain else _parsed(cls, skip, key, copy.deepcopy(value)))


def _parsed(cls: type, skip: frozenset[str], key: str, value: Any) -> Any:
    return getattr(_parser(cls, skip).parse_object({key: value}), key)


_remembered = lru_cache(maxsize=4096, typed=True)(_parsed)
"""A sweep parses the same few values in thousands of configurations."""


@lru_cache(maxsize=128)
def _parser(cls: type, skip: frozenset[str]) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, skip=set(skip))
    return parser


@lru_cache(maxsize=128)
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _is_finite(value: Any) -> bool:
    """Infinities and NaN have no JSON spelling and no place among options."""
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
