"""The store keeps what is whole: atomic writes, checksums, kills, full disks, two writers, remote copies."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest

from mad.artifacts import Checkpoint, Generations, Split
from mad.errors import ArtifactError
from mad.files import without_login
from mad.store import Store
from tests.store_processes import KEY, META, die_writing, fill_limited, put, put_often, tensors

ROOT = Path(__file__).parents[1]


@pytest.fixture(params=["folder", "file", "memory"])
def store(request, tmp_path) -> Store:
    uri = {"folder": str(tmp_path / "store"), "file": f"file://{tmp_path}/store", "memory": "memory://frame/store"}
    yield Store(uri[request.param], cache=tmp_path / "cache")
    memory = fsspec.filesystem("memory")
    if memory.exists("/frame"):
        memory.rm("/frame", recursive=True)


@pytest.fixture
def folder(tmp_path) -> Store:
    return Store(str(tmp_path / "store"))


def damage(store: Store, name: str, how: str) -> None:
    location = store.path(KEY, name)
    body = store.fs.cat_file(location)
    if how == "missing":
        store.fs.rm(location)
    else:
        store.fs.pipe_file(location, body[:-1] if how == "truncated" else body[:-1] + bytes([body[-1] ^ 1]))


def test_put_and_get(store):
    assert not store.has(KEY) and store.keys() == []
    artifact = put(store)
    assert store.has(KEY) and store.keys() == [KEY] and isinstance(artifact, Checkpoint)
    assert artifact.key == KEY and artifact.json("history.json") == [1, 2]
    assert artifact.tensors("weights.safetensors")["x"].eq(1).all()
    assert set(artifact.meta["files"]) == {"weights.safetensors", "history.json"}
    store.delete(KEY)
    assert not store.has(KEY) and store.keys() == []
    with pytest.raises(ArtifactError, match=f"no artifact '{KEY}'"):
        store.open(KEY)


def test_the_expected_kind_is_checked(store):
    put(store)
    assert isinstance(store.open(KEY, Checkpoint), Checkpoint)
    with pytest.raises(ArtifactError, match="was made by stage 'train', 'prepare' is needed"):
        store.open(KEY, Split)


def test_absent_keys_are_told_with_the_nearest(store):
    put(store)
    with pytest.raises(ArtifactError) as error:
        store.open(KEY[:-1] + "1")
    assert f"did you mean {KEY}?" in str(error.value)


def test_a_writer_that_raises_leaves_nothing(store):
    draft = store.draft(KEY)
    draft.write("kept.json", lambda path: path.write_text("{}"))

    def failing(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("stop")

    for name in ("new.json", "kept.json"):
        with pytest.raises(RuntimeError, match="stop"):
            draft.write(name, failing, marker=True)
    files = [f.split("/")[-1] for f in store.fs.find(store.path(KEY))]
    assert files == ["kept.json"] and store.fs.cat_file(store.path(KEY, "kept.json")) == b"{}"
    assert not store.has(KEY) and draft.finished() == {}


def test_a_draft_goes_on_with_what_is_finished(store):
    draft = store.draft(KEY)
    for number in range(2):
        draft.write(f"chunk-{number}", lambda path, n=number: path.write_text(f"chunk {n}"), marker=True)
    draft.write("unmarked", lambda path: path.write_text("x"))
    again = store.draft(KEY)
    assert set(again.finished()) == {"chunk-0", "chunk-1"}
    store.fs.pipe_file(store.path(KEY, "chunk-1"), b"ch")
    assert set(again.finished()) == {"chunk-0"}, "another size than recorded is not finished"
    for number in (1, 2):
        again.write(f"chunk-{number}", lambda path, n=number: path.write_text(f"chunk {n}"), marker=True)
    again.commit(META)
    artifact = store.open(KEY)
    assert [(artifact.folder / f"chunk-{n}").read_text() for n in range(3)] == ["chunk 0", "chunk 1", "chunk 2"]
    assert set(artifact.meta["files"]) == {"chunk-0", "chunk-1", "chunk-2"}
    assert store.find(KEY, "*.done") == []


def test_a_record_is_read_once(store, monkeypatch):
    other = store.draft(KEY)
    for number in range(3):
        store.draft(KEY).write(f"chunk-{number}", lambda path, n=number: path.write_text(f"chunk {n}"), marker=True)
    read = []
    original = other._read
    monkeypatch.setattr(other, "_read", lambda names: (read.extend(names), original(names)))
    assert len(other.finished()) == len(read) == 3
    store.draft(KEY).write("chunk-3", lambda path: path.write_text("chunk 3"), marker=True)
    assert len(other.finished()) == 4 and read[3:] == ["chunk-3"]
    store.draft(KEY).write("chunk-1", lambda path: path.write_text("made again, longer"), marker=True)
    assert other.finished()["chunk-1"]["bytes"] == 18 and read[4:] == ["chunk-1"]
    store.fs.rm_file(store.path(KEY, "chunk-2"))
    store.fs.rm_file(store.path(KEY, "chunk-0.done"))
    assert set(other.finished()) == {"chunk-1", "chunk-3"}


def test_chunks_are_in_order_beyond_five_digits(folder):
    draft = folder.draft("generate-0123456789abcdef0123")
    for number in (99_999, 100_000, 100_001, 7, 1_000_000):
        name = f"chunk-{number:05d}.parquet"
        draft.write(name, lambda path, n=number: pd.DataFrame({"id": [n]}).to_parquet(path), marker=True)
    draft.commit({**META, "stage": "generate"})
    assert list(folder.open(draft.key, Generations).rows["id"]) == [7, 99_999, 100_000, 100_001, 1_000_000]


@pytest.mark.parametrize("how", ["truncated", "altered", "missing"])
def test_damage_is_detected(store, how, tmp_path):
    put(store)
    damage(store, "weights.safetensors", how)
    fresh = Store(store.uri, cache=tmp_path / "another")
    expected = {"truncated": "has [0-9]+ bytes of", "altered": "fails its sha256", "missing": "is missing"}[how]
    with pytest.raises(ArtifactError, match=f"artifact '{KEY}' is damaged: weights.safetensors {expected}"):
        fresh.open(KEY)


def test_damaged_meta_data_is_told(store):
    put(store)
    store.fs.pipe_file(store.path(KEY, "meta.json"), b'{"stage"')
    with pytest.raises(ArtifactError, match=r"meta\.json is not JSON"):
        store.open(KEY)


def test_names_stand_for_keys(store):
    assert store.names() == {}
    store.set_name("first", KEY)
    store.set_name("first", KEY)
    store.set_name("second", "x")
    assert store.names() == {"first": KEY, "second": "x"} and store.keys() == []


def test_a_folder_with_glob_characters_works(tmp_path):
    store = Store(str(tmp_path / "a[b]*c"))
    store.draft(KEY).write("chunk", lambda path: path.write_text("x"), marker=True)
    assert set(store.draft(KEY).finished()) == {"chunk"}
    put(store)
    store.set_name("n", KEY)
    assert store.keys() == [KEY] and store.names() == {"n": KEY}


def test_a_relative_folder_is_the_same_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("here")
    monkeypatch.chdir("/")
    assert Store(store.uri).root == store.root == str(tmp_path / "here")


def test_listings_are_never_remembered(store):
    # Workers write behind the driver's back; fsspec's caches of S3 and GCS listings would hide it.
    assert store.fs.dircache.use_listings_cache is False


def test_an_unknown_scheme_is_one_line():
    with pytest.raises(ArtifactError, match="cannot open the artifact store 'nosuch://x'"):
        Store("nosuch://x")


def test_old_unkept_artifacts_are_collected(store):
    put(store)
    fit, half = f"fit-{1:020}", f"fit-{2:020}"
    put(store, fit)
    put(store, "data")
    store.draft(half).write("half", lambda path: path.write_text("x" * 10))
    store.set_name("n", KEY)
    later = time.time() + 60
    assert store.collect({KEY}, time.time() - 60, dry_run=False) == []
    listed = store.collect({KEY}, later, dry_run=True)
    assert sorted(key for key, _ in listed) == [fit, half] and dict(listed)[half] == 10
    assert store.keys() == ["data", fit, KEY]
    assert sorted(store.collect({KEY}, later, dry_run=False)) == sorted(listed)
    assert store.keys() == ["data", KEY] and store.names() == {"n": KEY}


def fork(function: Callable[..., None], *arguments: str) -> Any:
    """Start a function in another process; forked, as importing torch again takes seconds."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def test_a_killed_writer_leaves_no_artifact(folder):
    writer = fork(die_writing, folder.uri)
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    assert not folder.has(KEY) and folder.keys() == []
    draft = folder.draft(KEY)
    assert set(draft.finished()) == {"chunk-0"}
    draft.write("chunk-1", tensors, marker=True)
    draft.commit(META)
    artifact = folder.open(KEY)
    assert artifact.tensors("chunk-0")["x"].eq(0).all() and artifact.tensors("chunk-1")["x"].eq(1).all()


