"""One configuration of a sweep: fit a detector, score the validation rows, give back one row of figures.

Runs in a Tune actor or in the driver. It receives strings and numbers only.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mad.artifacts import Artifact, Features
from mad.config import canonical, merge_flags, parse
from mad.detectors._base import Detector
from mad.errors import MadError
from mad.redaction import redactor
from mad.runtime.engine import Engine
from mad.runtime.settings import Settings
from mad.runtime.tracking import flat
from mad.stages import detect
from mad.stages._base import chain_config, load_stage, sections, stage_config
from mad.stages._subject import Subject
from mad.stages.fit import fit, new_detector, populations
from mad.store import Store

Row = dict[str, Any]
STAGES = ("fit", "detect")
VALIDATION = {"detect.part": "validation", "detect.bootstrap": 0}
"""Trials are compared on validation rows, by point values."""


@dataclass(frozen=True)
class Job:
    """What all trials on one set of features share.

    Attributes:
        home: MAD_HOME.
        store: URI of the artifact store.
        device: device class that enters keys.
        features: key of the features.
        base: nested settings under those of a trial.
    """

    home: str
    store: str
    device: str
    features: str
    base: dict[str, Any]

    def to_json(self) -> str:
        """One string, as Ray Tune takes it."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Job:
        """The inverse."""
        return Job(**json.loads(text))

    @cached_property
    def engine(self) -> Engine:
        """Looks up and commits artifacts; tracks nothing (the driver does)."""
        return Engine(Settings(Path(self.home), self.store, None, None), Store(self.store), device=self.device)

    @cached_property
    def artifact(self) -> Features:
        """The features, one copy per node, mapped into memory."""
        return self.engine.store.open(self.features, Features, check=False)

    def chain(self, overrides: dict[str, Any]) -> Any:
        """The sections of fit and detect with a trial's overrides."""
        cls = chain_config([load_stage(name) for name in STAGES])
        base = {k: v for k, v in self.base.items() if k in sections(cls)}
        return parse(cls, merge_flags(cls, base, {**overrides, **VALIDATION}))

    def keys(self, config: Any) -> tuple[str, str]:
        """Keys of the fitted detector and of its validation scores."""
        fitting, scores = load_stage("fit"), load_stage("detect")
        fitted = self.engine.key(fitting, stage_config(fitting, config), {"features": self.features})
        inputs = {"features": self.features, "fitted": fitted}
        return fitted, self.engine.key(scores, stage_config(scores, config), inputs)


@dataclass(frozen=True)
class Work:
    """One configuration to try.

    Attributes:
        job: JSON of the :class:`Job` it belongs to.
        overrides: dotted name to value.
        in_epochs: whether its detector trains in epochs and reports after each.
        kept: whether its detector and scores go into the store; if not, it leaves figures alone.
    """

    job: str
    overrides: dict[str, Any]
    in_epochs: bool
    kept: bool = True

    @property
    def label(self) -> tuple[str, str]:
        """Features and detector: configurations with the same label are rivals."""
        return json.loads(self.job)["features"], bare_row(self.overrides)["detector"]


def run_trial(
    job: Job,
    overrides: dict[str, Any],
    report: Callable[[int, dict[str, float]], None] | None = None,
    kept: bool = True,
) -> Row:
    """Fit, score and measure one configuration.

    Args:
        job: what trials share.
        overrides: dotted name to value.
        report: told the epoch and the validation figures by detectors that train in epochs.
        kept: whether detector and scores become artifacts; the row is the same.

    Returns:
        The row; ``status`` is "failed" with an ``error`` where the configuration could not be run.
    """
    begun = time.monotonic()
    try:
        config = job.chain(overrides)
        torch.set_num_threads(1)
        if not kept:
            return {**_in_memory(job, config), "features": job.features, "seconds": time.monotonic() - begun}
        job.engine.on_epoch = _measured(job, config, report) if report else _unheard
        fitted = _run(job, "fit", config, {"features": job.artifact})
        scores = _run(job, "detect", config, {"features": job.artifact, "fitted": fitted})
    except MadError as error:
        return _failed(job, overrides, " ".join(str(error).split()), begun)
    except Exception:  # a bug in one configuration must not cost the others of its bundle; the sweep reports it
        return _failed(job, overrides, traceback.format_exc(), begun)
    return {**row_of(scores, config, fitted.key), "features": job.features, "seconds": time.monotonic() - begun}


