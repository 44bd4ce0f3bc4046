"""Clients of an MLflow store: how long they wait, how quiet they are; fetching what was uploaded."""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from mad.errors import ArtifactError
from mad.redaction import redactor
from mad.runtime.settings import Settings
from mad.runtime.tracking import environment, reason_of

if TYPE_CHECKING:  # importing MLflow takes seconds: only what is not done yet pays for it
    from mlflow import MlflowClient

ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Else MLflow prints the address of every run, the password in it included.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
FIRST_CALL = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
"""A server that is away is to be noticed in seconds; one that has answered may take its time over an upload."""


def download(settings: Settings, uri: str) -> Path:
    """Fetch an uploaded artifact by ``runs:/<id>/<folder>`` or ``models:/<name>@<alias>``.

    Raises:
        ArtifactError: the URI names nothing that can be fetched.
    """
    target = settings.home / "downloads" / uuid.uuid4().hex
    try:
        client = new_client(settings)
        from mlflow.artifacts import download_artifacts

        with environment(FIRST_CALL, ENVIRONMENT):
            source = _model_source(client, uri) if uri.startswith("models:/") else uri
            client.search_experiments(max_results=1)
        target.mkdir(parents=True)
        return Path(download_artifacts(source, dst_path=str(target), tracking_uri=settings.tracking_uri))
    except Exception as error:  # each kind of store has its own errors
        where = redactor()(settings.tracking_uri or "")
        raise ArtifactError(f"cannot fetch '{uri}' from {where}: {reason_of(error)}") from None


def new_client(settings: Settings) -> MlflowClient:
    """A client of the store that the settings name, with MLflow's own chatter off."""
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "urllib3"):  # importing MLflow sets its own levels
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=settings.tracking_uri)


def _model_source(client: MlflowClient, uri: str) -> str:
    name, _, alias = uri.removeprefix("models:/").partition("@")
    if not alias:
        name, _, alias = name.rpartition("/")
    if alias.isdigit():
        return str(client.get_model_version(name, alias).source)
    return str(client.get_model_version_by_alias(name, alias).source)
