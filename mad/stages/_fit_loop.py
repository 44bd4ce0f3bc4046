"""The training loop of one worker that fits a detector by gradient steps: resumable after every epoch."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from mad.artifacts import Features
from mad.config import parse
from mad.context import Worker
from mad.detectors._training import Epoch, TrainedDetector
from mad.stages._subject import Subject
from mad.store import Store

STATE, OPTIMIZER, LOSSES = "state.safetensors", "optimizer.safetensors", "losses.json"


def fit_loop(payload: dict[str, Any], worker: Worker) -> None:
    """Train a detector for the configured epochs, with a checkpoint after each.

    Args:
        payload: ``config`` (data of the fit stage's Config), ``store`` (URI), ``features`` (key).
        worker: this process.
    """
    from mad.stages.fit import Config, detector_seed, new_detector, populations

    config = parse(Config, payload["config"])
    store = Store(payload["store"])
    features = store.open(payload["features"], Features, check=False)
    detector = new_detector(config.detector, Subject(features, store, worker.device))
    assert isinstance(detector, TrainedDetector)
    folder = worker.resume_folder()
    before, losses = read_checkpoint(folder) if folder else (None, [])
    for epoch in detector.train(populations(features, detector), detector_seed(config), worker, before):
        losses = [*losses, epoch.loss]
        worker.report({"loss": epoch.loss}, partial(_save, epoch, losses))


def read_checkpoint(folder: Path) -> tuple[Epoch, list[float]]:
    """The last finished epoch of a checkpoint folder, and the loss of every epoch so far."""
    losses = json.loads((folder / LOSSES).read_text())
    return Epoch(len(losses), losses[-1], load_file(folder / STATE), load_file(folder / OPTIMIZER)), losses


def _save(epoch: Epoch, losses: list[float], folder: Path) -> None:
    save_file(epoch.state, folder / STATE)
    save_file(epoch.optimizer, folder / OPTIMIZER)
    (folder / LOSSES).write_text(json.dumps(losses))
