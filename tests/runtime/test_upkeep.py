"""``mad gc``: what is named, recent or an ancestor of it stays."""

from __future__ import annotations

import os
import time

import pytest

from mad.errors import ConfigError
from mad.runtime import upkeep
from mad.runtime.settings import settings
from mad.store import Store

DAY = 86400


@pytest.fixture
def store() -> Store:
    return Store(settings().store)


def k(stage: str, number: int) -> str:
    return f"{stage}-{number:020x}"


def put(store: Store, key: str, days_old: float = 0.0, **inputs: str) -> None:
    draft = store.draft(key)
    draft.write("payload", lambda path: path.write_text("x" * 100))
    created = time.time() - days_old * DAY
    draft.commit({"stage": key.split("-")[0], "config": {}, "inputs": inputs, "summary": {}, "created": created})
    age(store.path(key), days_old)


def age(folder: str, days: float) -> None:
    for parent, _, files in os.walk(folder):
        for name in [*files, "."]:
            os.utime(os.path.join(parent, name), (time.time() - days * DAY,) * 2)


def gc(*words: str) -> None:
    assert upkeep.run("gc", list(words)) == 0


def test_old_artifacts_go_and_ancestors_of_what_stays_do_not(store, capsys):
    put(store, k("prepare", 1), 50)
    put(store, k("train", 1), 50, split=k("prepare", 1))
    put(store, k("prepare", 2), 50)
    put(store, k("extract", 1), 50, split=k("prepare", 2), checkpoint=k("train", 1))
    put(store, k("fit", 1), 1, features=k("extract", 1))
    put(store, k("fit", 2), 50, features=k("extract", 1))
    put(store, k("fit", 3), 50, features=k("extract", 1))
    put(store, k("prepare", 3), 50)
    put(store, k("train", 3), 50, split=k("prepare", 3))
    store.set_name("kept", k("train", 3))
    everything = store.keys()
    gc("--keep_days", "60")
    assert store.keys() == everything
    gc("--keep_days", "30", "--dry_run")
    assert store.keys() == everything and "Would be deleted" in capsys.readouterr().out
    gc("--keep_days", "30")
    assert sorted(set(everything) - set(store.keys())) == [k("fit", 2), k("fit", 3)]
    assert "2 artifacts" in capsys.readouterr().out and store.names() == {"kept": k("train", 3)}


def test_zero_days_keep_only_what_is_named(store):
    put(store, k("train", 1))
    put(store, k("train", 2))
    store.set_name("kept", k("train", 2))
    gc("--keep_days", "0")
    assert store.keys() == [k("train", 2)]


def test_unfinished_drafts_and_checkpoints_go_when_old(store):
    for name, days in ((k("train", 1), 50), (k("train", 2), 1)):
        store.draft(name).write("half", lambda path: path.write_text("x"))
        age(store.path(name), days)
        folder = settings().home / "scratch" / name / "epoch-000001"
        folder.mkdir(parents=True)
        (folder / "weights").write_text("x")
        age(str(folder.parent), days)
    gc()
    assert [entry.name for entry in (settings().home / "artifacts").iterdir()] == [k("train", 2)]
    assert [entry.name for entry in (settings().home / "scratch").iterdir()] == [k("train", 2)]


def test_a_damaged_artifact_does_not_stop_it(store, caplog):
    put(store, k("train", 1), 50)
    put(store, k("train", 2), 50)
    (settings().home / "artifacts" / k("train", 1) / "meta.json").write_text("{")
    age(store.path(k("train", 1)), 50)
    gc()
    assert store.keys() == [] and k("train", 1) in caplog.text


def test_what_is_not_an_artifact_is_never_deleted(store):
    put(store, k("train", 1), 50)
    for folder in (
        "data/MNIST/raw",
        f"ray/{k('train', 1)}/checkpoint",
        "train-1",
        f"{k('train', 2)}.bak",
        "../scratch/notes",
    ):
        (settings().home / "artifacts" / folder).mkdir(parents=True)
        (settings().home / "artifacts" / folder / "file").write_text("mine")
    age(str(settings().home), 50)
    gc("--keep_days", "0")
    assert store.keys() == [] and not (settings().home / "artifacts" / k("train", 1)).exists()
    assert len(list(settings().home.rglob("file"))) == 5


def test_a_port_is_checked():
    for port in ("0", "-1", "65536", "999999"):
        with pytest.raises(ConfigError, match=f"port must be from 1 to 65535, got {port}"):
            upkeep.run("ui", ["--port", port])


def test_an_empty_home_is_fine(capsys):
    gc()
    assert "0 artifacts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--keep_days", "-1"], "keep_days must be 0 or more, got -1.0"),
        (["--keep_day", "1"], "unknown option 'keep_day' (did you mean keep_days?)"),
        (["--dry_run", "maybe"], "--dry_run: expected bool, got 'maybe'"),
    ],
)
def test_mistakes_are_told(words, said):
    with pytest.raises(ConfigError) as error:
        upkeep.run("gc", words)
    assert str(error.value) == said


@pytest.mark.parametrize("command", upkeep.COMMANDS)
def test_help(command, capsys):
    assert upkeep.run(command, ["-h"]) == 0
    assert f"mad {command}" in capsys.readouterr().out


def test_the_interface_of_a_server_is_its_own(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    assert upkeep.run("ui", []) == 0
    assert "http://tracking.example:5000" in capsys.readouterr().out


def test_the_interface_binds_to_loopback(monkeypatch):
    called = []
    monkeypatch.setattr(os, "execv", lambda program, words: called.append(words))
    upkeep.run("ui", ["--port", "1234"])
    words = called[0]
    assert words[words.index("--host") + 1] == "127.0.0.1" and words[words.index("--port") + 1] == "1234"
    assert words[words.index("--backend-store-uri") + 1] == settings().tracking_uri


def test_a_database_without_a_server_gets_one(monkeypatch):
    called = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://somewhere/mlflow")
    monkeypatch.setattr(os, "execv", lambda program, words: called.append(words))
    upkeep.run("ui", [])
    assert called[0][-2:] == ["--backend-store-uri", "postgresql://somewhere/mlflow"]


def test_settings_come_from_the_environment_then_the_env_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("MAD_HOME", "MAD_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")
    plain = settings()
    assert plain.home == tmp_path / "runs" and plain.store == str(tmp_path / "runs" / "artifacts")
    assert (
        plain.tracking_uri == f"sqlite:///{tmp_path}/runs/mlflow.db" and settings(tracking=False).tracking_uri is None
    )
    for name in ("MAD_HOME", "MAD_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name)
    (tmp_path / ".env").write_text("MAD_HOME=from-file\nMAD_STORE=memory://x\nMLFLOW_TRACKING_URI=http://server\n")
    monkeypatch.setenv("MAD_HOME", "~/here")
    monkeypatch.setenv("HOME", str(tmp_path))
    given = settings()
    assert given.home == tmp_path / "here" and given.store == "memory://x"
    assert given.tracking_uri == "http://server" and given.artifact_root is None
    for name in ("MAD_STORE", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)  # read from the file into the environment
