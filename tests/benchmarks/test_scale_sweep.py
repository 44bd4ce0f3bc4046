"""Ten thousand closed-form configurations in one sweep, from the command line, with MLflow on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.benchmarks.figures import Figure, record

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(3600)]
CONFIGURATIONS = int(os.environ.get("MAD_SCALE", "10000"))
MINUTES, GIB = 15, 2.0
STUDY = {
    "base": {"task": "backdoor", "model": "mlp", "train": {"epochs": 20, "workers": 0}},
    "search": [
        {
            "detector": ["mahalanobis"],
            "detector.shrinkage": {"uniform": [0.0, 1.0]},
            "detector.rcond": {"loguniform": [1e-6, 1e-1]},
            "detector.null_space": ["floor", "drop"],
        }
    ],
    "algorithm": "random",
}


def peak(pid: int) -> float:
    """GiB that a process has had resident at most."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return max((int(line.split()[1]) / 2**20 for line in status.splitlines() if line.startswith("VmHWM")), default=0.0)


def size(folder: Path) -> tuple[int, int]:
    """Files below a folder and their bytes."""
    found = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    return len(found), sum(found)


def test_ten_thousand_configurations(tmp_path):
    """Each is a row and an MLflow run of its own; what is chosen has its artifacts, and the disk stays small."""
    study, out, home = tmp_path / "study.yaml", tmp_path / "result.json", Path(os.environ["MAD_HOME"])
    study.write_text(yaml.safe_dump(STUDY))
    words = [str(study), "--num_samples", str(CONFIGURATIONS), "--json", str(out)]
    begun, most = time.monotonic(), 0.0
    with (tmp_path / "log.txt").open("wb") as log:
        driver = subprocess.Popen([sys.executable, "-m", "mad.sweep", *words], cwd=Path.cwd(), stdout=log, stderr=log)
        while driver.poll() is None:
            most = max(most, peak(driver.pid))
            time.sleep(0.2)
    seconds = time.monotonic() - begun
    assert driver.returncode == 0, (tmp_path / "log.txt").read_text()[-3000:]
    result = json.loads(out.read_text())
    assert (result["trials"], result["failed"]) == (CONFIGURATIONS, 0)
    (trials,) = home.glob("reports/study-*/trials.csv")
    assert len(pd.read_csv(trials)) == CONFIGURATIONS == logged(result)
    parts = ", ".join(f"{name} {value:.0f} s" for name, value in result["seconds"].items())
    name = f"{CONFIGURATIONS:,} configurations"
    record(Figure(name, f"{seconds / 60:.1f} min", f"{MINUTES} min", None, parts))
    record(Figure(f"{name}: driver's memory", f"{most:.2f} GiB", f"{GIB:g} GiB"))
    for folder in ("artifacts", "sweeps", "mlflow.db", "reports", "mlflow-artifacts"):
        if (home / folder).is_dir():
            files, held = size(home / folder)
        else:
            files, held = 1, (home / folder).stat().st_size
        told = f"{held / CONFIGURATIONS / 1000:.2f} kB per configuration, {files} files"
        record(Figure(f"{name}: {folder}", f"{held / 1e6:.1f} MB", "", None, told))
    assert seconds < 60 * MINUTES * CONFIGURATIONS / 10_000 + 120 * (CONFIGURATIONS < 10_000)
    assert most < GIB


def logged(result: dict) -> int:
    """Finished runs of trials under the sweep's run."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=result["mlflow"]["tracking_uri"])
    experiment = client.get_experiment_by_name(result["mlflow"]["experiment"])
    query = f"tags.`mad.stage` = 'trial' and tags.`mlflow.parentRunId` = '{result['mlflow']['run_id']}'"
    query += " and attributes.status = 'FINISHED'"
    keys, token = set(), None
    while True:
        page = client.search_runs([experiment.experiment_id], query, max_results=1000, page_token=token)
        keys |= {run.data.tags["mad.detect"] for run in page}
        token = page.token
        if not token:
            return len(keys)
