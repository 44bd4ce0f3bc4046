"""The Python API does what the command line does."""

from __future__ import annotations

import json

import pytest

import mad
from mad import api
from mad.artifacts import AnomalyScores, Checkpoint
from mad.errors import ArtifactError, ConfigError, MadError
from mad.runtime.settings import settings
from mad.store import Store

QUICK = {"no_tracking": True, "device": "cpu", "task": {"max_rows": 600}, "train": {"epochs": 2, "workers": 0}}


def artifacts() -> Store:
    return Store(settings().store)


def test_every_public_name_can_be_imported():
    assert {"run_stage", "run_sweep", "open_artifact", "Detector", "MadError"} <= set(mad.__all__)
    for name in mad.__all__:
        assert getattr(mad, name).__doc__ and name in dir(mad)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mad.nothing


def test_settings_become_flags(world):
    flags = api._flags(
        {
            "task": {"name": "backdoor", "trigger": {"name": "noise", "std": 1}, "classes": None},
            "model": "cnn",
            "extract": {"layers": ["a", "b"]},
            "checkpoint": world.checkpoint,
            "seed": 3,
            "no_tracking": True,
        }
    )
    assert flags == {
        "task": "backdoor",
        "task.trigger": "noise",
        "task.trigger.std": 1,
        "task.classes": None,
        "model": "cnn",
        "extract.layers": ["a", "b"],
        "checkpoint": str(world.checkpoint.folder),
        "seed": 3,
        "no_tracking": "true",
    }


def test_a_chain_from_python(tmp_path):
    checkpoint = mad.run_stage("train", **QUICK, name="tiny", json=str(tmp_path / "out" / "train.json"))
    assert isinstance(checkpoint, Checkpoint) and checkpoint.summary["epochs"] == 2
    assert json.loads((tmp_path / "out" / "train.json").read_text())["key"] == checkpoint.key
    assert mad.open_artifact("tiny").key == mad.open_artifact(checkpoint.key).key == checkpoint.key
    assert mad.open_artifact(str(checkpoint.folder)).key == checkpoint.key
    options = {"no_tracking": True, "device": "cpu", "detect": {"bootstrap": 0}, "detector": {"name": "knn", "k": 3}}
    scores = mad.run_stage("detect", checkpoint=checkpoint, **options)
    assert isinstance(scores, AnomalyScores) and 0 <= scores.summary["auroc"] <= 1
    assert mad.run_stage("detect", checkpoint="tiny", **options).key == scores.key
    assert scores.meta["lineage"]["train"]["key"] == checkpoint.key
    assert len(artifacts().keys()) == 5


def test_numbers_may_be_written_either_way():
    made = [
        mad.run_stage("prepare", no_tracking=True, task={"max_rows": 600, "trigger": {"name": "noise", "std": std}})
        for std in (1, 1.0, "1")
    ]
    assert len({artifact.key for artifact in made}) == 1


def test_force_computes_again():
    first = mad.run_stage("prepare", **{k: v for k, v in QUICK.items() if k != "train"})
    again = mad.run_stage("prepare", force=True, **{k: v for k, v in QUICK.items() if k != "train"})
    assert again.key == first.key and again.meta["created"] > first.meta["created"]


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"trian": {"epochs": 2}}, ConfigError, "unknown option '--trian.epochs'"),
        ({"train": {"epochs": 0}}, ConfigError, "train: epochs must be 1 or more, got 0"),
        ({"train": 5}, ConfigError, "train: expected options, got 5"),
        ({"task": {"dataset": "digit"}}, ConfigError, "unknown data set 'digit'"),
        ({"split": "absent"}, ArtifactError, "no artifact 'absent'"),
        ({"dry_run": True}, MadError, "dry_run makes no artifact"),
    ],
)
def test_mistakes_are_told(given, error, said):
    with pytest.raises(error) as caught:
        mad.run_stage("train", no_tracking=True, **given)
    assert said in str(caught.value)
    assert not artifacts().keys()


def test_an_unknown_stage_is_told():
    with pytest.raises(ConfigError, match=r"unknown stage 'trian' \(did you mean train\?\)"):
        mad.run_stage("trian")


def test_an_unknown_artifact_is_told():
    with pytest.raises(ArtifactError, match="no artifact 'absent'"):
        mad.open_artifact("absent")
