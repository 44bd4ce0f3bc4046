"""Two processes of the same command write the same chunks at the same time: each ends well, with the bytes of one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mad.__main__ import main
from mad.store import Store
from tests.faults.holding import Journal
from tests.faults.scenario import Command, copy_artifacts, files_of, judged
from tests.faults.table import Row
from tests.tiny_llama import make_tiny_llama

PLAIN = ["--no_tracking", "--device", "cpu"]
DIGITS = [*PLAIN, "--task.max_rows", "600", "--train.workers", "0"]
WORDS = {
    "train": ["train", *DIGITS, "--train.epochs", "4"],
    "extract": ["extract", *DIGITS, "--train.epochs", "2", "--extract.chunk_rows", "200", "--extract.workers", "0"],
    "generate": ["generate", *PLAIN, "--generate.max_new_tokens", "8", "--generate.chunk_rows", "8"],
}
WORDS["generate"] += ["--prompts.limit", "40", "--generate.workers", "0"]


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> dict[str, list[str]]:
    folder = make_tiny_llama(tmp_path_factory.mktemp("llama"))
    judge = [*WORDS["generate"], "--lm.model", str(folder), "--behavior", "repetition", "--judge.chunk_rows", "8"]
    named = {"generate": [*WORDS["generate"], "--lm.model", str(folder)]}
    return {**WORDS, **named, "judge": ["judge", *judge[1:], "--judge.workers", "0"]}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, words) -> dict[str, Path]:
    """A home for every command that ran alone."""
    homes = {stage: tmp_path_factory.mktemp(stage) for stage in words}
    with pytest.MonkeyPatch.context() as change:
        for stage, home in homes.items():
            change.setenv("MAD_HOME", str(home))
            assert main(words[stage]) == 0
    return homes


def pair(stage: str, words: list[str], alone: Path, folder: Path, pieces: tuple[str, str]) -> list[Command]:
    """Two processes of one command on one store, each held at a piece of it; both are there when this returns."""
    home, commands = folder / "home", []
    copy_artifacts(alone, home, stage)
    for number, piece in enumerate(pieces):
        journal = Journal(folder / f"journal-{number}")
        journal.hold(piece)
        commands.append(Command(words, home, journal, os.environ))
    for command, piece in zip(commands, pieces, strict=True):
        command.until_held(piece)
    return commands


def test_what_the_other_has_committed_is_not_taken_out(tmp_path):
    """One came late, made a chunk that the other made too, and commits after it."""
    key = f"extract-{0:020x}"
    early, late = (Store(str(tmp_path)).draft(key) for _ in range(2))
    for number in range(2):
        early.write(f"chunk-{number}", lambda path: path.write_text("made"), marker=True)
    assert set(late.finished()) == {"chunk-0", "chunk-1"}
    early.write("chunk-2", lambda path: path.write_text("made"), marker=True)
    early.commit({"stage": "extract"})
    late.write("chunk-2", lambda path: path.write_text("made"), marker=True)
    assert set(late.finished()) == {"chunk-0", "chunk-1", "chunk-2"}
    late.commit({"stage": "extract"})
    assert set(early.store.meta(key)["files"]) == {"chunk-0", "chunk-1", "chunk-2"}
    assert not early.store.find(key, "*.done")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", ["extract", "generate", "judge"])
def test_one_chunk_at_the_same_time(words, undisturbed, tmp_path, stage):
    """Both are in the middle of chunk 2 when they go on."""
    first, second = pair(stage, words[stage], undisturbed[stage], tmp_path, ("2", "2"))
    for command in (first, second):
        command.journal.release("2")
    for command in (first, second):
        command.finish(240)
    same = files_of(tmp_path / "home", stage) == files_of(undisturbed[stage], stage)
    judged([Row("two writers of a chunk", stage, "")], same, "the same bytes")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", ["extract", "generate", "judge"])
def test_one_ends_while_the_other_writes(words, undisturbed, tmp_path, stage):
    """The second came when half was done, and finds the artifact committed by the first when it has its last chunk."""
    first, second = pair(stage, words[stage], undisturbed[stage], tmp_path, ("3", "3"))
    first.journal.release("3")
    first.finish(240)
    second.journal.release("3")
    second.finish(240)
    assert not list((tmp_path / "home").glob("artifacts/*/*.done"))
    same = files_of(tmp_path / "home", stage) == files_of(undisturbed[stage], stage)
    judged([Row("two writers, one ends first", stage, "")], same, "the same bytes")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_twice(words, undisturbed, tmp_path):
    """The same for epochs, whose checkpoints lie in one folder."""
    first, second = pair("train", words["train"], undisturbed["train"], tmp_path, ("2", "2"))
    for command in (first, second):
        command.journal.release("2")
    for command in (first, second):
        command.finish(240)
    same = files_of(tmp_path / "home", "train") == files_of(undisturbed["train"], "train")
    judged([Row("two writers of an epoch", "train", "")], same, "the same bytes")