def row_of(scores: Artifact, config: Any, fitted: str) -> Row:
    """The row of a finished configuration, from its artifacts."""
    found = _row(config, scores.summary, scores.summary["supervised"], fitted, scores.key)
    return {**found, "seconds": scores.meta["seconds"]}


def _row(config: Any, figures: dict[str, Any], supervised: bool, fitted: str, scores: str) -> Row:
    return {
        **describe(config),
        **{f"val_{name}": figures[name] for name in detect.METRICS},
        "status": "done",
        "supervised": supervised,
        "fit": fitted,
        "detect": scores,
    }


def _in_memory(job: Job, config: Any) -> Row:
    """The row of a configuration that writes nothing; its keys are those that its artifacts would have."""
    detector = new_detector(config.detector, Subject(job.artifact, job.engine.store, job.device))
    device = job.device if torch.cuda.is_available() else "cpu"
    fit(detector, config, populations(job.artifact, detector), None, device)
    return _row(config, _figures(job, config, detector), detector.supervised, *job.keys(config))


def _figures(job: Job, config: Any, detector: Detector) -> dict[str, float]:
    """Figures of a fitted detector on the validation rows."""
    table = detect.score_rows(detector, job.artifact, config.detect)
    return detect.measure(table, config.detect, config.seed)["metrics"]["score"]


def describe(config: Any) -> Row:
    """Detector and every hyper-parameter of a configuration, by dotted name."""
    detector = canonical(config.detector, "detectors")
    hyper = flat({"detector": detector, "detect": canonical(config.detect)})
    left_out = ("detector", "detect.part", "detect.bootstrap")
    return {"detector": detector["name"], "config": {k: v for k, v in hyper.items() if k not in left_out}}


def trains_in_epochs(config: Any) -> bool:
    """Whether the detector of a trial's config trains in epochs."""
    return new_detector(config.detector).trains_in_epochs


def _run(job: Job, name: str, config: Any, inputs: dict[str, Artifact]) -> Artifact:
    stage = load_stage(name)
    return job.engine.run(stage, stage_config(stage, config), inputs)


def bare_row(overrides: dict[str, Any]) -> Row:
    """Detector and settings of a configuration that gave no figures, as far as its overrides tell."""
    chosen = overrides.get("detector", "?")
    name = chosen.get("name", "?") if isinstance(chosen, dict) else chosen
    return {"detector": name, "config": {k: v for k, v in overrides.items() if k != "detector"}}


def _failed(job: Job, overrides: dict[str, Any], error: str, begun: float) -> Row:
    facts = {"features": job.features, "error": redactor()(error), "seconds": time.monotonic() - begun}
    return {**bare_row(overrides), "status": "failed", **facts}


def _unheard(epoch: int, state: Any) -> None:
    """Listening to epochs keeps the fit in this process: a group would wait for CPUs that other trials hold."""


def _measured(job: Job, config: Any, report: Callable[[int, dict[str, float]], None]) -> Callable[[int, Any], None]:
    subject = Subject(job.artifact, job.engine.store, job.device)

    def on_epoch(epoch: int, state: Any) -> None:
        detector = new_detector(config.detector, subject)
        detector.state = dict(state)
        figures = _figures(job, config, detector)
        report(epoch, {f"val_{name}": figures[name] for name in detect.METRICS})

    return on_epoch
