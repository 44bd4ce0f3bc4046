"""What workers and trials ask of Ray: exactly what is set, on nodes that have it, or one line that says why not."""

from __future__ import annotations

import json
import sys

import pytest

from mad.__main__ import main
from mad.context import Silent
from mad.errors import ClusterError, ConfigError
from mad.runtime import cluster
from mad.runtime.resources import Kind, Request, announced, check

pytestmark = pytest.mark.ray
GIB = 2**30
NODES = [
    Kind({"CPU": 16, "memory": 64 * GIB}, 8),
    Kind({"CPU": 16, "GPU": 1, "memory": 64 * GIB, "accelerator_type:A10G": 1}, 10),
    Kind({"CPU": 96, "GPU": 8, "memory": 1000 * GIB, "accelerator_type:A100": 1}, 2),
]


@pytest.fixture(scope="module")
def fake_gpus():
    """A local cluster that says it has 4 CPUs, 2 GPUs of kind A100 and 8 GiB."""
    cluster.prepare_environment()
    import ray
    from ray import cloudpickle

    own = {"accelerator_type:A100": 1, "fast_disk": 2}
    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=2,
        _memory=8 * GIB,
        resources=own,
        include_dashboard=False,
        log_to_driver=False,
    )
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield ray
    ray.shutdown()


@pytest.fixture
def asked():
    """Sets what is asked for; afterwards nothing is."""
    yield cluster.ask
    cluster.ask(None)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"CPU": "many"}, "CPU must be a number"),
        ({"CPU": -1}, "CPU must be 0 or more"),
        ({"GPU": 1.5}, "a share of one or a whole number"),
        ({"memory": float("nan")}, "memory must be 0 or more"),
        ({"accelerator_type": "A100"}, "needs GPU above 0"),
        ({"accelerator_type": 3, "GPU": 1}, "must be a name"),
    ],
)
def test_what_is_no_request(data, told):
    with pytest.raises(ConfigError, match=told):
        Request.parse(data)


@pytest.mark.parametrize(
    ("data", "workers", "fits"),
    [
        ({"CPU": 16}, 18 + 2 * 6, True),
        ({"CPU": 16}, 18 + 2 * 6 + 1, False),
        ({"CPU": 97}, 1, False),
        ({"GPU": 0.25, "CPU": 1}, 4 * 26, True),
        ({"GPU": 8, "CPU": 8, "accelerator_type": "A100"}, 2, True),
        ({"GPU": 8, "CPU": 8, "accelerator_type": "A10G"}, 1, False),
        ({"GPU": 1, "CPU": 1, "accelerator_type": "H100"}, 1, False),
        ({"CPU": 1, "memory": 65 * GIB}, 2 * 15, True),
        ({"CPU": 1, "memory": 1001 * GIB}, 1, False),
    ],
)
def test_what_nodes_can_hold(data, workers, fits):
    bundle = Request.parse(data).bundle()
    if fits:
        check(bundle, workers, NODES)
    else:
        with pytest.raises(ClusterError) as caught:
            check(bundle, workers, NODES)
        assert "\n" not in str(caught.value) and "needed" in str(caught.value)


def test_kinds_of_node_are_announced_by_the_environment(monkeypatch):
    monkeypatch.setenv("MAD_NODE_TYPES", json.dumps([{"count": 2, "CPU": 4, "GPU": 1}]))
    assert announced() == [Kind({"CPU": 4.0, "GPU": 1.0}, 2)]
    monkeypatch.setenv("MAD_NODE_TYPES", '{"CPU": 4}')
    with pytest.raises(ConfigError, match="expected a JSON list"):
        announced()


