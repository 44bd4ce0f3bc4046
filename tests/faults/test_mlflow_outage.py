"""An MLflow server that is away while a command runs: the command goes on, and ``mad sync`` brings what is missing."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mad.__main__ import main
from mad.runtime.mlflow_client import ENVIRONMENT, FIRST_CALL
from mad.runtime.mlflow_tracker import AGAIN
from mad.runtime.tracking import environment
from tests.cluster.mlflow_service import answers, free_port, wait_until
from tests.faults.holding import Journal
from tests.faults.scenario import Command, Step, files_of, judged, play

WORDS = ["detect", "--device", "cpu", "--task.max_rows", "600", "--train.workers", "0", "--train.epochs", "6"]
WORDS += ["--extract.workers", "0", "--detector", "mahalanobis", "--detect.bootstrap", "50"]
STAGES = ("prepare", "train", "extract", "fit", "detect")
PATIENCE = 60
"""Seconds; by MLflow's own defaults a call takes four minutes to give up."""
TIMES = ("seconds", "tokens_per_second")


class Server:
    """A real tracking server on SQLite and a folder, started and killed at will."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        words += ["--backend-store-uri", f"sqlite:///{self.folder}/s.db", "--workers", "1"]
        words += ["--artifacts-destination", str(self.folder / "files"), "--serve-artifacts"]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                words, env=environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(lambda: answers(self.port, "/health"), 240, "the MLflow server")

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(20)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    made.kill()


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory) -> Path:
    """The home of a run whose server was always there."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as change:
        change.setenv("MAD_HOME", str(home))
        change.setenv("MLFLOW_TRACKING_URI", server.uri)
        assert main([*WORDS, "--experiment", "undisturbed"]) == 0
    return home


def told(server: Server, experiment: str, folder: Path) -> dict[str, dict]:
    """What the server knows of an experiment, by name of the run, with names in the place of run ids."""
    client = MlflowClient(server.uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    names = {run.info.run_id: run.info.run_name for run in found}
    assert len(set(names.values())) == len(found), "a run was sent twice"
    return {run.info.run_name: _told(client, run, names, folder / run.info.run_id) for run in found}


def _told(client: MlflowClient, run, names: dict[str, str], folder: Path) -> dict:
    tags = {k: names.get(v, v) for k, v in run.data.tags.items() if k.startswith("mad.") and k != "mad.ticket"}
    history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    folder.mkdir(parents=True)
    client.download_artifacts(run.info.run_id, "", str(folder))
    files = {str(f.relative_to(folder)): _digest(f) for f in folder.rglob("*") if f.is_file()}
    return {
        "status": run.info.status,
        "params": run.data.params,
        "tags": tags,
        "metrics": {k: sorted((m.step, m.value) for m in v) for k, v in history.items() if k not in TIMES},
        "times": sorted(k for k in history if k in TIMES),
        "files": {name: digest for name, digest in files.items() if not name.endswith("meta.json")},
        "inputs": sorted(i.dataset.name for i in run.inputs.dataset_inputs),
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_client_gives_up_in_seconds_also_after_the_first_call(monkeypatch):
    for name in FIRST_CALL:
        monkeypatch.delenv(name, raising=False)
    with environment(FIRST_CALL, ENVIRONMENT):
        assert {name: os.environ[name] for name in FIRST_CALL} == FIRST_CALL
    assert {name: os.environ[name] for name in FIRST_CALL} == {name: ENVIRONMENT[name] for name in FIRST_CALL}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("fault", "seconds"), [("MLflow restarted", 0), ("MLflow away for a minute", 60)], ids=["restarted", "a_minute"]
)
def test_nothing_is_lost(server, undisturbed, tmp_path, monkeypatch, fault, seconds):
    """The server dies in the second epoch; the fifth waits until it is back, so long at least as it was to be away."""
    home, died = tmp_path / "home", []

    def kill(command: Command, held: dict) -> None:
        server.kill()
        died.append(time.monotonic())

    def start(command: Command, held: dict) -> None:
        time.sleep(max(0.0, died[0] + seconds - time.monotonic()))
        server.start()

    steps = [
        Step(fault, "2", kill, most=0, lethal=False),
        Step("its return", "5", start, most=0, lethal=False),
    ]
    experiment = f"away-{seconds}"
    variables = {**os.environ, "MLFLOW_TRACKING_URI": server.uri}
    command = Command([*WORDS, "--experiment", experiment], home, Journal(tmp_path / "journal"), variables)
    rows = play(command, steps, "train to detect")
    assert rows[0].seconds is not None and rows[0].seconds < PATIENCE, "an epoch waited for a server that was away"
    waiting, back = len(list((home / "unsynced").glob("*.json"))), "answers again" in command.said()
    assert waiting or back, "the server was not missed: the test shows nothing"
    assert back or seconds < AGAIN, "a long run does not come back to its server"
    monkeypatch.setenv("MAD_HOME", str(home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    assert main(["sync"]) == 0
    assert not list((home / "unsynced").glob("*.json"))
    expected, got = (told(server, name, tmp_path / name) for name in ("undisturbed", experiment))
    assert got == expected
    same = files_of(home, *STAGES) == files_of(undisturbed, *STAGES)
    judged(rows[:1], same, "the same bytes, every run tracked once")
