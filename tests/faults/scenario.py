"""A command on a cluster that meets one fault after another, and what each of them cost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.faults.holding import Journal
from tests.faults.ray_nodes import ROOT
from tests.faults.table import Row, record

SLOW = 240
"""Seconds in which a command must come to the next held piece."""
PARTNER = 30
"""Seconds in which another worker is to come to its held piece; a group of one has none."""


STARTED: list[Command] = []
"""Commands of the test that runs."""


class Command:
    """A ``mad`` command in a process of its own, started as often as it is killed.

    Args:
        words: after ``mad``.
        home: its MAD_HOME.
        journal: where it writes pieces down.
        environment: of the process.
    """

    def __init__(self, words: list[str], home: Path, journal: Journal, environment: Mapping[str, str]):
        self.home, self.journal, self.log = home, journal, journal.folder / "log.txt"
        self.words = [sys.executable, "-m", "tests.faults.drive", str(journal.folder), *words]
        self.environment = {**environment, "MAD_HOME": str(home), "PYTHONPATH": str(ROOT)}
        self.start()
        STARTED.append(self)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.words, cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """As the kernel kills: no word to anybody."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def end(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.kill()

    def finish(self, seconds: float) -> None:
        """Wait for its good end."""
        assert self.process.wait(seconds) == 0, self.said()

    def said(self) -> str:
        return self.log.read_text()[-3000:]

    def until_held(self, piece: str) -> dict:
        """Process and node of whoever waits at a piece."""
        return self.until(lambda: self.journal.waiting(piece), f"nobody came to {piece}")

    def until(self, look: Callable[[], Any], otherwise: str) -> Any:
        """What a look finds, as soon as it finds something; the command must not end before."""
        end = time.monotonic() + SLOW
        while not (found := look()):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, f"{otherwise}: {self.said()}"
            time.sleep(0.05)
        return found


@dataclass
class Step:
    """One fault of a scenario.

    Attributes:
        fault: name in the table.
        piece: whose work is under way when it comes.
        inject: does it, given the command and the process and node that hold the piece.
        partner: piece of another worker that is to be under way as well.
        most: pieces that may be begun again.
        lethal: whether the piece is lost; else it goes on when the fault has happened.
        truncated: whether the fault also damages a finished piece.
    """

    fault: str
    piece: str
    inject: Callable[[Command, dict], None]
    partner: str = ""
    most: int = 2
    lethal: bool = True
    truncated: bool = False


def play(command: Command, steps: list[Step], stage: str, seconds: float = SLOW) -> list[Row]:
    """Let the faults come one after another and the command end; the rows, their outcome still open."""
    journal, moments = command.journal, []
    for step in steps:
        journal.hold(*filter(None, (step.piece, step.partner)))
    for step in steps:
        held = command.until_held(step.piece)
        end = time.monotonic() + PARTNER
        while step.partner and not journal.waiting(step.partner) and time.monotonic() < end:
            time.sleep(0.05)
        begun, known = time.time(), journal.processes()
        step.inject(command, held)
        moments.append(begun if step.lethal else time.time())
        if step.lethal:  # the partner, where it lives on, may not come to the next fault before this one is over
            command.until(lambda known=known: journal.processes() - known, f"nobody went on after: {step.fault}")
        journal.release(*filter(None, ("" if step.lethal else step.piece, step.partner)))
    command.finish(seconds)
    spans = zip(moments, [*moments[1:], float("inf")], strict=True)
    return [row for step, span in zip(steps, spans, strict=True) for row in rows_of(journal, step, stage, *span)]


def rows_of(journal: Journal, step: Step, stage: str, begin: float, end: float) -> list[Row]:
    """What was begun again after a fault and before the next, and how long it took until a piece was finished again.

    No process loses more than the piece that it was at, and what was finished stays, unless it was damaged.
    """
    begun, done = journal.lines("begun"), journal.lines("done")
    before = [line for line in begun if line["time"] < begin]
    again = {line["piece"] for line in begun if begin <= line["time"] < end} & {line["piece"] for line in before}
    kept = {line["piece"] for line in done if line["time"] < begin} if stage != "train" else set()
    assert len(again & kept) == step.truncated, f"{step.fault}: {sorted(again & kept)} were finished, and begun again"
    lost, owner = again - kept, {line["piece"]: line["pid"] for line in before}
    assert len(lost) <= step.most, f"{step.fault}: {sorted(lost)} were begun again"
    assert len({owner[piece] for piece in lost}) == len(lost), f"{step.fault}: a process lost several of {sorted(lost)}"
    known = {line["pid"] for line in before}
    fresh = [line["time"] for line in done if line["time"] > begin and (line["pid"] not in known or not step.lethal)]
    rows = [Row(step.fault, stage, "", fresh[0] - begin if fresh else None, len(lost))]
    return [*rows, Row("chunk truncated", stage, "", None, 1)] if step.truncated else rows


def judged(rows: list[Row], same: bool, good: str) -> None:
    """Put the rows, with their outcome, into the table."""
    record(*(replace(row, outcome=good if same else "CHANGED") for row in rows))
    assert same


def kill_worker(command: Command, held: dict) -> None:
    """The process that holds the piece dies."""
    os.kill(held["pid"], signal.SIGKILL)


def kill_driver(command: Command, held: dict) -> None:
    """The command dies and is given again; by then its workers have died with it."""
    command.kill()
    command.start()


def truncate_and_kill_driver(command: Command, held: dict) -> None:
    """While the command is dead a finished chunk loses its second half."""
    command.kill()
    time.sleep(1)
    chunk = min(path for path in unfinished(command.home).glob("chunk-*") if path.suffix != ".done")
    os.truncate(chunk, chunk.stat().st_size // 2)
    command.start()


def unfinished(home: Path) -> Path:
    """The folder of the artifact that is being written."""
    (found,) = {p.parent for p in home.glob("artifacts/*/chunk-*.done") if not (p.parent / "meta.json").exists()}
    return found


def files_of(home: Path, *stages: str) -> dict[str, dict]:
    """Key of every artifact of these stages to the digests of its files, each checked against its file."""
    from mad.store import Store

    store = Store(str(home / "artifacts"))
    keys = [key for key in store.keys() if key.rpartition("-")[0] in stages]  # noqa: SIM118
    return {key: store.open(key).meta["files"] for key in keys}


def copy_artifacts(source: Path, target: Path, *without: str) -> None:
    """Everything in a store but the artifacts of these stages."""
    for folder in (source / "artifacts").iterdir():
        if folder.name.rpartition("-")[0] not in without:
            shutil.copytree(folder, target / "artifacts" / folder.name)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())
