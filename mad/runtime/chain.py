"""Chains of stages: what has to run for a target, from which configs and given artifacts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mad import registry
from mad.artifacts import Artifact
from mad.config import Data, merge, merge_flags, parse
from mad.errors import ArtifactError, ConfigError, nearest
from mad.runtime.engine import Engine
from mad.runtime.references import find_reference, with_calibration, with_keys
from mad.runtime.settings import Settings
from mad.stages._base import Stage, chain_config, inputs_of, load_stage, stage_config, upstream
from mad.stages._base import sections as sections_of
from mad.store import Store

PINNED_BY_LINEAGE = {"train": "models", "prompts": "prompts", "generate": "generations"}
"""Stages never repeated when something made from them is given (a detector belongs to its own model, scores to their
own generations), and what they make."""


@dataclass(frozen=True)
class Chain:
    """A resolved request.

    Attributes:
        stages: what may have to run, in order.
        config: one dataclass with every section these stages read.
        given: artifacts by the stage that made them.
        cls: the class of ``config``.
        data: the plain data ``config`` was parsed from, what it leaves open left open.
    """

    stages: list[Stage]
    config: Any
    given: dict[str, Artifact] = field(default_factory=dict)
    cls: type = object
    data: Data = field(default_factory=dict)


def reference_names(target: str) -> dict[str, str]:
    """Flags that take an artifact (``checkpoint``, ``features``, ...) and the stage each comes from."""
    return {name: parent for stage in upstream(target) for name, parent in stage.inputs.items()}


def resolve(target: str, base: Data, flags: dict[str, Any], given: dict[str, Artifact], store: Store) -> Chain:
    """Work out the chain that ends in ``target``.

    Settings come, weakest first, from defaults, the lineage of the given artifacts, ``base`` and ``flags``.

    Args:
        target: name of the last stage.
        base: nested data, as from a YAML file.
        flags: dotted overrides.
        given: artifacts by the stage that made them.
        store: where the ancestors of given artifacts are looked up.

    Raises:
        ConfigError: unknown or invalid options, or options of a stage whose result is given.
        ArtifactError: given artifacts belong to different models, or an ancestor that is needed is not in the store.
    """
    base, flags = with_keys(base, store), with_keys(flags, store)
    lineage: dict[str, Any] = {}
    # What is given of an earlier stage goes last: new rows come before those that a given detector was fitted on.
    for stage in reversed(upstream(target)):
        lineage |= given[stage.name].meta["lineage"] if stage.name in given else {}
    asked, given = given, dict(given)
    for name in PINNED_BY_LINEAGE:
        _check_one(name, given)
        if name in lineage and name not in given and _needs(target, name, given):
            given[name] = store.open(lineage[name]["key"])
    stages = _active(target, given)
    cls = chain_config(stages)
    sections = sections_of(cls)
    data: Data = {}
    for entry in lineage.values():
        data |= {k: v for k, v in entry["config"].items() if k in sections}
    known = sections_of(chain_config(upstream(target)))
    for name in [*base, *flags]:
        section = name.partition(".")[0]
        if section not in known and (name in flags or not _of_another_stage(section)):
            raise ConfigError(f"unknown option '--{name}'{nearest(section, known | set(reference_names(target)))}")
        if section not in sections and name in flags:
            raise ConfigError(f"--{name} would change nothing: {_giver(section, target, asked)} is given")
    data = merge(cls, data, {k: v for k, v in base.items() if k in sections})
    data = with_calibration(merge_flags(cls, data, flags), store)
    return Chain(stages, _settled(cls, data, stages, store), given, cls, data)


def _settled(cls: type, data: Data, stages: list[Stage], store: Store) -> Any:
    """The config of a chain, options that it leaves to artifacts it refers to included."""
    config: Any = parse(cls, data)
    found = {n: value for s in stages for n, value in s.settles(stage_config(s, config), store).items()}
    return parse(cls, merge_flags(cls, data, found)) if found else config


def run(engine: Engine, chain: Chain) -> dict[str, Artifact]:
    """Run (or find) every stage of a chain; artifacts by stage."""
    artifacts = dict(chain.given)
    for place, stage in enumerate(chain.stages):
        for later in chain.stages[place:]:
            there = {name: artifacts[parent] for name, parent in later.inputs.items() if parent in artifacts}
            later.check(stage_config(later, chain.config), there)
        config, inputs = stage_config(stage, chain.config), inputs_of(artifacts, stage)
        passed = stage.passes(config)
        artifacts[stage.name] = inputs[stage.hands_on] if passed else engine.run(stage, config, inputs)
    return artifacts


def keys(engine: Engine, chain: Chain) -> dict[str, str]:
    """The key of every stage of a chain, without running anything."""
    found = {name: artifact.key for name, artifact in chain.given.items()}
    for stage in chain.stages:
        config, inputs = stage_config(stage, chain.config), {n: found[parent] for n, parent in stage.inputs.items()}
        found[stage.name] = inputs[stage.hands_on] if stage.passes(config) else engine.key(stage, config, inputs)
    return found


def plan_rows(engine: Engine, keys: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Stage, key and state (forced, done, to do) of every stage that has work of its own, as from :func:`keys`."""
    for name, key in keys.items():
        if key.startswith(f"{name}-"):  # not what a stage handed on
            yield name, key, "forced" if name in engine.force else "done" if engine.store.has(key) else "to do"