def test_two_writers_and_a_reader_of_one_key(folder):
    put(folder)
    writers = [fork(put_often, folder.uri) for _ in range(2)]
    reads = 0
    while any(writer.is_alive() for writer in writers):
        assert Store(folder.uri).open(KEY).tensors("weights.safetensors")["x"].eq(1).all()
        reads += 1
    assert [writer.exitcode for writer in writers] == [0, 0] and reads > 0
    left = sorted(file.name for file in Path(folder.path(KEY)).iterdir())
    assert left == ["history.json", "meta.json", "weights.safetensors"]


def check_full(found: dict[str, Any]) -> None:
    for line in found["said"]:
        assert line.startswith("no space left while writing ") and "\n" not in line, found["said"]
    assert found["files"] == ["history.json", "meta.json", "weights.safetensors"], "nothing half-written"
    assert found["kept"], "what was there before stays"
    assert found["epochs"] == ["epoch-000001"]


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path):
    mount = f'mount -t tmpfs -o size=1m tmpfs {tmp_path} && exec "$@"'
    inside = ["unshare", "-rm", "sh", "-c", mount, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    command = [*inside, sys.executable, "-m", "tests.store_processes", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    check_full(json.loads(done.stdout.strip().splitlines()[-1]))


def test_a_file_size_limit_is_told_as_a_full_disk(tmp_path):
    writer = fork(fill_limited, str(tmp_path))
    writer.join()
    check_full(json.loads((tmp_path / "found.json").read_text()))


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"cannot write .*: (Not a directory|File exists); set MAD_HOME"):
        put(Store(str(tmp_path / "file")))


def test_a_place_that_cannot_be_made_is_one_line():
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    with pytest.raises(ArtifactError, match=r"cannot write /proc/x/.*: .*; set MAD_HOME elsewhere"):
        put(Store("/proc/x/artifacts"))


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("memory://user:secret@host/x", "memory://host/x"),
        ("s3://key@bucket", "s3://bucket"),
        ("simplecache::s3://user:secret@bucket/x", "simplecache::s3://bucket/x"),
        ("/user:secret@host/x", "/host/x"),
        ("/home/a@b/runs", "/home/a@b/runs"),
    ],
)
def test_a_login_is_not_shown(uri, shown):
    assert without_login(uri) == shown


