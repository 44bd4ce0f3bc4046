"""What a sweep remembers outside artifacts: a log of rows, and MLflow runs nested under its own."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mad.config import canonical
from mad.runtime.engine import Engine, git_commit
from mad.runtime.sweep_plan import SHARED, Plan
from mad.runtime.tracking import NoTracker, RunRecord, flat
from mad.runtime.trial import Row
from mad.stages._base import stage_config, upstream
from mad.stages.detect import METRICS


class RowLog:
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


class Runs(ABC):
    """A sweep's own MLflow run and a nested one per trial; the same command, resumed, adds to the same run.

    Args:
        name: of the sweep.
        key: of its plan.
        params: settings that all trials share.
        engine: whose tracker gets the runs.
        tag: that names what a trial made, so that no later run of the sweep logs it again.
    """

    def __init__(self, name: str, key: str, params: dict[str, Any], engine: Engine, tag: str):
        self.engine, self.key, self.tag = engine, key, tag
        tags = {"mad.stage": "sweep", "mad.sweep": key, "mad.code": git_commit()}
        self.record = RunRecord(name, params, tags)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="mad-tracker")
        self._known: set[str] = set()

    def open(self) -> None:
        """Start the sweep's run, or go on with it."""
        tracker, tags = self.engine.tracker, {"mad.sweep": self.key}
        before = tracker.find({**tags, "mad.stage": "sweep"})
        if before:
            self.record.run_id, self.record.params = before[0].info.run_id, {}  # the run has its params
            trials = tracker.find({**tags, "mad.stage": "trial"})
            for run in [run for run in trials if run.info.status == "RUNNING"]:  # the driver was killed meanwhile
                tracker.finish(RunRecord(run.info.run_name, run_id=run.info.run_id), "KILLED")
            self._known = {run.data.tags.get(self.tag, "") for run in trials if run.info.status != "RUNNING"}
        else:
            tracker.start(self.record)
        self.engine.parent = self.record.run_id

    def track(self, row: Row) -> None:
        """Log a trial in the background, unless an earlier run of the sweep did."""
        known = row.get(self.tag.removeprefix("mad.")) in self._known
        if not known and not isinstance(self.engine.tracker, NoTracker):
            self._writer.submit(self._log, row)

    def _log(self, row: Row) -> None:
        record = self.record_of(row)
        record.tags |= {"mad.stage": "trial", "mad.sweep": self.key, "mad.status": row["status"]}
        record.tags |= {"mad.error": row["error"][-4000:]} if "error" in row else {}
        record.parent = self.record.run_id
        record.started -= row.get("seconds", 0.0)
        self.engine.tracker.start(record)
        self.engine.tracker.finish(record, "FAILED" if row["status"] == "failed" else "FINISHED")

    @abstractmethod
    def record_of(self, row: Row) -> RunRecord:
        """Name, params, metrics and own tags of a trial's run."""

    def flush(self) -> None:
        """Wait until every trial so far is logged: what is made next refers to their runs."""
        self._writer.submit(lambda: None).result()

    def close(self, status: str, plots: Sequence[Path] = ()) -> None:
        """Wait for the trials' runs, unless somebody waits for the end, and close the sweep's.

        What is not logged then is logged when the sweep goes on.
        """
        self._writer.shutdown(wait=True, cancel_futures=status == "KILLED")
        self.record.files += [(str(path), "plots") for path in plots]
        self.engine.tracker.finish(self.record, status)


class SweepRuns(Runs):
    """Runs of a sweep of detectors."""

    def __init__(self, plan: Plan, engine: Engine):
        config = next(iter(plan.groups.values())).chain.config
        sections = [canonical(stage_config(stage, config)) for stage in upstream(SHARED)]
        params = {k: v for section in sections for k, v in flat(section).items()}
        super().__init__(plan.name, plan.key, params, engine, "mad.detect")
        self._searched = {name for space in plan.study.search for name in space}

    def record_of(self, row: Row) -> RunRecord:
        """Detector, settings and validation figures."""
        tags = {f"mad.{name}": row[name] for name in ("fit", "detect", "features") if name in row}
        searched = {k: v for k, v in row["config"].items() if k in self._searched}
        name = " ".join([row["detector"], *(f"{k.rpartition('.')[2]}={v}" for k, v in searched.items())])
        record = RunRecord(name, {"detector": row["detector"], **row["config"]}, tags)
        record.metrics = [(k, float(v), 0) for k, v in row.items() if k.startswith("val_") or k == "seconds"]
        return record

    def finish(self, best: Row, result: dict[str, Any], plots: Sequence[Path]) -> None:
        """Close the sweep's run with the figures of what was chosen."""
        self.record.metrics += [(f"best_{k}", float(best[k]), 0) for k in ("val_auroc", *METRICS)]
        known = {k: v for k, v in result["model"].items() if v is not None}
        self.record.metrics += [(f"test_{k}", float(v), 0) for k, v in known.items()]
        self.record.metrics += [(f"seconds_{k}", v, 0) for k, v in result["seconds"].items()]
        self.record.tags["mad.best"] = best["detector"]
        self.close("FINISHED", plots)
