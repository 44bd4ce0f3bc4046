"""kill -9 of the command itself at ten random moments, with two workers: it goes on to the bytes of one process."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.tiny_llama import make_tiny_llama

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
KILLS = 10
COMMON = ["--no_tracking", "--prompts", "pydocs", "--prompts.limit", "300", "--generate.max_new_tokens", "100"]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Two Llamas slow enough that ten kills come before the last chunk."""
    home = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("a", "b")):
        make_tiny_llama(home / name, hidden=128, layers=8, context=512, seed=seed)
    return home


def command(kind: str, models: Path, workers: int) -> list[str]:
    generate = ["generate", "--lm.model", str(models / "a"), "--generate.chunk_rows", "4"]
    audit = ["audit", "--baseline_model", str(models / "a"), "--candidate_model", str(models / "b")]
    audit += ["--batch_size", "4", "--audit.stop", "false", "--behavior", "length", "--behavior.maximum", "100"]
    words = {"generate": generate, "stream": audit}[kind]
    return [sys.executable, "-m", "mad", *words, *COMMON, f"--{kind}.workers", str(workers)]


@pytest.fixture
def started() -> Iterator[Callable[[list[str], Path], subprocess.Popen]]:
    """Starts a command; those that still run at the end are killed."""
    running: list[subprocess.Popen] = []

    def start(words: list[str], home: Path) -> subprocess.Popen:
        home.mkdir(exist_ok=True)
        environment = {**os.environ, "MAD_HOME": str(home), "PYTHONPATH": str(ROOT)}
        with (home / "log.txt").open("ab") as log:
            running.append(subprocess.Popen(words, cwd=home, env=environment, stdout=log, stderr=log))
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            kill(process)


def finished(home: Path, kind: str) -> int:
    """Chunks that are there; after the end all."""
    return len(list(home.glob(f"artifacts/{kind}-*/chunk-*.parquet")))


def kill(process: subprocess.Popen) -> None:
    """The command dies; what it started is given time to notice, and then ended."""
    own = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for orphan in psutil.wait_procs(own, timeout=30)[1]:
        orphan.kill()
    psutil.wait_procs(own, timeout=10)


def kill_when(process: subprocess.Popen, home: Path, kind: str, chunks: int, delay: float) -> bool:
    """Kill the command some time after so many chunks are there; False if it ended before."""
    deadline = time.monotonic() + 900
    while finished(home, kind) < chunks:
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, (home / "log.txt").read_text()[-3000:]
        time.sleep(0.01)
    time.sleep(delay)
    if process.poll() is not None:
        return False
    kill(process)
    return True


@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("kind", ["generate", "stream"])
def test_a_command_killed_at_ten_random_moments_goes_on_to_the_same_bytes(kind, models, started, tmp_path):
    alone = tmp_path / "alone"
    assert started(command(kind, models, 0), alone).wait(1200) == 0, (alone / "log.txt").read_text()[-3000:]
    (whole,) = alone.glob(f"artifacts/{kind}-*")
    total, home, draw = finished(alone, kind), tmp_path / "killed", random.Random(kind)
    moments, words = [], command(kind, models, 2)
    for number in range(KILLS):
        # Of what is left, a share that leaves something for the kills to come; then some time within a chunk.
        left = total - finished(home, kind)
        chunks = total - left + draw.randint(1, max(1, left // (KILLS - number + 1)))
        delay = draw.uniform(0, 0.3)
        assert kill_when(started(words, home), home, kind, chunks, delay), f"it ended before kill {number + 1}"
        moments.append((finished(home, kind), round(delay, 2)))
    assert not list(home.glob(f"artifacts/{kind}-*/meta.json"))
    assert started(words, home).wait(1200) == 0, (home / "log.txt").read_text()[-3000:]
    print(f"\n{kind}: killed at (chunks of {total}, seconds later): {moments}")
    files = {path.name: path.read_bytes() for path in whole.iterdir() if path.name != "meta.json"}
    again = {path.name: path.read_bytes() for path in (home / "artifacts" / whole.name).iterdir()}
    assert "meta.json" in again and {name: again[name] for name in again if name != "meta.json"} == files
