"""One stage at a time: what ``mad STAGE`` and ``mad.run_stage`` do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from mad import terminal
from mad.artifacts import Artifact
from mad.config import Data, Option, describe, merge_flags, parse, require
from mad.errors import ArtifactError, ConfigError, nearest
from mad.files import finite, replacing, temporary_path
from mad.runtime import chain as chains
from mad.runtime.engine import UPLOADS, Engine, uploads
from mad.runtime.options import RunOptions, new_engine
from mad.runtime.sweep_plan import Plan, lines
from mad.runtime.tracking import RunRecord, flat
from mad.stages._base import chain_config, load_stage, sections, upstream


def split_options(flags: dict[str, Any], references: set[str]) -> tuple[RunOptions, dict[str, str], dict[str, Any]]:
    """Part flags into run options, artifact references and settings."""
    own = {f.name for f in dataclasses.fields(RunOptions)}
    options = parse(RunOptions, {k: v for k, v in flags.items() if k in own})
    given = {k: str(v) for k, v in flags.items() if k in references}
    return options, given, {k: v for k, v in flags.items() if k not in own | references}


def read_yaml(path: str) -> Data:
    """A YAML file of sections.

    Raises:
        ConfigError: absent, not YAML, or not a mapping.
    """
    try:
        data = yaml.safe_load(Path(path).read_text()) or {}
    except FileNotFoundError:
        raise ConfigError(f"no such file: {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {path}: {str(error).splitlines()[0]}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, got {type(data).__name__}")
    return data


def run_stage(target: str, flags: dict[str, Any]) -> Artifact | None:
    """Run a stage and what it needs; None for a dry run.

    Args:
        target: the stage.
        flags: dotted settings, run options (:class:`RunOptions`) and artifact references by input name.

    Raises:
        MadError: whatever the user can mend.
    """
    load_stage(target)
    references = chains.reference_names(target)
    options, refs, overrides = split_options(flags, set(references))
    check_json(options)
    kept = target in ("train", "fit")  # of other stages too little is uploaded to take them back
    require(kept or not options.register, f"--register takes the result of train or fit, not of {target}")
    force = forced(options.force, target)
    if options.dry_run:
        overrides.pop("task.download", None)  # a plan fetches nothing
    with new_engine(options, force) as engine:
        given = {
            references[name]: chains.open_reference(ref, references[name], engine.store, engine.settings)
            for name, ref in refs.items()
        }
        base = read_yaml(options.config) if options.config else {}
        chain = chains.resolve(target, base, overrides, given, engine.store)
        _check_asked(chain, target, [*overrides], options.force)
        if options.dry_run:
            print_plan(engine, chains.keys(engine, chain))
            return None
        artifact = chains.run(engine, chain)[target]
        if options.name:
            engine.store.set_name(options.name, artifact.key)
        registered = register(engine, artifact, options.register) if options.register else None
    if options.json:
        write_json(options.json, {"key": artifact.key, "registered": registered, **artifact.summary})
    return artifact


def run_and_tell(
    target: str, flags: dict[str, Any], file: str, tell: Callable[[dict[str, Any], Artifact], None]
) -> dict[str, Any] | None:
    """Run the stage of a command that tells its result in its own way; write ``--json``.

    Args:
        target: the last stage.
        flags: by their full names.
        file: JSON payload of what it makes: the result, for a person and for programs.
        tell: prints it, and may add to it what only programs read.

    Returns:
        The result; None after a dry run.

    Raises:
        MadError: whatever the user can mend.
    """
    options, _, _ = split_options(flags, set(chains.reference_names(target)))
    check_json(options)
    artifact = run_stage(target, {name: value for name, value in flags.items() if name != "json"})
    if artifact is None:
        return None
    found = artifact.json(file)
    tell(found, artifact)
    if options.json:
        write_json(options.json, found)
    return found


def _check_asked(chain: chains.Chain, target: str, names: list[str], force: str) -> None:
    """Refuse a command, and options of it, that would do nothing.

    Raises:
        ConfigError: nobody would make what is asked for, or read what is set.
    """
    for name, asked in ((target, f"mad {target}"), (force, f"--force {force}")):
        reason = chains.why_idle(chain, name)
        require(not reason, f"{asked} would do nothing: {reason}")
    given = force in {stage.name for stage in upstream(target)} - {stage.name for stage in chain.stages}
    require(not given, f"--force {force} would do nothing: its result is given")
    chains.check_used([chain], names)


def forced(force: str, target: str) -> frozenset[str]:
    """Names of the stages that ``--force`` recomputes.

    Raises:
        ConfigError: no such stage.
    """
    names = [stage.name for stage in upstream(target)]
    if force in ("false", "False"):
        return frozenset()
    if force in ("true", "True"):
        return frozenset({target})
    if force == "all":
        return frozenset(names)
    if force not in names:
        raise ConfigError(f"--force: no stage '{force}' in this chain{nearest(force, [*names, 'all', 'true'])}")
    return frozenset({force})


def print_plan(engine: Engine, keys: dict[str, str]) -> None:
    """Table of stages, keys and what is already done."""
    terminal.table("Plan (nothing was started)", ("stage", "key", "state"), chains.plan_rows(engine, keys))


def print_sweep_plan(plan: Plan, engine: Engine) -> None:
    """Table of shared stages and trials, and what is already done."""
    terminal.table(f"Plan of sweep {plan.name} (nothing was started)", ("stage", "key", "state"), lines(plan, engine))
    terminal.out.print(f"{plan.size} trials, {plan.study.algorithm} search, best by {plan.study.metric}")


def register(engine: Engine, artifact: Artifact, wanted: str) -> str:
    """Register an artifact in MLflow under ``MODEL[@ALIAS]``; returns its ``models:/`` URI.

    Raises:
        ArtifactError: MLflow could not do it; the artifact itself is safe.
    """
    stage = artifact.meta["stage"]
    name, _, alias = wanted.partition("@")
    record = RunRecord(f"register {name}", tags={"mad.stage": "register", "mad.artifact": artifact.key})
    made_by = (artifact.meta.get("mlflow") or {}).get("run_id")
    record.tags |= {f"mad.upstream_run.{stage}": made_by} if made_by else {}
    record.files = uploads(artifact)
    engine.tracker.start(record)
    engine.tracker.finish(record, "FINISHED")
    uri = engine.tracker.register(record, UPLOADS[stage][0], name, alias or "latest")
    if uri is None:
        raise ArtifactError(f"MLflow did not register '{wanted}'; {artifact.key} is in the store: try again later")
    return uri


def check_json(options: RunOptions) -> None:
    """Before hours of work: will ``--json`` be writable?

    Raises:
        ConfigError: it is a folder, or cannot be written.
    """
    if options.json and not options.dry_run:
        check_writable("json", options.json)


def check_writable(flag: str, path: str) -> None:
    """Refuse the file that a flag names where it cannot be written.

    Raises:
        ConfigError: it is a folder, or cannot be written.
    """
    with _errors_told(flag, path) as target:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(target.parent)
        temporary.touch()
        temporary.unlink()


def write_json(path: str, data: Any) -> None:
    """Write JSON whole; NaN and infinity become null.

    Raises:
        ConfigError: the file cannot be written.
    """
    write_text("json", path, json.dumps(finite(data), indent=1) + "\n")


def write_text(flag: str, path: str, text: str) -> None:
    """Write the file that a flag names, whole.

    Raises:
        ConfigError: it is a folder, or cannot be written.
    """
    with _errors_told(flag, path) as target, replacing(target) as temporary:
        temporary.write_text(text)


@contextmanager
def _errors_told(flag: str, path: str) -> Iterator[Path]:
    if Path(path).is_dir():
        raise ConfigError(f"--{flag} {path} is a folder: give a file")
    try:
        yield Path(path)
    except OSError as error:
        raise ConfigError(f"--{flag} {path} cannot be written: {error.strerror}") from None


def print_result(target: str, artifact: Artifact) -> None:
    """Show what a stage made."""
    terminal.table(f"{target}: {artifact.key}", ("figure", "value"), figures(artifact.summary), right=("value",))
    terminal.out.print(f"artifact: {artifact.folder}", soft_wrap=True)


def figures(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The single values of a summary by dotted name, with their intervals; of the facts of a task no counts again."""
    intervals = summary.get("intervals", {})
    facts = {name: value for name, value in summary.get("facts", {}).items() if not isinstance(value, dict)}
    found = flat({**summary, "facts": facts, "intervals": {}})
    lines = []
    for name, value in found.items():
        if isinstance(value, (str, int, float)):
            low, high = (terminal.number(end) for end in intervals.get(name, ("", "")))
            text = terminal.number(value) if not isinstance(value, bool) else str(value)
            lines.append((name, f"{text} [{low}, {high}]" if low else text))
    return lines


def help_options(target: str, flags: dict[str, Any]) -> list[tuple[str, list[Option]]]:
    """Every option of a stage's command, in groups."""
    stages = upstream(target)
    cls = chain_config(stages)
    chosen = {k: v for k, v in flags.items() if k.partition(".")[0] in sections(cls)}
    groups = [("Run", describe(RunOptions, {}))]
    inputs = [
        Option(name, "artifact", None, f"what stage '{stage}' made")
        for name, stage in chains.reference_names(target).items()
    ]
    if inputs:
        groups.append(("Inputs: a key, a name, a folder, runs:/<id>/<folder> or models:/<name>@<alias>", inputs))
    groups.append(("Settings", describe(cls, merge_flags(cls, {}, chosen))))
    return groups
