"""MLflow as an observer: every stage and trial is a run; a server that is away costs a warning, no result."""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from mad.errors import ArtifactError
from mad.runtime.settings import Settings
from mad.runtime.tracking import RunRecord

log = logging.getLogger("mad")
BATCH = 900
"""Metrics, params or tags per call; MLflow takes at most 1000."""
PARAM_LENGTH = 6000
WAITING = "unsynced-"
"""Prefix of the provisional ids of runs that the store has not seen."""


def without_password(uri: str) -> str:
    """A URI that may be shown: user and password removed."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


class MlflowTracker:
    """The Tracker that writes to an MLflow store or server.

    Args:
        settings: ``tracking_uri`` and where unsent runs wait.
        experiment: name of the experiment, made if absent.
    """

    def __init__(self, settings: Settings, experiment: str):
        self.settings = settings
        self.experiment = experiment
        self.uri = without_password(settings.tracking_uri or "")
        self.unsynced = settings.home / "unsynced"
        self._experiment_id: str | None = None
        self._down = False
        settings.home.mkdir(parents=True, exist_ok=True)
        _quiet()
        self.client = MlflowClient(tracking_uri=settings.tracking_uri)
        self._try(self._open_experiment)

    def start(self, record: RunRecord) -> None:
        """Create the run; while the store is away the run gets a provisional id."""
        if not self._try(lambda: self._create(record)):
            record.run_id = f"{WAITING}{uuid.uuid4().hex}"

    def log(self, record: RunRecord, metrics: dict[str, float], step: int) -> None:
        """Log metrics at once; they are kept in the record too, should the run have to be sent later."""
        values = [(name, float(value), step) for name, value in metrics.items()]
        if not self._try(lambda: self._metrics(record, values)):
            record.metrics += values

    def finish(self, record: RunRecord, status: str) -> None:
        """Log what is left and close the run; keep it for ``mad sync`` if the store is away."""
        record.status, record.ended = status, time.time()
        if not self._try(lambda: self._send(record)):
            self.unsynced.mkdir(parents=True, exist_ok=True)
            waiting = {"experiment": self.experiment, "record": record.to_json()}
            (self.unsynced / f"{uuid.uuid4().hex}.json").write_text(json.dumps(waiting))

    def find(self, tags: dict[str, str]) -> list[Any]:
        """Runs of the experiment that carry all the tags, newest first."""
        terms = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
        found: list[Any] = []

        def search() -> None:
            token = None
            while True:
                page = self.client.search_runs(
                    [self._experiment_id], " and ".join(terms), max_results=1000, page_token=token
                )
                found.extend(page)
                token = page.token
                if not token:
                    return

        self._try(search)
        return found

    def register(self, record: RunRecord, folder: str, name: str, alias: str) -> str | None:
        """Register the run's uploaded ``folder`` as a version of a model, and point the alias at it."""
        uri = f"models:/{name}@{alias}"

        def register() -> None:
            try:
                self.client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            version = self.client.create_model_version(name, f"runs:/{record.run_id}/{folder}", record.run_id)
            self.client.set_registered_model_alias(name, alias, version.version)

        return uri if self._try(register) else None

    def sync(self) -> tuple[int, int]:
        """Send the runs that could not be sent before: how many went, how many still wait."""
        records = []
        for file in self.unsynced.glob("*.json"):
            waiting = json.loads(file.read_text())
            records.append((waiting["record"]["started"], file, waiting))
        sent = 0
        for _, file, waiting in sorted(records, key=lambda entry: entry[0]):
            record = RunRecord(**waiting["record"])
            self.experiment = waiting["experiment"]
            if not self._try(self._open_experiment) or not self._try(lambda record=record: self._resend(record)):
                break
            file.unlink()
            sent += 1
        return sent, len(records) - sent

    def _resend(self, record: RunRecord) -> None:
        if record.run_id and record.run_id.startswith(WAITING):
            record.tags["mad.unsynced"] = record.run_id
            if record.parent and record.parent.startswith(WAITING):
                parents = self.find({"mad.unsynced": record.parent})
                record.parent = parents[0].info.run_id if parents else None
            self._create(record)
        self._send(record)

    def _try(self, action: Callable[[], None]) -> bool:
        """Run an action against the store; on failure warn once and say so."""
        if self._down:
            return False
        try:
            action()
        except Exception as error:
            self._down = True
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            log.warning(
                "MLflow at %s cannot be reached (%s): going on; send the runs later: mad sync", self.uri, reason
            )
            return False
        return True

    def _open_experiment(self) -> None:
        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            root = self.settings.artifact_root
            location = (root / self.experiment).as_uri() if root else None
            self._experiment_id = self.client.create_experiment(self.experiment, artifact_location=location)
        else:
            self._experiment_id = found.experiment_id

    def _create(self, record: RunRecord) -> None:
        tags = dict(record.tags)
        if record.parent:
            tags["mlflow.parentRunId"] = record.parent
        run = self.client.create_run(
            self._experiment_id, start_time=int(record.started * 1000), tags=tags, run_name=record.name
        )
        record.run_id = run.info.run_id
        params = [Param(name, _text(value)) for name, value in record.params.items()]
        for start in range(0, len(params), 100):
            self.client.log_batch(record.run_id, params=params[start : start + 100])

    def _metrics(self, record: RunRecord, values: list[tuple[str, float, int]]) -> None:
        now = int(time.time() * 1000)
        entries = [Metric(name.replace("*", "_"), value, now, step) for name, value, step in values]
        for start in range(0, len(entries), BATCH):
            self.client.log_batch(record.run_id, metrics=entries[start : start + BATCH])

    def _send(self, record: RunRecord) -> None:
        self._metrics(record, record.metrics)
        tags = [RunTag(name, value) for name, value in record.tags.items()]
        self.client.log_batch(record.run_id, tags=tags[:100])
        if record.datasets:
            self.client.log_inputs(record.run_id, [_dataset(*dataset) for dataset in record.datasets])
        for path, folder in record.files:
            if Path(path).exists():
                self.client.log_artifact(record.run_id, path, folder)
        ended = int((record.ended or time.time()) * 1000)
        self.client.set_terminated(record.run_id, record.status, ended)


def download(settings: Settings, uri: str) -> Path:
    """Fetch an uploaded artifact by ``runs:/<id>/<folder>`` or ``models:/<name>@<alias>``.

    Raises:
        ArtifactError: the URI names nothing that can be fetched.
    """
    import mlflow

    _quiet()
    mlflow.set_tracking_uri(settings.tracking_uri)
    target = settings.home / "downloads" / uuid.uuid4().hex
    target.mkdir(parents=True)
    try:
        if uri.startswith("models:/"):
            uri = _model_source(MlflowClient(tracking_uri=settings.tracking_uri), uri)
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(target)))
    except (MlflowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(
            f"cannot fetch '{uri}' from {without_password(settings.tracking_uri or '')}: {reason}"
        ) from None


def _model_source(client: MlflowClient, uri: str) -> str:
    name, _, alias = uri.removeprefix("models:/").partition("@")
    if alias:
        return str(client.get_model_version_by_alias(name, alias).source)
    name, _, version = name.rpartition("/")
    return str(client.get_model_version(name, version).source)


def _dataset(name: str, digest: str, uri: str, role: str) -> DatasetInput:
    source = json.dumps({"uri": without_password(uri)})
    return DatasetInput(Dataset(name, digest, "mad", source), [InputTag("mlflow.data.context", role)])


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:PARAM_LENGTH]


def _quiet() -> None:
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
