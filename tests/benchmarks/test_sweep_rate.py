"""Trials per second of a sweep, from the command line, with MLflow on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mad.artifacts import META
from tests.benchmarks.figures import Figure, record, watched

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]
TRIALS = 64
TARGET = 3.0


def test_trials_per_second(tmp_path, monkeypatch):
    """64 closed-form trials of sweeps/backdoor.yaml; what they share, Ray's start among it, does not count."""
    import mlflow

    root = Path(__file__).parents[2]
    out = tmp_path / "result.json"
    command = [sys.executable, "-m", "mad.sweep", "backdoor", "--num_samples", str(TRIALS), "--json", str(out)]
    with watched() as load:
        subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
    result = json.loads(out.read_text())
    assert (result["trials"], result["failed"]) == (TRIALS, 0)
    seconds = result["seconds"]["trials"]

    mlflow.set_tracking_uri(result["mlflow"]["tracking_uri"])
    query = f"tags.`mad.stage` = 'trial' and tags.`mlflow.parentRunId` = '{result['mlflow']['run_id']}'"
    runs = mlflow.search_runs(
        experiment_names=[result["mlflow"]["experiment"]], filter_string=query, max_results=2 * TRIALS
    )
    assert len(runs) == TRIALS
    first, last = _span(Path(tmp_path / "home" / "artifacts"))
    start_up = seconds - (last - first)
    rate = TRIALS / seconds
    details = f"{seconds:.1f} s, of which {start_up:.1f} s before the first and after the last trial (Tune)"
    others = None  # Ray's processes are not our children, so they cannot be told from others'
    record(Figure("trials per second", f"{rate:.1f}", f"{TARGET:g}", others, details))
    del load
    assert rate >= TARGET


def _span(store: Path) -> tuple[float, float]:
    """When the first and the last validation scores of a trial were committed."""
    metas = [json.loads(file.read_text()) for file in store.glob(f"detect-*/{META}")]
    times = [m["created"] for m in metas if m["config"]["detect"]["part"] == "validation"]
    return min(times), max(times)
