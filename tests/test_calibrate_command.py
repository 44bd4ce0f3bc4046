"""``mad calibrate`` and ``mad audit --candidates``: what a person types and reads."""

from __future__ import annotations

import json

import pytest

from mad.__main__ import main
from tests.stages.scores import simulated, write

FILE = ("--scores", "scores.csv", "--baseline", "base", "--id", "prompt_id", "--no_tracking")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MAD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write(simulated(400, seed=1), tmp_path / "scores.csv")
    other = simulated(400, seed=2)
    write(other.assign(prompt_id="q" + other["prompt_id"]), tmp_path / "others.csv")


def said(capsys, *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main([*words]) == code
    return " ".join(capsys.readouterr().out.split())


def refused(capsys, *words: str) -> str:
    capsys.readouterr()
    assert main([*words]) == 2
    (line,) = [x for x in capsys.readouterr().err.strip().splitlines() if x.startswith("mad: error: ")]
    return line


def test_a_calibration_gives_its_tolerance_to_the_audit(capsys, tmp_path):
    words = ("--references", "same", "shifted", "--replicates", "20", "--json", "cal.json", "--name", "cal")
    text = said(capsys, "calibrate", *FILE, *words)
    found = json.loads((tmp_path / "cal.json").read_text())
    assert f"recommended tolerance: {found['tolerance']:.4g} (upper)" in text and "same True" in text
    assert f"artifact: {found['key']} in" in text
    audit = ("audit", "--scores", "others.csv", *FILE[2:], "--candidate", "shifted", "--json", "audit.json")
    said(capsys, *audit, "--calibration", "cal")
    verdict = json.loads((tmp_path / "audit.json").read_text())
    assert verdict["tolerance"] == pytest.approx(found["tolerance"])
    said(capsys, *audit, "--calibration", found["key"], "--tolerance", "0.01")
    assert json.loads((tmp_path / "audit.json").read_text())["tolerance"] == 0.01
    line = refused(capsys, "audit", *FILE, "--candidate", "shifted", "--calibration", "cal")
    assert "400 prompts or rows of the audit were used for the calibration" in line
    said(capsys, "calibrate", *FILE, "--references", "same", "--strategy", "grid", "--replicates", "20", "--name", "g")
    assert "recommends no tolerance: give --tolerance" in refused(capsys, *audit, "--calibration", "g")
    said(capsys, *audit, "--name", "made")
    assert "'made' was made by stage 'audit', not by calibrate" in refused(capsys, *audit, "--calibration", "made")
    assert "no artifact 'clal'" in refused(capsys, *audit, "--calibration", "clal")


def test_a_calibration_in_a_file_of_settings_gives_its_tolerance_too(capsys, tmp_path):
    words = ("--references", "same", "shifted", "--replicates", "20", "--json", "cal.json", "--name", "cal")
    said(capsys, "calibrate", *FILE, *words)
    found = json.loads((tmp_path / "cal.json").read_text())["tolerance"]
    audit = ("audit", "--scores", "others.csv", *FILE[2:], "--config", "audit.yaml", "--json", "audit.json")

    def tolerance(section: str, *words: str) -> float:
        (tmp_path / "audit.yaml").write_text(section)
        said(capsys, *audit, *words)
        return json.loads((tmp_path / "audit.json").read_text())["tolerance"]

    for kind in (("--candidate", "shifted"), ("--candidates", "shifted"), ("--candidate", "shifted", "--folds", "4")):
        assert tolerance("audit: {calibration: cal}", *kind) == pytest.approx(found)
    assert tolerance("audit: {calibration: cal, tolerance: 0.02}", *kind) == 0.02
    assert tolerance("audit: {tolerance: 0.02}", *kind, "--calibration", "cal") == 0.02
    assert tolerance("audit: {tolerance: 0.02}", *kind, "--calibration", "cal", "--tolerance", "0.03") == 0.03
    assert tolerance("audit: {calibration: absent}", *kind, "--calibration", "cal") == pytest.approx(found)
    assert tolerance("audit: {calibration: absent}", *kind, "--calibration", "null") == 0
    assert tolerance("seed: 1", *kind) == 0


def test_several_candidates_are_told_in_one_table(capsys, tmp_path):
    words = ("audit", *FILE, "--candidates", "same", "shifted", "--tolerance", "0.01", "--json", "f.json")
    text = said(capsys, *words)
    found = json.loads((tmp_path / "f.json").read_text())
    assert [row["verdict"] for row in found["candidates"]] == ["undecided", "shifted"]
    assert "1 of 2 candidates shifted by more than 0.01 (false discovery rate at most 0.05" in text
    assert text.count("the claim is about the population") == 1
    said(capsys, *words, "--fail_on", "shifted", code=3)
    said(capsys, "audit", *FILE, "--candidates", "[same]", "--fail_on", "shifted")


def test_help_and_mistakes(capsys, monkeypatch):
    from mad import terminal

    monkeypatch.setattr(terminal.out, "_width", 220)
    assert "--calibrate.strategy " in said(capsys, "calibrate", "-h") and "calibrate" in said(capsys, "-h")
    assert "--columns.candidates " in said(capsys, "audit", "--candidates", "[a]", "-h")
    assert "--folds " in said(capsys, "audit", "-h")
    assert "no candidates are given" in refused(capsys, "calibrate", *FILE)
    assert "unknown option '--refrences' (did you mean references" in refused(capsys, "calibrate", "--refrences", "a")
    told = refused(capsys, "audit", *FILE, "--candidates", "same", "--mean_tolerance", "0.1", "--range", "0", "1")
    assert "unknown option '--mean_tolerance'" in told


def test_a_study_a_plan_a_monitor_and_distances_are_told(capsys, tmp_path):
    text = said(capsys, "audit", *FILE, "--candidate", "shifted", "--folds", "4", "--batch_size", "50")
    assert "4 folds of 100 prompts at alpha 0.05" in text and "for 80%" in text
    text = said(
        capsys, "audit", *FILE, "--candidate", "shifted", "--noise", "0", "0.2", "--folds", "4", "--range", "0", "1"
    )
    assert "tolerance 0 0 prompts left over" in text and text.startswith("noise")
    folds = ("audit", *FILE, "--candidate", "shifted", "--folds", "4")
    text = said(capsys, "audit", *FILE, "--candidate", "shifted", "--seeds", "4", "--seed", "1")
    assert "4 orders of all 400 prompts at alpha 0.05" in text and "rejected at pair, over the seeds: " in text
    assert "sorted by kind" not in text and "lower bound on the shift, over the seeds: " in text
    assert "--study.folds would change nothing: every seed takes all prompts" in refused(capsys, *folds, "--seeds", "3")
    assert "unknown option '--mean_tolerance'" in refused(
        capsys, *folds, "--mean_tolerance", "0.1", "--range", "0", "1"
    )
    assert "--audit.stop would change nothing: every fold" in refused(capsys, *folds, "--audit.stop", "false")
    words = ("--streams", "10", "--samples", "100", "--batch_size", "50", "--no_tracking", "--json", "plan.json")
    text = said(capsys, "power", "--assumed_candidate", "6", "4", *words)
    assert "10 simulated audits of 100 prompts" in text
    assert json.loads((tmp_path / "plan.json").read_text())["rates"][0]["rate"] > 0.5
    text = said(capsys, "power", "--pilot", "scores.csv", "--baseline", "base", "--candidate", "same", *words)
    assert "prompts drawn from a pilot of 400" in text
    assert "is given" in refused(capsys, "power", "--assumed_candidate", "6", "4", "--pilot", "scores.csv", *words)
    assert "would change nothing: the plan is" in refused(capsys, "power", "--audit.shuffle", "true", *words)
    assert "unknown option '--mean_tolerance'" in refused(capsys, "power", "--mean_tolerance", "0.1", *words)
    text = said(capsys, "monitor", *FILE, "--candidate", "shifted", "--run_length", "100", "--json", "alarms.json")
    count = len(json.loads((tmp_path / "alarms.json").read_text())["alarms"])
    assert count > 0 and f"{count} alarms in 400 pairs" in text
    words = ("--candidates", "same", "shifted", "--replicates", "20", "--bet", "ratio")
    text = said(capsys, "distances", *FILE, *words)
    assert "same TV" in text and "shifted W2" in text and "mean payoff of ratio" in text
    for command in ("power", "monitor", "distances"):
        assert "--seed" in said(capsys, command, "-h")
