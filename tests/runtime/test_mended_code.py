"""A detector whose code was mended does not serve the figures of its old code."""

from __future__ import annotations

import importlib
import json
import sys

from mad.__main__ import main
from mad.runtime import identity

DETECTOR = """
from dataclasses import dataclass

from mad.detectors._base import LayerwiseDetector


@dataclass(frozen=True)
class Config:
    pass


class Detector(LayerwiseDetector):
    def fit_layer(self, layer, populations, seed):
        return {"mean": populations["trusted"].moments(layer).mean}

    def score_layer(self, state, h, classes):
        return (h.double() - state["mean"]).norm(dim=1)
"""


def forget_code() -> None:
    """As in a new process."""
    sys.modules.pop("distance_detector", None)
    importlib.invalidate_caches()
    for cached in (identity.code_digest, identity._meaning, identity._imported, identity._spec):
        cached.cache_clear()


def test_scores_of_a_given_detector_follow_its_code(tmp_path, monkeypatch):
    monkeypatch.setenv("MAD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "distance_detector.py"
    file.write_text(DETECTOR)
    quick = ["--no_tracking", "--device", "cpu"]
    assert main(["fit", *quick, "--train.epochs", "3", "--detector", "distance_detector", "--name", "fitted"]) == 0

    def auroc() -> float:
        assert main(["detect", *quick, "--fitted", "fitted", "--json", "out.json"]) == 0
        return json.loads((tmp_path / "out.json").read_text())["auroc"]

    before = auroc()
    assert auroc() == before
    file.write_text(DETECTOR.replace("return (h", "return -(h"))
    forget_code()
    assert abs(auroc() - (1 - before)) < 1e-9
    forget_code()
