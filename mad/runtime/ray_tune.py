"""Trials on Ray Tune: small, actors reused, closed-form configurations bundled many to a trial."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from mad.runtime.cluster import check_capacity, connect
from mad.runtime.study import Study, distribution
from mad.runtime.trial import Job, Row, bare_row, run_trial
from mad.stats.random import derive

OnRow = Callable[[Row], None]
BUNDLE = 64
"""Most configurations in one trial: an interruption loses at most the work on one of them."""
MAX_FAILURES = 3
"""Times a trial whose process died is run again."""
GRACE = 2
"""Epochs every trial gets before ASHA may stop it."""


@lru_cache(maxsize=2)
def _job(text: str) -> Job:
    return Job.from_json(text)


def _bundle(params: dict[str, Any]) -> None:
    """Trainable: the configurations of one bundle, one row each."""
    job = _job(params["job"])
    rows = [run_trial(job, overrides) for overrides in json.loads(params["configs"])]
    tune.report({"rows": json.dumps(rows), params["metric"]: _best(rows, params)})


def _epochs(params: dict[str, Any]) -> None:
    """Trainable: one configuration that trains in epochs and reports each, so that ASHA can stop it."""
    job = _job(params["job"])
    (overrides,) = json.loads(params["configs"])
    row = run_trial(job, overrides, lambda epoch, figures: tune.report({**figures, "epoch": epoch}))
    tune.report({"rows": json.dumps([row]), params["metric"]: _best([row], params)})


def _suggested(params: dict[str, Any]) -> None:
    """Trainable: one configuration that the search algorithm chose."""
    (overrides,) = _overrides(params)
    row = run_trial(_job(params["job"]), overrides)
    tune.report({"rows": json.dumps([row]), params["metric"]: _best([row], params)})


def _best(rows: list[Row], params: dict[str, Any]) -> float:
    values = [row[params["metric"]] for row in rows if row["status"] == "done"]
    return (max(values) if params["worst"] < 0 else min(values)) if values else params["worst"]


class _Rows(tune.Callback):
    """Hands rows to the driver as they come."""

    def __init__(self, on_row: OnRow):
        self.on_row = on_row

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks for a restore that is not used; done trials are in the store."""
        return {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Called in the driver after every report."""
        for row in json.loads(result.get("rows", "[]")):
            self.on_row(row)


def slots(study: Study) -> int:
    """Trials at once: as asked, else the CPUs of the cluster."""
    connect()
    check_capacity({"CPU": 1})
    return study.concurrency or max(1, int(ray.cluster_resources().get("CPU", 1)))


def run_bundles(study: Study, job: Job, configs: list[dict[str, Any]], folder: Path, on_row: OnRow) -> None:
    """Run closed-form configurations, many to a trial."""
    at_once = slots(study)
    size = study.bundle or min(BUNDLE, math.ceil(len(configs) / (4 * at_once)))
    bundles = [json.dumps(configs[i : i + size]) for i in range(0, len(configs), size)]
    space = {**_constants(study, job), "configs": tune.grid_search(bundles)}
    _fit(_bundle, study, space, folder / "bundles", on_row, at_once)


def run_epochs(study: Study, job: Job, configs: list[dict[str, Any]], folder: Path, on_row: OnRow) -> None:
    """Run configurations that train in epochs under ASHA (1810.05934), which stops the poor ones early."""
    scheduler = ASHAScheduler(
        time_attr="training_iteration", metric=study.metric, mode=study.mode, grace_period=GRACE, max_t=10_000
    )
    space = {**_constants(study, job), "configs": tune.grid_search([json.dumps([config]) for config in configs])}
    _fit(_epochs, study, space, folder / "epochs", on_row, slots(study), scheduler=scheduler)


def run_optuna(study: Study, job: Job, seed: int, done: int, folder: Path, on_row: OnRow) -> None:
    """Let Optuna's TPE choose configurations; of ``done`` earlier ones it keeps what it learnt."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'optuna.db'}")
    search = OptunaSearch(
        space=partial(_suggest, study=study, constants=_constants(study, job)),
        metric=study.metric,
        mode=study.mode,
        seed=derive(seed, "optuna", done) % 2**32,
        study_name="study",
        storage=storage,
    )
    if study.samples <= done:
        return
    _fit(_suggested, study, {}, folder / "optuna", on_row, slots(study), search=search, samples=study.samples - done)


def _suggest(trial: Any, study: Study, constants: dict[str, Any]) -> dict[str, Any]:
    """Define-by-run: first which space, then its dimensions; Tune nests ``0/name`` as ``{"0": {"name": ...}}``."""
    index = trial.suggest_categorical("space", list(range(len(study.search))))
    for name, dimension in study.search[index].items():
        kind, given = distribution(name, dimension)
        label = f"{index}/{name}"
        if kind == "choice":
            trial.suggest_categorical(label, given)
        elif kind == "randint":
            trial.suggest_int(label, *given)
        else:
            trial.suggest_float(label, *given, log=kind == "loguniform")
    return constants


def _constants(study: Study, job: Job) -> dict[str, Any]:
    return {
        "job": job.to_json(),
        "metric": study.metric,
        "worst": -math.inf if study.mode == "max" else math.inf,
    }


def _fit(
    trainable: Callable[[dict[str, Any]], None],
    study: Study,
    space: dict[str, Any],
    folder: Path,
    on_row: OnRow,
    at_once: int,
    scheduler: Any = None,
    search: Any = None,
    samples: int = 1,
) -> None:
    """Run the trials; every configuration gets a row, also where its trial broke or was stopped."""
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
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
            callbacks=[_Rows(on_row)],
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    results = tuner.fit()
    for result in (results[i] for i in range(len(results))):
        if "rows" not in (result.metrics or {}):
            for overrides in _overrides(result.config or {}):
                on_row(_rowless(overrides, result))


def _overrides(params: dict[str, Any]) -> list[dict[str, Any]]:
    """The configurations of a trial, from its parameters."""
    if "configs" in params:
        return json.loads(params["configs"])
    return [params[str(params["space"])]]


def _rowless(overrides: dict[str, Any], result: tune.Result) -> Row:
    reached = {k: v for k, v in (result.metrics or {}).items() if k.startswith("val_") or k == "epoch"}
    if result.error is None and reached:
        return {**bare_row(overrides), **reached, "status": "stopped"}
    error = str(result.error).strip().splitlines()[-1] if result.error else "the trial gave no result"
    return {**bare_row(overrides), "status": "failed", "error": error}
