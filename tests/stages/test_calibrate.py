"""calibrate: what references measure, and that an audit keeps off their prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mad import registry
from mad.config import parse
from mad.errors import ArtifactError, ConfigError, DataError
from mad.stages import calibrate
from mad.stages._calibration_figures import calibration_figure
from mad.stages._sequential_audit import Options as AuditOptions
from mad.stats.bets._base import pairs
from mad.stats.calibration import bounds
from mad.stats.learned_distance import held_out_payoffs
from tests.stages.scores import simulated, write

FIELDS = {
    "tolerance",
    "low",
    "high",
    "grid",
    "noise_floor",
    "strategy",
    "alpha",
    "references",
    "prompts",
    "missing",
    "bet",
    "seed",
}


@pytest.fixture
def calibrated(tmp_path, engine, run):
    """Runs a calibration; its artifact."""

    def made(table, references=("same", "shifted"), flags=None, **options):
        asked = {
            "columns.file": write(table, tmp_path / "calibration.csv"),
            "columns.baseline": "base",
            "columns.candidates": [*references],
            "columns.id": "prompt_id",
            "calibrate.replicates": 50,
        }
        options = {f"calibrate.{k}": v for k, v in options.items()}
        return run(engine, "calibrate", {**asked, **(flags or {}), **options})["calibrate"]

    return made


def test_references_measure_what_the_mathematics_says(calibrated):
    table = simulated(600)
    made = calibrated(table)
    found = made.json("calibration.json")
    assert set(found) == FIELDS and found["prompts"] == 600
    x = torch.tensor(table["base"].to_numpy()).repeat(2, 1)
    y = torch.tensor(table[["same", "shifted"]].to_numpy().T.copy())
    module = registry.load("bets", "ratio")
    mean, low, high = bounds(held_out_payoffs(pairs(x, y), module.Bet(module.Config())), 0.025)
    for k, row in enumerate(found["references"]):
        expected = [float(part[k]) for part in (mean, low, high)]
        assert [row["shift"], row["lower"], row["upper"]] == pytest.approx(expected)
    assert found["tolerance"] == found["low"] == pytest.approx(float(high.max())) and found["high"] is None
    assert 0.02 < found["noise_floor"] < 0.08
    assert made.table("prompts.parquet")["id"].tolist() == table["prompt_id"].tolist()
    assert (made.folder / "calibration.png").read_bytes().startswith(b"\x89PNG")


def test_strategies_are_those_of_the_mathematics(calibrated):
    table = simulated(600)
    between = calibrated(table, strategy="interval", rejected=["shifted"]).json("calibration.json")
    same, shifted = between["references"]
    assert not shifted["accepted"] and between["tolerance"] == pytest.approx((same["upper"] + shifted["lower"]) / 2)
    assert between["high"] == shifted["lower"]
    spread = calibrated(table, strategy="std", deviations=1.0).json("calibration.json")
    shifts = [row["shift"] for row in spread["references"]]
    assert spread["tolerance"] == pytest.approx(np.mean(shifts) + np.std(shifts, ddof=1))
    grid = calibrated(table, strategy="grid", ticks=5, largest=0.4).json("calibration.json")
    assert grid["tolerance"] is None and grid["grid"] == [0, 0.1, 0.2, 0.3, 0.4]


def test_an_audit_keeps_off_the_prompts_of_its_calibration(calibrated, engine, run, tmp_path):
    first, second = simulated(400), simulated(400, seed=1)
    second["prompt_id"] = "q" + second["prompt_id"]
    made = calibrated(first, ["same"])

    def audited(table, **flags):
        path = write(table, tmp_path / "audit.csv")
        own = {"pairs.file": path, "pairs.baseline": "base", "pairs.candidate": "shifted"}
        return run(engine, "audit", {**own, "audit.calibration": made.key, **flags})["audit"]

    with pytest.raises(DataError, match=r"400 prompts or rows of the audit were used .* \(first: 'p0000'\)"):
        audited(first, **{"pairs.id": "prompt_id"})
    with pytest.raises(DataError, match="prompts of the audit have no names"):
        audited(second)
    found = audited(second, **{"pairs.cluster": "prompt_id"})
    assert found.verdict["verdict"] == "shifted"
    assert found.meta["inputs"].get("calibration", made.key) == made.key
    mixed = second.copy()
    mixed.loc[3, "prompt_id"] = "p0007"
    with pytest.raises(DataError, match=r"1 prompts or rows .* 'p0007'"):
        audited(mixed, **{"pairs.id": "prompt_id"})
    with pytest.raises(ArtifactError):
        audited(second, **{"pairs.id": "prompt_id", "audit.calibration": "calibrate-" + "0" * 20})
    with pytest.raises(ArtifactError, match="no artifact 'fit-0000"):
        audited(second, **{"audit.calibration": "fit-" + "0" * 20})
    with pytest.raises(ConfigError, match="calibration must be the key of one"):
        parse(AuditOptions, {"calibration": "fit-" + "0" * 20})


def test_row_numbers_are_no_names_where_prompts_have_some(calibrated, engine, run, tmp_path):
    """With --cluster and no --id in both, rows 1, 2, ... of two files are different rows."""
    first, second = simulated(400), simulated(400, seed=1)
    second["prompt_id"] = "q" + second["prompt_id"]
    made = calibrated(first, ["same"], {"columns.id": None, "columns.cluster": "prompt_id"})

    def audited(table):
        own = {"pairs.file": write(table, tmp_path / "audit.csv"), "pairs.baseline": "base", "pairs.candidate": "same"}
        return run(engine, "audit", {**own, "pairs.cluster": "prompt_id", "audit.calibration": made.key})["audit"]

    assert audited(second).verdict["samples"] == 400
    second.loc[3, "prompt_id"] = "p0007"
    with pytest.raises(DataError, match=r"1 prompts or rows .* 'p0007'"):
        audited(second)


def test_a_family_keeps_off_them_too(calibrated, engine, run, tmp_path):
    made = calibrated(simulated(200), ["same"])
    flags = {"columns.file": write(simulated(200), tmp_path / "f.csv"), "columns.baseline": "base"}
    flags |= {"columns.candidates": ["same"], "columns.id": "prompt_id", "audit.calibration": made.key}
    with pytest.raises(DataError, match="200 prompts or rows of the audit were used"):
        run(engine, "audit_family", flags)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"rejected": ["sane"]}, DataError, "rejected names no reference 'sane': there are same, shifted"),
        ({"strategy": "interval"}, DataError, "needs a reference that must be rejected"),
        ({"alpha": 0.5}, ConfigError, "alpha must lie between 0 and 1/2"),
        ({"folds": 1}, ConfigError, "folds must be at least 2, got 1"),
        ({"folds": 60}, DataError, "200 prompts are too few for 60 folds"),
    ],
)
def test_what_cannot_be_calibrated_is_told(calibrated, options, error, said):
    with pytest.raises(error, match=said):
        calibrated(simulated(200), **options)


def test_every_option_is_checked():
    for wrong in ({"deviations": -1}, {"largest": 1}, {"ticks": 1}, {"bins": 0}, {"replicates": 1}):
        with pytest.raises(ConfigError):
            parse(calibrate.Options, wrong)


def test_the_figure_holds_every_reference_and_the_tolerance():
    row = {"shift": 0.05, "lower": 0.02, "upper": 0.08, "histogram_excess": 0.06, "accepted": True}
    rows = [{**row, "reference": "a"}, {**row, "reference": "b", "accepted": False}]
    (panel,) = calibration_figure({"references": rows, "tolerance": 0.08}).axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["a", "b (rejected)"]
    assert any(line.get_label() == "tolerance 0.08" and line.get_xdata()[0] == 0.08 for line in panel.get_lines())
    (panel,) = calibration_figure({"references": rows, "tolerance": None}).axes
    assert not any(str(line.get_label()).startswith("tolerance") for line in panel.get_lines())
