"""Loops that the Ray tests send to workers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def dying_train_loop(payload: dict[str, Any], worker: Any) -> None:
    """The classifier's loop, in which the last rank dies once, after its second epoch."""
    from mad.stages._classifier_loop import train_loop

    report, marker = worker.report, Path(payload["marker"])
    computed = marker.with_name("computed")

    def report_then_die(metrics: Any, save: Any) -> None:
        if worker.rank == 0:
            with computed.open("a") as file:
                file.write(f"{worker._done + 1}\n")
        report(metrics, save)
        if worker.rank == worker.world_size - 1 and worker._done == 2 and not marker.exists():
            marker.touch()
            os._exit(1)

    worker.report = report_then_die
    train_loop(payload, worker)


def failing_loop(payload: dict[str, Any], worker: Any) -> None:
    """The classifier's loop, with a line for every start of rank 0."""
    from mad.stages._classifier_loop import train_loop

    if worker.rank == 0:
        with Path(payload["starts"]).open("a") as file:
            file.write(f"{worker._done}\n")
    train_loop(payload, worker)


def dying_chunk_worker(payload: dict[str, Any], device: str) -> Any:
    """The extraction's worker; whoever is to write chunk 3 dies once, in the middle of the file."""
    from mad.stages.extract import chunk_worker

    return _dying(chunk_worker(payload, device), Path(payload["marker"]))


def dying_generation(marker: Path) -> Any:
    """The same of the generation's worker."""

    def setup(payload: dict[str, Any], device: str) -> Any:
        from mad.stages.generate import chunk_worker

        return _dying(chunk_worker(payload, device), marker)

    return setup


def _dying(write: Any, marker: Path) -> Any:
    def write_or_die(number: int, path: Path) -> Any:
        if number == 3 and not marker.exists():
            path.write_bytes(b"half a chunk")
            marker.touch()
            os._exit(1)
        return write(number, path)

    return write_or_die
