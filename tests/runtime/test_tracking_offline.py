"""A tracking server that is away, goes away, comes back: nothing is lost, nothing is sent twice."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from mlflow import MlflowClient

from mad.__main__ import main
from mad.runtime.mlflow_tracker import FIRST_CALL, MlflowTracker
from mad.runtime.settings import Settings
from mad.runtime.tracking import RunRecord

PASSWORD = "open-sesame"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The port of a real server; it is started in the background and waited for by who needs it."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder}/s.db", "--artifacts-destination", str(folder / "files")]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words],
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    yield port
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(20)


class Door:
    """Stands before the server: lets some requests through, then drops them, before or after they took effect."""

    def __init__(self, server):
        self.server, self.port = server, free_port()
        self.left, self.answer = 0, True
        self._http = None

    @property
    def uri(self):
        return f"http://alice:{PASSWORD}@127.0.0.1:{self.port}"

    def open(self, requests=10**9, answer=True):
        """Let so many requests through; the one after them takes effect but is not ``answer``-ed, or is dropped."""
        self.left, self.answer = requests, answer
        wait_for(self.server)
        if self._http is None:
            self._http = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
            threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def _handler(door):
        class Handler(BaseHTTPRequestHandler):
            def forward(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                door.left -= 1
                if door.left < 0 and (door.answer or door.left < -1):
                    return
                upstream = http.client.HTTPConnection("127.0.0.1", door.server)
                kept = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
                upstream.request(self.command, self.path, body, kept)
                answer = upstream.getresponse()
                content = answer.read()
                if door.left >= 0:
                    self.send_response_only(answer.status)
                    self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward

            def log_message(self, *_):
                pass

        return Handler


def wait_for(port):
    for _ in range(600):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the MLflow server did not start")


@pytest.fixture
def door(server, monkeypatch):
    door = Door(server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", door.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield door
    door.close()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MAD_HOME", str(tmp_path))
    monkeypatch.delenv("MAD_STORE", raising=False)
    return tmp_path


def tracker_of(door, home, experiment):
    return MlflowTracker(Settings(home, str(home / "artifacts"), door.uri, None), experiment)


def runs_in(door, experiment):
    client = MlflowClient(f"http://127.0.0.1:{door.server}")
    found = client.get_experiment_by_name(experiment)
    return client, {} if found is None else {r.info.run_name: r for r in client.search_runs([found.experiment_id])}


def count_runs(door, experiment):
    client, _ = runs_in(door, experiment)
    return len(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def family(tracker, files):
    """A sweep with a stage inside and one trial, closed in the order a sweep closes them."""
    parent = RunRecord("parent", {"seed": 0}, {"mad.stage": "sweep"})
    tracker.start(parent)
    stage = RunRecord("stage", {"train.lr": 0.1}, {"mad.stage": "train"}, parent=parent.run_id)
    tracker.start(stage)
    for epoch in (1, 2, 3):
        tracker.log(stage, {"loss": 1 / epoch}, epoch)
    stage.files.append((str(files), "checkpoint"))
    stage.datasets.append(("prepare-1", "1", "s3://key:secret@bucket/prepare-1", "split"))
    tracker.finish(stage, "FINISHED")
    trial = RunRecord("trial", {"detector": "knn"}, {"mad.upstream_run.model": stage.run_id}, parent=parent.run_id)
    trial.metrics = [("val_auroc", 0.9, 0)]
    tracker.start(trial)
    tracker.finish(trial, "FAILED")
    tracker.finish(parent, "FINISHED")


def check_family(door, experiment):
    client, runs = runs_in(door, experiment)
    assert count_runs(door, experiment) == 3
    parent, stage, trial = (runs[name] for name in ("parent", "stage", "trial"))
    assert [r.info.status for r in (parent, stage, trial)] == ["FINISHED", "FINISHED", "FAILED"]
    assert stage.data.tags["mlflow.parentRunId"] == parent.info.run_id == trial.data.tags["mlflow.parentRunId"]
    assert trial.data.tags["mad.upstream_run.model"] == stage.info.run_id
    history = client.get_metric_history(stage.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert len(client.get_metric_history(trial.info.run_id, "val_auroc")) == 1
    assert [f.path for f in client.list_artifacts(stage.info.run_id, "checkpoint")] == ["checkpoint/weights.bin"]
    assert len(stage.inputs.dataset_inputs) == 1
    assert (stage.data.params, trial.data.params) == ({"train.lr": "0.1"}, {"detector": "knn"})


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"weights")
    return path


def test_a_command_goes_on_without_the_server(door, home, capsys):
    begun = time.monotonic()
    words = ["--task.dataset", "digits", "--train.epochs", "2", "--train.workers", "0", "--experiment", "away"]
    assert main(["train", *words]) == 0
    assert time.monotonic() - begun < 30
    told = capsys.readouterr()
    assert told.err.count("mad: warning:") == 1, told.err
    assert "mad sync" in re.sub(r"\s+", " ", told.err)
    everything = told.out + told.err + "".join(f.read_text() for f in home.glob("unsynced/*.json"))
    assert PASSWORD not in everything
    assert main(["sync"]) == 2
    assert main(["extract", "--checkpoint", "models:/m@a"]) == 2
    door.open()
    assert main(["sync"]) == 0
    assert "2 runs sent, 0 still waiting" in capsys.readouterr().out
    assert main(["sync"]) == 0
    told = capsys.readouterr()
    assert "0 runs sent" in told.out
    assert PASSWORD not in told.out + told.err
    client, runs = runs_in(door, "away")
    assert runs["train"].data.tags["mad.upstream_run.split"] == runs["prepare"].info.run_id
    assert [m.step for m in client.get_metric_history(runs["train"].info.run_id, "loss")] == [1, 2]
    # What is made later from an artifact of the time without a server names the run that was sent since.
    assert main(["extract", "--checkpoint", next(home.glob("artifacts/train-*")).name, "--experiment", "away"]) == 0
    _, runs = runs_in(door, "away")
    assert runs["extract"].data.tags["mad.upstream_run.checkpoint"] == runs["train"].info.run_id
    assert PASSWORD not in json.dumps([[r.data.tags, r.data.params] for r in runs.values()])


def test_models_pass_through_a_server(door, home, capfd):
    door.open()
    words = ["--task.dataset", "digits", "--train.epochs", "1", "--train.workers", "0", "--experiment", "models"]
    assert main(["train", *words, "--register", "served@best"]) == 0
    shutil.rmtree(next(home.glob("artifacts/train-*")))
    assert main(["extract", "--checkpoint", "models:/served@best", "--dry_run", "true"]) == 0
    assert list(home.glob("artifacts/train-*/weights.safetensors"))
    told = capfd.readouterr()
    assert PASSWORD not in told.out + told.err
    assert "View run" not in told.out


def test_a_server_that_is_there(door, home, weights):
    door.open()
    family(tracker_of(door, home, "there"), weights)
    check_family(door, "there")
    assert not (home / "unsynced").exists()


def test_a_sync_may_break_off_anywhere(door, home, weights):
    family(tracker_of(door, home, "broken"), weights)
    assert len(list(home.glob("unsynced/*.json"))) == 3
    sent, cuts, requests = 0, 0, 1
    while sent < 3:
        door.open(requests, answer=cuts % 2 == 0)
        sent += tracker_of(door, home, "x").sync()[0]
        assert len(list(home.glob("unsynced/*.json"))) == 3 - sent
        requests, cuts = requests + 2, cuts + 1
    assert cuts > 5
    check_family(door, "broken")


@pytest.mark.parametrize(
    ("requests", "answer"), [(0, False), (2, False), (3, False), (4, True), (5, False), (7, False)]
)
def test_a_server_that_goes_away_during_a_run(door, home, weights, requests, answer):
    experiment = f"gone-{requests}"
    door.open(requests, answer)
    family(tracker_of(door, home, experiment), weights)
    door.open()
    _, left = tracker_of(door, home, "x").sync()
    assert left == 0
    check_family(door, experiment)


def test_a_run_that_goes_on_during_a_sync(door, home):
    tracker = tracker_of(door, home, "meanwhile")
    record = RunRecord("long")
    tracker.start(record)
    tracker.log(record, {"loss": 1.0}, 1)
    door.open()
    assert tracker_of(door, home, "x").sync() == (1, 0)
    _, runs = runs_in(door, "meanwhile")
    assert runs["long"].info.status == "RUNNING"
    tracker.log(record, {"loss": 0.5}, 2)
    tracker.finish(record, "FINISHED")
    assert tracker_of(door, home, "x").sync() == (1, 0)
    client, runs = runs_in(door, "meanwhile")
    assert (count_runs(door, "meanwhile"), runs["long"].info.status) == (1, "FINISHED")
    assert [m.step for m in client.get_metric_history(runs["long"].info.run_id, "loss")] == [1, 2]


def test_a_full_disk_costs_a_warning(door, home, weights):
    (home / "unsynced").write_text("not a folder")
    family(tracker_of(door, home, "full"), weights)


def test_a_server_that_hangs_is_left_in_seconds(home, monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setitem(FIRST_CALL, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        tracker = MlflowTracker(Settings(home, str(home), uri, None), "x")
        begun = time.monotonic()
        tracker.start(RunRecord("x"))
        assert time.monotonic() - begun < 10
    assert tracker.find({}) == []
