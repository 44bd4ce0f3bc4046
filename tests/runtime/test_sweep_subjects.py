"""Subjects of a sweep: what each shares, and what becomes of the others where one cannot be made."""

from __future__ import annotations

import pytest

from mad.errors import ConfigError, DataError
from mad.runtime.study import Study
from mad.runtime.sweep_plan import Plan, make_plan
from mad.runtime.sweeps import Sweep

BASE = {
    "task": {"name": "adversarial", "max_rows": 300, "controls": []},
    "train": {"epochs": 4, "workers": 0},
    "attack": {"steps": 3, "max_robust_accuracy": 0.5},
}


def plan_of(engine, epsilons: list[float], **flags: str) -> Plan:
    space = {"attack.epsilon": epsilons, "detector": ["knn"], "detector.k": [1, 2]}
    return make_plan(Study(base=BASE, search=[space]), "study", flags, engine)


def test_a_subject_that_cannot_be_made_costs_its_own_trials_only(engine, caplog):
    plan = plan_of(engine, [1e-6, 0.5])
    sweep = Sweep(plan, engine)
    (made,) = sweep._shared()
    assert plan.groups[made].label == "epsilon=0.5" and len(plan.groups[made].todo) == 2
    assert [row["status"] for row in sweep.rows] == ["failed", "failed"]
    assert {row["config"]["attack.epsilon"] for row in sweep.rows} == {1e-6}
    assert {row["config"]["detector.k"] for row in sweep.rows} == {1, 2}
    assert all("the attack failed" in row["error"] for row in sweep.rows)
    assert "epsilon=1e-06: the attack failed" in caplog.text


def test_the_only_subject_that_cannot_be_made_is_told(engine):
    with pytest.raises(DataError, match="the attack failed: .* --attack.max_robust_accuracy 0.5"):
        Sweep(plan_of(engine, [1e-6]), engine)._shared()


def test_what_no_subject_has_use_for_is_refused(engine):
    with pytest.raises(ConfigError, match="--attack.epsilon would change nothing: task backdoor has no rows"):
        plan_of(engine, [0.1, 0.2], task="backdoor")
    both = [{"task": ["adversarial", "backdoor"], "detector": ["knn"], "attack.epsilon": [0.2]}]
    assert len(make_plan(Study(search=both), "study", {"attack.steps": "3"}, engine).groups) == 2


@pytest.mark.parametrize(
    ("spaces", "labels"),
    [
        ([{"train.epochs": [1, 2]}], ["epochs=1", "epochs=2"]),
        ([{"train.seed": [1]}, {"task.seed": [1]}], ["train.seed=1", "task.seed=1"]),
        ([{}, {"train.epochs": [1]}], ["base", "epochs=1"]),
        ([{}], [""]),
    ],
)
def test_no_two_subjects_have_the_same_name(engine, spaces, labels):
    plan = make_plan(Study(search=[{**space, "detector": ["knn"]} for space in spaces]), "study", {}, engine)
    assert [group.label for group in plan.groups.values()] == labels
