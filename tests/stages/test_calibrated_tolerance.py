"""A tolerance that is left to a calibration: one rule for every audit, whoever starts it, and keys of its value."""

from __future__ import annotations

import pytest

import mad
from mad.config import canonical, parse
from mad.errors import ArtifactError, ConfigError
from mad.runtime import chain as chains
from mad.runtime.stage_study import StageStudy, make_plan
from mad.stages import stream
from mad.stages._sequential_audit import Options
from tests.conftest import make_engine, run_chain
from tests.stages.scores import simulated, write

ABSENT = "calibrate-" + "0" * 20
KINDS = ("audit", "audit_family", "audit_study", "stream", "power")


@pytest.fixture
def scores(tmp_path) -> dict:
    """Settings of an audit, of a family and of a study, on prompts that no calibration used."""
    table = simulated(400, seed=2)
    file = write(table.assign(prompt_id="q" + table["prompt_id"]), tmp_path / "audit.csv")
    names = {"file": file, "baseline": "base", "id": "prompt_id"}
    return {"pairs": {**names, "candidate": "shifted"}, "columns": {**names, "candidates": ["same", "shifted"]}}


@pytest.fixture
def calibration(engine, tmp_path):
    """A calibration on the given references; its artifact."""

    def made(*references: str, strategy: str = "upper"):
        flags = {"columns.file": write(simulated(400, seed=1), tmp_path / "calibration.csv")}
        flags |= {"columns.baseline": "base", "columns.candidates": [*references], "columns.id": "prompt_id"}
        flags |= {"calibrate.replicates": 20, "calibrate.strategy": strategy}
        return run_chain(engine, "calibrate", flags)["calibrate"]

    return made


def of(kind: str, scores: dict) -> dict:
    """The settings that a kind of audit takes."""
    wanted = {"audit": ["pairs"], "audit_study": ["pairs"], "audit_family": ["columns"]}.get(kind, [])
    return {name: scores[name] for name in wanted}


@pytest.mark.parametrize("kind", KINDS)
def test_every_audit_takes_the_calibrations_tolerance_and_has_its_key(kind, engine, scores, calibration):
    made, settings = calibration("same", "shifted"), of(kind, scores)
    value = made.summary["tolerance"]
    assert value > 0.01

    def asked(**audit):
        return chains.resolve(kind, settings, {f"audit.{name}": v for name, v in audit.items()}, {}, engine.store)

    left, given = asked(calibration=made.key), asked(calibration=made.key, tolerance=value)
    assert left.config.audit.tolerance == value and left.config == given.config
    if kind != "stream":  # without models it has no key
        keys = [chains.keys(engine, chain)[kind] for chain in (left, given)]
        assert keys[0] == keys[1] != chains.keys(engine, asked(calibration=made.key, tolerance=0.01))[kind]
    assert asked(calibration=made.key, tolerance=0).config.audit.tolerance == 0
    assert asked().config.audit.tolerance == asked(calibration="null").config.audit.tolerance == 0
    # What others are laid on stays open: another calibration would bring another tolerance.
    assert "tolerance" not in left.data["audit"]


def test_what_is_left_open_without_a_calibration_is_0_with_the_key_of_0():
    for options in (Options, stream.Tested):
        assert canonical(parse(options, {})) == canonical(parse(options, {"tolerance": 0}))
        assert parse(options, {"tolerance": "null"}).tolerated == 0
        with pytest.raises(ConfigError, match="a tolerance is a total variation in"):
            parse(options, {"tolerance": 1.0})
    assert parse(Options, {"calibration": ABSENT}).tolerance is None


