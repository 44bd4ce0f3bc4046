"""A million metrics through the tracker, and what it then takes to read their run back."""

from __future__ import annotations

import time

import pytest

from mad.runtime.comparison import Comparison, compare
from mad.runtime.mlflow_runs import RunReader
from mad.runtime.mlflow_tracker import MlflowTracker
from mad.runtime.settings import Settings
from mad.runtime.tracking import RunRecord
from tests.benchmarks.figures import Figure, record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
COUNTS = (10_000, 100_000, 1_000_000)
NAMES = 20
"""Series of a run; a long training run logs a few figures at very many steps."""
RUNS = (100, 500)


@pytest.fixture(scope="module")
def where(tmp_path_factory) -> Settings:
    home = tmp_path_factory.mktemp("mlflow")
    return Settings(home, str(home / "artifacts"), f"sqlite:///{home}/mlflow.db", home / "files")


def timed(action):
    begun = time.perf_counter()
    result = action()
    return time.perf_counter() - begun, result


def test_a_million_metrics(where):
    """Logged in batches; the time of each does not grow, and reading a run back does not read its history."""
    tracker, each = MlflowTracker(where, "metrics"), {}
    for count in COUNTS:
        run = RunRecord(f"{count} metrics", {"detector": "knn"}, {"mad.stage": "trial"})
        tracker.start(run)
        run.metrics = [(f"val_{k % NAMES}", float(k), k // NAMES) for k in range(count)]
        run.metrics.append(("val_auroc", 0.5, 0))
        seconds, _ = timed(lambda run=run: tracker.finish(run, "FINISHED"))
        each[count] = 1e6 * seconds / count
    told = ", ".join(f"{value:.0f} µs each of {count:,}" for count, value in each.items())
    record(Figure("1,000,000 metrics logged", f"{each[COUNTS[-1]]:.0f} s", "", None, told))
    seconds, table = timed(lambda: compare(RunReader(where), Comparison(experiment="metrics", stage="trial")))
    record(Figure("their runs read back for a report", f"{seconds:.1f} s", "", None, "latest values only"))
    assert len(table.rows) == len(COUNTS)
    history, found = timed(lambda: tracker.client.get_metric_history(run.run_id, "val_0"))
    record(Figure(f"one series of {COUNTS[-1] // NAMES:,} steps read back", f"{history:.1f} s", ""))
    assert len(found) == COUNTS[-1] // NAMES
    assert each[COUNTS[-1]] < 3 * each[COUNTS[0]] and seconds < 10


def test_a_metric_at_a_time(where):
    """What a stage logs after every epoch: one call per step."""
    tracker, run = MlflowTracker(where, "steps"), RunRecord("steps", tags={"mad.stage": "train"})
    tracker.start(run)
    seconds, _ = timed(lambda: [tracker.log(run, {"loss": 1.0, "val_accuracy": 0.5}, step) for step in range(200)])
    tracker.finish(run, "FINISHED")
    record(Figure("an epoch's figures logged", f"{5 * seconds:.1f} ms", ""))
    assert seconds / 200 < 0.2


def test_runs_of_trials(where):
    """What every trial of a sweep costs in MLflow, and a report over all of them."""
    tracker, made = MlflowTracker(where, "trials"), 0
    parent = RunRecord("sweep", tags={"mad.stage": "sweep"})
    tracker.start(parent)
    told = []
    for count in RUNS:
        seconds, _ = timed(lambda made=made, count=count: [trial(tracker, parent, n) for n in range(made, count)])
        told.append(f"{1000 * seconds / (count - made):.0f} ms each up to {count:,}")
        made = count
    record(Figure("a trial's run in MLflow", told[-1].partition(" each")[0], "", None, ", ".join(told)))
    seconds, table = timed(lambda: compare(RunReader(where), Comparison(experiment="trials", stage="trial")))
    assert len(table.rows) == RUNS[-1]
    record(Figure(f"a report over {RUNS[-1]:,} trials", f"{seconds:.1f} s", "", None, "mad report --stage trial"))


def trial(tracker: MlflowTracker, parent: RunRecord, number: int) -> None:
    params = {"detector": "mahalanobis", "detector.shrinkage": number, "detector.rcond": 1e-5, "detect.layers": []}
    tags = {"mad.stage": "trial", "mad.detect": f"detect-{number:020d}", "mad.status": "done"}
    run = RunRecord(f"mahalanobis {number}", params, tags, parent=parent.run_id)
    run.metrics = [(f"val_{name}", 0.5, 0) for name in ("auroc", "ap", "fpr95")]
    tracker.start(run)
    tracker.finish(run, "FINISHED")
