"""Many quick configurations to a Ray Tune trial, each told once; one that kills its process fails alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ray import tune

from mad.redaction import redactor
from mad.runtime.cluster import check_capacity, connect, request, room
from mad.runtime.study import Study
from mad.runtime.trial import Row

OnRow = Callable[[Row], None]
Trainable = Callable[[dict[str, Any]], None]
T = TypeVar("T")
EVERY = 2.0
"""Seconds after which a trial tells its rows so far: what was not told of configurations that are not kept is lost."""
FAILED = "ERROR"
"""Tune's status of a trial that was given up."""
MAX_FAILURES = 3
"""Times a trial whose process died is run again."""


class Trial(Protocol):
    """What is used of Tune's trials."""

    trial_id: str
    status: str
    config: dict[str, Any]
    last_result: dict[str, Any]

    def get_error(self) -> Any:
        """Why it failed."""


def slots(study: Study) -> int:
    """Trials at once: as asked, else as many as the cluster holds when it has grown to its full size."""
    connect()
    bundle = request().bundle()
    check_capacity(bundle)
    return study.concurrency or room(bundle)


def bundled(work: Sequence[T], study: Study, at_once: int) -> list[list[T]]:
    """Cut quick configurations into the trials that run them."""
    size = study.bundle_size(len(work), at_once)
    return [[*work[i : i + size]] for i in range(0, len(work), size)]


def tell(answers: Iterable[Row], figures: Callable[[list[Row]], dict[str, Any]] = lambda rows: {}) -> None:
    """In a trial: report rows as they come, those of a few seconds together."""
    rows: list[Row] = []
    begun, told = time.monotonic(), 0
    for row in answers:
        rows.append(row)
        if time.monotonic() - begun > EVERY:
            tune.report({"rows": json.dumps(rows[told:]), "first": told, **figures(rows)})
            begun, told = time.monotonic(), len(rows)
    if len(rows) > told:
        tune.report({"rows": json.dumps(rows[told:]), "first": told, **figures(rows)})


class _Rows(tune.Callback):
    """Hands rows to the driver as they come, each once, and keeps the trials that ended with rows missing.

    A trial whose process died runs again from its beginning and tells its first rows once more.
    """

    def __init__(self, on_row: OnRow):
        self.on_row = on_row
        self.told: dict[str, int] = {}
        self.ended: list[Trial] = []

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks for a restore that is not used; done trials are in the store."""
        return {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Called in the driver after every report."""
        rows, known = json.loads(result.get("rows", "[]")), self.told.get(trial.trial_id, 0)
        for place, row in enumerate(rows, start=result.get("first", 0)):
            if place >= known:
                self.on_row(row)
                self.told[trial.trial_id] = place + 1

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Called in the driver when a trial has returned or was stopped."""
        self.ended.append(trial)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Called in the driver when a trial has failed for good."""
        self.ended.append(trial)


def run_bundles(
    trainable: Trainable,
    bundles: Sequence[Sequence[T]],
    read: Callable[[dict[str, Any]], list[T]],
    constants: dict[str, Any],
    folder: Path,
    on_row: OnRow,
    lost: Callable[[T, Trial], Row],
    at_once: int,
    scheduler: Any = None,
) -> None:
    """Run every configuration of every bundle, a trial for each bundle.

    A configuration that kills its process takes those after it in its bundle along: they run again, each in a trial
    of its own, so that it fails alone.

    Args:
        trainable: reports a row for each configuration of the parameter ``work``, in order; see :func:`tell`.
        bundles: configurations, as dataclasses.
        read: the configurations of a trial, from its parameters.
        constants: further parameters of every trial.
        folder: of Tune, new.
        on_row: told every row, also of configurations that gave none.
        lost: the row of a configuration whose trial ended without it.
        at_once: most trials at the same time.
        scheduler: of Tune.
    """
    texts = [json.dumps([asdict(one) for one in bundle]) for bundle in bundles]  # type: ignore[call-overload]
    again: list[list[T]] = []
    space = {**constants, "work": tune.grid_search(texts)}
    for trial, told in fit(trainable, space, folder / "trials", on_row, at_once, scheduler=scheduler):
        work = read(trial.config)
        if trial.status == FAILED and len(work) > 1:
            again += [[one] for one in work[told:]]
        else:
            for one in work[told:]:
                on_row(lost(one, trial))
    if again:
        run_bundles(trainable, again, read, constants, folder / "alone", on_row, lost, at_once)


def fit(
    trainable: Trainable,
    space: dict[str, Any],
    folder: Path,
    on_row: OnRow,
    at_once: int,
    scheduler: Any = None,
    search: Any = None,
    samples: int = 1,
) -> list[tuple[Trial, int]]:
    """Run trials.

    Args:
        trainable: reports rows, see :func:`tell`.
        space: of its parameters.
        folder: of Tune, new.
        on_row: told every row.
        at_once: most trials at the same time.
        scheduler: of Tune.
        search: of Tune.
        samples: times the space is drawn from.

    Returns:
        The trials that did not come to their end, each with how many rows it told.
    """
    rows = _Rows(on_row)
    tuner = tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory([request().bundle()])),
        param_space=space,
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            max_concurrent_trials=at_once,
            scheduler=scheduler,
            search_alg=search,
            num_samples=samples,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            verbose=0,
            callbacks=[rows],
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    tuner.fit()
    told = [(trial, rows.told.get(trial.trial_id, 0)) for trial in rows.ended]
    return [(trial, count) for trial, count in told if count == 0 or trial.status == FAILED]


def reason_lost(trial: Trial) -> str:
    """Why a trial ended without rows, in one line."""
    error = trial.get_error()
    return redactor()(str(error).strip().splitlines()[-1]) if error else "the trial gave no result"
