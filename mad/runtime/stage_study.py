"""Studies of any one stage: settings of its chain are searched, and figures of what it makes are compared.

Such a study names a ``target``. Every configuration is a whole chain that ends there; what configurations share
above the target is made once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mad.artifacts import Artifact
from mad.config import canonical, fingerprint, require
from mad.errors import ConfigError
from mad.runtime import chain as chains
from mad.runtime.chain import Chain
from mad.runtime.engine import Engine
from mad.runtime.recipes import Kitchen, named, read_recipes
from mad.runtime.spaces import Space, expand
from mad.runtime.study import Study, override
from mad.runtime.sweep_plan import check_reachable
from mad.runtime.tracking import flat
from mad.stages._base import Stage, chain_config, load_stage, stage_config, upstream


@dataclass(frozen=True)
class Curves:
    """Lines from a table that the target writes, one per configuration."""

    file: str = ""
    """parquet file of the target's artifact (default: no curves)"""
    x: str = ""
    """column along the horizontal axis"""
    y: list[str] = field(default_factory=list)
    """columns that are drawn, a figure each"""
    level: str = ""
    """option or figure of the target that is drawn as a level line, such as two_sample.alpha"""

    def __post_init__(self) -> None:
        require(not self.file or (bool(self.x) and len(self.y) > 0), f"curves of {self.file} need x and y")


@dataclass(frozen=True)
class StageStudy(Study):
    """A study of one stage as its file states it."""

    metric: str = ""
    """figure of the target's summary by which configurations are ranked (default: none, as they were searched)"""
    target: str = ""
    """stage whose results are compared"""
    columns: list[str] = field(default_factory=list)
    """figures of the target's summary in the table and its heat maps"""
    rows: str = ""
    """what names rows of a heat map and lines of a curve: a searched option, or a text in the target's summary"""
    across: str = ""
    """what names columns of a heat map and panels of curves; settings beside these two get figures of their own"""
    curves: Curves = field(default_factory=Curves)
    """lines from a table that the target writes"""
    make: dict[str, Any] = field(default_factory=dict)
    """chains that are made first, name(parameters) to stage and settings; what ${name(arguments)} stands for"""

    def _check_objective(self) -> None:
        load_stage(self.target)
        require(self.keep != "chosen", f"a study of stage {self.target} keeps what every configuration made")
        require(self.algorithm != "optuna", f"a study of stage {self.target} is a grid or random, not optuna")
        require(bool(self.rows) or not self.across, "across needs rows: name what the rows of a heat map are")

    @property
    def last(self) -> str:
        """The last stage of the chain that it is about."""
        return self.target

    @property
    def shown(self) -> list[str]:
        """Figures in the table: the objective first."""
        return [*dict.fromkeys([self.metric, *self.columns] if self.metric else self.columns)]


@dataclass
class Point:
    """One configuration.

    Attributes:
        overrides: what was searched, dotted name to value.
        chain: all its stages that may have to run.
        keys: of what they make.
        done: whether the target's artifact was in the store when the plan was made.
    """

    overrides: Space
    chain: Chain
    keys: dict[str, str]
    done: bool

    @property
    def stage(self) -> Stage:
        """The target."""
        return self.chain.stages[-1]

    @property
    def key(self) -> str:
        """Of what the target makes."""
        return self.keys[self.stage.name]

    @property
    def config(self) -> Any:
        """The target's own config."""
        return stage_config(self.stage, self.chain.config)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every option of the target that may change its result, by dotted name."""
        return flat(canonical(self.config))

    @property
    def parents(self) -> tuple[str, ...]:
        """Keys of the target's inputs."""
        return tuple(self.keys[name] for name in self.stage.inputs.values())

    @property
    def above(self) -> Chain:
        """The chain without its target."""
        return Chain(self.chain.stages[:-1], self.chain.config, self.chain.given, self.chain.cls, self.chain.data)


