"""One step of the memory benchmark, in a process of its own: ``python -m tests.benchmarks.million STEP HOME``.

Steps: ``make`` writes a split of a million tiny images and a perceptron with 512 hidden units, ``extract``
extracts its activations, ``read`` takes their moments. Each prints a line of JSON with the peak of this process's
anonymous memory, in bytes: what it holds for itself, without pages of files that it only maps.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import torch

from mad.artifacts import Features
from mad.config import parse, to_data
from mad.models.classifier import build_classifier
from mad.models.load import DESCRIPTION, WEIGHTS, save_classifier
from mad.runtime.local import one_thread
from mad.stages import train
from mad.stages._base import load_stage
from mad.stages._populations import population
from tests.benchmarks.splits import commit, new_engine, write_split

ROWS = 1_000_000
WIDTH = 512
SHAPE = (1, 4, 4)
KEYS = {"attacked": f"prepare-{ROWS}-1x4x4", "checkpoint": "train-512"}


class Peak:
    """Samples anonymous memory in the background while a block runs.

    Attributes:
        before: bytes at the beginning.
        most: the largest sample.
    """

    def __enter__(self) -> Peak:
        self.before = self.most = anonymous()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.most = max(self.most, anonymous())

    def _sample(self) -> None:
        while not self._stop.wait(0.005):
            self.most = max(self.most, anonymous())


def anonymous() -> int:
    """Bytes of resident anonymous memory of this process."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def make(home: Path) -> None:
    """Write the split and the checkpoint."""
    store = new_engine(home).store
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (ROWS, *SHAPE), dtype=torch.uint8, generator=generator)
    clean = torch.zeros(ROWS, dtype=torch.bool)
    write_split(store, inputs, torch.arange(ROWS) % 10, {"trusted": ROWS}, clean, scale=255.0)
    model = parse(train.Config, {"model": {"name": "mlp", "hidden": [WIDTH]}}).model
    classifier = build_classifier(model, SHAPE, 10, [0.5], [0.3], seed=0)
    description = {"model": to_data(model, "models"), "input_shape": list(SHAPE), "num_outputs": 10}
    save_classifier(home / "model", classifier, {**description, "mean": [0.5], "std": [0.3], "head": "multiclass"})
    draft = store.draft(KEYS["checkpoint"])
    for name in (WEIGHTS, DESCRIPTION):
        data = (home / "model" / name).read_bytes()
        draft.write(name, lambda path, data=data: path.write_bytes(data) and None)
    commit(store, draft, "train", {}, {"split": KEYS["attacked"]})


def extract(home: Path) -> None:
    """Run the whole stage in this process: ``map_here`` over ``chunk_worker``, checksums and the table of rows."""
    engine, stage = new_engine(home), load_stage("extract")
    given = {name: engine.store.open(key) for name, key in KEYS.items()}
    features = engine.run(stage, parse(stage.Config, {"extract": {"workers": 0}}), given)
    engine.store.set_name("features", features.key)


def read(home: Path) -> None:
    """Check the files and take moments of every row, as the first detector of a sweep does."""
    store = new_engine(home).store
    features = store.open(store.names()["features"], Features)
    with one_thread():
        moments = population(features, "trusted").moments(features.layers[0])
    if moments.count != ROWS or len(moments.mean) != WIDTH:
        raise RuntimeError(f"read {moments.count} rows of width {len(moments.mean)}")


if __name__ == "__main__":
    step, folder = {"make": make, "extract": extract, "read": read}[sys.argv[1]], Path(sys.argv[2])
    begun = time.perf_counter()
    with Peak() as peak:
        step(folder)
    seconds = time.perf_counter() - begun
    print(json.dumps({"pid": os.getpid(), "before": peak.before, "most": peak.most, "seconds": seconds}))
