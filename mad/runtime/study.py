"""Studies: a YAML file with a base config, search spaces and an objective, expanded into configurations."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from mad.config import Data, accepts, merge, parse, require
from mad.errors import ConfigError, nearest
from mad.stats.random import derive

Space = dict[str, Any]
DISTRIBUTIONS = ("uniform", "loguniform", "randint", "choice")
DEFAULT_SAMPLES = 16


@dataclass(frozen=True)
class Study:
    """A study as its file states it."""

    description: str = ""
    """one line"""
    base: dict[str, Any] = field(default_factory=dict)
    """nested settings shared by all trials"""
    search: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    """spaces: dotted name to a list of values, or to one of uniform, loguniform, randint [low, high], choice"""
    metric: str = "val_auroc"
    """objective, measured on validation rows"""
    mode: Literal["max", "min"] = "max"
    """whether larger or smaller is better"""
    algorithm: Literal["grid", "random", "optuna"] = "grid"
    """grid: every combination; random: num_samples draws; optuna: num_samples chosen one after another"""
    num_samples: int | None = None
    """configurations to try; with grid, at most so many, drawn by the seed"""
    concurrency: int | None = None
    """trials at once (default: the CPUs of the cluster)"""
    bundle: int | None = None
    """closed-form configurations per Ray Tune trial (default: by number of configurations and CPUs)"""

    def __post_init__(self) -> None:
        require(self.metric.startswith("val_"), f"metric must be one of validation rows (val_...), got {self.metric}")
        for name in ("num_samples", "concurrency", "bundle"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} must be 1 or more, got {value}")

    @property
    def samples(self) -> int:
        """Configurations that random and optuna try."""
        return self.num_samples or DEFAULT_SAMPLES


SETTINGS = ("metric", "mode", "algorithm", "num_samples", "concurrency", "bundle")
"""Parts of a study that can be overridden by an unscoped flag."""


def folders() -> list[Path]:
    """Where studies are looked for: ``./sweeps``, then beside the package (a checkout), then inside it (a wheel)."""
    package = Path(__file__).parents[1]
    return [Path.cwd() / "sweeps", package.parent / "sweeps", package / "sweeps"]


def study_names() -> list[str]:
    """Names of the studies that can be found."""
    return sorted({file.stem for folder in folders() if folder.is_dir() for file in folder.glob("*.yaml")})


def load_study(name: str) -> Study:
    """Read a study by name or by the path of its YAML file.

    Raises:
        ConfigError: unknown, or not a study.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else None
    if path is None:
        path = next((f for folder in folders() if (f := folder / f"{name}.yaml").is_file()), None)
    if path is None or not path.is_file():
        raise ConfigError(f"unknown sweep '{name}'{nearest(name, study_names())}")
    try:
        data = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    return parse(Study, data, "")


def with_base(study: Study, data: Data) -> Study:
    """Lay the sections of a ``--config`` file on the study's base."""
    from mad.stages._base import chain_config, upstream

    return dataclasses.replace(study, base=merge(chain_config(upstream("report")), study.base, data))


def override(study: Study, cls: type, flags: dict[str, Any]) -> tuple[Study, dict[str, Any]]:
    """Apply dotted flags: a searched dimension is fixed, anything else becomes a flag for the base.

    Args:
        study: as read.
        cls: chain config class.
        flags: dotted name to value.

    Returns:
        The study with its settings and spaces changed, and the flags left for the base.

    Raises:
        ConfigError: an option that no space's plug-in has.
    """
    settings = {name: value for name, value in flags.items() if name in SETTINGS}
    if settings:
        given = parse(Study, settings)
        study = dataclasses.replace(study, **{name: getattr(given, name) for name in settings})
    spaces, rest = [dict(space) for space in study.search], {}
    others = [name for name in flags if name not in SETTINGS]
    for name in sorted(others, key=lambda n: n.count(".")):
        section = name.partition(".")[0]
        if name == section and any(name in space for space in spaces):
            spaces = [s for s in spaces if flags[name] in _values(s.get(name))] or [{}]
            spaces = [{**s, name: [flags[name]]} for s in spaces]
        elif any(name in space for space in spaces):
            spaces = [{**s, name: [flags[name]]} if name in s else s for s in spaces]
        elif any(section in space for space in spaces):
            fits = [_accepts(cls, study.base, space, section, name) for space in spaces]
            if not any(fits):
                raise ConfigError(f"unknown option '--{name}': no {section} of this sweep has it")
            spaces = [{**s, name: [flags[name]]} if fit else s for s, fit in zip(spaces, fits, strict=True)]
        else:
            rest[name] = flags[name]
    return dataclasses.replace(study, search=spaces), rest


def _accepts(cls: type, base: Data, space: Space, section: str, name: str) -> bool:
    return all(accepts(cls, {**base, section: value}, name) for value in _values(space.get(section, base.get(section))))


def _values(dimension: Any) -> list[Any]:
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
    for values in itertools.product(*(_values(d) for d in space.values())):
        yield dict(zip(space, values, strict=True))


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
    if not isinstance(dimension, dict):
        return "choice", _values(dimension)
    kind = next(iter(dimension), "")
    given = dimension.get(kind)
    if len(dimension) != 1 or kind not in DISTRIBUTIONS or not isinstance(given, list) or not given:
        raise ConfigError(f"{name}: expected a list of values or one of {', '.join(DISTRIBUTIONS)}, got {dimension}")
    if kind != "choice" and (len(given) != 2 or not given[0] < given[1] or (kind == "loguniform" and given[0] <= 0)):
        raise ConfigError(f"{name}: {kind} needs [low, high] with low < high, got {given}")
    return kind, given
