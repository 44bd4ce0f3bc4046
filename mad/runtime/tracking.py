"""What is tracked of a stage or trial, independent of the tracker."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import logging
import os
import re
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mad.redaction import redactor

log = logging.getLogger("mad")
WAITING = "unsynced-"
"""Prefix of the provisional ids of runs that the tracker has not seen."""
NAME_LENGTH, REASON_LENGTH = 250, 160
SQLITE = "sqlite:///"


@dataclass
class RunRecord:
    """One tracked run.

    Attributes:
        name: shown in the tracker.
        params: flat hyper-parameters, one per dotted name.
        tags: kind, artifact key, upstream runs, versions.
        metrics: (name, value, step), sent when the run is finished.
        files: (path of a local file, folder in the tracker's artifacts).
        datasets: (name, digest, URI, role) of what the run read or wrote but does not upload.
        parent: run id of the enclosing run.
        run_id: given by the tracker; None until then.
        status: RUNNING, FINISHED, FAILED or KILLED.
        started: seconds since the epoch.
        ended: the same, None while running.
        late: (name, value, step, milliseconds since the epoch) that could not be sent when they were logged.
        ticket: names the run until it has a run id; sent along, so that sending twice makes one run.
    """

    name: str
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int]] = field(default_factory=list)
    files: list[tuple[str, str]] = field(default_factory=list)
    datasets: list[tuple[str, str, str, str]] = field(default_factory=list)
    parent: str | None = None
    run_id: str | None = None
    status: str = "RUNNING"
    started: float = field(default_factory=time.time)
    ended: float | None = None
    late: list[tuple[str, float, int, int]] = field(default_factory=list)
    ticket: str = field(default_factory=lambda: f"{WAITING}{uuid.uuid4().hex}")

    @property
    def provisional(self) -> bool:
        """Whether no tracker has seen the run yet."""
        return self.run_id is None or self.run_id == self.ticket

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class Tracker(Protocol):
    """An observer of runs. It never raises: what it cannot record it keeps for later and warns once."""

    @property
    def uri(self) -> str | None:
        """Where runs go, without secrets; None if nowhere."""

    @property
    def experiment(self) -> str | None:
        """Name of the experiment."""

    def start(self, record: RunRecord) -> None:
        """Make the run visible; sets ``record.run_id``."""

    def log(self, record: RunRecord, metrics: dict[str, float], step: int) -> None:
        """Record metrics now."""

    def finish(self, record: RunRecord, status: str) -> None:
        """Record the rest and close the run."""

    def find(self, tags: dict[str, str]) -> list[Any]:
        """Runs that carry all the tags, newest first."""

    def register(self, record: RunRecord, folder: str, name: str, alias: str) -> str | None:
        """Register a run's uploaded folder as a model version; its URI, or None if that failed."""


class NoTracker:
    """Records nothing."""

    uri: str | None = None
    experiment: str | None = None

    def start(self, record: RunRecord) -> None:
        """Do nothing."""

    def log(self, record: RunRecord, metrics: dict[str, float], step: int) -> None:
        """Do nothing."""

    def finish(self, record: RunRecord, status: str) -> None:
        """Close the record."""
        record.status, record.ended = status, time.time()

    def find(self, tags: dict[str, str]) -> list[Any]:
        """Find nothing."""
        return []

    def register(self, record: RunRecord, folder: str, name: str, alias: str) -> str | None:
        """Register nothing."""
        return None


class Outbox:
    """Runs that wait to be sent, one JSON file each, named by the run's ticket.

    Args:
        folder: where they wait.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def put(self, record: RunRecord, experiment: str) -> None:
        """Keep a run, in place of what was kept of it before; warns if the disk takes nothing."""
        body = json.dumps({"experiment": experiment, "record": record.to_json()}, default=str)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.folder / f".{uuid.uuid4().hex}"
            temporary.write_text(redactor()(body))
            temporary.replace(self.folder / f"{record.ticket}.json")
        except OSError as error:
            log.warning("run '%s' is not recorded: %s", record.name, error)

    @contextmanager
    def emptied(self) -> Iterator[list[Path]]:
        """The waiting files, oldest run first, for one process at a time.

        They are moved out of the way of :meth:`put`, which may at any time keep more of a run that is being sent;
        those the block has not removed go back, unless that has happened.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".lock"):
            for file in self.folder.glob("*.json"):
                file.replace(file.with_suffix(".sending"))
            claimed = sorted(self.folder.glob("*.sending"), key=lambda file: read_waiting(file)[1].started)
            try:
                yield claimed
            finally:
                for file in claimed:
                    if file.exists():
                        self._back(file)

    @staticmethod
    def _back(file: Path) -> None:
        with contextlib.suppress(FileExistsError):  # what was put meanwhile holds everything that this file does
            os.link(file, file.with_suffix(".json"))
        file.unlink()


def read_waiting(file: Path) -> tuple[str, RunRecord]:
    """Experiment and record of a file of the outbox."""
    waiting = json.loads(file.read_text())
    return waiting["experiment"], RunRecord(**waiting["record"])


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; where the file system has no locks, go on without."""
    with path.open("a") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def alone_in(uri: str) -> Iterator[None]:
    """Open an SQLite store one process at a time: its first migration fails if two run it at once."""
    if not uri.startswith(SQLITE):
        yield
        return
    path = Path(uri.removeprefix(SQLITE))
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f"{path.name}.lock")):
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("pragma schema_version")  # fails at once where a tracker may try for minutes
        yield


def reason_of(error: BaseException) -> str:
    """Why an action failed, in a few words: what was at the bottom of it, without secrets."""
    # What was under way when the store failed (an interrupt, say) is its context, and not the reason.
    while isinstance(below := error.__cause__ or error.__context__, Exception):
        error = below
    lines = str(error).strip().splitlines()
    return redactor()(lines[0] if lines else type(error).__name__)[:REASON_LENGTH]


def user_name() -> str:
    """Who runs this."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"


def number_of(value: Any) -> float:
    """A figure as a float; NaN if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def clean_name(name: str) -> str:
    """A name of a metric, param or tag; what trackers do not allow in one becomes ``_``."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:NAME_LENGTH]


def text_of(value: Any) -> str:
    """A hyper-parameter as text: strings as they are, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


@contextmanager
def environment(values: dict[str, str], defaults: dict[str, str]) -> Iterator[None]:
    """Environment variables for as long as the block runs, and their defaults after it; what the user set stays."""
    mine = [name for name in values if os.environ.get(name) in (None, defaults[name])]
    os.environ.update({name: values[name] for name in mine})
    try:
        yield
    finally:
        os.environ.update({name: defaults[name] for name in mine})


def flat(data: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts to dotted names; a plug-in's ``name`` becomes the value of its own field."""
    if not isinstance(data, dict):
        return {prefix.rstrip("."): data}
    found: dict[str, Any] = {}
    for key, value in data.items():
        if key == "name" and prefix:
            found[prefix.rstrip(".")] = value
        else:
            found |= flat(value, f"{prefix}{key}.")
    return found
