"""A Ray cluster of several nodes on this machine whose nodes, head and object stores can be made to fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.cluster.mlflow_service import free_port

ROOT = Path(__file__).parents[2]
STORE = 80 * 2**20
"""Bytes of a node's object store; Ray allows no less than 75 MiB."""


class Nodes:
    """A head without CPUs and nodes of one CPU each; what the head knows lies on disk, in RocksDB.

    Args:
        workers: nodes beside the head.
    """

    def __init__(self, workers: int):
        from ray.cluster_utils import Cluster

        # Sockets lie below it, whose paths may have about 100 characters: pytest's folders are too deep.
        self.folder = Path(tempfile.mkdtemp(prefix="mad-"))
        self.environment = {"RAY_TMPDIR": str(self.folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
        self.port = free_port()
        with self._surroundings():
            self.cluster = Cluster()
        self._start_head()
        for _ in range(workers):
            self.add()

    @property
    def address(self) -> str:
        """Where drivers find the head."""
        return self.cluster.address

    def _start_head(self) -> None:
        # Workers would be given way to by everything else that this machine does.
        settings = {"gcs_storage": "rocksdb", "gcs_storage_path": str(self.folder / "gcs"), "worker_niceness": 0}
        with self._surroundings():
            self.cluster.add_node(
                num_cpus=0,
                gcs_server_port=self.port,
                include_dashboard=False,
                object_store_memory=STORE,
                _system_config=settings,
            )

    def add(self) -> None:
        """A node comes."""
        with self._surroundings():
            self.cluster.add_node(num_cpus=1, object_store_memory=STORE)

    def remove(self, node_id: str) -> None:
        """A node goes without a word, as one that is preempted."""
        (node,) = (node for node in self.cluster.worker_nodes if node.node_id == node_id)
        with self._surroundings():
            self.cluster.remove_node(node, allow_graceful=False)

    def restart_control(self) -> None:
        """The head's control service is killed and started again on what it had written."""
        with self._surroundings():
            self.cluster.head_node.kill_gcs_server()
            self.cluster.head_node.start_gcs_server()

    def restart_head(self) -> None:
        """All of the head's processes are killed, and a new head starts on what the old one had written."""
        with self._surroundings():
            self.cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
            self.cluster.head_node = None
        self._start_head()

    @contextmanager
    def filled(self) -> Iterator[None]:
        """Every node's object store holds twice what fits, and spills; it is read back at the end."""
        begun = time.time()
        words = [sys.executable, "-m", "tests.faults.fill_store", self.address, str(2 * STORE)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": (self.folder / "filler.txt").open("w")}
        filler = subprocess.Popen(words, cwd=ROOT, env=self.driver_environment(), text=True, **pipes)
        try:
            assert filler.stdin is not None
            assert _answer(filler) == "full", (self.folder / "filler.txt").read_text()[-2000:]
            assert self.spilled(begun) > STORE, "nothing was spilled"
            yield
            filler.stdin.write("\n")
            filler.stdin.flush()
            assert _answer(filler) == "intact"
        finally:
            filler.kill()
            filler.wait(30)

    def spilled(self, since: float) -> int:
        """Bytes of objects that were written to disk since then."""
        total = 0
        for path in self.folder.glob("ray/session_2*/ray_spilled_objects*/*"):
            with suppress(FileNotFoundError):  # earlier ones are being removed
                total += path.stat().st_size if path.is_file() and path.stat().st_mtime >= since else 0
        return total

    def driver_environment(self) -> dict[str, str]:
        """What a driver needs to find the cluster and the journal's code."""
        return {**os.environ, **self.environment, "RAY_ADDRESS": self.address}

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        """Nodes inherit the environment they are started in."""
        with pytest.MonkeyPatch.context() as change:
            for name, value in self.environment.items():
                change.setenv(name, value)
            yield

    def end(self) -> None:
        """Stop everything."""
        with self._surroundings():
            self.cluster.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)


def _answer(filler: subprocess.Popen) -> str:
    """What it says next, of what it may say: Ray's warnings come the same way."""
    assert filler.stdout is not None
    return next((line.strip() for line in filler.stdout if line.strip() in ("full", "intact", "lost")), "nothing")
