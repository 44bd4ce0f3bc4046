"""Running a sweep: shared stages once, trials on Ray Tune, the best of each detector measured on test rows."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from mad.artifacts import Artifact
from mad.config import canonical
from mad.errors import FitError
from mad.runtime import chain as chains
from mad.runtime.engine import Engine, git_commit
from mad.runtime.sweep_plan import SHARED, WHOLE, Group, Plan
from mad.runtime.sweep_report import write_report
from mad.runtime.tracking import NoTracker, RunRecord, flat
from mad.runtime.trial import STAGES, Row, row_of, trains_in_epochs
from mad.stages._base import stage_config, upstream
from mad.stages.detect import METRICS
from mad.stages.detect import Options as DetectOptions


class Sweep:
    """Runs a plan.

    Args:
        plan: what to do.
        engine: runs stages.
    """

    def __init__(self, plan: Plan, engine: Engine):
        self.plan, self.engine = plan, engine
        home = engine.settings.home
        self.folder = home / "sweeps" / plan.key
        self.report_folder = home / "reports" / f"{plan.name}-{plan.key[-8:]}"
        self.rows: list[Row] = []
        self._runs = _SweepRuns(plan, engine)
        self._log = _RowLog(self.folder / "rows.jsonl")

    def run(self) -> dict[str, Any]:
        """Run everything that is not done yet.

        Returns:
            What ``--json`` writes.

        Raises:
            FitError: every configuration failed.
        """
        begun = time.monotonic()
        self._runs.open()
        try:
            shared = {key: chains.run(self.engine, group.chain) for key, group in self.plan.groups.items()}
            started = time.monotonic()
            for group in self.plan.groups.values():
                self._trials(group)
            self.engine.seconds["trials"] = time.monotonic() - started
            self._runs.flush()
            board = self._leaderboard()
            best = shared[board[0]["features"]]
            result = self._result(board, best, time.monotonic() - begun)
            plots = write_report(self.report_folder, self.plan, board, self.rows, best)
        except BaseException as error:
            self._runs.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        self._runs.close("FINISHED", board[0], result, plots)
        result["seconds"]["total"] = time.monotonic() - begun
        return result

    def _trials(self, group: Group) -> None:
        on_row = partial(self._add, group)
        if self.engine.force & set(STAGES):
            # Here and at once: a trial that deleted for itself could take a detector away from another.
            for key in {key for trial in group.trials.values() for key in (trial.detect, trial.fit)}:
                self.engine.store.delete(key)
            shutil.rmtree(self.folder, ignore_errors=True)
        before = self._log.read()
        for trial in group.trials.values():
            found = self.engine.find(trial.detect) if trial.done else None
            trial.done = found is not None
            if found is not None:
                on_row(row_of(found, trial.config, trial.fit))
            elif trial.detect in before:
                trial.done = True
                on_row(before[trial.detect])
        if self.plan.study.algorithm == "optuna":
            self._optuna(group, on_row, before)
            return
        slow = [t.overrides for t in group.todo if trains_in_epochs(t.config)]
        quick = [t.overrides for t in group.todo if not trains_in_epochs(t.config)]
        if slow or quick:
            from mad.runtime.ray_tune import run_bundles, run_epochs

            # What is done is known from the store, so every Tune run starts a folder of its own.
            folder = self.folder / f"tune-{int(time.time() * 1000)}"
            if quick:
                run_bundles(self.plan.study, group.job, quick, folder, on_row)
            if slow:
                run_epochs(self.plan.study, group.job, slow, folder, partial(self._add_stoppable, group))

    def _optuna(self, group: Group, on_row: Callable[[Row], None], before: dict[str, Row]) -> None:
        from mad.runtime.ray_tune import run_optuna

        store = self.engine.store
        kept = [row for row in before.values() if store.has(row["fit"]) and store.has(row["detect"])]
        for row in kept:
            on_row(row)

        def keep(row: Row) -> None:
            if row["status"] == "done":
                self._log.append(row)
            on_row(row)

        run_optuna(self.plan.study, group.job, self.plan.seed, len(kept), self.folder, keep)

    def _add_stoppable(self, group: Group, row: Row) -> None:
        """A row of ASHA: a stopped configuration is remembered, for against fewer rivals it would go on."""
        if row["status"] == "stopped":
            overrides = {"detector": row["detector"], **row["config"]}
            row["detect"] = group.job.keys(group.job.chain(overrides))[1]
            self._log.append(row)
        self._add(group, row)

    def _add(self, group: Group, row: Row) -> None:
        row = {**row, "features": group.keys[SHARED], "config": {**group.shared, **row["config"]}}
        self.rows.append(row)
        self.engine.progress.update("trials", len(self.rows), self.plan.size)
        self._runs.track(row)

    def _leaderboard(self) -> list[Row]:
        """The best configuration of each detector on validation rows, with its test figures."""
        done = [row for row in self.rows if row["status"] == "done"]
        if not done:
            errors = [row["error"] for row in self.rows if "error" in row]
            raise FitError(f"every configuration failed; the first: {errors[0] if errors else 'no trial ran'}")
        best: dict[str, Row] = {}
        for row in sorted(done, key=lambda r: (self._order(r), json.dumps(r["config"], sort_keys=True))):
            best.setdefault(row["detector"], row)
        return [self._test(row) for row in best.values()]

    def _order(self, row: Row) -> float:
        value = row[self.plan.study.metric]
        return -value if self.plan.study.mode == "max" else value

    def _test(self, row: Row) -> Row:
        """Test figures and plots of a chosen configuration: computed once, for what validation rows chose."""
        store, group = self.engine.store, self.plan.groups[row["features"]]
        given = {stage: store.open(key) for stage, key in group.keys.items() if stage in ("prepare", SHARED)}
        given["fit"] = store.open(row["fit"])
        chosen = store.open(row["detect"]).meta["config"]["detect"]
        resamples = group.job.base.get("detect", {}).get("bootstrap", DetectOptions.bootstrap)
        base = {"detect": {**chosen, "part": "test", "bootstrap": resamples}, "seed": group.job.base["seed"]}
        base["report"] = self.plan.report
        artifacts = chains.run(self.engine, chains.resolve(WHOLE, base, {}, given, store))
        scores = artifacts["detect"]
        low, high = scores.json("metrics.json")["intervals"].get("score", {}).get("auroc", (None, None))
        figures = {name: scores.summary[name] for name in METRICS}
        return {**row, **figures, "auroc_low": low, "auroc_high": high, "scores": scores, "report": artifacts[WHOLE]}

    def _result(self, board: list[Row], shared: dict[str, Artifact], seconds: float) -> dict[str, Any]:
        columns = ("detector", "config", "val_auroc", *METRICS)
        leaderboard = [{name: row[name] for name in columns} for row in board]
        model, tracker = shared["train"].summary, self.engine.tracker
        keys = {name: artifact.key for name, artifact in shared.items()}
        return {
            "sweep": self.plan.name,
            "trials": len(self.rows),
            "failed": sum(row["status"] == "failed" for row in self.rows),
            "best": leaderboard[0],
            "leaderboard": leaderboard,
            "model": {name: model[name] for name in ("clean_accuracy", "attack_success_rate")},
            "seconds": {**self.engine.seconds, "total": seconds},
            "mlflow": {
                "tracking_uri": tracker.uri,
                "experiment": tracker.experiment,
                "run_id": self._runs.record.run_id,
            },
            "artifacts": {
                **keys,
                "fit": board[0]["fit"],
                "detect": board[0]["scores"].key,
                "report": board[0]["report"].key,
            },
        }


class _RowLog:
    """Rows that no artifact can tell of: what a search chose, and what ASHA stopped; by key of their scores."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> dict[str, Row]:
        """Every whole line; a last one that was cut off is dropped from the file too."""
        if not self.path.exists():
            return {}
        text = self.path.read_text()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            self.path.write_text(whole)
        return {row["detect"]: row for row in map(json.loads, whole.splitlines())}

    def append(self, row: Row) -> None:
        """Add a row."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


class _SweepRuns:
    """The sweep's own MLflow run and a nested one per trial; the same command, resumed, adds to the same run."""

    def __init__(self, plan: Plan, engine: Engine):
        self.plan, self.engine = plan, engine
        config = next(iter(plan.groups.values())).chain.config
        sections = [canonical(stage_config(stage, config)) for stage in upstream(SHARED)]
        params = {k: v for section in sections for k, v in flat(section).items()}
        tags = {"mad.stage": "sweep", "mad.sweep": plan.key, "mad.code": git_commit()}
        self.record = RunRecord(plan.name, params, tags)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="mad-tracker")
        self._known: set[str] = set()
        self._searched = {name for space in plan.study.search for name in space}

    def open(self) -> None:
        """Start the sweep's run, or go on with it."""
        tracker, tags = self.engine.tracker, {"mad.sweep": self.plan.key}
        before = tracker.find({**tags, "mad.stage": "sweep"})
        if before:
            self.record.run_id, self.record.params = before[0].info.run_id, {}  # the run has its params
            trials = tracker.find({**tags, "mad.stage": "trial"})
            self._known = {run.data.tags.get("mad.detect", "") for run in trials}
        else:
            tracker.start(self.record)
        self.engine.parent = self.record.run_id

    def track(self, row: Row) -> None:
        """Log a trial in the background, unless an earlier run of the sweep did."""
        if row.get("detect", None) not in self._known and not isinstance(self.engine.tracker, NoTracker):
            self._writer.submit(self._log, row)

    def _log(self, row: Row) -> None:
        tags = {"mad.stage": "trial", "mad.sweep": self.plan.key}
        tags |= {f"mad.{name}": row[name] for name in ("fit", "detect", "features") if name in row}
        tags |= {"mad.error": row["error"][-4000:]} if "error" in row else {}
        tags |= {"mad.status": row["status"]}
        searched = {k: v for k, v in row["config"].items() if k in self._searched}
        name = " ".join([row["detector"], *(f"{k.rpartition('.')[2]}={v}" for k, v in searched.items())])
        record = RunRecord(name, {"detector": row["detector"], **row["config"]}, tags)
        record.parent = self.record.run_id
        record.started -= row.get("seconds", 0.0)
        record.metrics = [(k, float(v), 0) for k, v in row.items() if k.startswith("val_") or k == "seconds"]
        self.engine.tracker.start(record)
        self.engine.tracker.finish(record, "FAILED" if row["status"] == "failed" else "FINISHED")

    def flush(self) -> None:
        """Wait until every trial so far is logged: what is made next refers to their runs."""
        self._writer.submit(lambda: None).result()

    def close(
        self,
        status: str,
        best: Row | None = None,
        result: dict[str, Any] | None = None,
        plots: list[Path] | None = None,
    ) -> None:
        """Wait for the trials' runs and close the sweep's."""
        self._writer.shutdown(wait=True)
        if best and result:
            self.record.metrics += [(f"best_{k}", float(best[k]), 0) for k in ("val_auroc", *METRICS)]
            self.record.metrics += [(f"test_{k}", float(v), 0) for k, v in result["model"].items()]
            self.record.metrics += [(f"seconds_{k}", v, 0) for k, v in result["seconds"].items()]
            self.record.tags["mad.best"] = best["detector"]
        self.record.files += [(str(path), "plots") for path in plots or []]
        self.engine.tracker.finish(self.record, status)
