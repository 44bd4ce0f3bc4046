"""A head that restarts on what it had written to disk: the same cluster goes on, and the same command too."""

from __future__ import annotations

import pytest

from mad.__main__ import main
from tests.faults.holding import Journal
from tests.faults.ray_nodes import Nodes
from tests.faults.scenario import Command, Step, copy_artifacts, files_of, judged, kill_worker, play
from tests.tiny_llama import make_tiny_llama

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture
def own_nodes():
    made = Nodes(workers=2)
    yield made
    made.end()


def test_generate(own_nodes, tmp_path, monkeypatch):
    folder, alone, home = make_tiny_llama(tmp_path / "llama"), tmp_path / "alone", tmp_path / "home"
    words = ["generate", "--no_tracking", "--device", "cpu", "--lm.model", str(folder), "--prompts.limit", "48"]
    words += ["--generate.samples", "2", "--generate.max_new_tokens", "8", "--generate.chunk_rows", "8"]
    monkeypatch.setenv("MAD_HOME", str(alone))
    assert main([*words, "--generate.workers", "0"]) == 0
    copy_artifacts(alone, home, "generate")

    def control(command: Command, held: dict) -> None:
        own_nodes.restart_control()

    def head(command: Command, held: dict) -> None:
        own_nodes.restart_head()
        command.kill()  # where it has not died with the head
        command.start()

    steps = [
        Step("head's control service restarted", "2", control, "3", most=0, lethal=False),
        Step("worker killed after a restart of the head's control service", "4", kill_worker, "5"),
        Step("head lost with the driver, restarted", "6", head, "7"),
    ]
    asked = [*words, "--generate.workers", "2"]
    command = Command(asked, home, Journal(tmp_path / "journal"), own_nodes.driver_environment())
    rows = play(command, steps, "generate")
    judged(rows, files_of(home, "generate") == files_of(alone, "generate"), "the same bytes")
