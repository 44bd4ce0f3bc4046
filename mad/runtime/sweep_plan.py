"""Planning a sweep: configurations grouped by the features they share, and what is already done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mad.config import Data, fingerprint, to_data
from mad.errors import ConfigError
from mad.runtime import chain as chains
from mad.runtime.chain import Chain
from mad.runtime.cluster import is_remote
from mad.runtime.engine import Engine
from mad.runtime.spaces import Space, expand, first_values
from mad.runtime.study import MOST_BUNDLED, Study, override
from mad.runtime.trial import Job, trains_in_epochs
from mad.stages._base import chain_config, sections, upstream

SHARED = "extract"
"""Last of the stages that trials share."""
WHOLE = "report"
"""Last of the stages a sweep runs for what it chose."""
TRIAL_SECTIONS = ("detector", "detect")


@dataclass
class Trial:
    """One configuration: its overrides, parsed config and the keys of what it makes."""

    overrides: Space
    config: Any
    fit: str
    detect: str
    done: bool


@dataclass
class Group:
    """The trials on one subject: those that read the same features, what makes these, what was searched in it.

    ``label`` says the last in words; it is empty where there is one subject and nothing was.
    """

    chain: Chain
    keys: dict[str, str]
    job: Job
    shared: Space = field(default_factory=dict)
    trials: dict[str, Trial] = field(default_factory=dict)
    label: str = ""

    @property
    def todo(self) -> list[Trial]:
        """Trials that are not done."""
        return [trial for trial in self.trials.values() if not trial.done]


@dataclass
class Plan:
    """What a sweep will do.

    Attributes:
        name: of the study.
        study: spaces and objective.
        seed: the root seed.
        report: settings of the report section.
        groups: by key of the features.
        key: names the sweep; the same command has the same key.
    """

    name: str
    study: Study
    seed: int
    report: Data
    groups: dict[str, Group]
    key: str

    @property
    def size(self) -> int:
        """Number of trials; for a search that chooses as it goes, the number asked for."""
        return sum(len(g.trials) for g in self.groups.values()) or self.study.samples

    @property
    def keeps_all(self) -> bool:
        """Whether every configuration leaves its detector and its scores in the store."""
        return self.study.algorithm == "optuna" or self.study.keeps_all(self.size)


def make_plan(study: Study, name: str, flags: dict[str, Any], engine: Engine) -> Plan:
    """Expand a study, drop duplicates, and see what is already done.

    Raises:
        ConfigError: unknown or invalid settings, in the base or in any configuration.
    """
    check_reachable(engine)
    cls = chain_config(upstream(WHOLE))
    study, rest = override(study, cls, flags)
    whole = chains.resolve(WHOLE, study.base, rest, {}, engine.store)
    seed = whole.config.seed
    groups: dict[str, Group] = {}
    code: list[str] = []
    if study.algorithm == "optuna":
        _check_searchable(study)
        group = _group(whole.data, {}, engine)
        groups[group.keys[SHARED]] = group
        # The keys of one configuration of each space stand for the code that all of it runs; a bad name shows here.
        code = [key for space in study.search for key in group.job.keys(group.job.chain(first_values(space)))]
    by_shared: dict[str, Group] = {}
    for overrides in [] if study.algorithm == "optuna" else expand(study, seed):
        own = {k: v for k, v in overrides.items() if k.partition(".")[0] in TRIAL_SECTIONS}
        shared = {k: v for k, v in overrides.items() if k not in own}
        label = repr(sorted(shared.items()))
        if label not in by_shared:
            group = _group(whole.data, shared, engine)
            by_shared[label] = groups.setdefault(group.keys[SHARED], group)
        _add_trial(by_shared[label], own, engine)
    _label([*groups.values()])
    asked = {*rest, *(name for space in study.search for name in space)}
    chains.check_used([group.chain for group in groups.values()], sorted(asked))
    facts = {"sweep": name, "data": whole.data, "spaces": study.search, "seed": seed, "algorithm": study.algorithm}
    facts |= {"samples": study.num_samples, "features": sorted(groups), "code": code}
    facts |= {"metric": study.metric, "mode": study.mode}
    report = to_data(whole.config.report)
    return Plan(name, study, seed, report, groups, f"sweep-{fingerprint(facts)}")


def check_reachable(engine: Engine) -> None:
    """Refuse a store that trials, in other processes, cannot open.

    Raises:
        ConfigError: it is in this process's memory.
    """
    if not engine.store.is_local and engine.store.uri.startswith("memory:"):
        raise ConfigError("a sweep's trials cannot reach a memory:// store: set MAD_STORE to a folder or object store")


def _label(groups: list[Group]) -> None:
    """Tell subjects apart in words: settings without their section, where that suffices."""
    short = [" ".join(f"{name.rpartition('.')[2]}={value}" for name, value in g.shared.items()) for g in groups]
    whole = [" ".join(f"{name}={value}" for name, value in g.shared.items()) for g in groups]
    for group, label in zip(groups, short if len(set(short)) == len(short) else whole, strict=True):
        group.label = label or ("base" if len(groups) > 1 else "")


def _check_searchable(study: Study) -> None:
    for name in {name for space in study.search for name in space}:
        if name.partition(".")[0] not in TRIAL_SECTIONS:
            raise ConfigError(f"optuna searches detector and detect settings, not '{name}': use grid or random")


def _group(data: Data, shared: Space, engine: Engine) -> Group:
    names = sections(chain_config(upstream(SHARED)))
    base = {k: v for k, v in data.items() if k in names}
    chain = chains.resolve(SHARED, base, shared, {}, engine.store)
    keys = chains.keys(engine, chain)
    own = {k: v for k, v in data.items() if k in TRIAL_SECTIONS}
    home, store, seed = str(engine.settings.home), engine.store.uri, chain.config.seed
    return Group(chain, keys, Job(home, store, engine.device, keys[SHARED], {**own, "seed": seed}), shared)


def _add_trial(group: Group, overrides: Space, engine: Engine) -> None:
    config = group.job.chain(overrides)
    fit, detect = group.job.keys(config)
    if detect not in group.trials:
        forced = engine.force & {"fit", "detect"}
        done = not forced and engine.store.has(detect) and engine.store.has(fit)
        group.trials[detect] = Trial(overrides, config, fit, detect, done)


def lines(plan: Plan, engine: Engine) -> Iterator[tuple[str, str, str]]:
    """Rows of the plan's table: stage, key, state."""
    for group in plan.groups.values():
        yield from chains.plan_rows(engine, group.keys)
        todo = len(group.todo)
        if plan.study.algorithm == "optuna":
            yield "trials", f"{plan.study.samples} chosen by optuna", "to do"
        else:
            yield "trials", f"{len(group.trials)} configurations", f"{len(group.trials) - todo} done, {todo} to do"
    if plan.study.algorithm != "optuna":
        yield "bundles", *_bundles(plan)


def _bundles(plan: Plan) -> tuple[str, str]:
    """How the configurations are laid into Ray Tune trials, and whose artifacts stay."""
    quick = [not trains_in_epochs(trial.config) for group in plan.groups.values() for trial in group.todo]
    at_once = plan.study.concurrency or (0 if is_remote() else os.cpu_count() or 1)
    size = plan.study.bundle_size(sum(quick), at_once) if at_once else MOST_BUNDLED
    most = "" if at_once or plan.study.bundle != "auto" else "up to "
    told = f"{most}{size} closed-form configurations to a Ray Tune trial" if any(quick) else "one to a Ray Tune trial"
    return told, "artifacts of all are kept" if plan.keeps_all else "artifacts of the chosen are kept"
