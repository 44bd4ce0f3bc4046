"""How many processes a stage asks for: what is accepted, and where a range would change what a model is."""

from __future__ import annotations

import json

import pytest

from mad.config import parse, to_data
from mad.context import Silent
from mad.errors import ConfigError
from mad.runtime.local import train_here
from mad.stages import attack, extract, fit, generate, judge, stream, train
from mad.stages._base import load_stage
from mad.stages._language_loop import language_loop
from mad.stages._workers import check_workers, worker_range
from tests.tiny_llama import make_tiny_llama


@pytest.mark.parametrize("stage", [attack, extract, fit, generate, judge, stream, train], ids=lambda m: m.__name__)
@pytest.mark.parametrize("workers", [0, 3, "auto", "1-4", "2-2"])
def test_every_stage_takes_a_number_a_range_or_auto(stage, workers):
    assert parse(stage.Options, {"workers": str(workers)}).workers == workers


@pytest.mark.parametrize(
    ("workers", "told"),
    [
        (-1, "0 or more"),
        ("many", "a range such as 2-8, or auto, got 'many'"),
        ("0-4", "a range such as 2-8"),
        ("4-2", "the range 4-2 ends before it begins"),
        ("1-", "a range such as 2-8"),
    ],
)
def test_what_is_no_number_of_workers(workers, told):
    with pytest.raises(ConfigError, match=told):
        check_workers(workers)


def test_the_ends_of_a_range():
    assert worker_range("3-12") == (3, 12)
    assert worker_range("auto") is None and worker_range(4) is None


@pytest.mark.parametrize(
    "model",
    [
        {"name": "preactresnet"},
        {"name": "torchvision", "classifier": "vgg11"},
        {"name": "pretrained", "model": ".", "lora": {"dropout": 0.1}},
    ],
    ids=["batch norm", "dropout", "dropout of an adapter"],
)
def test_a_model_that_depends_on_the_number_of_workers_takes_no_range(model, monkeypatch):
    from mad.models.architectures import pretrained

    monkeypatch.setattr(pretrained, "identity", lambda config: {})
    stage = load_stage("train")
    config = parse(stage.Config, {"model": model, "train": {"workers": "1-4"}})
    with pytest.raises(ConfigError, match="depend on the number of workers: give a number"):
        stage.identity(config, 4)
    fixed = parse(stage.Config, {"model": model, "train": {"workers": 4}})
    assert stage.identity(fixed, 4)["workers"] == 4


def test_a_range_does_not_enter_the_key_of_other_models():
    stage = load_stage("train")
    keys = [stage.identity(parse(stage.Config, {"train": {"workers": w}}), 4) for w in (0, 4, "1-4")]
    assert keys[0] == keys[1] == keys[2]


def test_a_language_model_with_dropout_of_its_own_takes_no_range(engine, tmp_path):
    folder = make_tiny_llama(tmp_path / "llama")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"attention_dropout": 0.1}))
    stage = load_stage("prepare")
    task = {"name": "text_backdoor", "generated_rows": 40, "answers": ["bad", "good"]}
    split = engine.run(stage, parse(stage.Config, {"task": task}), {})
    model = {"name": "pretrained", "model": str(folder)}
    config = parse(train.Config, {"model": model, "train": {"epochs": 1, "workers": "1-2"}})
    payload = {"config": to_data(config), "store": engine.store.uri, "split": split.key}
    with pytest.raises(ConfigError, match="the model has attention_dropout 0.1, so that it depends"):
        train_here(language_loop, payload, tmp_path / "scratch", "cpu", Silent(), 1)
