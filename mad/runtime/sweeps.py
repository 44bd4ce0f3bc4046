"""Running a sweep: shared stages once, trials on Ray Tune, the best of each detector measured on test rows."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Collection
from typing import Any

from mad.artifacts import Artifact
from mad.errors import ConfigError, DataError, FitError
from mad.runtime import chain as chains
from mad.runtime import sweep_results as results
from mad.runtime.engine import Engine
from mad.runtime.sweep_plan import SHARED, WHOLE, Group, Plan
from mad.runtime.sweep_report import write_report
from mad.runtime.sweep_runs import RowLog, SweepRuns
from mad.runtime.trial import STAGES, Row, Work, bare_row, row_of, trains_in_epochs

log = logging.getLogger("mad")


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
        self._runs = SweepRuns(plan, engine)
        self._log = RowLog(self.folder / "rows.jsonl")

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
            shared = self._shared()
            started = time.monotonic()
            self._trials(shared)
            self.engine.seconds["trials"] = time.monotonic() - started
            self._runs.flush()
            board = self._board()
            result = self._result(board, shared, time.monotonic() - begun)
            plots = write_report(self.report_folder, self.plan, board, results.ordered(self.plan, self.rows), shared)
        except BaseException as error:
            self._runs.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        self._runs.finish(board[0], result, plots)
        result["seconds"]["total"] = time.monotonic() - begun
        return result

    def _shared(self) -> dict[str, dict[str, Artifact]]:
        """Artifacts of the shared stages by subject; one that cannot be had costs its own trials, not the others'."""
        found = {}
        for key, group in self.plan.groups.items():
            try:
                found[key] = chains.run(self.engine, group.chain)
            except (ConfigError, DataError, FitError) as error:
                if len(self.plan.groups) == 1:
                    raise
                told = " ".join(str(error).split())
                log.warning("%s: %s", group.label, told)
                for trial in group.trials.values():
                    trial.done = True
                    facts = {"features": key, "status": "failed", "error": told}
                    self._add({**bare_row(trial.overrides), **facts})
        return found

    def _trials(self, subjects: Collection[str]) -> None:
        if self.engine.force & set(STAGES):
            # Here and at once: a trial that deleted for itself could take a detector away from another.
            for group in self.plan.groups.values():
                for key in {key for trial in group.trials.values() for key in (trial.detect, trial.fit)}:
                    self.engine.store.delete(key)
            shutil.rmtree(self.folder, ignore_errors=True)
        before = self._log.read()
        work = [one for key in subjects for one in self._work(self.plan.groups[key], before)]
        if self.plan.study.algorithm == "optuna":
            (group,) = self.plan.groups.values()
            self._optuna(group, before)
        elif work:
            from mad.runtime.ray_tune import run_all

            # What is done is known from the store, so every Tune run starts a folder of its own.
            run_all(self.plan.study, work, self.folder / f"tune-{int(time.time() * 1000)}", self._finished)

    def _work(self, group: Group, before: dict[str, Row]) -> list[Work]:
        """What is left to try on one subject; rows of what is done are taken over."""
        for trial in group.trials.values():
            found = self.engine.find(trial.detect) if trial.done else None
            trial.done = found is not None
            if found is not None:
                self._add({**row_of(found, trial.config, trial.fit), "features": group.keys[SHARED]})
            elif trial.detect in before:
                trial.done = True
                self._add(before[trial.detect])
        job, keeps = group.job.to_json(), self.plan.keeps_all
        todo = [(trial.overrides, trains_in_epochs(trial.config)) for trial in group.todo]
        return [Work(job, overrides, in_epochs, kept=keeps or in_epochs) for overrides, in_epochs in todo]

    def _optuna(self, group: Group, before: dict[str, Row]) -> None:
        from mad.runtime.ray_tune import run_optuna

        store = self.engine.store
        kept = [row for row in before.values() if store.has(row["fit"]) and store.has(row["detect"])]
        for row in kept:
            self._add(row)

        def keep(row: Row) -> None:
            if row["status"] == "done":
                self._log.append(row)
            self._add(row)

        run_optuna(self.plan.study, group.job, self.plan.seed, len(kept), self.folder, keep)

    def _finished(self, row: Row) -> None:
        """A new row; one that no artifact tells is remembered.

        So is a configuration that ASHA stopped: against fewer rivals it would go on.
        """
        if row["status"] == "stopped":
            job = self.plan.groups[row["features"]].job
            row["detect"] = job.keys(job.chain({"detector": row["detector"], **row["config"]}))[1]
            self._log.append(row)
        elif row["status"] == "done" and not self.plan.keeps_all:
            self._log.append(row)
        self._add(row)

    def _add(self, row: Row) -> None:
        shared = self.plan.groups[row["features"]].shared
        row = {**row, "config": {**shared, **row["config"]}}
        self.rows.append(row)
        self.engine.progress.update("trials", len(self.rows), self.plan.size)
        self._runs.track(row)

    def _board(self) -> list[Row]:
        """What was chosen, with test figures; plots for every detector, or of several subjects for the best."""
        chosen = results.choose(self.plan, self.rows)
        for row in chosen:
            results.make(self.engine, self.plan, row)
        drawn = chosen if len(self.plan.groups) == 1 else _first_of_each(chosen)
        board = []
        for done, row in enumerate(chosen, start=1):
            last = WHOLE if row in drawn else "detect"
            board.append(results.test(self.engine, self.plan, row, last))
            self.engine.progress.update("test", done, len(chosen))
        return board

    def _result(self, board: list[Row], shared: dict[str, dict[str, Artifact]], seconds: float) -> dict[str, Any]:
        leaderboard = [results.line(self.plan, row) for row in board]
        best, tracker = board[0]["features"], self.engine.tracker
        groups = {key: self.plan.groups[key] for key in shared}
        subjects = {k: results.subject(self.engine, self.plan, g, shared[k], board) for k, g in groups.items()}
        return {
            "sweep": self.plan.name,
            "trials": len(self.rows),
            "failed": sum(row["status"] == "failed" for row in self.rows),
            "best": leaderboard[0],
            "leaderboard": leaderboard,
            "model": subjects[best]["model"],
            "subjects": list(subjects.values()),
            "seconds": {**self.engine.seconds, "total": seconds},
            "mlflow": {
                "tracking_uri": tracker.uri,
                "experiment": tracker.experiment,
                "run_id": self._runs.record.run_id,
            },
            "artifacts": {
                **{name: artifact.key for name, artifact in shared[best].items()},
                "fit": board[0]["fit"],
                "detect": board[0]["scores"].key,
                "report": board[0]["report"].key,
            },
        }


def _first_of_each(board: list[Row]) -> list[Row]:
    """The first row of every subject."""
    first: dict[str, Row] = {}
    for row in board:
        first.setdefault(row["features"], row)
    return list(first.values())
