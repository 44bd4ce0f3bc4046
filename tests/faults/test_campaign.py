"""One chain of stages under a rain of faults: what comes out has the bytes of an undisturbed run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import SMALL, make_engine, run_chain
from tests.faults.injection import FULL, KILLED, full_disk, in_child, kill_at_epoch, kill_at_write, note
from tests.faults.scenario import judged
from tests.faults.table import Row

pytestmark = pytest.mark.slow
FLAGS = {"extract.chunk_rows": "100", "detector": "mahalanobis"}
MOMENTS = ("before", "middle", "after")
NAMES = {"truncated": "chunk truncated", "disk full": "disk full"}
"""Of faults in the table; the others are deaths before, in the middle of or after a file, checkpoint or commit."""


def run(home: Path) -> dict:
    """The chain up to scores: stage to the digests of its files."""
    made = run_chain(make_engine(home), "detect", FLAGS)
    return {stage: artifact.meta["files"] for stage, artifact in made.items()}


def drafts(home: Path) -> list[Path]:
    """Chunks of artifacts that are not committed yet, newest last."""
    found = [f for f in (home / "artifacts").glob("*/chunk-*.safetensors") if not (f.parent / "meta.json").exists()]
    return sorted(found, key=lambda file: file.stat().st_mtime_ns)


def rain(home: Path, log: Path) -> None:
    """Run the chain until it is done, with a fault in every run of it; each lets a little more through."""
    for moment in MOMENTS:  # in the first stage
        assert in_child(lambda: run(home), kill_at_write(moment, 1, log)) == KILLED
    for moment in ("before", "middle", "after", "middle", "after"):  # of three epochs, the last ends undisturbed
        code = in_child(lambda: run(home), kill_at_epoch(moment, log))
        assert code == KILLED, f"{moment} an epoch: {code}"
    turn, damaged, number, done = 0, set(), 0, 0
    while True:
        if turn % 4 == 3:
            code = in_child(lambda: run(home), full_disk)
            assert code in (0, FULL)
            note(log, "any", "any", "disk full") if code == FULL else None
        else:
            code = in_child(lambda: run(home), kill_at_write(MOMENTS[turn % 4], number, log))
            assert code in (0, KILLED)
        if code == 0:
            return
        for file in [file for file in drafts(home) if file.name not in damaged][-1:]:
            damaged.add(file.name)
            os.truncate(file, file.stat().st_size // 2)
            note(log, file.parent.name, file.name, "truncated")
        committed = len(list((home / "artifacts").glob("*/meta.json")))
        turn, number, done = turn + 1, 0 if committed > done else number + (turn % 4 == 3), committed
        assert turn < 200


@pytest.mark.timeout(1800)
def test_a_chain_under_faults_gives_the_bytes_of_an_undisturbed_one(tmp_path):
    assert SMALL["train"]["workers"] == SMALL["extract"]["workers"] == 0
    undisturbed, log, home = run(tmp_path / "undisturbed"), tmp_path / "faults.jsonl", tmp_path / "home"
    rain(home, log)
    faults = [json.loads(line) for line in log.read_text().splitlines()]
    rows = [Row(NAMES.get(fault["fault"], "single process killed"), fault["stage"], "") for fault in faults]
    judged(rows, run(home) == undisturbed, "the same bytes")
    assert len(faults) >= 50


@pytest.mark.timeout(900)
def test_two_writers_of_the_same_chunks(tmp_path):
    """The same command twice at the same time, on a trained model: both succeed, with the bytes of one."""
    undisturbed, home = run(tmp_path / "undisturbed"), tmp_path / "home"
    for stage in ("prepare", "train"):
        for folder in (tmp_path / "undisturbed" / "artifacts").glob(f"{stage}-*"):
            shutil.copytree(folder, home / "artifacts" / folder.name)
    other = os.fork()
    if not other:
        os._exit(in_child(lambda: run(home)))
    assert in_child(lambda: run(home)) == 0
    assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 0
    judged([Row("two processes of one command", "extract to detect", "")], run(home) == undisturbed, "the same bytes")
