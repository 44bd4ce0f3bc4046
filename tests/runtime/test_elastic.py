"""Groups that follow the cluster: a node goes, a node comes, and the model is that of an undisturbed process."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
import time
from contextlib import contextmanager

import pytest
from safetensors.torch import load_file

from mad.config import parse, to_data
from mad.context import Silent
from mad.runtime import cluster, local
from mad.stages import train
from mad.stages._base import load_stage
from mad.stages._classifier_loop import train_loop
from mad.stages._language_loop import language_loop
from mad.store import Store
from tests.conftest import make_engine
from tests.runtime.held_loops import dying_loop, held_train_loop, notes, slow_chunks

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]
EPOCHS = 6
BOUND = 1e-4
"""Most that a tensor may differ from that of one process, relative to its norm, after all epochs."""
PATIENCE = 300
"""Seconds to wait for a group on a busy machine."""
STORE = 80 * 2**20
"""Bytes of a node's object store; Ray allows no less than 75 MiB."""
TASKS = {
    "classifier": {"task": {"max_rows": 600}},
    "language": {"task": {"name": "text_backdoor", "generated_rows": 80, "answers": ["bad", "good"]}},
}
MODELS = {"classifier": "mlp", "language": {"name": "llama", "vocabulary": 300, "hidden": 16, "layers": 2, "heads": 2}}
LOOPS = {"classifier": (train_loop, "weights"), "language": (language_loop, "model")}


@pytest.fixture
def nodes(monkeypatch):
    """A head without CPUs, to which nodes are added; Ray looks often whether groups can grow."""
    cluster.prepare_environment()
    import ray
    from ray import cloudpickle
    from ray.cluster_utils import Cluster

    from mad.runtime import ray_train
    from tests.runtime import held_loops

    cloudpickle.register_pickle_by_value(sys.modules[held_loops.__name__])
    monkeypatch.setattr(ray_train, "RESIZE_SECONDS", 5.0)
    # Sockets lie below it, whose paths may have about 100 characters.
    folder = tempfile.mkdtemp(prefix="mad-")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    made = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    for node in [*made.worker_nodes, made.head_node]:
        made.remove_node(node, allow_graceful=False)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def made(tmp_path, request):
    """Payload of a training and the folder of the same training in one process."""
    kind, language = request.param
    engine = make_engine(tmp_path / "home")
    stage = load_stage("prepare")
    split = engine.run(stage, parse(stage.Config, TASKS[kind]), {})
    options = {"epochs": EPOCHS, "batch_size": 64, "language": language}
    config = parse(train.Config, {"model": MODELS[kind], "train": options})
    payload = {"config": to_data(config), "store": engine.store.uri, "split": split.key}
    alone = local.train_here(LOOPS[kind][0], payload, tmp_path / "alone", "cpu", Silent(), EPOCHS)
    (tmp_path / "allowed").write_text(str(EPOCHS + 1))
    return {**payload, "loop": kind, "folder": str(tmp_path)}, alone


def add(nodes, cpus: int = 1):
    """A node comes."""
    return nodes.add_node(num_cpus=cpus, object_store_memory=STORE)


@contextmanager
def running(work):
    """Work in a thread, since nodes are added from the main one; at the end of the block wait for it."""
    failed = []

    def noted() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=noted, daemon=True)
    thread.start()
    try:
        yield lambda: not thread.is_alive()
    finally:
        thread.join(PATIENCE)
    assert not thread.is_alive() and not failed, failed


@contextmanager
def training(loop, payload, size, tmp_path):
    """Train; at the end of the block no epoch is waited for any more."""
    from mad.runtime.ray_train import train_on_ray

    def work() -> None:
        storage, last = str(tmp_path / "ray"), tmp_path / "last"
        train_on_ray(loop, payload, size, False, storage, "run", EPOCHS, Silent(), last)

    with running(work) as over:
        try:
            yield over
        finally:
            (tmp_path / "allowed").write_text(str(EPOCHS + 1))


def wait_until(ready, over, seconds: float = PATIENCE) -> float:
    """Poll until something holds; returns how long that took."""
    begun = time.monotonic()
    while not ready():
        assert not over(), "training ended too early"
        assert time.monotonic() < begun + seconds, "waited in vain"
        time.sleep(0.2)
    return time.monotonic() - begun