def test_the_python_api_takes_it_by_key_name_and_artifact(scores, tmp_path, monkeypatch):
    monkeypatch.setenv("MAD_HOME", str(tmp_path / "home"))
    columns = {"file": write(simulated(400, seed=1), tmp_path / "c.csv"), "baseline": "base", "id": "prompt_id"}
    columns["candidates"] = ["same", "shifted"]
    how = {"no_tracking": True, "calibrate": {"replicates": 20}, "name": "accepted"}
    made = mad.run_stage("calibrate", columns=columns, **how)
    found = [
        mad.run_stage("audit", pairs=scores["pairs"], audit={"calibration": named}, no_tracking=True)
        for named in (made.key, "accepted", made)
    ]
    assert {audit.key for audit in found} == {found[0].key}
    assert found[0].verdict["tolerance"] == made.summary["tolerance"] == found[0].meta["config"]["audit"]["tolerance"]
    with pytest.raises(ArtifactError, match="no artifact 'acepted' .*did you mean accepted"):
        mad.run_stage("audit", pairs=scores["pairs"], audit={"calibration": "acepted"}, no_tracking=True)
    with pytest.raises(ArtifactError, match="was made by stage 'audit', not by calibrate"):
        mad.run_stage("audit", pairs=scores["pairs"], audit={"calibration": found[0].key}, no_tracking=True)


def test_a_sweep_takes_that_of_each_calibration(engine, scores, calibration):
    low, high = calibration("same"), calibration("same", "shifted")
    base = {"pairs": scores["pairs"], "audit": {"calibration": low.key}}

    def tolerances(*spaces: dict) -> dict[str, float]:
        study = parse(StageStudy, {"target": "audit", "base": base, "search": [*spaces]})
        points = make_plan(study, "s", {}, {}, engine).points.values()
        return {str([*point.overrides.values()]): point.config.audit.tolerance for point in points}

    first, second = low.summary["tolerance"], high.summary["tolerance"]
    assert first < second
    found = tolerances({"audit.calibration": [low.key, high.key]})
    assert found == {f"['{low.key}']": first, f"['{high.key}']": second}
    assert tolerances({"audit.bet": ["kelly", "ratio"]}) == {"['kelly']": first, "['ratio']": first}
    # A tolerance that is what the calibration recommends is no other configuration.
    assert len(tolerances({"audit.tolerance": [first, "null", 0.5]})) == 2


def test_a_trial_of_a_sweep_tests_at_it(engine, scores, calibration, tmp_path):
    """Over to another process goes the value, not what it was drawn from."""
    pytest.importorskip("ray")
    from mad.runtime.stage_trial import StageWork, run_work

    made = calibration("same", "shifted")
    base = {"pairs": scores["pairs"], "audit": {"calibration": made.key}}
    study = parse(StageStudy, {"target": "audit", "base": base, "search": [{"audit.bet": ["kelly"]}]})
    (point,) = make_plan(study, "s", {}, {}, engine).points.values()
    chains.run(engine, point.above)
    assert run_work(StageWork.of(point, engine))["status"] == "done"
    assert engine.store.open(point.key).verdict["tolerance"] == made.summary["tolerance"]


def test_a_calibration_that_gives_none_is_told_before_anything_runs(engine, scores, calibration):
    made = calibration("same", strategy="grid")
    before = engine.store.keys()

    def asked(key: str, **audit):
        flags = {"audit.calibration": key, **{f"audit.{name}": v for name, v in audit.items()}}
        return chains.resolve("audit", of("audit", scores), flags, {}, engine.store)

    with pytest.raises(ConfigError, match=f"calibration {made.key} recommends no tolerance: give --tolerance"):
        asked(made.key)
    with pytest.raises(ArtifactError, match=f"the tolerance is left to {ABSENT}, which is not in .*make the calibrat"):
        asked(ABSENT)
    assert asked(made.key, tolerance=0.1).config.audit.tolerance == 0.1
    assert asked(ABSENT, tolerance=0.1).config.audit.tolerance == 0.1  # a sweep may make it first
    assert engine.store.keys() == before


def test_it_is_the_same_in_another_store(scores, calibration, tmp_path):
    with pytest.raises(ArtifactError, match="is not in"):
        key = calibration("same").key
        chains.resolve("audit", of("audit", scores), {"audit.calibration": key}, {}, make_engine(tmp_path / "b").store)
