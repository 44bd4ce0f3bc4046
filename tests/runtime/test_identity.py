"""Keys change with whatever may change a result, and with nothing else."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import pytest

from mad.config import parse
from mad.runtime import identity as module
from mad.runtime.identity import code_digest, identity, key_of
from mad.stages._base import load_stage
from tests.tasks.layouts import write_mnist

INPUTS = {
    "features": "extract-1",
    "fitted": "fit-1",
    "split": "prepare-1",
    "attacked": "prepare-1",
    "checkpoint": "train-1",
    "scores": "detect-1",
}


def forget() -> None:
    for function in (code_digest, module._libraries, module._spec, module._meaning, module._imported):
        function.cache_clear()


@pytest.fixture(autouse=True)
def fresh():
    forget()
    yield
    forget()


@pytest.fixture
def edit(monkeypatch):
    """Change the source of a module as the digest reads it."""
    original = module._tree

    def edited(name: str, change) -> None:
        def tree(asked: str) -> ast.Module | None:
            spec = module._spec(asked)
            if asked != name or spec is None:
                return original(asked)
            before = Path(spec.origin).read_text()
            after = change(before)
            assert after != before
            return ast.parse(after)

        monkeypatch.setattr(module, "_tree", tree)
        for function in (code_digest, module._libraries, module._meaning, module._imported):
            function.cache_clear()

    return edited


def key(stage: str, device: str = "cpu", workers: int = 0, inputs: dict[str, str] | None = None, **data) -> str:
    found = load_stage(stage)
    given = {name: INPUTS[name] for name in found.inputs} | (inputs or {})
    return key_of(stage, identity(found, parse(found.Config, data), given, device, workers))


def with_code(source: str) -> str:
    return source + "\n\nADDED = 1\n"


def test_a_key_is_the_stage_and_twenty_digits():
    name, _, digits = key("fit").partition("-")
    assert name == "fit" and len(digits) == 20 and int(digits, 16) >= 0
    assert key("fit") == key("fit")


def test_comments_docstrings_and_formatting_change_nothing(edit):
    before = key("fit")
    edit("mad.stages.fit", lambda s: "# A comment.\n\n" + s.replace('"""Fit and write."""', '"""Other words."""\n'))
    assert key("fit") == before
    edit("mad.stages.fit", lambda s: ast.unparse(ast.parse(s)))
    assert key("fit") == before
    edit("mad.detectors.mahalanobis", lambda s: s.replace("Mahalanobis distance", "Distance"))
    assert key("fit") == before


@pytest.mark.parametrize(
    ("stage", "changed"),
    [
        ("fit", "mad.stages.fit"),
        ("fit", "mad.stages._populations"),
        ("fit", "mad.detectors._base"),
        ("fit", "mad.detectors.mahalanobis"),
        ("fit", "mad.stats.gaussian"),
        ("fit", "mad.stats.random"),
        ("detect", "mad.stats.roc"),
        ("detect", "mad.stats.conformal"),
        ("prepare", "mad.tasks.backdoor"),
        ("prepare", "mad.tasks._splits"),
        ("prepare", "mad.tasks.triggers.corner"),
        ("train", "mad.stages._classifier_loop"),
        ("train", "mad.stages._heads"),
        ("train", "mad.models.architectures.mlp"),
        ("train", "mad.tasks._augment"),
        ("extract", "mad.models.capture"),
        ("extract", "mad.models.pooling"),
        ("report", "mad.stages._score_figures"),
    ],
)
def test_code_that_makes_the_result_changes_the_key(stage, changed, edit):
    before = key(stage)
    edit(changed, with_code)
    assert key(stage) != before


@pytest.mark.parametrize(
    ("stage", "other"),
    [
        ("fit", "mad.detectors.knn"),
        ("fit", "mad.stats.roc"),
        ("fit", "mad.stats.neighbors"),
        ("fit", "mad.stages.report"),
        ("fit", "mad.runtime.engine"),
        ("fit", "mad.config"),
        ("prepare", "mad.tasks.triggers.noise"),
        ("train", "mad.models.architectures.cnn"),
        ("train", "mad.stages.extract"),
        ("detect", "mad.detectors.mahalanobis"),
    ],
)
def test_other_code_does_not(stage, other, edit):
    before = key(stage)
    edit(other, with_code)
    assert key(stage) == before


def test_the_config_the_inputs_the_device_and_torch_count(monkeypatch):
    keys = [
        key("fit"),
        key("fit", seed=1),
        key("fit", detector="knn"),
        key("fit", detector={"name": "knn", "k": 3}),
        key("fit", inputs={"features": "extract-2"}),
        key("fit", device="cuda"),
    ]
    monkeypatch.setattr(module, "_version", lambda name: "0.0")
    keys.append(key("fit"))
    assert len(set(keys)) == len(keys)


def test_the_libraries_that_the_code_rests_on_count():
    def numerics(detector: str) -> set[str]:
        stage = load_stage("fit")
        facts = identity(stage, parse(stage.Config, {"detector": detector}), {"features": "extract-1"}, "cpu", 1)
        return set(facts["numerics"])

    assert numerics("gmm") - numerics("mahalanobis") == {"scikit-learn"}


def test_defaults_written_out_change_nothing():
    assert key("fit", detector={"name": "mahalanobis", "shrinkage": 0, "rcond": "1e-5"}) == key("fit")
    assert key("fit", detector="mad.detectors.mahalanobis") == key("fit")


def test_placement_changes_nothing():
    assert key("train", train={"workers": 4}) == key("train", train={"workers": 0})
    assert key("extract", extract={"workers": 4}) == key("extract")
    assert key("prepare", task={"root": "/a"}) == key("prepare", task={"download": True}) == key("prepare")


def test_data_count_by_content_not_by_path(tmp_path):
    write_mnist(tmp_path / "a", train=60, test=20)
    write_mnist(tmp_path / "b", train=60, test=20)
    write_mnist(tmp_path / "c", train=80, test=20)
    keys = [key("prepare", task={"dataset": "mnist", "root": str(tmp_path / name)}) for name in "abc"]
    assert keys[0] == keys[1] != keys[2]


def test_workers_count_only_under_batch_norm():
    assert key("train", workers=1) == key("train", workers=8)
    resnet = [key("train", workers=n, model="preactresnet") for n in (0, 1, 2)]
    assert resnet[0] == resnet[1] != resnet[2]


def test_a_plugin_outside_counts_with_its_whole_package(tmp_path, monkeypatch):
    package = tmp_path / "frame_outside"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "formula.py").write_text("def twice(x):\n    return 2 * x\n")
    (package / "unused.py").write_text("x = 1\n")
    (package / "detector.py").write_text(
        "from dataclasses import dataclass\n\nfrom mad.stats import gaussian\n\nfrom .formula import twice\n\n\n"
        "@dataclass(frozen=True)\nclass Config:\n    k: int = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    name = "frame_outside.detector"
    keys = [key("fit", detector=name)]
    for file, text in (
        ("unused.py", "x = 2\n"),
        ("formula.py", "def twice(x):\n    # by addition\n    return 2 * x\n"),
        ("formula.py", "def twice(x):\n    return x + x\n"),
        ("detector.py", (package / "detector.py").read_text() + "\nMORE = 1\n"),
    ):
        (package / file).write_text(text)
        importlib.invalidate_caches()
        forget()
        keys.append(key("fit", detector=name))
    assert keys[0] == keys[1] == keys[2] != keys[3] != keys[4]
    for loaded in [m for m in sys.modules if m.startswith("frame_outside")]:
        del sys.modules[loaded]


def test_a_stats_function_counts_for_a_plugin_outside(tmp_path, monkeypatch, edit):
    (tmp_path / "frame_single.py").write_text(
        "from dataclasses import dataclass\n\nfrom mad.stats.neighbors import nearest\n\n\n"
        "@dataclass(frozen=True)\nclass Config:\n    k: int = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = key("fit", detector="frame_single")
    edit("mad.stats.neighbors", with_code)
    assert key("fit", detector="frame_single") != before
    del sys.modules["frame_single"]
