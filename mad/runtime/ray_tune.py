"""Configurations of detectors on Ray Tune: closed forms in bundles, what trains in epochs under ASHA, Optuna."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from mad.runtime.bundles import FAILED, OnRow, Trial, bundled, fit, reason_lost, run_bundles, slots, tell
from mad.runtime.spaces import distribution
from mad.runtime.study import Study
from mad.runtime.trial import Job, Row, Work, bare_row, run_trial
from mad.stats.random import derive

GRACE = 2
"""Epochs every trial gets before ASHA may stop it."""
EPOCHS = 10_000
"""More than any detector trains; ASHA wants a number."""


@lru_cache(maxsize=8)
def _job(text: str) -> Job:
    return Job.from_json(text)


def _configurations(params: dict[str, Any]) -> None:
    """Trainable: the configurations of one bundle, a row each; one that trains in epochs reports each of them."""
    tell(map(_run, _work(params)), lambda rows: {params["metric"]: _best(rows, params)})


def _run(work: Work) -> Row:
    report = (lambda epoch, figures: tune.report({**figures, "epoch": epoch})) if work.in_epochs else None
    return run_trial(_job(work.job), work.overrides, report, work.kept)


def _best(rows: list[Row], params: dict[str, Any]) -> float:
    values = [row[params["metric"]] for row in rows if row["status"] == "done"]
    return (max(values) if params["worst"] < 0 else min(values)) if values else params["worst"]


class _Rivals(FIFOScheduler):
    """ASHA (1810.05934) among configurations of one detector on one set of features.

    Across detectors it would drop a method for being slow to learn, or for having a harder task.
    """

    def __init__(self, study: Study):
        super().__init__()
        self._new = partial(ASHAScheduler, "training_iteration", study.metric, study.mode, EPOCHS, GRACE)
        self._asha: dict[tuple[str, str], ASHAScheduler] = {}
        self._plain = FIFOScheduler()

    def _of(self, trial: Any) -> FIFOScheduler:
        """The scheduler of a trial; what does not train in epochs just runs."""
        work = _work(trial.config)[0]
        if not work.in_epochs:
            return self._plain
        if work.label not in self._asha:
            self._asha[work.label] = self._new()
        return self._asha[work.label]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return self._of(trial).on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_remove(tune_controller, trial)


def run_all(study: Study, work: Sequence[Work], folder: Path, on_row: OnRow) -> None:
    """Run configurations: closed forms many to a trial, what trains in epochs one to a trial and under ASHA."""
    at_once = slots(study)
    alone = [[one] for one in work if one.in_epochs]
    bundles = bundled([one for one in work if not one.in_epochs], study, at_once)
    scheduler = _Rivals(study) if alone else None
    # The long ones first, so that none is left over at the end.
    run_bundles(
        _configurations, alone + bundles, _work, _constants(study), folder, on_row, _rowless, at_once, scheduler
    )


def run_optuna(study: Study, job: Job, seed: int, done: int, folder: Path, on_row: OnRow) -> None:
    """Let Optuna's TPE choose configurations; of ``done`` earlier ones it keeps what it learnt."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'optuna.db'}")
    search = OptunaSearch(
        space=partial(_suggest, study=study, constants={**_constants(study), "job": job.to_json()}),
        metric=study.metric,
        mode=study.mode,
        seed=derive(seed, "optuna", done) % 2**32,
        study_name="study",
        storage=storage,
    )
    if study.samples <= done:
        return
    samples = study.samples - done
    ended = fit(_configurations, {}, folder / "optuna", on_row, slots(study), search=search, samples=samples)
    for trial in (trial for trial, told in ended if not told):
        on_row(_rowless(_work(trial.config)[0], trial))


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


def _constants(study: Study) -> dict[str, Any]:
    return {"metric": study.metric, "worst": -math.inf if study.mode == "max" else math.inf}


def _work(params: dict[str, Any]) -> list[Work]:
    """The configurations of a trial, from its parameters."""
    if "work" in params:
        return [Work(**one) for one in json.loads(params["work"])]
    return [Work(params["job"], params[str(params["space"])], in_epochs=False)]


def _rowless(work: Work, trial: Trial) -> Row:
    """The row of a configuration that gave none: ASHA stopped it, or its process died."""
    row = {**bare_row(work.overrides), "features": work.label[0]}
    reached = {k: v for k, v in trial.last_result.items() if k.startswith("val_") or k == "epoch"}
    if trial.status != FAILED and reached:
        return {**row, **reached, "status": "stopped"}
    return {**row, "status": "failed", "error": reason_lost(trial)}
