"""What is tracked of a stage or trial, independent of the tracker."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol


@dataclass
class RunRecord:
    """One tracked run.

    Attributes:
        name: shown in the tracker.
        params: flat hyper-parameters, one per dotted name.
        tags: kind, artifact key, upstream runs, versions.
        metrics: (name, value, step).
        files: (path of a local file, folder in the tracker's artifacts).
        datasets: (name, digest, URI, role) of what the run read or wrote but does not upload.
        parent: run id of the enclosing run.
        run_id: given by the tracker; None until then.
        status: RUNNING, FINISHED, FAILED or KILLED.
        started: seconds since the epoch.
        ended: the same, None while running.
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

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class Tracker(Protocol):
    """An observer of runs. It never raises: what it cannot record it keeps for later and warns once."""

    uri: str | None
    experiment: str | None

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
