"""What a command shows of its result, and plug-ins of the folder in which it is typed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mad.__main__ import main
from mad.errors import ConfigError
from mad.runtime.commands import figures
from mad.runtime.study import load_study
from mad.stages.prepare import seed_of

TASK = '''"""Two grey images, dark and bright; anomalous ones are in between."""

from dataclasses import dataclass

import pandas as pd
import torch

from mad import Rows


@dataclass(frozen=True)
class Config:
    """A size, and no seed: nothing is drawn."""

    rows: int = 8
    """rows of each part"""


def digest(config):
    return ""


def build(config, seed):
    parts = [p for p in ("train", "trusted", "calibration", "untrusted", "validation", "test") for _ in range(config.rows)]
    table = pd.DataFrame({"part": parts, "source": 0, "variant": -1, "is_anomalous": False})
    table["label"] = table["clean_label"] = table["source"] = table.index % 2
    table.loc[table["part"].isin(["untrusted", "validation", "test"]) & (table.index % 4 == 3), "is_anomalous"] = True
    table.loc[table["is_anomalous"], "source"] = 2
    table["id"] = table["part"] + "-" + table.index.astype(str)
    inputs = torch.tensor([0, 255, 128], dtype=torch.uint8).reshape(3, 1, 1, 1).expand(3, 1, 4, 4).contiguous()
    return Rows(table, inputs, torch.empty(0, 1, 4, 4), scale=255.0, class_names=("dark", "bright"))
'''  # noqa: E501


def test_single_values_are_shown_with_their_intervals_and_counts_once():
    summary = {
        "auroc": 0.98765,
        "intervals": {"auroc": [0.9, 1.0]},
        "threshold": {"score": 1.5, "trusted_rows": 10},
        "detector": {"name": "knn", "k": 5, "standardize": True},
        "class_names": ["a", "b"],
        "facts": {"trigger": "corner", "rows": {"test": 3}},
        "rows": {"test": {"rows": 3}},
        "target": None,
    }
    assert figures(summary) == [
        ("auroc", "0.9877 [0.9, 1]"),
        ("threshold.score", "1.5"),
        ("threshold.trusted_rows", "10"),
        ("detector", "knn"),
        ("detector.k", "5"),
        ("detector.standardize", "True"),
        ("facts.trigger", "corner"),
        ("rows.test.rows", "3"),
    ]


def test_a_section_without_a_seed_takes_the_root():
    assert [seed_of(SimpleNamespace(**own), 3) for own in ({}, {"seed": None}, {"seed": 0})] == [3, 3, 0]


def test_what_cannot_be_registered_is_told_before_the_work(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MAD_HOME", str(tmp_path / "home"))
    assert main(["detect", "--detector", "knn", "--register", "scores@best"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--register takes the result of train or fit, not of detect" in line
    assert not (tmp_path / "home").exists()


def test_a_study_that_is_no_text_is_told(tmp_path):
    (tmp_path / "study.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot read .*study.yaml"):
        load_study(str(tmp_path / "study.yaml"))


@pytest.mark.slow
def test_detect_tells_intervals_and_the_threshold(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MAD_HOME", str(tmp_path))
    words = ["--no_tracking", "--task.max_rows", "500", "--train.epochs", "1", "--detect.bootstrap", "50"]
    assert main(["detect", *words, "--detector", "knn"]) == 0
    said = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "[" in said["auroc"] and "threshold.realized_false_positive_rate" in said and "detector.k" in said


@pytest.mark.slow
def test_the_script_finds_plugins_in_the_folder_where_it_is_typed(tmp_path):
    """A task of one file, without a seed, in a folder that is on no path."""
    (tmp_path / "grey_images.py").write_text(TASK)
    script = [sys.executable, "-P", "-c", "import sys; from mad.__main__ import main; sys.exit(main())"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "MAD_HOME": str(tmp_path / "home")}
    words = ["prepare", "--no_tracking", "--task", "grey_images", "--task.rows", "12"]
    done = subprocess.run([*script, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rows.test.anomalous" in done.stdout and "rows.trusted.rows" in done.stdout
