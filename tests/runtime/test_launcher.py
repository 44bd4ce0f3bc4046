"""Where chunks are made: in this process as long as workers would not pay."""

from __future__ import annotations

import pytest

from mad.context import Silent
from mad.runtime import launcher as launchers
from mad.runtime.launcher import SMALL_MAP, AutoLauncher, _group
from mad.runtime.settings import Settings
from mad.store import Store


@pytest.fixture
def launcher(tmp_path):
    return AutoLauncher(Settings(tmp_path, str(tmp_path), None, None), "cpu", Silent())


def write(payload, device):
    return lambda number, path: path.write_text(str(number)) and None


def test_small_work_stays_in_this_process(launcher, tmp_path, monkeypatch):
    monkeypatch.setattr(launchers, "_most_workers", lambda use_gpu: pytest.fail("a cluster was started"))
    draft = Store(str(tmp_path)).draft("extract-1")
    launcher.map_chunks(write, {}, range(3), draft, "auto", SMALL_MAP - 1)
    assert len(draft.finished()) == 3


def test_work_that_is_done_counts_for_nothing(launcher, tmp_path, monkeypatch):
    monkeypatch.setattr(launchers, "_most_workers", lambda use_gpu: pytest.fail("a cluster was started"))
    draft = Store(str(tmp_path)).draft("extract-1")
    launcher.map_chunks(write, {}, range(4), draft, 0, 0)
    for number in range(2):
        (tmp_path / "extract-1" / f"chunk-{number:05d}.safetensors").unlink()
    launcher.map_chunks(write, {}, range(4), draft, "auto", 2 * SMALL_MAP - 2)
    assert len(draft.finished()) == 4
    assert launcher.map_chunks(write, {}, range(4), draft, "auto", 10 * SMALL_MAP) == {}


def test_a_group_of_one_pays_for_nothing(launcher, monkeypatch):
    monkeypatch.setattr(launchers, "_most_workers", lambda use_gpu: 1)
    assert launcher._map_workers("auto", 9, 10 * SMALL_MAP) == 0
    monkeypatch.setattr(launchers, "_most_workers", lambda use_gpu: 8)
    assert launcher._map_workers("auto", 9, 10 * SMALL_MAP) == 8
    assert launcher._map_workers("auto", 1, 10 * SMALL_MAP) == 0
    assert launcher._map_workers(1, 9, 0) == 1


def test_a_large_cluster_is_asked_for_as_much_as_the_work_pays_for(launcher, monkeypatch):
    monkeypatch.setattr(launchers, "_most_workers", lambda use_gpu: 800)
    assert launcher._map_workers("auto", 900, SMALL_MAP) == 2
    assert launcher._map_workers("auto", 900, 50 * SMALL_MAP) == 50
    assert launcher._map_workers("auto", 900, 5000 * SMALL_MAP) == 800


@pytest.mark.parametrize(
    ("workers", "chunks", "group"), [(3, 9, 3), ("2-8", 99, (2, 8)), ("2-8", 5, (2, 5)), ("2-8", 2, 2), ("4-8", 3, 3)]
)
def test_a_range_becomes_a_group_that_follows_the_cluster(launcher, tmp_path, monkeypatch, workers, chunks, group):
    from mad.runtime import sharding

    asked = []
    monkeypatch.setattr(sharding, "map_on_ray", lambda *args: asked.append(args[4]))
    launcher.map_chunks(write, {}, range(chunks), Store(str(tmp_path)).draft("extract-1"), workers, 0)
    assert asked == [group]


def test_training_on_a_range_is_keyed_by_its_most(launcher):
    assert launcher.train_workers("2-8") == 8
    assert [_group(workers, 8) for workers in ("2-8", "8-8", 8)] == [(2, 8), 8, 8]
