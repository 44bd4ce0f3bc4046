"""Trials on a real Ray Tune: bundles, ASHA for detectors that train in epochs, Optuna that resumes."""

from __future__ import annotations

import json

import pytest

from mad.config import parse
from mad.runtime import cluster
from mad.runtime.engine import Engine
from mad.runtime.settings import Settings
from mad.runtime.study import Study
from mad.runtime.trial import Job, Work, run_trial
from mad.stages._base import load_stage
from mad.store import Store

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def ray_cluster():
    cluster.connect()
    yield
    import ray

    ray.shutdown()


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    home = tmp_path_factory.mktemp("home")
    store = str(home / "artifacts")
    engine = Engine(Settings(home, store, None, None), Store(store))
    prepare, train, extract = (load_stage(name) for name in ("prepare", "train", "extract"))
    split = engine.run(prepare, prepare.Config(), {})
    checkpoint = engine.run(train, parse(train.Config, {"train": {"epochs": 6}}), {"split": split})
    features = engine.run(extract, extract.Config(), {"attacked": split, "checkpoint": checkpoint})
    return Job(str(home), store, "cpu", features.key, {"seed": 0})


def quick(job: Job, *configs: dict) -> list[Work]:
    return [Work(job.to_json(), overrides, False) for overrides in configs]


def test_every_configuration_of_a_bundle_gets_its_row_also_a_failed_one(ray_cluster, job, tmp_path):
    from mad.runtime.ray_tune import run_all

    good = [{"detector": "knn", "detector.k": k} for k in (1, 5, 20)]
    too_many = {"detector": "knn", "detector.k": 100_000}
    rows = []
    run_all(Study(bundle=2), quick(job, *good, too_many), tmp_path, rows.append)
    done = {row["config"]["detector.k"]: row for row in rows if row["status"] == "done"}
    (failed,) = [row for row in rows if row["status"] == "failed"]
    assert set(done) == {1, 5, 20} and len(rows) == 4
    assert failed["config"] == {"detector.k": 100_000} and "100000" in failed["error"]
    alone = run_trial(job, good[0])
    assert alone["val_auroc"] == done[1]["val_auroc"] and alone["detect"] == done[1]["detect"]


def test_a_bug_in_one_configuration_does_not_cost_the_others(job, monkeypatch):
    from mad.detectors import knn

    def broken(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(knn.Detector, "fit_layer", broken)
    row = run_trial(job, {"detector": "knn", "detector.k": 3})
    assert row["status"] == "failed" and "ZeroDivisionError" in row["error"]
    assert run_trial(job, {"detector": "mahalanobis"})["status"] == "done"


def test_asha_stops_poor_trials_and_lets_good_ones_finish(ray_cluster, job, tmp_path):
    from mad.runtime.ray_tune import run_all

    # At a vanishing learning rate nothing is learnt; ASHA keeps the best quarter and stops the others early.
    poor = [{"detector": "vae", "detector.epochs": 40, "detector.lr": lr} for lr in (1e-7, 2e-7, 3e-7, 4e-7)]
    good = [{"detector": "vae", "detector.epochs": 40, "detector.lr": lr} for lr in (1e-2,)]
    rival_less = {"detector": "abstraction", "detector.epochs": 4, "detector.lr": 1e-7}
    work = [Work(job.to_json(), overrides, True) for overrides in (*good, *poor, rival_less)]
    rows = []
    run_all(Study(concurrency=2), [*work, *quick(job, {"detector": "spectral"})], tmp_path, rows.append)
    others = {row["detector"]: row["status"] for row in rows if row["detector"] != "vae"}
    assert others == {"abstraction": "done", "spectral": "done"}  # ASHA compares a detector with itself only
    by_lr = {row["config"]["detector.lr"]: row for row in rows if row["detector"] == "vae"}
    assert len(rows) == 7 and {row["status"] for row in rows} <= {"done", "stopped"}
    assert all(row["features"] == job.features for row in rows)
    stopped = [row for row in rows if row["status"] == "stopped"]
    assert stopped and all(row["config"]["detector.lr"] < 1e-6 and row["epoch"] < 40 for row in stopped)
    assert by_lr[1e-2]["status"] == "done"
    assert by_lr[1e-2]["val_auroc"] == run_trial(job, good[0])["val_auroc"]


@pytest.mark.slow
def test_optuna_learns_and_goes_on_where_it_was(ray_cluster, job, tmp_path):
    from mad.runtime.ray_tune import run_optuna

    spaces = [
        {"detector": ["knn"], "detector.k": {"randint": [1, 30]}},
        {"detector": ["mahalanobis"], "detector.shrinkage": {"loguniform": [1e-4, 0.9]}, "detect.aggregation": ["max"]},
    ]
    first, second = [], []
    study = Study(search=spaces, algorithm="optuna", num_samples=4, concurrency=2)
    run_optuna(study, job, 7, 0, tmp_path, first.append)
    assert len(first) == 4 and all(row["status"] == "done" for row in first), first
    longer = Study(search=spaces, algorithm="optuna", num_samples=7, concurrency=2)
    run_optuna(longer, job, 7, len(first), tmp_path, second.append)
    assert len(second) == 3
    for row in first + second:
        assert 1 <= row["config"].get("detector.k", 1) <= 30
        assert 1e-4 <= row["config"].get("detector.shrinkage", 0.5) <= 0.9
    import optuna

    known = optuna.load_study(study_name="study", storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    values = sorted(t.value for t in known.trials if t.value is not None)
    assert values == pytest.approx(sorted(row["val_auroc"] for row in first + second))


def test_a_job_is_one_string(job):
    assert Job.from_json(job.to_json()) == job
    assert set(json.loads(job.to_json())) == {"home", "store", "device", "features", "base"}
