"""MLflow as an observer: every stage and trial is a run; a server that is away costs a warning, no result."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mad.redaction import redactor
from mad.runtime.mlflow_client import ENVIRONMENT, FIRST_CALL, new_client
from mad.runtime.settings import Settings
from mad.runtime.tracking import (
    WAITING,
    Outbox,
    RunRecord,
    alone_in,
    clean_name,
    environment,
    number_of,
    read_waiting,
    reason_of,
    text_of,
    user_name,
)

if TYPE_CHECKING:  # importing MLflow takes seconds: only what is not done yet pays for it
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

log = logging.getLogger("mad")
METRICS, PAIRS, PARAM_LENGTH, TAG_LENGTH, MOST_RUNS = 800, 100, 6000, 5000, 50_000
"""MLflow's limits per call: metrics (all entries are 1000), params or tags, characters of a value, runs found."""
AGAIN = 60.0
"""Seconds until a store that was away is asked again; twice as many after each time that it is still away."""
INPUT, UPSTREAM = "mad.input.", "mad.upstream_run."
REFUSED = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE"}
"""Error codes that concern one run; after any other error the store counts as away."""


class MlflowTracker:
    """The Tracker that writes to an MLflow store or server. Nothing is opened before it is needed.

    Args:
        settings: ``tracking_uri`` and where unsent runs wait.
        experiment: name of the experiment, made if absent.
    """

    def __init__(self, settings: Settings, experiment: str):
        self.settings = settings
        self.experiment = experiment
        self.uri = redactor()(settings.tracking_uri or "")
        self.outbox = Outbox(settings.home / "unsynced")
        self._experiment_id = ""
        self._down = self._warned = False
        self._pause, self._next = AGAIN, 0.0
        self._lock = threading.RLock()
        self._sent: dict[str | None, tuple[dict[str, str], dict[str, str]]] = {}

    @cached_property
    def client(self) -> MlflowClient:
        """The client; made at first use."""
        return new_client(self.settings)

    def start(self, record: RunRecord) -> None:
        """Create the run; while the store is away the run gets a provisional id and waits for ``mad sync``."""
        hide = redactor()
        record.params = {name: hide(text_of(value))[:PARAM_LENGTH] for name, value in record.params.items()}
        record.name = hide(record.name)
        if not self._try(lambda: self._create(record)):
            record.run_id = record.ticket
            self.outbox.put(record, self.experiment)

    def log(self, record: RunRecord, metrics: dict[str, float], step: int) -> None:
        """Log metrics at once; what cannot be sent stays in the record."""
        now = int(time.time() * 1000)
        values = [(name, number_of(value), step, now) for name, value in metrics.items()]
        if record.provisional or not self._try(lambda: self._batch(record, values, {}, {})):
            record.late += values

    def finish(self, record: RunRecord, status: str) -> None:
        """Log what is left and close the run; keep it for ``mad sync`` if that fails."""
        record.status, record.ended = status, time.time()
        if record.provisional or not self._try(lambda: self._send(record)):
            self.outbox.put(record, self.experiment)

    def find(self, tags: dict[str, str]) -> list[Any]:
        """Runs of the experiment that carry all the tags, newest first."""
        found: list[Any] = []
        self._try(lambda: found.extend(self._search([self._experiment_id], tags)))
        return found

    def register(self, record: RunRecord, folder: str, name: str, alias: str) -> str | None:
        """Register the run's uploaded ``folder`` as a version of a model, and point the alias at it."""
        from mlflow.exceptions import MlflowException

        def register() -> None:
            try:
                self.client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            version = self.client.create_model_version(name, f"runs:/{record.run_id}/{folder}", record.run_id)
            if alias.lower() != "latest":  # MLflow's own name for the newest version
                self.client.set_registered_model_alias(name, alias, version.version)

        if not record.provisional and self._try(register):
            return f"models:/{name}@{alias}"
        log.warning("model %s is not registered; give the same command again when MLflow at %s answers", name, self.uri)
        return None

    def sync(self) -> tuple[int, int]:
        """Send the runs that could not be sent before: how many went, how many still wait."""
        sent = 0
        with self.outbox.emptied() as files:
            for file in files:
                self.experiment, record = read_waiting(file)
                self._experiment_id = ""
                if self._try(lambda record=record: self._resend(record)):  # type: ignore[misc]
                    file.unlink()
                    sent += 1
        return sent, len(files) - sent

    def _try(self, action: Callable[[], None]) -> bool:
        """Run an action against the store; on failure warn once and say so."""
        with self._lock:
            if self._down and not self._is_back():
                return False
            try:
                if not self._experiment_id:
                    self._experiment_id = self._open()
                action()
            except Exception as error:
                self._down = getattr(error, "error_code", "") not in REFUSED
                self._next = time.monotonic() + self._pause
                what = "cannot be reached" if self._down else "refused a run"
                if not self._warned:
                    log.warning("MLflow at %s %s (%s): going on; later: mad sync", self.uri, what, reason_of(error))
                self._warned = True
                return False
            return True

    def _is_back(self) -> bool:
        """Whether a store that was away answers again; asked ever more seldom, for one that hangs costs seconds."""
        if time.monotonic() < self._next:
            return False
        try:
            with environment(FIRST_CALL, ENVIRONMENT):
                self.client.search_experiments(max_results=1)
        except Exception:
            self._pause *= 2
            self._next = time.monotonic() + self._pause
            return False
        log.warning("MLflow at %s answers again; what it missed: mad sync", self.uri)
        self._down = self._warned = False
        self._pause = AGAIN
        return True

    def _open(self) -> str:
        root, name = self.settings.artifact_root, self.experiment
        with environment(FIRST_CALL, ENVIRONMENT), alone_in(self.settings.tracking_uri or ""):
            found = self.client.get_experiment_by_name(name)
            if found is None:
                try:
                    return self.client.create_experiment(name, (root / name).as_uri() if root else None)
                except Exception:
                    found = self.client.get_experiment_by_name(name)
                    if found is None:  # else another process was faster
                        raise
            if found.lifecycle_stage == "deleted":
                self.client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)

    def _create(self, record: RunRecord) -> None:
        record.tags = self._tags(record)
        begun = int(record.started * 1000)
        record.run_id = self.client.create_run(self._experiment_id, begun, record.tags, record.name).info.run_id
        if not record.metrics:  # what comes with its figures is over, and needs one call for both
            self._batch(record, [], record.params, {})
        self._sent[record.run_id] = ({} if record.metrics else record.params, record.tags.copy())

    def _tags(self, record: RunRecord) -> dict[str, str]:
        """The tags of a new run, among them those that MLflow's own columns show."""
        from mlflow.exceptions import INVALID_STATE, MlflowException

        tags = {**record.tags, "mlflow.user": user_name(), "mlflow.source.type": "LOCAL"}
        tags["mlflow.source.name"] = f"mad {tags.get('mad.stage', record.name)}"
        if tags.get("mad.code"):
            tags["mlflow.source.git.commit"] = tags["mad.code"].rstrip("+")
        for name in [n.removeprefix(INPUT) for n in record.tags if n.startswith(INPUT)]:
            if f"{UPSTREAM}{name}" not in tags and (maker := self._maker(tags[f"{INPUT}{name}"])):
                tags[f"{UPSTREAM}{name}"] = maker
        if record.parent:
            tags["mlflow.parentRunId"] = parent = self._known(record.parent)
            if parent.startswith(WAITING):
                raise MlflowException("the run it belongs to has not been sent", INVALID_STATE)
        return self._linked(tags) | {"mad.ticket": record.ticket}

    def _maker(self, key: str) -> str | None:
        """The run that made an artifact, where the artifact does not tell: trials are tracked by the driver."""
        experiment, kind = [self._experiment_id], key.partition("-")[0]
        found = self._search(experiment, {"mad.artifact": key}) or self._search(experiment, {f"mad.{kind}": key})
        return str(found[0].info.run_id) if found else None

    def _linked(self, tags: dict[str, str]) -> dict[str, str]:
        """Tags as they are sent: run ids in place of provisional ones, no secrets."""
        hide = redactor()
        return {n: v if n == "mad.ticket" else hide(self._known(v))[:TAG_LENGTH] for n, v in tags.items()}

    def _known(self, run: str) -> str:
        """The run id in place of a provisional one, if that run has been sent."""
        if not run.startswith(WAITING):
            return run
        experiments = [e.experiment_id for e in self.client.search_experiments()]
        found = self._search(experiments, {"mad.ticket": run})
        return str(found[0].info.run_id) if found else run

    def _search(self, experiments: list[Any], tags: dict[str, str]) -> list[Any]:
        terms = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        return list(self.client.search_runs(experiments, terms, max_results=MOST_RUNS))

    def _batch(self, record: RunRecord, metrics: list[Any], params: dict[str, str], tags: dict[str, str]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        # MLflow stores an infinity as the largest float, which flattens every plot; NaN is left out of plots.
        entries = [Metric(clean_name(n), v if math.isfinite(v) else math.nan, t, step) for n, v, step, t in metrics]
        pairs = [Param(clean_name(n), v) for n, v in params.items()]
        marks = [RunTag(clean_name(n), v) for n, v in tags.items()]
        while entries or pairs or marks:
            self.client.log_batch(str(record.run_id), entries[:METRICS], pairs[:PAIRS], marks[:PAIRS])
            del entries[:METRICS], pairs[:PAIRS], marks[:PAIRS]

    def _send(self, record: RunRecord) -> None:
        """Send what the run does not have yet. All of it may be sent again: times and names stay the same."""
        run_id = str(record.run_id)
        ended = int((record.ended or time.time()) * 1000)
        values = [(name, number_of(value), step, ended) for name, value, step in record.metrics]
        params, tags = self._sent.get(record.run_id, ({}, {}))
        params = {n: v for n, v in record.params.items() if n not in params}
        tags = self._linked({n: v for n, v in record.tags.items() if tags.get(n) != v})
        self._batch(record, [*values, *record.late], params, tags)
        if record.datasets:
            self.client.log_inputs(run_id, datasets=[_dataset(*d) for d in record.datasets])
        for path, folder in record.files:
            if Path(path).exists():
                self.client.log_artifact(run_id, path, folder)
        if record.ended is not None:
            self.client.set_terminated(run_id, record.status, ended)
        self._sent.pop(record.run_id, None)

    def _resend(self, record: RunRecord) -> None:
        if record.provisional:
            record.run_id = self._known(record.ticket)
        if record.provisional:
            self._create(record)
        self._send(record)


def _dataset(name: str, digest: str, uri: str, role: str) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": redactor()(uri)})
    return DatasetInput(Dataset(name, digest, "mad", source), [InputTag("mlflow.data.context", role)])
