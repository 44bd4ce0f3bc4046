"""Work that writes down when each piece of it begins and ends, and waits at chosen pieces for a fault to come.

A piece is a chunk, an epoch or a configuration. The fault itself is injected from outside, by a reader of the journal.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

PATIENCE = 300
"""Seconds that a held piece waits."""
CHUNKED = ("extract", "generate", "judge")
_original: dict[str, Callable[..., Any]] = {}


class Journal:
    """A folder with a line per beginning and end of a piece, and files that hold pieces and let them go.

    Args:
        folder: on a disk that all processes see.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, what: str, piece: int, rank: int = 0) -> None:
        """Add a line, in one call: processes write at the same time."""
        facts = {"time": time.time(), "what": what, "piece": piece, "rank": rank, "pid": os.getpid(), "node": _node()}
        with (self.folder / "journal.jsonl").open("a") as file:
            file.write(json.dumps(facts) + "\n")

    def lines(self, what: str) -> list[dict[str, Any]]:
        """Everything that has begun, ended, ..., in order."""
        path = self.folder / "journal.jsonl"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in found if line["what"] == what]

    def processes(self) -> set[int]:
        """Whoever has begun a piece."""
        return {line["pid"] for line in self.lines("begun")}

    def hold(self, *pieces: str) -> None:
        """Whoever comes to one of these first is to wait there."""
        for piece in pieces:
            (self.folder / f"hold-{piece}").touch()

    def release(self, *pieces: str) -> None:
        """Let the one who waits there, or comes there later, go on."""
        for piece in pieces:
            (self.folder / f"go-{piece}").touch()

    def waiting(self, piece: str) -> dict[str, Any] | None:
        """Process and node of the one who waits, or waited, there."""
        path = self.folder / f"reached-{piece}"
        return json.loads(path.read_text()) if path.exists() else None

    def pass_by(self, piece: str) -> None:
        """Wait, if this piece is held and nobody was held there before."""
        if not (self.folder / f"hold-{piece}").exists() or (self.folder / f"reached-{piece}").exists():
            return
        partly = self.folder / f"reaching-{piece}-{os.getpid()}"
        partly.write_text(json.dumps({"pid": os.getpid(), "node": _node()}))
        partly.rename(self.folder / f"reached-{piece}")
        end = time.monotonic() + PATIENCE
        while not (self.folder / f"go-{piece}").exists():
            assert time.monotonic() < end, f"nothing happened to {piece}"
            time.sleep(0.02)


def install(folder: str) -> None:
    """From now on the stages of this process write into the journal, on whatever worker they run."""
    for name in CHUNKED:
        module = importlib.import_module(f"mad.stages.{name}")
        _original[name] = module.chunk_worker
        module.chunk_worker = partial(_chunks, name, folder)  # type: ignore[attr-defined]
    train = importlib.import_module("mad.stages.train")
    _original["train"] = train.train_loop
    train.train_loop = partial(_epochs, folder)  # type: ignore[attr-defined]


def _chunks(name: str, folder: str, payload: dict[str, Any], device: str) -> Callable[[int, Path], Any]:
    """A stage's worker whose held chunks wait with half a file written."""
    setup = _original.get(name) or importlib.import_module(f"mad.stages.{name}").chunk_worker
    writer, journal = setup(payload, device), Journal(folder)

    def write(number: int, path: Path) -> Any:
        journal.write("begun", number)
        path.write_bytes(b"half a chunk")
        journal.pass_by(str(number))
        told = writer(number, path)
        journal.write("done", number)
        return told

    return write


def _epochs(folder: str, payload: dict[str, Any], worker: Any) -> None:
    """The training loop; held epochs wait before their checkpoint is written (``3``) or after (``after-3``)."""
    loop = _original.get("train") or importlib.import_module("mad.stages.train").train_loop
    journal, report, resume_folder, before = Journal(folder), worker.report, worker.resume_folder, [0]

    def resume() -> Path | None:
        found = resume_folder()
        before[0] = len(json.loads((found / "history.json").read_text())) if found else 0
        journal.write("begun", before[0] + 1, worker.rank)
        return found

    def report_held(metrics: Any, save: Any) -> None:
        before[0] += 1
        if worker.rank == 0:
            journal.pass_by(str(before[0]))
        report(metrics, save)
        journal.write("done", before[0], worker.rank)
        if worker.rank == 0:
            journal.pass_by(f"after-{before[0]}")
        journal.write("begun", before[0] + 1, worker.rank)

    worker.resume_folder, worker.report = resume, report_held
    loop(payload, worker)


def _node() -> str:
    """Id of this Ray node; empty outside Ray."""
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