def test_no_message_shows_a_login():
    store = Store("memory://user:secret@host/x")
    for action in (lambda: store.meta(KEY), lambda: Store("nosuch://user:secret@host")):
        with pytest.raises(ArtifactError) as error:
            action()
        assert "secret" not in str(error.value) and "user" not in str(error.value)


@pytest.mark.parametrize("kind", [ConnectionError, PermissionError, type("ClientError", (Exception,), {})])
def test_a_store_that_does_not_answer_is_one_line(kind, monkeypatch):
    store = Store("memory://user:secret@frame/away")

    def refuse(*_, **__):
        raise kind("Cannot connect to\nhttp://user:secret@frame")

    for name in ("exists", "cat_file", "glob"):
        monkeypatch.setattr(store.fs, name, refuse)
    said = r"^the artifact store memory://frame/away does not answer: Cannot connect to http://frame$"
    for action in (lambda: store.has(KEY), lambda: store.meta(KEY), store.keys):
        with pytest.raises(ArtifactError, match=said):
            action()


def test_a_bug_is_not_told_as_a_store_that_does_not_answer(monkeypatch):
    store = Store("memory://frame/away")
    monkeypatch.setattr(store.fs, "glob", None)
    with pytest.raises(TypeError):
        store.keys()


class Counted:
    """Counts the downloads of a store."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch):
        self.names: list[str] = []
        original = store.fs.get_file
        monkeypatch.setattr(
            store.fs,
            "get_file",
            lambda rpath, *rest, **more: (self.names.append(rpath.split("/")[-1]), original(rpath, *rest, **more))[1],
        )


@pytest.fixture
def remote(tmp_path) -> Store:
    yield Store("memory://frame/remote", cache=tmp_path / "cache")
    fsspec.filesystem("memory").rm("/frame", recursive=True)


def test_a_remote_artifact_is_fetched_once_per_node(remote, tmp_path, monkeypatch):
    counted = Counted(remote, monkeypatch)
    put(remote)
    assert sorted(counted.names) == ["history.json", "weights.safetensors"]
    for store in (remote, Store(remote.uri, cache=tmp_path / "cache")):
        assert store.open(KEY).json("history.json") == [1, 2]
    assert len(counted.names) == 2
    Store(remote.uri, cache=tmp_path / "another node").open(KEY)
    assert len(counted.names) == 4
    assert not list((tmp_path / "cache").rglob(".tmp-*"))


def test_a_damaged_copy_is_fetched_again(remote, tmp_path, monkeypatch):
    copy = put(remote).folder / "weights.safetensors"
    copy.write_bytes(copy.read_bytes()[:-1])
    counted = Counted(remote, monkeypatch)
    fresh = Store(remote.uri, cache=tmp_path / "cache")
    assert fresh.open(KEY).tensors("weights.safetensors")["x"].eq(1).all() and len(counted.names) == 2


def test_what_was_made_again_is_fetched_again(remote, tmp_path):
    copy = put(remote, value=1.0).folder
    other = Store(remote.uri, cache=tmp_path / "other")
    assert other.open(KEY).tensors("weights.safetensors")["x"].eq(1).all()
    remote.delete(KEY)
    assert not copy.exists()
    assert put(remote, value=2.0).tensors("weights.safetensors")["x"].eq(2).all()
    assert other.open(KEY, check=False).tensors("weights.safetensors")["x"].eq(2).all()


def test_a_failed_fetch_leaves_nothing(remote, tmp_path):
    put(remote)
    damage(remote, "weights.safetensors", "truncated")
    fresh = Store(remote.uri, cache=tmp_path / "fresh")
    with pytest.raises(ArtifactError, match="bytes of"):
        fresh.open(KEY)
    assert not [f for f in (tmp_path / "fresh").rglob("*") if f.is_file()]


def test_a_payload_file_of_a_remote_draft_can_be_read(store):
    store.draft(KEY).write("x.txt", lambda path: path.write_text("hello"))
    with store.local_copy(KEY, "x.txt") as path:
        assert path.read_text() == "hello"
    assert store.fs.exists(store.path(KEY, "x.txt"))