@dataclass
class StagePlan:
    """What a sweep over one stage will do.

    Attributes:
        name: of the study.
        study: spaces and objective.
        points: by key of what the target makes.
        key: names the sweep; the same command has the same key.
        kitchen: what is made first.
    """

    name: str
    study: StageStudy
    points: dict[str, Point]
    key: str
    kitchen: Kitchen

    @property
    def varied(self) -> list[str]:
        """Searched options that differ between configurations."""
        names = dict.fromkeys(name for point in self.points.values() for name in point.overrides)
        texts = {name: {repr(p.overrides.get(name)) for p in self.points.values()} for name in names}
        return [name for name in names if len(texts[name]) > 1]

    def groups(self, keys: set[str]) -> dict[tuple[str, ...], list[Point]]:
        """Some of the points by the inputs that they share."""
        found: dict[tuple[str, ...], list[Point]] = {}
        for point in self.points.values():
            if point.key in keys:
                found.setdefault(point.parents, []).append(point)
        return found


def make_plan(
    study: StageStudy, name: str, flags: dict[str, Any], given: dict[str, Artifact], engine: Engine
) -> StagePlan:
    """Expand a study into chains, drop those that make the same, and see what is already done.

    Args:
        study: as read.
        name: of the study.
        flags: dotted overrides; that of a searched option fixes it.
        given: artifacts by the stage that made them.
        engine: that will run it.

    Raises:
        ConfigError: unknown or invalid settings in any configuration, or options that would change nothing.
    """
    check_reachable(engine)
    study, rest = override(study, chain_config(upstream(study.target)), flags)
    kitchen = Kitchen(read_recipes(study.make), {"seed": _seed(study, rest)}, engine)
    whole = chains.resolve(study.target, kitchen.filled(study.base), rest, given, engine.store)
    points: dict[str, Point] = {}
    for overrides in expand(study, getattr(whole.config, "seed", 0)):
        point = _point(study.target, whole, overrides, given, kitchen)
        points.setdefault(point.key, point)
    asked = {*rest, *(name for space in study.search for name in space)}
    chains.check_used([point.chain for point in points.values()], sorted(asked))
    facts = {"sweep": name, "target": study.target, "points": sorted(points), "shown": study.shown, "mode": study.mode}
    return StagePlan(name, study, points, f"sweep-{fingerprint(facts)}", kitchen)


def _seed(study: StageStudy, rest: dict[str, Any]) -> Any:
    """The seed of what recipes make.

    Raises:
        ConfigError: there are recipes, and several seeds are searched.
    """
    own = rest.get("seed", study.base.get("seed", 0))
    searched = [space.get("seed", [own]) for space in study.search]
    if not study.make or not searched:
        return own
    one = isinstance(searched[0], list) and len(searched[0]) == 1 and all(seed == searched[0] for seed in searched)
    require(one, "seed is searched, but recipes are made with one seed: give --seed, or a recipe a parameter for it")
    return searched[0][0]


def _point(target: str, whole: Chain, overrides: Space, given: dict[str, Artifact], kitchen: Kitchen) -> Point:
    engine = kitchen.engine
    chain = chains.resolve(target, whole.data, kitchen.filled(overrides), given, engine.store)
    reason = chains.why_idle(chain, target)
    if reason:
        raise ConfigError(f"stage {target} would do nothing: {reason}")
    keys = chains.keys(engine, chain)
    done = target not in engine.force and engine.store.has(keys[target])
    return Point({name: named(value) for name, value in overrides.items()}, chain, keys, done)


def lines(plan: StagePlan, engine: Engine) -> Iterator[tuple[str, str, str]]:
    """Rows of the plan's table: stage, key, state."""
    shared = {key: (name, key, state) for name, key, state in plan.kitchen.rows()}
    for point in plan.points.values():
        above = {stage.name: point.keys[stage.name] for stage in point.above.stages}
        shared |= {key: (name, key, state) for name, key, state in chains.plan_rows(engine, above)}
    yield from shared.values()
    done = sum(point.done for point in plan.points.values())
    yield plan.study.target, f"{len(plan.points)} configurations", f"{done} done, {len(plan.points) - done} to do"
