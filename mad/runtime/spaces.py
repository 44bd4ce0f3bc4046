"""Search spaces: dotted names to dimensions, and the configurations that they expand to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mad.errors import ConfigError
from mad.stats.random import derive

if TYPE_CHECKING:
    from mad.runtime.study import Study

Space = dict[str, Any]
DISTRIBUTIONS = ("uniform", "loguniform", "randint", "choice")


def values_of(dimension: Any) -> list[Any]:
    """The values of a dimension that is a list, a choice, or one fixed value."""
    if isinstance(dimension, list):
        return dimension
    if isinstance(dimension, dict) and set(dimension) == {"choice"}:
        return dimension["choice"]
    return [dimension]


def expand(study: Study, seed: int) -> list[Space]:
    """Every configuration of a grid or random study: dotted name to value.

    Raises:
        ConfigError: a grid over a continuous distribution, or a malformed dimension.
    """
    if study.algorithm == "random":
        rng = np.random.default_rng(derive(seed, "search"))
        return [_sample(study.search, rng) for _ in range(study.samples)]
    found = [config for space in study.search for config in _grid(space)]
    if study.num_samples is not None and study.num_samples < len(found):
        rng = np.random.default_rng(derive(seed, "search"))
        keep = sorted(rng.choice(len(found), study.num_samples, replace=False))
        found = [found[i] for i in keep]
    return found


def _grid(space: Space) -> Iterator[Space]:
    for name, dimension in space.items():
        kind, _ = distribution(name, dimension)
        if kind != "choice":
            raise ConfigError(f"{name}: a grid needs a list of values, got {kind}; use --algorithm random or optuna")
    for chosen in itertools.product(*(values_of(d) for d in space.values())):
        yield dict(zip(space, chosen, strict=True))


def _sample(spaces: list[Space], rng: np.random.Generator) -> Space:
    space = spaces[int(rng.integers(len(spaces)))]
    return {name: _draw(*distribution(name, dimension), rng) for name, dimension in space.items()}


def _draw(kind: str, given: list[Any], rng: np.random.Generator) -> Any:
    if kind == "choice":
        return given[int(rng.integers(len(given)))]
    low, high = given
    if kind == "randint":
        return int(rng.integers(low, high + 1))
    if kind == "uniform":
        return float(rng.uniform(low, high))
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def distribution(name: str, dimension: Any) -> tuple[str, list[Any]]:
    """The kind of a dimension and its values or its inclusive bounds.

    Raises:
        ConfigError: malformed.
    """
    kind = next(iter(dimension), "") if isinstance(dimension, dict) else "choice"
    given = dimension.get(kind) if isinstance(dimension, dict) else values_of(dimension)
    alone = not isinstance(dimension, dict) or len(dimension) == 1
    if not alone or kind not in DISTRIBUTIONS or not isinstance(given, list) or not given:
        raise ConfigError(f"{name}: expected a list of values or one of {', '.join(DISTRIBUTIONS)}, got {dimension}")
    return kind, given if kind == "choice" else _bounds(name, kind, given)


def _bounds(name: str, kind: str, given: list[Any]) -> list[Any]:
    try:
        low, high = map(float, given)  # YAML takes 1e-4 for a string
    except (TypeError, ValueError):
        low = high = math.nan
    whole = kind != "randint" or (low.is_integer() and high.is_integer())
    if not (-math.inf < low < high < math.inf) or not whole or (kind == "loguniform" and low <= 0):
        needs = {"randint": "whole numbers", "loguniform": "positive numbers"}.get(kind, "numbers")
        raise ConfigError(f"{name}: {kind} needs [low, high], {needs} with low < high, got {given}")
    return [int(low), int(high)] if kind == "randint" else [low, high]


def first_values(space: Space) -> Space:
    """One configuration of a space: the first value, or the lower bound, of every dimension."""
    return {name: distribution(name, dimension)[1][0] for name, dimension in space.items()}
