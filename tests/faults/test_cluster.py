"""Faults on a Ray cluster of several nodes: what comes out is what an undisturbed run makes, at the cost of a piece."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from mad.__main__ import main
from tests.faults.holding import Journal
from tests.faults.ray_nodes import Nodes
from tests.faults.scenario import (
    Command,
    Step,
    copy_artifacts,
    files_of,
    judged,
    kill_driver,
    kill_worker,
    play,
    read_json,
    truncate_and_kill_driver,
)
from tests.tiny_llama import make_tiny_llama

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]
PLAIN = ["--no_tracking", "--device", "cpu"]
DIGITS = [*PLAIN, "--task.max_rows", "600"]
EXTRACT = ["extract", *DIGITS, "--train.workers", "0", "--train.epochs", "2", "--extract.chunk_rows", "80"]
EPOCHS, TRIALS = 7, 12


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> list[str]:
    """Words of the language stages: twelve chunks of answers of a small model."""
    folder = make_tiny_llama(tmp_path_factory.mktemp("llama"))
    words = [*PLAIN, "--lm.model", str(folder), "--prompts.limit", "48", "--generate.samples", "2"]
    return [*words, "--generate.max_new_tokens", "8", "--generate.chunk_rows", "8"]


@pytest.fixture(scope="module")
def words(llama) -> dict[str, list[str]]:
    """The command of each stage that is made of chunks, up to its number of workers."""
    judge = [*llama, "--behavior", "repetition", "--judge.chunk_rows", "8"]
    return {"extract": EXTRACT, "generate": ["generate", *llama], "judge": ["judge", *judge]}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, words) -> Path:
    """The home of a run of every stage in one process."""
    home = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as change:
        change.setenv("MAD_HOME", str(home))
        assert main([*words["extract"], "--extract.workers", "0"]) == 0
        assert main([*words["judge"], "--generate.workers", "0", "--judge.workers", "0"]) == 0
    return home


def fill(nodes: Nodes, stack: list):
    """A fault: every object store is filled until it spills, and stays full until the command has ended."""

    def inject(command: Command, held: dict) -> None:
        full = nodes.filled()
        full.__enter__()
        stack.append(full)

    return inject


def lose(nodes: Nodes):
    """A fault: the node of whoever holds the piece goes, and another comes."""

    def inject(command: Command, held: dict) -> None:
        nodes.remove(held["node"])
        nodes.add()

    return inject


@pytest.fixture
def stack():
    """Open object stores; what was put must be there at the end."""
    opened: list = []
    yield opened
    for one in opened:
        one.__exit__(None, None, None)


@pytest.mark.parametrize("stage", ["extract", "generate", "judge"])
def test_chunks(nodes, words, undisturbed, stack, tmp_path, stage):
    """A worker dies, a node goes, the driver dies and a chunk is damaged meanwhile, the object store overflows."""
    home = tmp_path / "home"
    copy_artifacts(undisturbed, home, stage)
    steps = [
        Step("worker killed", "2", kill_worker, "3"),
        Step("node removed", "4", lose(nodes), "5"),
        Step("driver killed", "6", truncate_and_kill_driver, "7", truncated=True),
        Step("object store spills", "8", fill(nodes, stack), "9", most=0, lethal=False),
    ]
    asked = [*words[stage], f"--{stage}.workers", "2"]
    command = Command(asked, home, Journal(tmp_path / "journal"), nodes.driver_environment())
    rows = play(command, steps, stage)
    assert len(files_of(undisturbed, stage)) == 1
    judged(rows, files_of(home, stage) == files_of(undisturbed, stage), "the same bytes")


def test_train(nodes, tmp_path, stack, monkeypatch):
    """The same in training, whose figures may differ by rounding: less than 1e-4 of each weight tensor's norm."""
    alone, home = tmp_path / "alone", tmp_path / "home"
    words = ["train", *DIGITS, "--train.epochs", str(EPOCHS)]
    monkeypatch.setenv("MAD_HOME", str(alone))
    assert main([*words, "--train.workers", "0"]) == 0
    copy_artifacts(alone, home, "train")
    steps = [
        Step("worker killed", "2", kill_worker, most=1),
        Step("worker killed after its report", "after-3", kill_worker, most=1),
        Step("node removed", "4", lose(nodes), most=1),
        Step("driver killed", "5", kill_driver, most=1),
        Step("object store spills", "6", fill(nodes, stack), most=0, lethal=False),
    ]
    asked = [*words, "--train.workers", "2"]
    command = Command(asked, home, Journal(tmp_path / "journal"), nodes.driver_environment())
    rows = play(command, steps, "train")
    (first,), (second,) = (list((folder / "artifacts").glob("train-*")) for folder in (alone, home))
    expected, got = (load_file(folder / "weights.safetensors") for folder in (first, second))
    distance = max(float((got[n] - t).norm() / t.norm().clamp(min=1e-6)) for n, t in expected.items())
    histories = [read_json(folder / "history.json") for folder in (first, second)]
    assert len(histories[1]) == EPOCHS
    losses = [[epoch["loss"] for epoch in history] for history in histories]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    print(f"largest relative distance of a weight tensor: {distance:.2g}")
    judged(rows, first.name == second.name and distance < 1e-4, "weights within 1e-4")


def test_sweep(nodes, undisturbed, stack, tmp_path):
    """The same in trials of a sweep, against the artifacts and leaderboard of an undisturbed sweep."""
    search = {"detector": ["tests.faults.held_detector"], "detector.number": list(range(1, TRIALS + 1))}
    search["detector.journal"] = [str(tmp_path / "journal")]
    base = {"task": {"max_rows": 600}, "train": {"workers": 0, "epochs": 2}, "extract": {"workers": 0}}
    base["extract"]["chunk_rows"] = 80
    study = {"base": base, "search": [search], "concurrency": 2, "bundle": 2}
    (tmp_path / "held.yaml").write_text(yaml.safe_dump(study))
    homes = [tmp_path / "alone", tmp_path / "home"]

    def sweep(home: Path, journal: Journal) -> Command:
        copy_artifacts(undisturbed, home)
        words = ["sweep", str(tmp_path / "held.yaml"), *PLAIN, "--json", str(home / "found.json")]
        return Command(words, home, journal, nodes.driver_environment())

    sweep(homes[0], Journal(tmp_path / "apart")).finish(240)
    (tmp_path / "journal" / "journal.jsonl").unlink()
    steps = [
        Step("worker killed", "1", kill_worker, "3", most=1),
        Step("node removed", "5", lose(nodes), "7", most=1),
        Step("driver killed", "9", kill_driver, "11"),
        Step("object store spills", "10", fill(nodes, stack), "12", most=0, lethal=False),
    ]
    command = sweep(homes[1], Journal(tmp_path / "journal"))
    rows = play(command, steps, "sweep")
    boards = [read_json(home / "found.json")["leaderboard"] for home in homes]
    artifacts = [files_of(home, "fit", "detect") for home in homes]
    assert len(artifacts[0]) > 2 * TRIALS
    judged(rows, boards[0] == boards[1] and artifacts[0] == artifacts[1], "the same bytes")
