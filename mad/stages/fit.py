"""fit: fit a detector on the trusted (and untrusted) rows of the features."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import save_file

from mad.artifacts import Features, FittedDetector
from mad.config import parse, placement, plugin, to_data
from mad.context import Context
from mad.detectors._base import Detector, Population
from mad.detectors._training import Alone, TrainedDetector
from mad.registry import load
from mad.stages._base import Stage
from mad.stages._fit_loop import fit_loop, read_checkpoint
from mad.stages._populations import population
from mad.stages._subject import Subject
from mad.stages._workers import check_workers
from mad.stages.prepare import seed_of
from mad.stats.random import derive

LARGE = 2_000_000
"""Rows times epochs from which ``auto`` trains with checkpoints, and on every GPU: a Ray Train group takes 25 to 30 s
to start."""


@dataclass(frozen=True)
class Options:
    """Where a detector that trains by gradient steps is trained; the others are fitted in this process."""

    workers: int | str = placement("auto")
    """Ray Train processes for detectors that train by gradient steps; 0: this process, resumable; a range such as 2-8:
    as many as the cluster has room for, fewer when a node goes and more when one comes; auto: one per GPU
    if there are several and rows times epochs are 2,000,000 or more, else this process (trials of a sweep: always)"""

    def __post_init__(self) -> None:
        check_workers(self.workers)


@dataclass(frozen=True)
class Config:
    """Which detector."""

    detector: Any = plugin("detectors", "mahalanobis")
    """how anomalies are told"""
    fit: Options = field(default_factory=Options)
    seed: int = 0


def new_detector(config: Any, subject: Subject | None = None) -> Detector:
    """An unfitted detector of a plug-in config, for features of ``subject``, which it sees if it says it needs to."""
    detector: Detector = sys.modules[type(config).__module__].Detector(config)
    detector.subject = subject if detector.needs & {"head", "model"} else None
    return detector


def populations(features: Features, detector: Detector) -> dict[str, Population]:
    """The populations a detector is fitted on."""
    assert detector.subject is None or isinstance(detector.subject, Subject)
    return {name: population(features, name, detector.subject) for name in detector.fits_on}


def detector_seed(config: Config) -> int:
    """Of a detector: from its own seed if it has one, else from the root seed."""
    return derive(seed_of(config.detector, config.seed), "detector")


def fit(
    detector: Detector, config: Config, given: dict[str, Population], report: Any = None, device: str = "cpu"
) -> list[float]:
    """Fit a detector in this process.

    Args:
        detector: whose state is filled.
        config: of the stage.
        given: the populations.
        report: told the epoch and the state by detectors that train in epochs.
        device: where those that train by gradient steps compute.

    Returns:
        The loss of each epoch, of those that train by gradient steps.
    """
    losses = []
    if isinstance(detector, TrainedDetector):
        for epoch in detector.train(given, detector_seed(config), Alone(device)):
            losses.append(epoch.loss)
            if report is not None:
                report(epoch.number, epoch.state)
    else:
        detector.fit(given, detector_seed(config), report)
    return losses


def write(config: Config, detector: Detector, context: Context) -> None:
    """Write ``state.safetensors``: everything the detector may use when it scores."""
    tensors = {name: tensor.contiguous() for name, tensor in detector.state.items()}
    context.draft.write("state.safetensors", lambda path: save_file(tensors, path))
    context.summary |= {
        "detector": to_data(config.detector, "detectors"),
        "supervised": detector.supervised,
        "fits_on": list(detector.fits_on),
    }
    # A method may find nothing to go by and fall back, or stop short of its aim: its result is to say so.
    for flag, title in (("signal", "layers_without_signal"), ("converged", "layers_not_converged")):
        layers = [name.removesuffix(f"/{flag}") for name, t in tensors.items() if name.endswith(f"/{flag}") and not t]
        if layers:
            context.summary[title] = ", ".join(layers)
            context.metrics[title] = len(layers)


def load_detector(fitted: FittedDetector, subject: Subject | None = None) -> Detector:
    """A fitted detector as it was saved, to score features of ``subject``."""
    data = dict(fitted.summary["detector"])
    module = load("detectors", data.pop("name"))
    detector = new_detector(parse(module.Config, data, "detector"), subject)
    detector.state = fitted.tensors("state.safetensors")
    return detector


def run(config: Config, inputs: dict[str, Features], context: Context) -> None:
    """Fit and write."""
    features = inputs["features"]
    detector = new_detector(config.detector, Subject(features, context.draft.store, context.device))
    if _is_launched(config, detector, features, context):
        payload = {"config": to_data(config), "store": context.draft.store.uri, "features": features.key}
        epochs, name = config.detector.epochs, context.draft.key
        folder = context.launcher.train(fit_loop, payload, config.fit.workers, epochs, name, "fit")
        last, losses = read_checkpoint(folder)
        detector.state = last.state
    else:
        device = context.device if torch.cuda.is_available() else "cpu"
        losses = fit(detector, config, populations(features, detector), context.on_epoch, device)
    if losses:
        context.metrics["loss"] = list(losses)
    write(config, detector, context)


def _is_launched(config: Config, detector: Detector, features: Features, context: Context) -> bool:
    """Whether the launcher trains: on several processes, or in this one with a checkpoint after every epoch.

    Not where somebody waits for the state of every epoch, as ASHA does for that of a trial.
    """
    if not isinstance(detector, TrainedDetector) or context.on_epoch is not None:
        return False
    bounds = [features.bounds(name) for name in detector.fits_on]
    work = sum(stop - start for start, stop in bounds) * config.detector.epochs
    return config.fit.workers != "auto" or work >= LARGE


STAGE = Stage("fit", Config, {"features": "extract"}, run)
