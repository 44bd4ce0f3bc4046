"""Trials per second of a sweep, from the command line, with MLflow on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mad.artifacts import META
from tests.benchmarks.figures import Figure, record

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]
TRIALS = 64
TARGET = 3.0


def test_trials_per_second(tmp_path):
    """64 closed-form trials of sweeps/backdoor.yaml; what they share, Ray's start among it, does not count."""
    import mlflow

    out, root = tmp_path / "result.json", Path(__file__).parents[2]
    command = [sys.executable, "-m", "mad.sweep", "backdoor", "--num_samples", str(TRIALS), "--json", str(out)]
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
    result = json.loads(out.read_text())
    assert (result["trials"], result["failed"]) == (TRIALS, 0)

    mlflow.set_tracking_uri(result["mlflow"]["tracking_uri"])
    query = f"tags.`mad.stage` = 'trial' and tags.`mlflow.parentRunId` = '{result['mlflow']['run_id']}'"
    names = [result["mlflow"]["experiment"]]
    runs = mlflow.search_runs(experiment_names=names, filter_string=query, max_results=2 * TRIALS)
    assert len(runs) == TRIALS

    seconds = result["seconds"]["trials"]
    first, last = _span(Path(os.environ["MAD_HOME"]) / "artifacts")
    # Ray's processes are not our children, so what others used cannot be told.
    share = 1 - (last - first) / seconds
    details = f"{seconds:.1f} s; {share:.0%} of it Tune's start and end: before the first scores and after the last"
    record(Figure("trials per second", f"{TRIALS / seconds:.1f}", f"{TARGET:g}", None, details))
    assert TRIALS / seconds >= TARGET


def _span(store: Path) -> tuple[float, float]:
    """When the first and the last validation scores of a trial were committed."""
    metas = [json.loads(file.read_text()) for file in store.glob(f"detect-*/{META}")]
    times = [m["created"] for m in metas if m["config"]["detect"]["part"] == "validation"]
    return min(times), max(times)
