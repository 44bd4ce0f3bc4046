"""What a stage is: a function of (config, input artifacts, context) that makes one artifact.

A stage module defines a frozen dataclass ``Config``, whose fields are named sections of the command line
(``task``, ``model``, ``train``, ...), and ``STAGE``. Stages that share a section share its values.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from mad import registry
from mad.artifacts import Artifact
from mad.config import field_docs
from mad.context import Context
from mad.store import Store


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: command, folder prefix of its artifacts and MLflow run type.
        Config: the dataclass of its sections.
        inputs: input name to the stage that makes it.
        run: does the work and writes into ``context.draft``.
        version: bumped when the meaning changes in a way the code digest cannot see.
        identity: plain JSON that enters the key beside the config: digests of external data, worker counts
            that change bits. Called with the config and the number of workers.
        refers_to: keys of artifacts that a config names, beside the inputs, by what they are: they enter the key as
            inputs do, and are kept as long.
        settles: dotted options that a config leaves open and their values, from artifacts that it refers to; asked when
            the config is made, so that keys are those of the values.
        passes: why a config asks nothing of the stage, empty if it does ask; its result is then the input
            ``hands_on`` itself.
        hands_on: name of that input.
        check: refuses inputs that cannot be used; called with the config and those inputs that are there already,
            before the stages between work for nothing.
        unused: dotted options that a config leaves without effect, each with the reason: they do not enter the key,
            and whoever asks for one is told.
    """

    name: str
    Config: type
    inputs: dict[str, str]
    run: Callable[[Any, dict[str, Any], Context], None]
    version: int = 1
    identity: Callable[[Any, int], dict[str, Any]] = field(default=lambda config, workers: {})
    refers_to: Callable[[Any], dict[str, str]] = field(default=lambda config: {})
    settles: Callable[[Any, Store], dict[str, Any]] = field(default=lambda config, store: {})
    passes: Callable[[Any], str] = field(default=lambda config: "")
    hands_on: str = ""
    check: Callable[[Any, dict[str, Any]], None] = field(default=lambda config, inputs: None)
    unused: Callable[[Any], dict[str, str]] = field(default=lambda config: {})


def load_stage(name: str) -> Stage:
    """The stage of a name.

    Raises:
        ConfigError: no such stage.
    """
    return registry.load("stages", name).STAGE


def upstream(name: str) -> list[Stage]:
    """The stages a stage needs, in running order, itself last."""
    order: list[Stage] = []

    def visit(stage: Stage) -> None:
        for parent in stage.inputs.values():
            visit(load_stage(parent))
        if all(stage.name != s.name for s in order):
            order.append(stage)

    visit(load_stage(name))
    return order


def chain_config(stages: list[Stage]) -> type:
    """One dataclass with every section of the given stages."""
    return _joined(tuple(stage.Config for stage in stages))


@cache
def _joined(configs: tuple[type, ...]) -> type:
    """A class of its own for each chain: what parses it is made once per class."""
    sections: dict[str, tuple[str, Any, Any]] = {}
    for config in configs:
        hints, docs = typing.get_type_hints(config), field_docs(config)
        for f in dataclasses.fields(config):
            metadata = {**f.metadata, "doc": docs.get(f.name, "")}
            copy = dataclasses.field(default=f.default, default_factory=f.default_factory, metadata=metadata)  # type: ignore[call-overload]
            sections.setdefault(f.name, (f.name, hints[f.name], copy))
    return dataclasses.make_dataclass("Chain", sections.values(), frozen=True)


def sections(cls: type) -> set[str]:
    """Names of the sections of a chain config."""
    return {f.name for f in dataclasses.fields(cls)}


def stage_config(stage: Stage, chain: Any) -> Any:
    """The part of a chain config that a stage reads."""
    return stage.Config(**{f.name: getattr(chain, f.name) for f in dataclasses.fields(stage.Config)})


def inputs_of(artifacts: dict[str, Artifact], stage: Stage) -> dict[str, Artifact]:
    """Pick a stage's inputs from artifacts named by the stage that made them."""
    return {name: artifacts[parent] for name, parent in stage.inputs.items()}
