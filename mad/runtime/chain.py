"""Chains of stages: what has to run for a target, from which configs and given artifacts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mad.artifacts import META, Artifact
from mad.config import Data, merge, merge_flags, parse
from mad.errors import ArtifactError, ConfigError, nearest
from mad.runtime.engine import Engine
from mad.runtime.settings import Settings
from mad.stages._base import Stage, chain_config, inputs_of, load_stage, stage_config, upstream
from mad.store import Store

PINNED_BY_LINEAGE = ("train",)
"""Stages never repeated when something made from them is given: a detector belongs to its own model."""


@dataclass(frozen=True)
class Chain:
    """A resolved request.

    Attributes:
        stages: what may have to run, in order.
        config: one dataclass with every section these stages read.
        given: artifacts by the stage that made them.
        cls: the class of ``config``.
        data: the plain data ``config`` was parsed from.
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
        ArtifactError: an ancestor that is needed is not in the store.
    """
    lineage: dict[str, Any] = {}
    for artifact in given.values():
        lineage |= artifact.meta["lineage"]
    given = dict(given)
    for name in PINNED_BY_LINEAGE:
        if name in lineage and name not in given and _needs(target, name, given):
            given[name] = store.open(lineage[name]["key"])
    stages = _active(target, given)
    cls = chain_config(stages)
    sections = set(cls.__dataclass_fields__)
    data: Data = {}
    for entry in lineage.values():
        data |= {k: v for k, v in entry["config"].items() if k in sections}
    known = set(chain_config(upstream(target)).__dataclass_fields__)
    for name in [*base, *flags]:
        section = name.partition(".")[0]
        if section not in known:
            raise ConfigError(f"unknown option '--{name}'{nearest(section, known | set(reference_names(target)))}")
        if section not in sections and name in flags:
            raise ConfigError(f"--{name} would change nothing: {_giver(section, target, given)} is given")
    data = merge(cls, data, {k: v for k, v in base.items() if k in sections})
    data = merge_flags(cls, data, flags)
    return Chain(stages, parse(cls, data), given, cls, data)


def run(engine: Engine, chain: Chain) -> dict[str, Artifact]:
    """Run (or find) every stage of a chain; artifacts by stage."""
    artifacts = dict(chain.given)
    for stage in chain.stages:
        artifacts[stage.name] = engine.run(stage, stage_config(stage, chain.config), inputs_of(artifacts, stage))
    return artifacts


def keys(engine: Engine, chain: Chain) -> dict[str, str]:
    """The key of every stage of a chain, without running anything."""
    found = {name: artifact.key for name, artifact in chain.given.items()}
    for stage in chain.stages:
        inputs = {name: found[parent] for name, parent in stage.inputs.items()}
        found[stage.name] = engine.key(stage, stage_config(stage, chain.config), inputs)
    return found


def open_reference(reference: str, stage: str, store: Store, settings: Settings) -> Artifact:
    """An artifact by key, given name, local folder, ``runs:/<id>/<folder>`` or ``models:/<name>@<alias>``.

    What was made later stands for its ancestors too: the name of some scores leads to the detector and the
    checkpoint behind them.

    Raises:
        ArtifactError: nothing is found, or neither it nor an ancestor in the store was made by ``stage``.
    """
    artifact = find_reference(reference, store, settings)
    made = artifact.meta["stage"]
    if made == stage:
        return artifact
    ancestor = artifact.meta["lineage"].get(stage, {}).get("key")
    if ancestor is None or not store.has(ancestor):
        raise ArtifactError(f"'{reference}' was made by stage '{made}', an artifact of stage '{stage}' is needed")
    return store.open(ancestor)


def find_reference(reference: str, store: Store, settings: Settings) -> Artifact:
    """An artifact of any stage, by the same kinds of reference.

    Raises:
        ArtifactError: nothing is found, or it is damaged.
    """
    if reference.startswith(("runs:/", "models:/")):
        if settings.tracking_uri is None:
            raise ArtifactError(f"'{reference}' needs MLflow: leave --no_tracking out")
        from mad.runtime.mlflow_tracker import download

        return import_folder(download(settings, reference), store)
    path = Path(reference)
    if path.is_file():
        raise ArtifactError(
            f"'{reference}' is a file: give the folder of an artifact (safetensors and {META}); pickles are never loaded"
        )
    if (path / META).exists():
        return import_folder(path, store)
    names = store.names()
    key = names.get(reference, reference)
    if not store.has(key):
        raise ArtifactError(f"no artifact '{reference}' in {store.uri}{nearest(reference, [*names, *store.keys()])}")
    return store.open(key)


def import_folder(folder: Path, store: Store) -> Artifact:
    """Take an artifact folder into the store, every file compared with its checksum."""
    artifact = Artifact.read(folder)
    if store.has(artifact.key):
        return store.open(artifact.key)
    draft = store.draft(artifact.key)
    for name, facts in artifact.meta["files"].items():
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder} lacks {name}: the whole artifact is needed")
        draft.write(name, partial(_copy, folder / name))
        if draft.files[name] != facts:
            store.delete(artifact.key)
            raise ArtifactError(f"{folder / name} fails its sha256 checksum: fetch it again")
    draft.commit(artifact.meta)
    return store.open(artifact.key)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


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


def _giver(section: str, target: str, given: dict[str, Artifact]) -> str:
    names = {stage: flag for flag, stage in reference_names(target).items()}
    for stage in upstream(target):
        if stage.name in given and section in stage.Config.__dataclass_fields__:
            return f"--{names.get(stage.name, stage.name)}"
    return "an artifact made after it"
