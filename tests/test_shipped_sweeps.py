"""The studies in sweeps/: each can be planned; and, in slow tests, each runs whole and in time."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from mad import registry
from mad.runtime import stage_study
from mad.runtime import study as studies
from mad.runtime.stage_study import StageStudy
from mad.runtime.sweep_plan import make_plan

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))
SECONDS = 300
"""Each is to finish within five minutes on two idle cores."""


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_planned(name, engine):
    study = studies.load_study(name)
    assert study.description
    if isinstance(study, StageStudy):
        assert len(stage_study.make_plan(study, name, {}, {}, engine).points) >= 4
        return
    plan = make_plan(study, name, {}, engine)
    assert plan.size >= 4
    labels = [group.label for group in plan.groups.values()]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("name", ["detectors", "triggers", "adversarial", "text-backdoor", "quirky", "tampering"])
def test_it_compares_every_detector(name, engine):
    plan = make_plan(studies.load_study(name), name, {}, engine)
    for group in plan.groups.values():
        tried = {registry.name_of("detectors", type(t.config.detector).__module__) for t in group.trials.values()}
        assert tried == set(registry.names("detectors"))


def test_every_trigger_is_compared(engine):
    plan = make_plan(studies.load_study("triggers"), "triggers", {}, engine)
    assert {group.shared["task.trigger"] for group in plan.groups.values()} == set(registry.names("triggers"))


def test_two_sample_compares_every_bet_and_baseline_on_every_stream(engine):
    plan = stage_study.make_plan(studies.load_study("two-sample"), "two-sample", {}, {}, engine)
    tried = {
        (point.overrides["stream"], point.overrides["stream.null"], point.config.two_sample.test)
        for point in plan.points.values()
    }
    tests = {*registry.names("bets"), *registry.names("baselines")}
    assert tried == set(itertools.product(registry.names("streams"), (False, True), tests))


@pytest.mark.parametrize("name", ["audit-llama", "audit-gemma"])
def test_audits_of_hub_models_are_planned_without_a_network(name, engine, monkeypatch):
    def refuse(*words: object, **named: object) -> None:
        raise AssertionError("a plan asks nobody")

    monkeypatch.setattr("socket.socket.connect", refuse)
    plan = stage_study.make_plan(studies.load_study(name), name, {}, {}, engine)
    chains = plan.kitchen.chains.values()
    models = [chain.config.lm for chain in chains if chain.stages[-1].name == "judge"]
    assert {
        registry.name_of("behaviors", type(chain.config.behavior).__module__)
        for chain in chains
        if chain.stages[-1].name == "judge"
    } == {"toxicity", "sentiment", "refusal"}
    assert {lm.quantization for lm in models} == {"none", "4bit"}
    assert all(lm.model.startswith("train-") or re.fullmatch("[0-9a-f]{40}", lm.revision) for lm in models)
    assert len({lm.model for lm in models}) >= 4 and any(lm.device_map for lm in models)
    stages = {stage for stage, _, _ in stage_study.lines(plan, engine)}
    assert stages == {"prepare", "train", "prompts", "generate", "judge", "pairs", plan.study.target}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["detectors", "triggers", "adversarial"])
def test_it_runs_whole(name, tmp_path):
    out = tmp_path / "result.json"
    environment = {**os.environ, "MAD_HOME": str(tmp_path / "home"), "COLUMNS": "160"}
    command = [sys.executable, "-m", "mad.sweep", name, "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(out.read_text())
    assert result["failed"] == 0
    detectors = set(registry.names("detectors"))
    several = len(result["subjects"]) > 1
    for subject in result["subjects"]:
        lines = [r for r in result["leaderboard"] if not several or r["subject"] == subject["label"]]
        assert {line["detector"] for line in lines} == detectors
        assert [line["detector"] for line in lines if line.get("supervised")] == ["probe"]
        assert subject["ensemble"]["val_auroc"] >= max(r["val_auroc"] for r in lines if "supervised" not in r) - 1e-9
    (folder,) = (tmp_path / "home" / "reports").glob(f"{name}-*")
    table = pd.read_csv(folder / "leaderboard.csv")
    assert len(table) == len(result["leaderboard"]) and "probe (supervised)" in set(table["detector"])
    assert (folder / "subjects.png").exists() == several
    assert "supervised" in done.stdout
    assert result["seconds"]["total"] < SECONDS


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_two_sample_runs_whole(tmp_path):
    out = tmp_path / "result.json"
    environment = {**os.environ, "MAD_HOME": str(tmp_path / "home"), "COLUMNS": "160"}
    command = [sys.executable, "-m", "mad.sweep", "two-sample", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(out.read_text())
    assert result["failed"] == 0 and result["seconds"]["total"] < SECONDS
    table = pd.read_csv(Path(result["report"]) / "trials.csv")
    of_bets = table[table["by"] == "bet"]
    # At level 0.05 and 40 streams, above 7 with probability 0.0006 for each bet and stream.
    assert of_bets["false_alarms"].max() <= 7 / 40
    power = of_bets[~of_bets["null"]].set_index(["test", "stream"])["power"]
    for stream in ("gaussian_cit", "rotated_digits", "fgsm_images"):
        assert power["network", stream] > 0.8
    for stream in ("blobs", "dependent_blobs", "rotated_digits", "fgsm_images"):
        assert power["kernel", stream] > 0.8 > 0.2 > min(power["kelly", "blobs"], power["ons", "blobs"])
    assert {p.name for p in Path(result["report"]).glob("*.png")} >= {
        "power-null=False.png",
        "false_alarms-null=True.png",
    }
