"""The studies in sweeps/: each can be planned; and, in slow tests, each runs whole and in time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from mad import registry
from mad.runtime import study as studies
from mad.runtime.sweep_plan import make_plan

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))
SECONDS = 300
"""Each is to finish within five minutes on two idle cores."""


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_planned(name, engine):
    plan = make_plan(studies.load_study(name), name, {}, engine)
    assert plan.size >= 4 and plan.study.description
    labels = [group.label for group in plan.groups.values()]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("name", ["detectors", "triggers", "adversarial"])
def test_it_compares_every_detector(name, engine):
    plan = make_plan(studies.load_study(name), name, {}, engine)
    for group in plan.groups.values():
        tried = {registry.name_of("detectors", type(t.config.detector).__module__) for t in group.trials.values()}
        assert tried == set(registry.names("detectors"))


def test_every_trigger_is_compared(engine):
    plan = make_plan(studies.load_study("triggers"), "triggers", {}, engine)
    assert {group.shared["task.trigger"] for group in plan.groups.values()} == set(registry.names("triggers"))


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
