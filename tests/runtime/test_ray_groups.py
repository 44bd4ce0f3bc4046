"""Real Ray Train groups: the same model and the same bytes as in one process, after a worker's death too."""

from __future__ import annotations

import json
import sys

import pytest
from safetensors.torch import load_file

from mad.artifacts import Split
from mad.config import parse, to_data
from mad.context import Silent
from mad.runtime import cluster, local
from mad.runtime.engine import Engine
from mad.runtime.settings import Settings
from mad.stages import extract, train
from mad.stages._base import load_stage
from mad.store import Store

pytestmark = pytest.mark.ray
EPOCHS = 4


class Heard(Silent):
    """Remembers what progress was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int | None]] = []

    def update(self, what, done, total, figures=None):
        self.events.append((what, done))


@pytest.fixture(scope="module")
def ray_cluster():
    cluster.connect()
    import ray
    from ray import cloudpickle

    from tests.runtime import ray_loops

    cloudpickle.register_pickle_by_value(sys.modules[ray_loops.__name__])
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    home = tmp_path_factory.mktemp("home")
    return Engine(Settings(home, str(home / "artifacts"), None, None), Store(str(home / "artifacts")))


@pytest.fixture(scope="module")
def split(engine) -> Split:
    stage = load_stage("prepare")
    return engine.run(stage, stage.Config(), {})


def _train_payload(engine: Engine, split: Split, **options) -> dict:
    config = parse(train.Config, {"train": {"epochs": EPOCHS, **options}})
    return {"config": to_data(config), "store": engine.store.uri, "split": split.key}


@pytest.fixture(scope="module")
def checkpoint(engine, split):
    stage = load_stage("train")
    return engine.run(stage, parse(stage.Config, {"train": {"epochs": EPOCHS}}), {"split": split})


@pytest.mark.timeout(400)
def test_two_workers_one_killed_give_the_model_of_one_process(ray_cluster, engine, split, checkpoint, tmp_path):
    from mad.runtime.ray_train import train_on_ray
    from tests.runtime.ray_loops import dying_train_loop

    payload = {**_train_payload(engine, split), "marker": str(tmp_path / "died")}
    heard = Heard()
    folder = train_on_ray(
        dying_train_loop, payload, 2, False, str(tmp_path / "ray"), "killed", EPOCHS, heard, tmp_path / "last"
    )
    assert (tmp_path / "died").exists()
    alone = load_file(checkpoint.folder / "weights.safetensors")
    together = load_file(folder / "weights.safetensors")
    for name, tensor in alone.items():
        distance = (together[name] - tensor).norm() / tensor.norm().clamp(min=1e-6)
        assert distance < 1e-4, name
    history = json.loads((folder / "history.json").read_text())
    first, expected = history[0], checkpoint.json("history.json")[0]
    assert first["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert first["val_clean_accuracy"] == pytest.approx(expected["val_clean_accuracy"], abs=0.01)
    assert len(history) == EPOCHS
    assert ("train", EPOCHS) in heard.events
    computed = [int(epoch) for epoch in (tmp_path / "computed").read_text().split()]
    assert sorted(set(computed)) == [1, 2, 3, 4] and len(computed) <= EPOCHS + 1, "a death cost more than an epoch"


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_what_would_fail_again_is_not_tried_again(ray_cluster, engine, split, tmp_path):
    from mad.errors import FitError
    from mad.runtime.ray_train import train_on_ray
    from tests.runtime.ray_loops import failing_loop

    starts = tmp_path / "starts"
    payload = {**_train_payload(engine, split, lr=1e30), "starts": str(starts)}
    with pytest.raises(FitError, match="training loss became"):
        train_on_ray(
            failing_loop, payload, 2, False, str(tmp_path / "ray"), "fails", EPOCHS, Heard(), tmp_path / "last"
        )
    assert starts.read_text().split() == ["0"]


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_chunks_are_the_same_bytes_from_two_workers_one_killed(ray_cluster, engine, split, checkpoint, tmp_path):
    from mad.runtime.sharding import map_on_ray
    from tests.runtime.ray_loops import dying_chunk_worker

    options = extract.Options(chunk_rows=100)
    payload = {
        "extract": to_data(options),
        "store": engine.store.uri,
        "split": split.key,
        "checkpoint": checkpoint.key,
        "model": checkpoint.json("model.json")["model"],
        "marker": str(tmp_path / "died"),
    }
    rows = len(extract.rows_of_parts(split, options.parts))
    chunks = range(-(-rows // options.chunk_rows))
    here, there = engine.store.draft("extract-here"), engine.store.draft("extract-there")
    local.map_here(extract.chunk_worker, payload, chunks, here, "cpu", Silent())
    heard = Heard()
    map_on_ray(dying_chunk_worker, payload, chunks, there, 2, False, str(tmp_path / "ray"), heard)
    assert (tmp_path / "died").exists()
    assert here.finished() == there.finished() and len(here.finished()) == len(chunks)
    assert all(what == "chunks" for what, _ in heard.events)


@pytest.mark.slow
def test_two_workers_stop_a_streaming_audit_where_one_process_does(ray_cluster, engine, new_engine, tmp_path):
    from tests.conftest import run_chain
    from tests.stages.test_stream import SETTINGS, write_prompts

    flags = {**write_prompts(tmp_path, 400), **SETTINGS, "candidate.first": 0.7, "audit.batch_size": 10}
    alone = run_chain(engine, "stream", flags)["stream"]
    both = run_chain(new_engine(tmp_path / "both"), "stream", {**flags, "stream.workers": 2})["stream"]
    assert alone.folder != both.folder and alone.key == both.key
    assert alone.verdict["rejected"] and alone.summary["saved"] > 0.3
    assert alone.meta["files"] == both.meta["files"]


def test_errors_that_come_again_end_a_run_and_others_do_not():
    from ray.train import ControllerError

    from mad.errors import ArtifactError, FitError
    from mad.runtime.ray_train import _Certain, _for_user

    told = FitError("training loss became inf")
    wrapped = RuntimeError("worker")
    wrapped.__cause__ = told
    with pytest.raises(FitError):
        _Certain().after_exception(None, {0: OSError("connection closed"), 1: wrapped})
    _Certain().after_exception(None, {0: OSError("connection closed"), 1: ArtifactError("disk full")})
    assert _for_user(ControllerError(told)) is told


def test_more_workers_than_the_cluster_can_have_are_refused(ray_cluster):
    from mad.errors import ClusterError

    with pytest.raises(ClusterError, match="100000 GPU needed, the cluster can have"):
        cluster.check_capacity({"GPU": 100_000})


def test_more_workers_than_cpus_are_one_line(ray_cluster, tmp_path, monkeypatch, capsys):
    from mad.__main__ import main

    monkeypatch.setenv("MAD_HOME", str(tmp_path))
    assert main(["train", "--no_tracking", "--device", "cpu", "--train.workers", "100000"]) == 2
    assert "100000 CPU needed, the cluster can have" in capsys.readouterr().err


def test_batch_norm_puts_the_worker_count_into_the_key(engine):
    stage = load_stage("train")
    plain = stage.Config()
    normed = parse(stage.Config, {"model": {"name": "preactresnet"}})
    assert stage.identity(plain, 1) == stage.identity(plain, 2)
    assert stage.identity(normed, 1) != stage.identity(normed, 2)