def test_chunks_are_dealt_to_the_nodes_that_there_are(nodes, tmp_path):
    """A node comes and then goes; every chunk is there, and few were made twice."""
    from mad.runtime.sharding import map_on_ray

    store, count = Store(str(tmp_path / "store")), 90
    draft = store.draft("extract-1")
    payload = {"folder": str(tmp_path), "pause": 0.7}

    def work() -> None:
        map_on_ray(slow_chunks, payload, range(count), draft, (1, 2), False, str(tmp_path / "ray"), Silent(), ".txt")

    def loaded() -> int:
        return len(notes(tmp_path, "loaded"))

    add(nodes)
    with running(work) as over:
        wait_until(loaded, over)
        second = add(nodes)
        wait_until(lambda: loaded() == 3, over)
        nodes.remove_node(second, allow_graceful=False)
    assert len(draft.finished()) == count and loaded() == 4
    for number in range(count):
        assert (tmp_path / "store" / "extract-1" / f"chunk-{number:05d}.txt").read_text() == str(number)
    assert len(notes(tmp_path, "chunk")) <= count + 3, "each of three workers that ended loses a chunk at most"


def assert_same_model(payload: dict, alone, last) -> None:
    name = LOOPS[payload["loop"]][1]
    one, followed = (load_file(folder / f"{name}.safetensors") for folder in (alone, last))
    assert set(one) == set(followed)
    distances = {k: float((followed[k] - t).norm() / t.norm().clamp(min=1e-6)) for k, t in one.items()}
    print(f"\n{payload['loop']}: largest relative distance {max(distances.values()):.1e}")
    assert max(distances.values()) <= BOUND, distances
    ours, theirs = (json.loads((folder / "history.json").read_text()) for folder in (last, alone))
    assert [epoch["loss"] for epoch in ours] == pytest.approx([epoch["loss"] for epoch in theirs], rel=1e-3)


@pytest.mark.parametrize(
    "made",
    [("classifier", {}), ("language", {}), ("language", {"sharding": "fsdp"})],
    ids=["classifier", "language", "language split over workers"],
    indirect=True,
)
def test_a_group_shrinks_and_grows_with_the_nodes(nodes, made, tmp_path):
    payload, alone = made
    first, second = add(nodes), add(nodes)
    (tmp_path / "allowed").write_text("2")
    with training(held_train_loop, payload, (1, 2), tmp_path) as over:
        wait_until(lambda: len(notes(tmp_path, "epoch", rank=1)) == 2, over)
        nodes.remove_node(second, allow_graceful=False)
        (tmp_path / "allowed").write_text("4")
        shrunk = wait_until(lambda: len(notes(tmp_path, "epoch")) >= 4, over)
        add(nodes)
        grown = wait_until(lambda: len(notes(tmp_path, "start", rank=1)) >= 2, over)
        (tmp_path / "allowed").write_text(str(EPOCHS + 1))
    print(f"\nshrunk and two epochs after {shrunk:.0f} s, grown after {grown:.0f} s")
    starts = notes(tmp_path, "start")
    assert [start["workers"] for start in starts] == [2, 1, 2]
    assert [start["done"] for start in starts] == [0, 2, 4]
    done = notes(tmp_path, "epoch")
    assert [epoch["done"] for epoch in done] == [1, 2, 3, 4, 5, 6], "an epoch was lost or made twice"
    assert [epoch["workers"] for epoch in done] == [2, 2, 1, 1, 2, 2]
    assert first in nodes.worker_nodes
    assert_same_model(payload, alone, tmp_path / "last")


@pytest.mark.parametrize(
    "made",
    [("classifier", {}), ("language", {}), ("language", {"sharding": "fsdp"})],
    ids=["classifier", "language", "language split over workers"],
    indirect=True,
)
def test_a_killed_worker_costs_an_epoch_at_most(nodes, made, tmp_path):
    """At the worst moment, when an epoch's work is done and not reported, and at the one after the report."""
    payload, alone = made
    add(nodes, 2)
    payload["dies"] = {"before": 3, "after": 4}
    with training(dying_loop, payload, 2, tmp_path):
        pass
    assert all((tmp_path / f"died-{moment}").exists() for moment in payload["dies"])
    starts = [start["done"] for start in notes(tmp_path, "start")]
    assert len(starts) == 3 and starts[1] == 2 and starts[2] in (3, 4)
    done = [epoch["done"] for epoch in notes(tmp_path, "epoch")]
    assert sorted(set(done)) == list(range(1, EPOCHS + 1))
    assert len(done) <= EPOCHS + len(payload["dies"]), f"more than an epoch was made again: {done}"
    assert_same_model(payload, alone, tmp_path / "last")