def test_a_cluster_that_grows_counts_with_the_nodes_to_come(fake_gpus, monkeypatch):
    with pytest.raises(ClusterError, match="fewer workers$"):
        cluster.check_capacity({"CPU": 64})
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ClusterError, match="MAD_NODE_TYPES"):
        cluster.check_capacity({"CPU": 64})
    assert cluster.room({"CPU": 1}) == 4
    monkeypatch.setenv("MAD_NODE_TYPES", json.dumps([{"count": 1, "CPU": 64}, {"count": 3, "CPU": 4, "GPU": 2}]))
    cluster.check_capacity({"CPU": 64})
    assert cluster.room({"CPU": 1}) == 64 + 3 * 4  # the node that is there is one of the three


def test_auto_does_not_hang_on_the_nodes_of_the_moment(fake_gpus, monkeypatch, tmp_path):
    from mad.runtime.launcher import SMALL_MAP, AutoLauncher
    from mad.runtime.options import device_of
    from mad.runtime.settings import Settings

    launcher = AutoLauncher(Settings(tmp_path, str(tmp_path), None, None), "cuda", Silent())

    def mapping() -> int:
        return launcher._map_workers("auto", 99, 99 * SMALL_MAP)

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.delenv("MAD_NODE_TYPES", raising=False)
    assert (device_of("auto"), launcher.train_workers("auto"), mapping()) == ("cuda", 2, 2)
    # The two GPUs that are there are of one of three nodes that may be.
    monkeypatch.setenv("MAD_NODE_TYPES", json.dumps([{"count": 3, "CPU": 4, "GPU": 2}]))
    assert (device_of("auto"), launcher.train_workers("auto"), mapping()) == ("cuda", 1, 6)
    monkeypatch.setattr(cluster, "node_kinds", announced)
    assert device_of("auto") == "cuda", "a cluster whose GPUs come from zero"
    monkeypatch.setenv("MAD_NODE_TYPES", json.dumps([{"count": 3, "CPU": 4}]))
    assert device_of("auto") == "cpu"


def worker_resources(payload, worker):
    """A loop that notes what its process was given."""
    from pathlib import Path

    import ray

    given = ray.get_runtime_context().get_assigned_resources()
    (Path(payload["folder"]) / f"rank-{worker.rank}.json").write_text(json.dumps(given))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_workers_get_what_is_asked_for(fake_gpus, asked, tmp_path):
    from mad.runtime.ray_train import run_group

    asked({"CPU": 1.5, "memory": GIB, "fast_disk": 1})
    run_group(worker_resources, {"folder": str(tmp_path)}, 2, False, str(tmp_path / "ray"), "asked", 1, Silent())
    for rank in (0, 1):
        given = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert (given["CPU"], given["memory"], given["fast_disk"]) == (1.5, GIB, 1)


def test_trials_get_what_is_asked_for(fake_gpus, asked, tmp_path):
    from ray import tune

    from mad.runtime.bundles import fit, slots
    from mad.runtime.study import Study

    def trial(params):
        import ray

        tune.report({"rows": json.dumps([ray.get_runtime_context().get_assigned_resources()])})

    asked({"CPU": 2, "GPU": 0.5, "accelerator_type": "A100"})
    assert slots(Study()) == 2
    rows = []
    fit(trial, {"work": tune.grid_search(["a", "b", "c"])}, tmp_path / "trials", rows.append, 2)
    assert len(rows) == 3
    assert all(row["CPU"] == 2 and row["GPU"] == 0.5 and "accelerator_type:A100" in row for row in rows)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--resources", '{"CPU": 64}'], "64 CPU needed, the cluster can have 4"),
        (["--resources", '{"memory": 1e12}'], "931 GiB memory needed, the cluster can have 8"),
        (["--resources", '{"GPU": 1}'], "models run on CPUs"),
        (["--resources", '{"CPU": "many"}'], "must be a number"),
    ],
)
def test_what_cannot_be_had_is_one_line(fake_gpus, words, told, capsys):
    words = ["train", "--no_tracking", "--device", "cpu", "--task.max_rows", "300", "--train.workers", "1", *words]
    assert main(words) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert told in error[-1] and error[-1].startswith("mad: error")
