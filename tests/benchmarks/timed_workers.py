"""Loops and chunk writers that note, in each worker, when they ended a piece of work and how much they computed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def timed_loop(payload: dict[str, Any], worker: Any) -> None:
    """The classifier's loop; a line after every epoch, its checkpoint taken in."""
    from mad.stages._classifier_loop import train_loop

    report, folder = worker.report, Path(payload["notes"])

    def noted(metrics: Any, save: Any) -> None:
        report(metrics, save)
        note(folder)

    worker.report = noted
    train_loop(payload, worker)


def timed_setup(setup: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """A chunk writer's setup; a line when the model is loaded, and one after every chunk."""

    def prepare(payload: dict[str, Any], device: str) -> Any:
        write = setup(payload, device)
        note(folder)

        def timed(number: int, path: Path) -> Any:
            told = write(number, path)
            note(folder)
            return told

        return timed

    return prepare


def note(folder: Path) -> None:
    """Append wall time, processor time and the number of threads of this process."""
    import torch

    line = json.dumps([time.time(), time.process_time(), torch.get_num_threads()])
    with (folder / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(line + "\n")


def read(folder: Path) -> list[list[list[float]]]:
    """Lines of every worker."""
    return [[json.loads(line) for line in f.read_text().splitlines()] for f in sorted(folder.glob("*.jsonl"))]
