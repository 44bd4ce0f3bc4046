"""Detection figures on corner-trigger backdoors, over five seeds, with the settings of sweeps/backdoor.yaml."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from mad.runtime import chain as chains
from mad.runtime.engine import Engine
from mad.runtime.local import one_thread
from mad.runtime.spaces import expand
from mad.runtime.study import load_study
from mad.runtime.trial import Job, run_trial
from tests.benchmarks.figures import Figure, record
from tests.benchmarks.splits import new_engine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
SEEDS = range(5)
ROOT = os.environ.get("MAD_DATA")
HERE = {"train.workers": 0}
"""Trained in this process: one worker of Ray Train gives the same model, half a minute later."""


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Of one seed: the model, its twin that was not poisoned, and detectors on test rows."""

    attack_success: float
    accuracy: float
    twin_accuracy: float
    default_auroc: float
    chosen_auroc: float
    que_auroc: float
    chosen: dict[str, Any]


class Seed:
    """Runs the chain of one seed on one data set."""

    def __init__(self, engine: Engine, dataset: str, seed: int):
        self.engine, self.study, self.seed = engine, load_study("backdoor"), seed
        self.flags = {"task.dataset": dataset, "seed": seed, **HERE}
        if dataset != "digits":
            self.flags["task.root"] = ROOT

    def run(self) -> Numbers:
        """Train both models, fit the default detector, and the one that validation rows choose."""
        shared = self._chain("extract", {})
        twin = self._chain("train", {"task.poison_rate": 0.0})
        chosen = self._choose(shared["extract"].key)
        model = shared["train"].summary
        return Numbers(
            attack_success=model["attack_success_rate"],
            accuracy=model["clean_accuracy"],
            twin_accuracy=twin["train"].summary["clean_accuracy"],
            default_auroc=self._auroc({"detector": "mahalanobis"}, shared),
            chosen_auroc=self._auroc(chosen, shared),
            que_auroc=self._auroc({"detector": "que"}, shared),
            chosen=chosen,
        )

    def _chain(self, target: str, flags: dict[str, Any]) -> dict[str, Any]:
        request = chains.resolve(target, self.study.base, {**self.flags, **flags}, {}, self.engine.store)
        return chains.run(self.engine, request)

    def _choose(self, features: str) -> dict[str, Any]:
        """The configuration of Mahalanobis with the best validation AUROC, ties broken as a sweep does."""
        where = self.engine.settings
        job = Job(str(where.home), where.store, "cpu", features, {"seed": self.seed})
        spaces = [c for c in expand(self.study, self.seed) if c["detector"] == "mahalanobis"]
        rows = [(run_trial(job, overrides), overrides) for overrides in spaces]
        assert {row["status"] for row, _ in rows} == {"done"}
        return min(rows, key=lambda r: (-r[0]["val_auroc"], json.dumps(r[0]["config"], sort_keys=True)))[1]

    def _auroc(self, overrides: dict[str, Any], shared: dict[str, Any]) -> float:
        given = {stage: shared[stage] for stage in ("prepare", "extract")}
        flags = {**overrides, "detect.part": "test", "detect.bootstrap": 0, "seed": self.seed}
        request = chains.resolve("detect", {}, flags, given, self.engine.store)
        return chains.run(self.engine, request)["detect"].summary["auroc"]


def _seeds(home: Path, dataset: str) -> Iterator[Numbers]:
    with one_thread():
        for seed in SEEDS:
            numbers = Seed(new_engine(home / f"seed-{seed}"), dataset, seed).run()
            settings = " ".join(f"{k.rpartition('.')[2]}={v}" for k, v in numbers.chosen.items() if k != "detector")
            print(
                f"\n{dataset}, seed {seed}: accuracy {numbers.accuracy:.4f} (twin {numbers.twin_accuracy:.4f}),"
                f" attack success {numbers.attack_success:.4f}, test AUROC {numbers.default_auroc:.4f} by default,"
                f" {numbers.chosen_auroc:.4f} chosen ({settings})"
            )
            yield numbers


def _check(dataset: str, found: list[Numbers]) -> None:
    figures = {f.name: [getattr(n, f.name) for n in found] for f in dataclasses.fields(Numbers) if f.name != "chosen"}
    loss = 100 * (mean(figures["twin_accuracy"]) - mean(figures["accuracy"]))

    def show(name: str, key: str, target: str) -> None:
        seeds = " ".join(f"{v:.4f}" for v in figures[key])
        record(Figure(f"{dataset}: {name}", f"{mean(figures[key]):.4f}", target, None, f"seeds 0 to 4: {seeds}"))

    show("test AUROC, Mahalanobis by default", "default_auroc", "0.99")
    show("test AUROC, Mahalanobis chosen on validation rows", "chosen_auroc", "0.99")
    show("test AUROC, QUE by default", "que_auroc", "0.99")
    show("attack success rate", "attack_success", "0.95")
    show("clean accuracy", "accuracy", "")
    show("clean accuracy, not poisoned", "twin_accuracy", "")
    record(Figure(f"{dataset}: accuracy lost by poisoning", f"{loss:.2f} points", "2 points"))
    assert mean(figures["default_auroc"]) >= 0.99
    assert mean(figures["chosen_auroc"]) >= 0.99
    assert mean(figures["que_auroc"]) >= 0.99
    assert mean(figures["attack_success"]) >= 0.95
    assert abs(loss) <= 2


def test_digits(tmp_path):
    _check("digits", list(_seeds(tmp_path, "digits")))


@pytest.mark.skipif(ROOT is None, reason="set MAD_DATA to a folder with MNIST in torchvision's layout")
def test_mnist(tmp_path):
    _check("mnist", list(_seeds(tmp_path, "mnist")))
