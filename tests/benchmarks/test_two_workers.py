"""Training, extraction and generation by two Ray workers against one, a thread each: the work itself, started groups.

Counted are, in training, all epochs but the first, with validation and checkpoint; in extraction and generation the
time from the first loaded model to the last chunk on disk. Not counted, on both sides: the start of the cluster and of
the group, imports, and loading the model.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch

from mad.config import parse, to_data
from mad.context import Silent
from mad.models.classifier import build_classifier
from mad.models.load import DESCRIPTION, WEIGHTS, save_classifier
from mad.runtime import cluster
from mad.stages import extract, generate, train
from mad.stages._base import load_stage
from tests.benchmarks.figures import Figure, record
from tests.benchmarks.splits import commit, digits, new_engine, write_split
from tests.benchmarks.timed_workers import read, timed_loop, timed_setup
from tests.tiny_llama import shared_llama

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1200)]
TARGET = 1.6
SIZE = 28
MODEL = {"name": "cnn"}
TRAINED = {"train": 4096, "validation": 512, "test": 512}
EPOCHS = 14
EXTRACTED = 70_000
PROMPTS, SAMPLES = 2500, 6


@dataclass(frozen=True)
class Run:
    """What a group did.

    Attributes:
        wall: seconds of the work.
        processor: seconds of processor time in it, of each worker.
        whole: seconds with the start of the group.
    """

    wall: float
    processor: list[float]
    whole: float


@pytest.fixture(scope="module")
def two_cpus():
    cluster.prepare_environment()
    import ray
    from ray import cloudpickle

    from tests.benchmarks import timed_workers

    cloudpickle.register_pickle_by_value(sys.modules[timed_workers.__name__])
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def timed(work, folder: Path) -> Run:
    """Run a group that writes notes to a folder."""
    folder.mkdir()
    begun = time.time()
    work(folder)
    whole, notes = time.time() - begun, read(folder)
    assert all(threads == 1 for worker in notes for _, _, threads in worker)
    first, last = min(worker[0][0] for worker in notes), max(worker[-1][0] for worker in notes)
    return Run(last - first, [worker[-1][1] - worker[0][1] for worker in notes], whole)


def compare(what: str, amount: str, one: Run, two: Run) -> None:
    """Record the ratio, and what it could be made of: with a core for each, the busiest worker bounds it."""
    assert (len(one.processor), len(two.processor)) == (1, 2)
    ratio, alone, both = one.wall / two.wall, one.processor[0], two.processor
    details = (
        f"{amount}: {one.wall:.1f} against {two.wall:.1f} s, with the start of the group {one.whole:.0f} against "
        f"{two.whole:.0f} s; processor time {alone:.1f} against {both[0]:.1f} and {both[1]:.1f} s, "
        f"{alone / max(both):.2f} x by the busier one"
    )
    record(Figure(f"{what}, two workers over one", f"{ratio:.2f} x", f"{TARGET:g} x", None, details))
    assert ratio >= TARGET


def test_training(two_cpus, tmp_path):
    from mad.runtime.ray_train import train_on_ray

    engine = new_engine(tmp_path)
    inputs, labels = digits(sum(TRAINED.values()), SIZE)
    split = write_split(engine.store, inputs, labels, TRAINED, torch.arange(len(inputs)) % 10 == 3)
    config = parse(train.Config, {"model": MODEL, "train": {"epochs": EPOCHS, "batch_size": 256}})
    payload = {"config": to_data(config), "store": engine.store.uri, "split": split.key}

    def work(workers: int, notes: Path) -> None:
        storage, last, name = str(tmp_path / "ray"), tmp_path / f"last-{workers}", f"train-{workers}"
        told = {**payload, "notes": str(notes)}
        train_on_ray(timed_loop, told, workers, False, storage, name, EPOCHS, Silent(), last)

    one, two = (timed(partial(work, n), tmp_path / f"notes-{n}") for n in (1, 2))
    images = (EPOCHS - 1) * TRAINED["train"]
    compare("training", f"{images:,} images of {SIZE} x {SIZE}, {images / one.wall:,.0f} a second by one", one, two)


def test_extraction(two_cpus, tmp_path):
    engine = new_engine(tmp_path)
    inputs, labels = digits(EXTRACTED, SIZE)
    clean = torch.zeros(EXTRACTED, dtype=torch.bool)
    split = write_split(engine.store, inputs, labels, {"trusted": EXTRACTED}, clean)
    model = parse(train.Config, {"model": MODEL}).model
    classifier = build_classifier(model, split.input_shape, 10, [0.5], [0.3], seed=0)
    description = {"model": to_data(model, "models"), "input_shape": list(split.input_shape), "num_outputs": 10}
    save_classifier(tmp_path / "model", classifier, {**description, "mean": [0.5], "std": [0.3], "head": "multiclass"})
    draft = engine.store.draft("train-0")
    for name in (WEIGHTS, DESCRIPTION):
        data = (tmp_path / "model" / name).read_bytes()
        draft.write(name, lambda path, data=data: path.write_bytes(data))
    commit(engine.store, draft, "train", {}, {"split": split.key})
    options = extract.Options(chunk_rows=2048)
    payload = {"extract": to_data(options), "store": engine.store.uri, "split": split.key, "checkpoint": "train-0"}
    payload["model"] = to_data(model, "models")
    one, two = map_by_one_and_two(
        extract.chunk_worker, payload, EXTRACTED, options.chunk_rows, engine, tmp_path, ".safetensors"
    )
    compare("extraction", f"{EXTRACTED:,} images, {EXTRACTED / one.wall:,.0f} a second by one", one, two)


def test_generation(two_cpus, tmp_path):
    engine = new_engine(tmp_path)
    stage = load_stage("prompts")
    prompts = engine.run(stage, parse(stage.Config, {"prompts": {"limit": PROMPTS}}), {})
    data = {"lm": {"model": str(shared_llama())}, "generate": {"samples": SAMPLES}}
    config = parse(generate.Config, data)
    payload = {"config": to_data(config), "store": engine.store.uri, "prompts": prompts.key}
    rows = len(prompts.rows) * SAMPLES
    one, two = map_by_one_and_two(
        generate.chunk_worker, payload, rows, config.generate.chunk_rows, engine, tmp_path, ".parquet"
    )
    compare("generation", f"{rows:,} generations, {rows / one.wall:,.0f} a second by one", one, two)


def map_by_one_and_two(setup, payload, rows: int, size: int, engine, tmp_path: Path, suffix: str) -> list[Run]:
    """The same chunks by one worker and by two, which are the same bytes."""
    from mad.runtime.sharding import map_on_ray

    drafts = {n: engine.store.draft(f"chunks-{n}") for n in (1, 2)}

    def work(workers: int, notes: Path) -> None:
        storage, writer = str(tmp_path / "ray"), timed_setup(setup, notes)
        chunks = range(-(-rows // size))
        map_on_ray(writer, payload, chunks, drafts[workers], workers, False, storage, Silent(), suffix)

    runs = [timed(partial(work, n), tmp_path / f"notes-{n}") for n in (1, 2)]
    assert drafts[1].finished() == drafts[2].finished()
    return runs
