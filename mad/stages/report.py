"""report: figures of one detector's scores, and the rows it gets most wrong.

The figures of whole studies are here to import too; all take data alone and return a ``Figure``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from mad.artifacts import AnomalyScores, Split
from mad.config import require
from mad.context import Context
from mad.errors import DataError
from mad.stages._base import Stage
from mad.stages._figures import Format, save_figure
from mad.stages._image_figures import mistakes_figure, trigger_figure
from mad.stages._score_figures import histogram_figure, precision_recall_figure, roc_figure
from mad.stages._sweep_figures import leaderboard_figure, search_figure, training_figure

__all__ = [
    "STAGE",
    "Config",
    "Options",
    "histogram_figure",
    "leaderboard_figure",
    "mistakes_figure",
    "precision_recall_figure",
    "roc_figure",
    "run",
    "save_figure",
    "search_figure",
    "training_figure",
    "trigger_figure",
    "worst_mistakes",
]

MISTAKE_COLUMNS = ["kind", "rank", "id", "part", "label", "clean_label", "score", "flagged"]


@dataclass(frozen=True)
class Options:
    """How figures are written."""

    format: Format = "png"
    """file type: png, svg or pdf"""
    dpi: int = 200
    """dots per inch of png, and of images inside svg and pdf"""
    worst_mistakes: int = 12
    """rows shown of each kind: clean with the highest scores, anomalous with the lowest; 0 for none"""

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(20 <= self.dpi <= 1200, f"dpi must be between 20 and 1200, got {self.dpi}")
        require(self.worst_mistakes >= 0, f"worst_mistakes must be 0 or more, got {self.worst_mistakes}")


@dataclass(frozen=True)
class Config:
    """What to draw."""

    report: Options = field(default_factory=Options)


def worst_mistakes(table: pd.DataFrame, threshold: float, count: int) -> pd.DataFrame:
    """The scored rows a detector gets most wrong, worst first; equal scores keep the order of the rows.

    Args:
        table: ``scores.parquet``; held-out trusted rows are left out.
        threshold: rows with a larger score are flagged.
        count: rows of each kind.

    Returns:
        Columns kind ("clean": highest scores; "anomalous": lowest scores), rank from 1, id, part, label,
        clean_label, score, flagged.
    """
    rows = table[table["part"] != "calibration"]
    anomalous = rows["is_anomalous"].astype(bool)
    found = []
    for kind, members in (("clean", rows[~anomalous]), ("anomalous", rows[anomalous])):
        worst = members.sort_values("score", ascending=kind == "anomalous", kind="stable").head(count)
        flagged = worst["score"] > threshold
        found.append(worst.assign(kind=kind, rank=range(1, len(worst) + 1), flagged=flagged))
    return pd.concat(found, ignore_index=True)[MISTAKE_COLUMNS]


def rows_by_id(split: Split, ids: pd.Series[str]) -> torch.Tensor:
    """(n,) int64 row numbers of a split.

    Raises:
        DataError: the split has no row of such an id.
    """
    numbers = pd.Index(split.rows["id"]).get_indexer(pd.Index(ids))
    if (numbers < 0).any():
        unknown = ids.iloc[int((numbers < 0).argmax())]
        raise DataError(f"the scores are not of this split: it has no row '{unknown}'")
    return torch.from_numpy(numbers.astype("int64"))


def run(config: Config, inputs: dict[str, Any], context: Context) -> None:
    """Write the figures that mean something for these scores, and ``mistakes.csv``."""
    scores: AnomalyScores = inputs["scores"]
    split: Split = inputs["split"]
    options = config.report
    table, figures = scores.table("scores.parquet"), scores.json("metrics.json")
    threshold = figures["threshold"]["score"]
    mistakes = worst_mistakes(table, threshold, options.worst_mistakes)
    images = split.images(rows_by_id(split, mistakes["id"]))
    context.draft.write("mistakes.csv", lambda path: mistakes.to_csv(path, index=False, lineterminator="\n"))
    rows = table[table["part"] != "calibration"]
    anomalous, flagged = rows["is_anomalous"].astype(bool), rows["score"] > threshold
    _write("histogram", histogram_figure(table, figures), options, context)
    if anomalous.nunique() == 2:
        _write("roc", roc_figure(table, figures), options, context)
        _write("precision_recall", precision_recall_figure(table, figures), options, context)
    if len(mistakes):
        _write("mistakes", mistakes_figure(mistakes, images, split.class_names), options, context)
    if (split.rows["variant"] >= 0).any():
        _write("trigger", trigger_figure(split), options, context)
    context.metrics |= {
        "false_alarms": int((flagged & ~anomalous).sum()),
        "missed_anomalies": int((~flagged & anomalous).sum()),
    }
    context.summary |= {**context.metrics, "plots": list(context.plots), "scored_rows": len(rows)}


def _write(name: str, figure: Figure, options: Options, context: Context) -> None:
    file = f"{name}.{options.format}"
    context.draft.write(file, lambda path: save_figure(figure, path, options.format, options.dpi))
    context.plots.append(file)
    # Artists and figure refer to each other; without this the pixels live until the next garbage collection.
    figure.clear()


STAGE = Stage("report", Config, {"scores": "detect", "split": "prepare"}, run)
