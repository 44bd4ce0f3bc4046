"""Detectors inside several language models, in one table; and those models themselves."""

from __future__ import annotations

import json

import pytest

from mad.__main__ import main

pytestmark = pytest.mark.slow
TINY = {
    "task": "text_backdoor",
    "task.generated_rows": "120",
    "model": "llama",
    "model.heads": "2",
    "model.vocabulary": "300",
    "train.epochs": "1",
    "train.workers": "0",
    "extract.workers": "0",
    "detect.bootstrap": "20",
    "experiment": "models",
}
MODELS = [{"model.hidden": "16", "model.layers": "1"}, {"model.hidden": "24", "model.layers": "3"}]


def words(flags):
    return [word for name, value in flags.items() for word in (f"--{name}", value)]


def test_models_are_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for model in MODELS:
        for detector in ("mahalanobis", "knn"):
            assert main(["detect", *words({**TINY, **model, "detector": detector})]) == 0
    capsys.readouterr()
    assert main(["report", "--experiment", "models", "--json", "all.json"]) == 0
    told = capsys.readouterr().out
    found = json.loads((tmp_path / "all.json").read_text())
    assert found["same"]["model"] == "llama" and found["same"]["task"] == "text_backdoor"
    rows = {(row["model.hidden"], row["model.layers"], row["detector"]): row["auroc"] for row in found["rows"]}
    assert set(rows) == {(m["model.hidden"], m["model.layers"], d) for m in MODELS for d in ("mahalanobis", "knn")}
    assert sorted(rows.values(), reverse=True) == [row["auroc"] for row in found["rows"]]
    (header,) = (line.split() for line in told.splitlines() if "auroc" in line and "ap" in line.split())
    assert {"detector", "hidden", "layers"} <= set(header)
    assert main(["report", "--experiment", "models", "--stage", "train", "--json", "models.json"]) == 0
    trained = json.loads((tmp_path / "models.json").read_text())["rows"]
    assert {row["model.hidden"] for row in trained} == {"16", "24"}
    assert all(0 <= row["test_clean_accuracy"] <= 1 for row in trained)
