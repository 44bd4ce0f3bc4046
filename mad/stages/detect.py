"""detect: score rows with a fitted detector, join layers, set a threshold, measure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mad.artifacts import Features, FittedDetector
from mad.config import require
from mad.context import Context
from mad.detectors._base import Detector
from mad.stages._base import Stage
from mad.stages._populations import batches, chosen_layers
from mad.stages._subject import Subject
from mad.stages.fit import load_detector
from mad.stats import conformal, roc
from mad.stats.random import derive

METRICS = ("auroc", "ap", "fpr95")
COLUMNS = ("id", "part", "label", "clean_label", "is_anomalous")
CONTROL = "control"
"""Part, and column of kinds, of rows that are unusual but benign: new to the detector, without the mechanism."""


@dataclass(frozen=True)
class Options:
    """How scores become one score, a threshold and figures."""

    part: Literal["validation", "test"] = "test"
    """rows that are scored; choose settings on validation rows only"""
    layers: list[str] = field(default_factory=list)
    """globs over extracted layers that take part (default: all)"""
    aggregation: Literal["mean", "max", "rank"] = "mean"
    """over layers: mean, max, or mean of conformal ranks among held-out trusted scores"""
    standardize: bool = True
    """before mean or max, standardise each layer by its held-out trusted scores"""
    false_positive_rate: float = 0.05
    """share of trusted inputs that may be flagged at the threshold"""
    bootstrap: int = 1000
    """resamples for the 95% intervals; 0 for none"""

    def __post_init__(self) -> None:
        rate = self.false_positive_rate
        require(0 < rate < 1, f"false_positive_rate must be between 0 and 1, got {rate}")
        require(self.bootstrap >= 0, f"bootstrap must be 0 or more, got {self.bootstrap}")


@dataclass(frozen=True)
class Config:
    """How to score and measure."""

    detect: Options = field(default_factory=Options)
    seed: int = 0


def layer_scores(detector: Detector, features: Features, part: str, layers: list[str]) -> dict[str, Tensor]:
    """(n,) float64 scores per layer of the rows of a part."""
    assert detector.subject is None or isinstance(detector.subject, Subject)
    found = [detector.score(batch) for batch in batches(features, part, layers, detector.subject)]
    return {layer: torch.cat([scores[layer] for scores in found]) for layer in found[0]}


def score_rows(detector: Detector, features: Features, options: Options) -> pd.DataFrame:
    """Scores of the held-out trusted rows, of the part asked for, and of the controls of test rows.

    Returns:
        One line per row: id, part, label, clean_label, is_anomalous, ``control`` (the kind of control; only where
        there are controls), ``score/<layer>`` and ``score``.
    """
    layers = chosen_layers(features, options.layers)
    calibration = layer_scores(detector, features, "calibration", layers)
    controlled = options.part == "test" and CONTROL in set(features.rows["part"])
    columns = [*COLUMNS, CONTROL] if controlled else [*COLUMNS]
    tables = []
    for part in ("calibration", options.part, CONTROL) if controlled else ("calibration", options.part):
        start, stop = features.bounds(part)
        scores = calibration if part == "calibration" else layer_scores(detector, features, part, layers)
        rows = features.rows.iloc[start:stop][columns].reset_index(drop=True)
        joint = conformal.aggregate(scores, calibration, options.aggregation, options.standardize)
        found = {f"score/{layer}": values.numpy() for layer, values in scores.items()} | {"score": joint.numpy()}
        tables.append(pd.concat([rows, pd.DataFrame(found)], axis=1))
    return pd.concat(tables, ignore_index=True)


def measure(table: pd.DataFrame, options: Options, seed: int) -> dict[str, Any]:
    """Figures of every score column on the part asked for, the threshold and its realised rates.

    Returns:
        ``metrics`` (column to auroc, ap, fpr95), ``intervals`` (the same, to [low, high]), ``threshold``, and
        ``controls`` (kind to figures, see :func:`measure_controls`) where there are any.

    Raises:
        DataError: the rows are all normal or all anomalous.
    """
    rows = table[table["part"] == options.part]
    labels = torch.from_numpy(rows["is_anomalous"].to_numpy(copy=True))
    columns = [c for c in table.columns if c == "score" or c.startswith("score/")]
    scores = torch.from_numpy(rows[columns].to_numpy(copy=True))
    figures = {c: dict(zip(METRICS, roc.metrics(scores[:, i], labels), strict=True)) for i, c in enumerate(columns)}
    intervals: dict[str, Any] = {}
    if options.bootstrap:
        found = roc.bootstrap(scores, labels, derive(seed, "bootstrap"), options.bootstrap)
        for i, (column, of_column) in enumerate(zip(columns, found, strict=True)):
            limits = {name: [v.low, v.high] for name, v in zip(METRICS, of_column, strict=True)}
            intervals[column] = {
                **limits,
                "auroc_delong": list(roc.delong(scores[:, i], labels)[1:]),
            }
    trusted = torch.from_numpy(table.loc[table["part"] == "calibration", "score"].to_numpy(copy=True))
    threshold = roc.threshold_at_fpr(trusted, options.false_positive_rate)
    joint = scores[:, columns.index("score")]
    controls = measure_controls(table, options, threshold)
    return {
        "metrics": figures,
        "intervals": intervals,
        **({"controls": controls} if controls else {}),
        "threshold": {
            "score": threshold,
            "false_positive_rate": options.false_positive_rate,
            "realized_false_positive_rate": roc.rate_above(joint[~labels], threshold),
            "true_positive_rate": roc.rate_above(joint[labels], threshold),
            "trusted_rows": len(trusted),
        },
    }


def measure_controls(table: pd.DataFrame, options: Options, threshold: float) -> dict[str, dict[str, Any]]:
    """How the aggregate treats rows that are unusual but benign: a detector of the mechanism passes them.

    Returns:
        By kind: ``rows``; ``auroc_anomalous_against_control`` (1: anomalous rows score above all controls) with
        its DeLong interval if intervals are asked for; ``auroc_control_against_clean`` (0.5: controls pass for
        clean rows; 1: mere novelty is scored); ``flagged``, the share of controls above the threshold.
    """
    if CONTROL not in table:
        return {}
    rows = table[table["part"] == options.part]
    found: dict[str, dict[str, Any]] = {}
    anomalous = rows["is_anomalous"].to_numpy(bool)
    for kind, controls in table[table["part"] == CONTROL].groupby(CONTROL, sort=False):
        scores = controls["score"].to_numpy()
        against = _pooled(rows["score"].to_numpy()[anomalous], scores)
        found[str(kind)] = {
            "rows": len(scores),
            "auroc_anomalous_against_control": roc.auroc(*against),
            "auroc_control_against_clean": roc.auroc(*_pooled(scores, rows["score"].to_numpy()[~anomalous])),
            "flagged": roc.rate_above(torch.from_numpy(scores.copy()), threshold),
        }
        if options.bootstrap and min(len(scores), anomalous.sum()) > 1:
            found[str(kind)]["auroc_anomalous_against_control_delong"] = list(roc.delong(*against)[1:])
    return found


def _pooled(positive: np.ndarray, negative: np.ndarray) -> tuple[Tensor, Tensor]:
    scores = torch.from_numpy(np.concatenate([positive, negative]))
    return scores, torch.arange(len(scores)) < len(positive)


def write(table: pd.DataFrame, figures: dict[str, Any], config: Config, context: Context) -> None:
    """Write ``scores.parquet`` and ``metrics.json``; log figures, ``val_`` before those of validation rows."""
    context.draft.write("scores.parquet", lambda path: table.to_parquet(path, index=False))
    context.draft.write_json("metrics.json", figures)
    prefix = "val_" if config.detect.part == "validation" else ""
    for column, values in figures["metrics"].items():
        layer = column.removeprefix("score")
        context.metrics |= {f"{prefix}{name}{layer}": value for name, value in values.items()}
    threshold = figures["threshold"]
    context.metrics |= {
        f"{prefix}realized_fpr": threshold["realized_false_positive_rate"],
        f"{prefix}tpr": threshold["true_positive_rate"],
    }
    for name, (low, high) in figures["intervals"].get("score", {}).items():
        if name in METRICS:
            context.metrics |= {f"{prefix}{name}_low": low, f"{prefix}{name}_high": high}
    controls = {
        f"control_{kind}_{name}": values[figure]
        for kind, values in figures.get("controls", {}).items()
        for name, figure in (("auroc", "auroc_anomalous_against_control"), ("flagged", "flagged"))
    }
    context.metrics |= controls
    intervals = {name: ends for name, ends in figures["intervals"].get("score", {}).items() if name in METRICS}
    context.summary |= {"part": config.detect.part, **figures["metrics"]["score"], "intervals": intervals}
    context.summary |= {**controls, "threshold": threshold}


def run(config: Config, inputs: dict[str, Any], context: Context) -> None:
    """Score, measure and write."""
    fitted: FittedDetector = inputs["fitted"]
    _check_same_features(inputs["features"], fitted)
    subject = Subject(inputs["features"], context.draft.store, context.device)
    table = score_rows(load_detector(fitted, subject), inputs["features"], config.detect)
    write(table, measure(table, config.detect, config.seed), config, context)
    context.summary |= {"detector": fitted.summary["detector"], "supervised": bool(fitted.summary.get("supervised"))}


def _check_same_features(features: Features, fitted: FittedDetector) -> None:
    """Refuse features that were read in another way than those the detector was fitted on.

    Raises:
        ConfigError: an extract setting that changes values differs.
    """
    ours, theirs = (a.meta["lineage"]["extract"]["config"]["extract"] for a in (features, fitted))
    for name in ("pool", "channel_axis", "dtype"):
        same = ours.get(name) == theirs.get(name)
        require(same, f"--extract.{name} is {ours.get(name)}, the detector was fitted with {theirs.get(name)}")


STAGE = Stage("detect", Config, {"features": "extract", "fitted": "fit"}, run)
