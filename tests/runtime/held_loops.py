"""Training loops that note what they do and wait for the test, sent to workers of clusters whose nodes come and go."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


def held_train_loop(payload: dict[str, Any], worker: Any) -> None:
    """The loop ``payload["loop"]``, which after an epoch waits until the file ``allowed`` has a larger number."""
    from mad.stages._classifier_loop import train_loop
    from mad.stages._language_loop import language_loop

    folder, resume, report = Path(payload["folder"]), worker.resume_folder, worker.report

    def noted_resume() -> Path | None:
        found = resume()
        note(folder, "start", rank=worker.rank, workers=worker.world_size, done=worker._done)
        return found

    def held_report(metrics: Any, save: Any) -> None:
        note(folder, "epoch", rank=worker.rank, workers=worker.world_size, done=worker._done + 1)
        report(metrics, save)
        while worker._done >= int((folder / "allowed").read_text()):
            time.sleep(0.2)

    worker.resume_folder, worker.report = noted_resume, held_report
    {"classifier": train_loop, "language": language_loop}[payload["loop"]](payload, worker)


def dying_loop(payload: dict[str, Any], worker: Any) -> None:
    """The same, in which the last rank dies once for every ``moment: epoch`` of ``payload["dies"]``.

    Moments: ``before`` the epoch is reported, when all of its work is lost, and right ``after``.
    """
    report, folder = worker.report, Path(payload["folder"])

    def die(moment: str, epoch: int) -> None:
        marker = folder / f"died-{moment}"
        if worker.rank == worker.world_size - 1 and payload["dies"].get(moment) == epoch and not marker.exists():
            marker.touch()
            os._exit(1)

    def report_or_die(metrics: Any, save: Any) -> None:
        epoch = worker._done + 1
        die("before", epoch)
        report(metrics, save)
        die("after", epoch)

    worker.report = report_or_die
    held_train_loop(payload, worker)


def slow_chunks(payload: dict[str, Any], device: str) -> Any:
    """A chunk holds its number; each takes a moment."""
    folder = Path(payload["folder"])
    note(folder, "loaded", rank=0)

    def write(number: int, path: Path) -> None:
        time.sleep(payload["pause"])
        path.write_text(str(number))
        note(folder, "chunk", rank=0, number=number)

    return write


def note(folder: Path, what: str, **facts: int) -> None:
    """Append a line, whole: several workers do."""
    with (folder / "notes.jsonl").open("a") as file:
        file.write(json.dumps({"what": what, **facts}) + "\n")


def notes(folder: Path, what: str, rank: int = 0) -> list[dict]:
    """Lines of one kind of one rank so far."""
    file = folder / "notes.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line for line in lines if line["what"] == what and line["rank"] == rank]
