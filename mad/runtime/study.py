"""Studies: a YAML file with a base config, search spaces and an objective, expanded into configurations."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from mad.config import Data, describe, find_field, merge, merge_flags, parse, require
from mad.errors import ConfigError, nearest
from mad.runtime.spaces import Space, distribution, values_of
from mad.stages.detect import METRICS

DEFAULT_SAMPLES = 16
MOST_BUNDLED = 64
"""Configurations in one trial: then Tune, which manages about four trials per second, holds nobody up."""
MOST_KEPT = 1000
"""Configurations that all keep their artifacts: a state of a megabyte or more each, for wide layers."""


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
    bundle: int | Literal["auto"] = "auto"
    """closed-form configurations (grid, random) per Ray Tune trial; auto: as many as make four trials per CPU, 64 at
    most. What trains in epochs or is chosen by Optuna has a trial of its own"""
    keep: Literal["auto", "all", "chosen"] = "auto"
    """whose detector and scores stay in the store: of all configurations, or of closed-form ones only those that are
    chosen; auto: of all up to 1,000 configurations, of the chosen beyond. Figures are kept of every one"""

    def __post_init__(self) -> None:
        self._check_objective()
        require(len(self.search) > 0, "search must list at least one space; [{}] is that of the base alone")
        for name in ("num_samples", "concurrency", "bundle"):
            value = getattr(self, name)
            require(value in (None, "auto") or value >= 1, f"{name} must be 1 or more, got {value}")
        for name, dimension in (item for space in self.search for item in space.items()):
            distribution(str(name), dimension)

    def _check_objective(self) -> None:
        metrics = {f"val_{name}": "min" if name == "fpr95" else "max" for name in METRICS}
        require(
            self.metric in metrics, f"metric must be one of validation rows ({', '.join(metrics)}), got {self.metric}"
        )
        better = metrics.get(self.metric)
        require(self.mode == better, f"{self.metric} is better the other way: set mode to {better}")

    @property
    def samples(self) -> int:
        """Configurations that random and optuna try."""
        return self.num_samples or DEFAULT_SAMPLES

    def bundle_size(self, configurations: int, at_once: int) -> int:
        """Closed-form configurations in one Ray Tune trial, of so many, with so many trials at once."""
        if self.bundle != "auto":
            return self.bundle
        return max(1, min(MOST_BUNDLED, math.ceil(configurations / (4 * at_once))))

    def keeps_all(self, configurations: int) -> bool:
        """Whether artifacts of every one of so many configurations stay."""
        return self.keep == "all" or (self.keep == "auto" and configurations <= MOST_KEPT)

    @property
    def last(self) -> str:
        """The last stage of the chain that it is about."""
        return "report"


S = TypeVar("S", bound=Study)
SETTINGS = ("metric", "mode", "algorithm", "num_samples", "concurrency", "bundle", "keep")
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
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    if isinstance(data, dict) and "target" in data:
        from mad.runtime.stage_study import StageStudy

        return parse(StageStudy, data, "")
    return parse(Study, data, "")


def with_base(study: S, data: Data) -> S:
    """Lay the sections of a ``--config`` file on the study's base."""
    from mad.stages._base import chain_config, upstream

    return dataclasses.replace(study, base=merge(chain_config(upstream(study.last)), study.base, data))


def override(study: S, cls: type, flags: dict[str, Any]) -> tuple[S, dict[str, Any]]:
    """Apply dotted flags: a searched dimension is fixed, anything else becomes a flag for the base.

    A plug-in that is searched is chosen with its own space; its options are set where a space has them.

    Args:
        study: as read.
        cls: chain config class.
        flags: dotted name to value.

    Returns:
        The study with its settings and spaces changed, and the flags left for the base.

    Raises:
        ConfigError: an option of a searched plug-in that none of them has.
    """
    settings = {name: value for name, value in flags.items() if name in SETTINGS}
    if settings:
        plain = {k: v for k, v in dataclasses.asdict(study).items() if k not in ("base", "search")}
        given = parse(type(study), plain | settings)
        study = dataclasses.replace(study, **{name: getattr(given, name) for name in SETTINGS})
    spaces, rest = [dict(space) for space in study.search], {}
    others = [name for name in flags if name not in SETTINGS]
    for name in sorted(others, key=lambda n: n.count(".")):
        if not any(_searched(space, name) for space in spaces):
            rest[name] = flags[name]
        elif _is_plugin(cls, study.base, name):
            spaces = _choose(spaces, cls, study.base, name, flags[name])
        else:
            spaces = _fix(spaces, cls, study.base, name, flags[name])
    return dataclasses.replace(study, search=spaces), rest


def _searched(space: Space, name: str) -> str | None:
    """The dimension of a space that decides about an option: itself, or else the nearest plug-in around it."""
    while name and name not in space:
        name = name.rpartition(".")[0]
    return name or None


def _is_plugin(cls: type, base: Data, name: str) -> bool:
    field = find_field(cls, base, name)
    return field is not None and "plugin" in field.metadata


def _choose(spaces: list[Space], cls: type, base: Data, name: str, value: Any) -> list[Space]:
    """Keep the spaces of one plug-in; where none is its, all of them, without the options of the others."""
    kept = [space for space in spaces if value in values_of(space.get(name, _of_base(cls, base, name)))]
    if not kept:
        kept = [{k: v for k, v in space.items() if not k.startswith(f"{name}.")} for space in spaces]
    fixed = [{**space, name: [value]} for space in kept]
    return [space for i, space in enumerate(fixed) if space not in fixed[:i]]


def _of_base(cls: type, base: Data, name: str) -> str:
    section: Any = base
    for part in name.split("."):
        section = section.get(part, {}) if isinstance(section, dict) else {}
    field = find_field(cls, base, name)
    default = field.metadata["default"] if field else ""
    return section if isinstance(section, str) else section.get("name", default)


def _fix(spaces: list[Space], cls: type, base: Data, name: str, value: Any) -> list[Space]:
    """Give an option one value wherever it exists; a space of several plug-ins is split by whether they have it."""
    fixed, with_it = [], 0
    for space in spaces:
        dimension = _searched(space, name)
        if dimension is None or dimension == name:
            parts = [(space, dimension == name or find_field(cls, base, name) is not None)]
        else:
            values = values_of(space[dimension])
            having = [v for v in values if find_field(cls, merge_flags(cls, base, {dimension: v}), name)]
            sides = [(having, True), ([v for v in values if v not in having], False)]
            parts = [({**space, dimension: side}, has) for side, has in sides if side]
        fixed += [{**part, name: [value]} if has else part for part, has in parts]
        with_it += sum(has for _, has in parts)
    if not with_it:
        raise ConfigError(f"unknown option '--{name}'{nearest(name, _options(spaces, cls, base))}")
    return fixed


def _options(spaces: list[Space], cls: type, base: Data) -> set[str]:
    """Every option that some configuration of the spaces has."""
    found: set[str] = set()
    for space in spaces:
        plugins = {k: v for k, v in space.items() if _is_plugin(cls, base, k)}
        for choice in itertools.product(*map(values_of, plugins.values())):
            data = merge_flags(cls, base, dict(zip(plugins, choice, strict=True)))
            found |= {option.name for option in describe(cls, data)}
    return found
