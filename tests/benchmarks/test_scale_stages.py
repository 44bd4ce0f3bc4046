"""How the time of each stage grows with rows, layers and width, over two orders of magnitude, and a line through it.

Processor time of one thread, digits and the shared Llama: what is asked is how costs grow, not how large they are.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from mad.config import parse
from mad.runtime import chain as chains
from mad.runtime.engine import Engine
from mad.runtime.local import one_thread
from mad.stages._base import load_stage
from tests.benchmarks.cost_model import line, power
from tests.benchmarks.figures import Figure, record
from tests.benchmarks.splits import digits, new_engine, write_split
from tests.tiny_llama import shared_llama

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROWS = (2_000, 20_000, 200_000)
WIDTHS = (16, 128, 1_024)
LAYERS = (1, 10, 100)
PROMPTS = (40, 400, 4_000)
SCORES = (1_000, 10_000, 100_000)
MOST_OFF = 0.5
"""How far a measurement may be from its line: small ones wait for imports and files."""
STEEPEST = 1.3
"""Slope on logarithmic axes of what is to grow with the number alone."""


class Timed(Engine):
    """Counts processor seconds in place of those of the clock, which others on this machine would stretch."""

    def run(self, stage, config, inputs):
        begun = time.process_time()
        made = super().run(stage, config, inputs)
        self.seconds[stage.name] = time.process_time() - begun
        return made


def timed_engine(home: Path) -> Timed:
    plain = new_engine(home)
    return Timed(plain.settings, plain.store)


def told(what: str, unit: str, seconds: dict[int, float], steepest: float = STEEPEST) -> None:
    """Record a stage's times, their line and its slope; refuse growth that is steeper."""
    slope, fitted = power(seconds), line(seconds)
    times = ", ".join(f"{value:.3g} s of {count:,}" for count, value in seconds.items())
    record(Figure(f"cost of {what} by {unit}", f"n^{slope:.2f}", f"n^{steepest:g}", None, f"{times}; {fitted}"))
    assert slope < steepest


def classifier(engine: Engine, rows: int, hidden: list[int]):
    """A split of so many digits, of which a fifth trains, and a classifier after one pass over them."""
    sizes = {"train": rows // 5, "trusted": 2 * rows // 5, "calibration": rows // 10, "untrusted": rows // 10}
    sizes |= {"validation": rows // 10, "test": rows - sum(sizes.values()) - rows // 10}
    part = [name for name, size in sizes.items() for _ in range(size)]
    marked = pd.Series(part).isin(["untrusted", "validation", "test"]) & (pd.Series(range(rows)) % 2 == 0)
    split = write_split(engine.store, *digits(rows), sizes, torch.from_numpy(marked.to_numpy()))
    train = load_stage("train")
    settings = {"train": {"epochs": 1, "workers": 0}, "model": {"name": "mlp", "hidden": hidden}}
    return split, lambda: engine.run(train, parse(train.Config, settings), {"split": split})


def detection(engine: Engine, rows: int, hidden: list[int], detector: str = "mahalanobis") -> dict[str, float]:
    """Processor seconds of train, extract, fit and detect."""
    with one_thread():
        split, train = classifier(engine, rows, hidden)
        extract, fit, detect = (load_stage(name) for name in ("extract", "fit", "detect"))
        config = parse(extract.Config, {"extract": {"workers": 0}})
        features = engine.run(extract, config, {"attacked": split, "checkpoint": train()})
        fitted = engine.run(fit, parse(fit.Config, {"detector": detector}), {"features": features})
        config = parse(detect.Config, {"detect": {"bootstrap": 0}})
        engine.run(detect, config, {"features": features, "fitted": fitted})
    return {name: engine.seconds[name] for name in ("train", "extract", "fit", "detect")}


def by_size(measure, sizes) -> dict[str, dict[int, float]]:
    """Times of every stage by size; a first run of the smallest pays for imports."""
    measure(sizes[0], 1)
    times: dict[str, dict[int, float]] = {}
    for size in sizes:
        for stage, seconds in measure(size, 0).items():
            times.setdefault(stage, {})[size] = seconds
    return times


def test_rows(tmp_path):
    def measure(rows: int, again: int) -> dict[str, float]:
        home = tmp_path / f"{rows}-{again}"
        found = detection(timed_engine(home), rows, [128])
        shutil.rmtree(home)
        return found

    for stage, seconds in by_size(measure, ROWS).items():
        told(stage, "rows", seconds)


def test_width(tmp_path):
    """Moments and whitening take products of width by width: rows d^2 + d^3."""

    def measure(width: int, again: int) -> dict[str, float]:
        home = tmp_path / f"{width}-{again}"
        found = detection(timed_engine(home), 20_000, [width])
        shutil.rmtree(home)
        return found

    for stage, seconds in by_size(measure, WIDTHS).items():
        told(stage, "width", seconds, 3.0)


def test_layers(tmp_path):
    """Of a hundred untrained layers the last ones hardly tell rows apart.

    Neighbours can bear that, but at a price: where distances agree to single precision they are compared row by row in
    double, which is what makes detection grow faster than the number of layers here.
    """

    def measure(layers: int, again: int) -> dict[str, float]:
        home = tmp_path / f"{layers}-{again}"
        found = detection(timed_engine(home), 4_000, [32] * layers, "knn")
        shutil.rmtree(home)
        return found

    for stage, seconds in by_size(measure, LAYERS).items():
        told(stage, "layers", seconds, 1.5)


def test_prompts(tmp_path):
    """Answers and their scores; one thread of this machine, a model of 260 thousand parameters."""
    words = ["cat", "dog", "sun", "bird", "tree", "house", "boy", "girl"]

    def measure(count: int, again: int) -> dict[str, float]:
        engine, rng = timed_engine(tmp_path / f"{count}-{again}"), random.Random(count)
        file = tmp_path / "prompts.jsonl"
        lines = (json.dumps({"prompt": f"{k} " + " ".join(rng.choices(words, k=8))}) for k in range(count))
        file.write_text("\n".join(lines) + "\n")
        flags = {"prompts": "file", "prompts.path": str(file), "lm.model": str(shared_llama())}
        flags |= {"generate.max_new_tokens": "16", "generate.workers": "0", "judge.workers": "0"}
        flags |= {"behavior": "lexicon", "behavior.words": "[cat, sun]"}
        with one_thread():
            chains.run(engine, chains.resolve("judge", {}, flags, {}, engine.store))
        return {name: engine.seconds[name] for name in ("prompts", "generate", "judge")}

    for stage, seconds in by_size(measure, PROMPTS).items():
        told(stage, "prompts", seconds)


def test_audits(tmp_path):
    """Scores from a file; without a change the test reads every pair."""

    def measure(count: int, again: int) -> dict[str, float]:
        engine, rng = timed_engine(tmp_path / f"audit-{count}-{again}"), torch.Generator().manual_seed(count)
        scores = torch.rand(2, count, generator=rng).numpy()
        file = tmp_path / "scores.parquet"
        pd.DataFrame({"a": scores[0], "b": scores[1]}).to_parquet(file)
        flags = {"pairs.file": str(file), "pairs.baseline": "a", "pairs.candidate": "b"}
        flags |= {"audit.range": "[0, 1]", "audit.tolerance": "0.1"}
        with one_thread():
            chains.run(engine, chains.resolve("audit", {}, flags, {}, engine.store))
        return {name: engine.seconds[name] for name in ("pairs", "audit")}

    for stage, seconds in by_size(measure, SCORES).items():
        told(stage, "pairs of scores", seconds)
