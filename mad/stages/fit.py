"""fit: fit a detector on the trusted (and untrusted) rows of the features."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from safetensors.torch import save_file

from mad.artifacts import Features, FittedDetector
from mad.config import parse, plugin, to_data
from mad.context import Context
from mad.detectors._base import Detector, Population
from mad.registry import load
from mad.stages._base import Stage
from mad.stages._populations import population
from mad.stages.prepare import seed_of
from mad.stats.random import derive


@dataclass(frozen=True)
class Config:
    """Which detector."""

    detector: Any = plugin("detectors", "mahalanobis")
    """how anomalies are told"""
    seed: int = 0


def new_detector(config: Any) -> Detector:
    """An unfitted detector of a plug-in config."""
    return sys.modules[type(config).__module__].Detector(config)


def populations(features: Features, detector: Detector) -> dict[str, Population]:
    """The populations a detector is fitted on."""
    return {name: population(features, name) for name in detector.fits_on}


def fit(config: Config, given: dict[str, Population], report: Any = None) -> Detector:
    """Fit a new detector, seeded by its own seed if it has one, else by the root seed."""
    detector = new_detector(config.detector)
    own = config.seed if getattr(config.detector, "seed", None) is None else seed_of(config.detector, config.seed)
    detector.fit(given, derive(own, "detector"), report)
    return detector


def write(config: Config, detector: Detector, context: Context) -> None:
    """Write ``state.safetensors``: everything the detector may use when it scores."""
    tensors = {name: tensor.contiguous() for name, tensor in detector.state.items()}
    context.draft.write("state.safetensors", lambda path: save_file(tensors, path))
    context.summary |= {
        "detector": to_data(config.detector, "detectors"),
        "supervised": detector.supervised,
        "fits_on": list(detector.fits_on),
    }
    # A method may find nothing to go by, and then falls back: its result is to say so.
    silent = [name.removesuffix("/signal") for name, t in tensors.items() if name.endswith("/signal") and not float(t)]
    if silent:
        context.summary["layers_without_signal"] = ", ".join(silent)
        context.metrics["layers_without_signal"] = len(silent)


def load_detector(fitted: FittedDetector) -> Detector:
    """A fitted detector as it was saved."""
    data = dict(fitted.summary["detector"])
    module = load("detectors", data.pop("name"))
    return module.Detector(parse(module.Config, data, "detector"), fitted.tensors("state.safetensors"))


def run(config: Config, inputs: dict[str, Features], context: Context) -> None:
    """Fit and write."""
    features = inputs["features"]
    given = populations(features, new_detector(config.detector))
    write(config, fit(config, given, context.on_epoch), context)


STAGE = Stage("fit", Config, {"features": "extract"}, run)
