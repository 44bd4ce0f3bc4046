"""Sweeps whose configurations are bundled and leave no artifacts: the same result, killed and interrupted or not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import yaml

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[1]
COUNT = 120
STUDY = {
    "base": {"task": "backdoor", "model": "mlp", "train": {"epochs": 6, "workers": 0}},
    "search": [
        {
            "detector": ["mahalanobis"],
            "detector.shrinkage": {"uniform": [0.0, 1.0]},
            "detector.rcond": {"loguniform": [1e-6, 1e-1]},
            "detect.aggregation": ["mean", "max"],
        },
        {"detector": ["isolation_forest"], "detector.trees": {"randint": [20, 200]}},
        {"detector": ["knn"], "detector.k": [100_000]},
    ],
    "algorithm": "random",
}


def start(home: Path, *words: str) -> subprocess.Popen:
    home.mkdir(exist_ok=True)
    (home / "study.yaml").write_text(yaml.safe_dump(STUDY))
    environment = {**os.environ, "MAD_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mad.sweep", str(home / "study.yaml"), "--num_samples", str(COUNT), *words]
    log = (home / "log.txt").open("ab")
    return subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True)


def finish(home: Path, *words: str) -> dict:
    process = start(home, "--json", str(home / "result.json"), *words)
    assert process.wait(600) == 0, (home / "log.txt").read_text()[-3000:]
    return json.loads((home / "result.json").read_text())


def remembered(home: Path) -> list[str]:
    """Lines of the log of rows."""
    return [line for file in home.glob("sweeps/*/rows.jsonl") for line in file.read_text().splitlines()]


def stop(home: Path, process: subprocess.Popen, how: signal.Signals, after: int) -> list[str]:
    """Send a signal once so many rows are remembered; what is remembered then."""
    deadline = time.monotonic() + 300
    while len(remembered(home)) <= after:
        assert process.poll() is None, (home / "log.txt").read_text()[-3000:]
        assert time.monotonic() < deadline, "no row came in time"
        time.sleep(0.02)
    os.kill(process.pid, how)
    assert process.wait(120) == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    return remembered(home)


def tables(home: Path) -> tuple[bytes, pd.DataFrame]:
    (folder,) = home.glob("reports/study-*")
    return (folder / "leaderboard.csv").read_bytes(), pd.read_csv(folder / "trials.csv").drop(columns="seconds")


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[Path, dict]:
    """Every configuration a trial of its own, all artifacts kept."""
    home = tmp_path_factory.mktemp("alone")
    return home, finish(home, "--bundle", "1", "--keep", "all")


def same(home: Path, result: dict, other: Path, wanted: dict) -> None:
    board, trials = tables(home)
    expected, every = tables(other)
    assert board == expected
    pd.testing.assert_frame_equal(trials, every)
    for name in ("trials", "failed", "best", "leaderboard", "model", "subjects", "artifacts"):
        assert result[name] == wanted[name], name


def runs(result: dict) -> list:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=result["mlflow"]["tracking_uri"])
    experiment = client.get_experiment_by_name(result["mlflow"]["experiment"])
    found = client.search_runs([experiment.experiment_id], "tags.`mad.stage` = 'trial'", max_results=10_000)
    assert {run.data.tags["mlflow.parentRunId"] for run in found} == {result["mlflow"]["run_id"]}
    return [run for run in found if run.info.status != "KILLED"]


def test_bundled_is_as_alone(alone, tmp_path):
    other, wanted = alone
    result = finish(tmp_path, "--bundle", "64", "--keep", "chosen")
    same(tmp_path, result, other, wanted)
    assert wanted["failed"] > 0  # k above the number of trusted rows: each by itself
    left = {where: len(list(where.glob("artifacts/detect-*"))) for where in (other, tmp_path)}
    assert left[other] > 60 and left[tmp_path] < 10
    status = Counter(run.info.status for run in runs(result))
    assert status == {"FINISHED": result["trials"] - result["failed"], "FAILED": result["failed"]}


def test_killed_and_interrupted_it_goes_on(alone, tmp_path):
    words = ["--bundle", "10", "--keep", "chosen"]
    killed = stop(tmp_path, start(tmp_path, *words), signal.SIGKILL, 4)
    interrupted = stop(tmp_path, start(tmp_path, *words), signal.SIGINT, len(killed))
    assert interrupted[: len(killed)] == killed and "what is done is kept" in (tmp_path / "log.txt").read_text()
    result = finish(tmp_path, *words)
    after = remembered(tmp_path)
    assert after[: len(interrupted)] == interrupted and len(interrupted) < len(after)
    assert max(Counter(json.loads(line)["detect"] for line in after).values()) == 1
    same(tmp_path, result, *alone)
    finished = [run.data.tags["mad.detect"] for run in runs(result) if run.info.status == "FINISHED"]
    assert len(finished) == len(set(finished)) == result["trials"] - result["failed"]
    assert all("val_auroc" in run.data.metrics for run in runs(result) if run.info.status == "FINISHED")
