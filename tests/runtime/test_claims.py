"""Two processes that train the same at the same time: neither takes the other's checkpoints."""

from __future__ import annotations

import logging
import multiprocessing
import time
from pathlib import Path

import pytest

from mad.context import Silent
from mad.runtime.claims import Claims
from mad.runtime.launcher import AutoLauncher
from mad.runtime.settings import Settings

NAME = "train-" + "0" * 20
EPOCHS = 4


def launcher(home: Path) -> AutoLauncher:
    return AutoLauncher(Settings(home, str(home / "artifacts"), None, None), "cpu", Silent())


def counting_loop(payload, worker) -> None:
    """Epochs that take a moment; every checkpoint says who made it and after which one."""
    folder = worker.resume_folder()
    seen = (folder / "seen").read_text() if folder else ""
    for epoch in range(len(seen), EPOCHS):
        time.sleep(payload["pause"])
        if epoch == payload.get("dies_at"):
            raise RuntimeError("killed")
        seen += payload["who"]
        worker.report({}, lambda path, seen=seen: (path / "seen").write_text(seen) and None)


def train(home: Path, who: str, pause: float, begin, out) -> None:
    begin.wait()
    mine = launcher(home)
    folder = mine.train(counting_loop, {"who": who, "pause": pause, "store": str(home)}, 0, EPOCHS, NAME)
    time.sleep(pause)
    out.put((folder / "seen").read_text())
    mine.forget(NAME)


def test_two_processes_train_the_same_side_by_side(tmp_path):
    context = multiprocessing.get_context("fork")
    begin, out = context.Barrier(2), context.Queue()
    both = [context.Process(target=train, args=(tmp_path, who, 0.1, begin, out)) for who in "ab"]
    for process in both:
        process.start()
    assert sorted(out.get(timeout=60) for _ in both) == ["aaaa", "bbbb"]
    for process in both:
        process.join(30)
        assert process.exitcode == 0
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_run_that_failed_is_gone_on_with(tmp_path):
    payload = {"who": "a", "pause": 0, "store": str(tmp_path)}
    mine = launcher(tmp_path)
    with pytest.raises(RuntimeError, match="killed"):
        mine.train(counting_loop, {**payload, "dies_at": 2}, 0, EPOCHS, NAME)
    folder = launcher(tmp_path).train(counting_loop, {**payload, "who": "b"}, 0, EPOCHS, NAME)
    assert (folder / "seen").read_text() == "aabb"


def test_what_another_process_is_at_is_neither_used_nor_removed(tmp_path, caplog):
    payload = {"who": "a", "pause": 0, "store": str(tmp_path)}
    first, second = launcher(tmp_path), launcher(tmp_path)
    kept = first.train(counting_loop, payload, 0, EPOCHS, NAME)
    second.forget(NAME)
    assert (kept / "seen").read_text() == "aaaa"
    with caplog.at_level(logging.WARNING):
        other = second.train(counting_loop, {**payload, "who": "b"}, 0, EPOCHS, NAME)
    assert (other / "seen").read_text() == "bbbb" and other.parent != kept.parent
    assert "another process is making" in caplog.text
    second.forget(NAME)
    assert (kept / "seen").exists() and not other.exists()
    first.forget(NAME)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_claim_falls_with_its_process(tmp_path):
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path, held))
    process.start()
    assert held.wait(60) and Claims(tmp_path).take(NAME) != NAME
    process.kill()
    process.join(30)
    assert Claims(tmp_path).take(NAME) == NAME


def hold(folder: Path, held) -> None:
    claims = Claims(folder)
    claims.take(NAME)
    held.set()
    time.sleep(600)
