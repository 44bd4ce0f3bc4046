"""`ray job submit` as the README shows it: a local cluster with token authentication, and the main job on it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.ray
REPOSITORY = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head with a token of its own home folder; ended with all its processes."""
    tmp_path = tmp_path_factory.mktemp("head")
    gcs, dashboard = free_ports(2)
    # Unix sockets need a short path.
    temporary = Path(tempfile.mkdtemp(prefix="mad", dir="/tmp" if os.name == "posix" else None))
    dropped = ("RAY_ADDRESS", "MAD_STORE", "MLFLOW_TRACKING_URI", "MAD_HOME")
    environment = {k: v for k, v in os.environ.items() if k not in dropped}
    environment |= {
        "HOME": str(tmp_path),
        "PATH": f"{RAY.parent}:{environment['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    environment |= {"RAY_AUTH_MODE": "token", "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    words = ["start", "--head", "--block", f"--port={gcs}", "--dashboard-host=127.0.0.1", "--num-cpus=2"]
    words += [f"--dashboard-port={dashboard}", f"--temp-dir={temporary}"]
    without_address = {k: v for k, v in environment.items() if k != "RAY_ADDRESS"}
    log = (tmp_path / "head.txt").open("wb")
    head = subprocess.Popen([RAY, *words], env=without_address, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_up(dashboard, head, tmp_path / "head.txt")
        yield environment
    finally:
        processes = [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]
        head.send_signal(signal.SIGTERM)
        for process in psutil.wait_procs(processes, timeout=8)[1]:
            process.kill()
        head.wait(10)
        shutil.rmtree(temporary, ignore_errors=True)


def wait_until_up(port: int, head: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert head.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/version", timeout=2)
            return
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):  # it is up, and wants a token
                return
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"the head did not come up: {log.read_text()[-2000:]}")


@pytest.mark.timeout(500)
def test_the_main_job_runs_by_ray_job_submit(cluster, tmp_path):
    home, out = tmp_path / "home", tmp_path / "result.json"
    runtime = json.dumps({"env_vars": {"MAD_HOME": str(home)}})
    job = ["python", "-m", "mad.sweep", "backdoor", "--num_samples", "4", "--train.workers", "0", "--json", str(out)]
    words = [RAY, "job", "submit", "--working-dir", str(REPOSITORY), "--runtime-env-json", runtime, "--", *job]
    done = subprocess.run(words, env=cluster, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    result = json.loads(out.read_text())
    assert result["trials"] == 4 and result["failed"] == 0
    assert result["mlflow"]["tracking_uri"] == f"sqlite:///{home}/mlflow.db"
    assert "best of each detector" in done.stdout


def test_a_cluster_with_a_token_refuses_those_without(cluster, tmp_path):
    without = {k: v for k, v in cluster.items() if k != "RAY_AUTH_MODE"} | {"HOME": str(tmp_path / "other")}
    words = [RAY, "job", "submit", "--", "true"]
    refused = subprocess.run(words, env=without, capture_output=True, text=True, cwd=tmp_path)
    assert refused.returncode != 0
