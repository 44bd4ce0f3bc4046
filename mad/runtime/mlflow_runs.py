"""Reading runs back from MLflow: experiments by name, finished runs of a stage, the settings behind a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mad.errors import ArtifactError, ConfigError, nearest
from mad.redaction import redactor
from mad.runtime.mlflow_client import ENVIRONMENT, FIRST_CALL, new_client
from mad.runtime.mlflow_tracker import INPUT, MOST_RUNS, UPSTREAM
from mad.runtime.settings import Settings
from mad.runtime.tracking import SQLITE, WAITING, environment, reason_of

if TYPE_CHECKING:  # importing MLflow takes seconds
    from mlflow import MlflowClient

T = TypeVar("T")
ORDER = ("features", "attacked", "split", "checkpoint", "fitted", "scores")
"""Inputs, the rows before the model, the model before the detector: what was set for the rows that were scored wins."""


class RunReader:
    """Reads an MLflow store and changes nothing in it.

    Args:
        settings: where the store is.

    Raises:
        ArtifactError: there is none; also from every method, if it cannot be read.
    """

    def __init__(self, settings: Settings):
        uri = settings.tracking_uri or ""
        self.settings, self.uri = settings, redactor()(uri)
        if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():  # opening would make one
            raise ArtifactError(f"no MLflow store at {self.uri}: run something first, or set MLFLOW_TRACKING_URI")
        self._runs: dict[str, Any] = {}

    @cached_property
    def _client(self) -> MlflowClient:
        return new_client(self.settings)

    @cached_property
    def _experiments(self) -> dict[str, str]:
        with environment(FIRST_CALL, ENVIRONMENT):  # a server that is away is to be noticed in seconds
            return {e.name: e.experiment_id for e in self._try(lambda: self._client.search_experiments())}

    def _try(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except Exception as error:  # each kind of store has its own errors
            raise ArtifactError(f"cannot read MLflow at {self.uri}: {reason_of(error)}") from None

    def experiments(self, name: str | None) -> list[str]:
        """Ids of the experiment of a name, or of all.

        Raises:
            ConfigError: no such experiment.
        """
        if name is None:
            return list(self._experiments.values())
        if name not in self._experiments:
            raise ConfigError(f"no experiment '{name}' in MLflow at {self.uri}{nearest(name, self._experiments)}")
        return [self._experiments[name]]

    def finished(self, experiments: list[str], stage: str | None) -> list[Any]:
        """Finished runs of a stage (of all without one), newest first."""
        terms = ["attributes.status = 'FINISHED'", *([f"tags.`mad.stage` = '{stage}'"] if stage else [])]
        query = " and ".join(terms)
        return self._try(lambda: list(self._client.search_runs(experiments, query, max_results=MOST_RUNS)))

    def parameters(self, run: Any) -> dict[str, str]:
        """Settings of a run and of everything it was made from, by dotted name.

        Each section (``task``, ``model``, ``detector``, ...) is taken whole from the nearest run that has it, so that
        settings of the rows that were scored are not mixed with those of the rows the model was trained on.
        """
        sections: dict[str, dict[str, str]] = {}
        seen: set[str] = set()

        def visit(one: Any) -> None:
            if one.info.run_id in seen:
                return
            seen.add(one.info.run_id)
            own: dict[str, dict[str, str]] = {}
            for name, value in one.data.params.items():
                own.setdefault(name.partition(".")[0], {})[name] = value
            for section, values in own.items():
                sections.setdefault(section, values)
            for parent in self._parents(one.data.tags):
                visit(parent)

        visit(run)
        return {name: value for section in sections.values() for name, value in section.items()}

    def _parents(self, tags: dict[str, str]) -> list[Any]:
        """Runs that made the inputs of a run; the sweep it belongs to comes last."""
        found = []
        for name in ORDER:
            maker, key = tags.get(f"{UPSTREAM}{name}", ""), tags.get(f"{INPUT}{name}", tags.get(f"mad.{name}", ""))
            found.append(self._run(maker) or self._maker(key))
        found.append(self._run(tags.get("mlflow.parentRunId", "")))
        return [run for run in found if run is not None]

    def _run(self, run_id: str) -> Any:
        """A run by its id; None where it is gone or was never sent."""
        if run_id and not run_id.startswith(WAITING) and run_id not in self._runs:
            from mlflow.exceptions import MlflowException

            try:
                self._runs[run_id] = self._client.get_run(run_id)
            except MlflowException:
                self._runs[run_id] = None
        return self._runs.get(run_id)

    def _maker(self, key: str) -> Any:
        """The run that made an artifact; None where there is none."""
        if key and key not in self._runs:
            experiments = list(self._experiments.values())
            query = f"tags.`mad.artifact` = '{key}'"
            found = self._try(lambda: self._client.search_runs(experiments, query, max_results=1))
            self._runs[key] = found[0] if found else None
        return self._runs.get(key)
