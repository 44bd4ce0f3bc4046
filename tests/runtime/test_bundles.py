"""Bundles of configurations: what a row is does not depend on them, and neither does what fails."""

from __future__ import annotations

import json
import math

import pytest

from mad.config import parse
from mad.errors import ConfigError
from mad.runtime import sweep_plan
from mad.runtime.bundles import bundled
from mad.runtime.stage_study import StageStudy
from mad.runtime.study import MOST_BUNDLED, MOST_KEPT, Study
from mad.runtime.trial import Job, Work, run_trial

DYING = "tests.runtime.dying_detector"
WIDE = {
    "detector": ["mahalanobis"],
    "detector.shrinkage": {"uniform": [0, 1]},
    "detector.null_space": ["floor", "drop"],
}


@pytest.fixture(scope="module")
def job(world) -> Job:
    engine = world.engine
    return Job(str(engine.settings.home), engine.store.uri, "cpu", world.features.key, {"seed": 0})


def test_bundles_by_the_rule():
    auto = Study()
    assert [auto.bundle_size(n, 2) for n in (1, 8, 9, 64, 600, 10_000)] == [1, 1, 2, 8, MOST_BUNDLED, MOST_BUNDLED]
    assert auto.bundle_size(64, 100) == 1 and Study(bundle=7).bundle_size(10_000, 2) == 7
    work = bundled(range(10), Study(bundle=4), 2)
    assert work == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert parse(Study, {"bundle": "auto"}) == auto and parse(Study, {"bundle": "3"}).bundle == 3
    with pytest.raises(ConfigError, match="bundle must be 1 or more"):
        parse(Study, {"bundle": 0})


def test_artifacts_of_small_sweeps_are_kept():
    assert Study().keeps_all(MOST_KEPT) and not Study().keeps_all(MOST_KEPT + 1)
    assert Study(keep="all").keeps_all(10**6) and not Study(keep="chosen").keeps_all(1)
    with pytest.raises(ConfigError, match="keeps what every configuration made"):
        StageStudy(target="power", keep="chosen")


@pytest.mark.parametrize(
    "overrides",
    [
        {"detector": "mahalanobis", "detector.shrinkage": 0.3, "detector.null_space": "drop"},
        {"detector": "mahalanobis", "detector.class_conditional": True, "detect.aggregation": "max"},
        {"detector": "que"},
        {"detector": "knn", "detector.k": 3},
        {"detector": "spectral"},
        {"detector": "react"},
        {"detector": "probe"},
    ],
    ids=lambda overrides: overrides["detector"],
)
def test_a_row_is_the_same_whether_its_artifacts_are_kept(job, overrides):
    kept, bare = run_trial(job, overrides), run_trial(job, overrides, kept=False)
    assert kept.pop("seconds") > 0 and bare.pop("seconds") > 0
    assert kept == bare and job.engine.store.has(kept["detect"])


def test_what_is_not_kept_leaves_nothing(job):
    before = job.engine.store.keys()
    row = run_trial(job, {"detector": "mahalanobis", "detector.shrinkage": 0.123456}, kept=False)
    assert row["status"] == "done" and not math.isnan(row["val_auroc"])
    assert job.engine.store.keys() == before


def test_a_plan_tells_bundles_and_what_is_kept(world):
    study = Study(base={"task": {"max_rows": 600}}, search=[WIDE], algorithm="random", concurrency=2)
    few = sweep_plan.make_plan(study, "few", {"num_samples": "40", "train.workers": "0"}, world.engine)
    *_, told = sweep_plan.lines(few, world.engine)
    assert told == ("bundles", "5 closed-form configurations to a Ray Tune trial", "artifacts of all are kept")
    chosen = sweep_plan.make_plan(study, "few", {"num_samples": "40", "keep": "chosen", "bundle": "9"}, world.engine)
    *_, told = sweep_plan.lines(chosen, world.engine)
    assert told[1].startswith("9 closed-form") and told[2] == "artifacts of the chosen are kept"


@pytest.fixture(scope="module")
def ray_cluster():
    from mad.runtime import cluster

    cluster.connect()
    yield
    import ray

    ray.shutdown()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_configuration_that_kills_its_process_fails_alone(ray_cluster, job, tmp_path, monkeypatch):
    from mad.runtime import bundles
    from mad.runtime.ray_tune import run_all

    monkeypatch.setattr(bundles, "MAX_FAILURES", 0)  # it would be killed four times over

    settings = [{"detector": DYING, "detector.axis": k, "detector.dies": k == 2} for k in range(4)]
    work = [Work(job.to_json(), one, False, kept=False) for one in settings]
    rows = []
    run_all(Study(bundle=4, concurrency=2), work, tmp_path, rows.append)
    assert len(rows) == 4
    status = {row["config"]["detector.axis"]: row["status"] for row in rows}
    assert status == {0: "done", 1: "done", 2: "failed", 3: "done"}
    (failed,) = [row for row in rows if row["status"] == "failed"]
    assert failed["error"] and failed["features"] == job.features
    assert json.dumps(rows)