def check_used(chains: Iterable[Chain], names: Iterable[str]) -> None:
    """Refuse options that only stages read which none of the chains has use for.

    Args:
        chains: of one stage, or of all subjects of a sweep.
        names: dotted options that were asked for.

    Raises:
        ConfigError: an option would change nothing.
    """
    unused = [_unused(chain) for chain in chains]
    for name in names:
        reasons = [found.get(name.partition(".")[0]) or found.get(name, "") for found in unused]
        if all(reasons):
            raise ConfigError(f"--{name} would change nothing: {reasons[0]}")


def why_idle(chain: Chain, name: str) -> str:
    """Why a stage of a chain does nothing; empty where it does something or is not there."""
    return next((s.passes(stage_config(s, chain.config)) for s in chain.stages if s.name == name), "")


def _unused(chain: Chain) -> dict[str, str]:
    """Sections that only idle stages of a chain read, options that the others leave unused, and why."""
    reasons = {stage.name: why_idle(chain, stage.name) for stage in chain.stages}
    busy = [stage for stage in chain.stages if not reasons[stage.name]]
    read = {name for stage in busy for name in sections_of(stage.Config)}
    idle = [stage for stage in chain.stages if reasons[stage.name]]
    found = {name: reasons[stage.name] for stage in idle for name in sections_of(stage.Config) - read}
    return found | {name: why for s in busy for name, why in s.unused(stage_config(s, chain.config)).items()}


def open_reference(reference: str, stage: str, store: Store, settings: Settings) -> Artifact:
    """An artifact by key, given name, local folder, ``runs:/<id>/<folder>`` or ``models:/<name>@<alias>``.

    What was made later stands for its ancestors too: the name of some scores leads to the detector and the
    checkpoint behind them.

    Raises:
        ArtifactError: nothing is found, or neither it nor an ancestor in the store was made by ``stage``.
    """
    artifact = find_reference(reference, store, settings)
    made, wanted = artifact.meta["stage"], load_stage(stage)
    accepted = (stage, wanted.inputs.get(wanted.hands_on, stage))  # a stage may hand its input on as it is
    if made not in accepted:
        lineage = artifact.meta["lineage"]
        ancestor = next((lineage[name]["key"] for name in accepted if name in lineage), None)
        if ancestor is None or not store.has(ancestor):
            raise ArtifactError(f"'{reference}' was made by stage '{made}', an artifact of stage '{stage}' is needed")
        artifact = store.open(ancestor)
    _check_handed_on(reference, artifact, wanted)
    return artifact


def _check_handed_on(reference: str, artifact: Artifact, wanted: Stage) -> None:
    """Refuse the input of a stage in place of its result, unless the stage would have handed it on."""
    made = artifact.meta["stage"]
    if made == wanted.name:
        return
    known = {k: v for k, v in artifact.meta["config"].items() if k in sections_of(wanted.Config)}
    if not wanted.passes(parse(wanted.Config, known)):
        needed = f"an artifact of stage '{wanted.name}' is needed: run mad {wanted.name}"
        raise ArtifactError(f"'{reference}' was made by stage '{made}', {needed}")


def _active(target: str, given: dict[str, Artifact]) -> list[Stage]:
    order: list[Stage] = []

    def visit(stage: Stage) -> None:
        if stage.name in given or stage in order:
            return
        for parent in stage.inputs.values():
            visit(load_stage(parent))
        order.append(stage)

    visit(load_stage(target))
    return order


def _needs(target: str, name: str, given: dict[str, Artifact]) -> bool:
    return any(stage.name == name for stage in _active(target, given))


def _of_another_stage(section: str) -> bool:
    """One file of settings may serve every stage of a chain."""
    return any(section in sections_of(load_stage(name).Config) for name in registry.names("stages"))


def _check_one(name: str, given: dict[str, Artifact]) -> None:
    """Features of one model mean nothing to a detector fitted on those of another, nor answers to other prompts."""
    entries = [a.meta["lineage"][name] for a in given.values() if name in a.meta["lineage"]]
    # A model that was taken in stands for the one that it says it is: their detectors may be taken in too.
    found = sorted({entry["key"] for entry in entries} - {entry.get("imported_from") for entry in entries})
    if len(found) > 1:
        raise ArtifactError(f"the given artifacts belong to different {PINNED_BY_LINEAGE[name]}: {' and '.join(found)}")


def _giver(section: str, target: str, asked: dict[str, Artifact]) -> str:
    """The flag whose artifact has settled a section."""
    flags = {stage: flag for flag, stage in reference_names(target).items()}
    owners = {stage.name for stage in upstream(target) if section in sections_of(stage.Config)}
    # What a stage handed on is given as its result, but is not of its making.
    return next(f"--{flags[name]}" for name, given in asked.items() if owners & {name, *given.meta["lineage"]})
