"""report: figures of one detector's scores and of the features behind them, and the rows it gets most wrong.

The figures of whole studies are here to import too; all take data alone and return a ``Figure``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from mad.artifacts import AnomalyScores, Features, Split
from mad.config import require
from mad.context import Context
from mad.errors import DataError
from mad.stages._analysis_figures import (
    agreement_figure,
    auroc_heatmap_figure,
    joined_scores,
    layer_auroc_figure,
    layer_aurocs,
)
from mad.stages._base import Stage
from mad.stages._feature_figures import choose_rows, pca_figure, project, variance_by_layer, variance_figure
from mad.stages._figures import Format, save_figure
from mad.stages._histogram_figures import control_figure, histogram_figure
from mad.stages._image_figures import mistakes_figure, trigger_figure, triggered_rows
from mad.stages._score_figures import measured_rows, precision_recall_figure, roc_figure
from mad.stages._sweep_figures import leaderboard_figure, search_figure, training_figure
from mad.stages._text_page import text_page
from mad.stages._token_scores import token_table

__all__ = [
    "STAGE",
    "Config",
    "Options",
    "agreement_figure",
    "auroc_heatmap_figure",
    "control_figure",
    "feature_figures",
    "histogram_figure",
    "joined_scores",
    "layer_auroc_figure",
    "layer_aurocs",
    "leaderboard_figure",
    "mistakes_figure",
    "pca_figure",
    "precision_recall_figure",
    "roc_figure",
    "run",
    "save_figure",
    "search_figure",
    "training_figure",
    "trigger_figure",
    "variance_figure",
    "worst_mistakes",
]

MISTAKE_COLUMNS = ["kind", "rank", "id", "part", "label", "clean_label", "score", "flagged"]
EXTREME_COLUMNS = ["end", "rank", "id", "part", "is_anomalous", "control", "score", "text"]


@dataclass(frozen=True)
class Options:
    """How figures are written."""

    format: Format = "png"
    """file type: png, svg or pdf"""
    dpi: int = 200
    """dots per inch of png, and of images inside svg and pdf"""
    worst_mistakes: int = 12
    """rows shown of each kind: clean with the highest scores, anomalous with the lowest; 0 for none"""
    extreme_texts: int = 20
    """texts shown of each end, the most and the least anomalous, in texts.csv and texts.html; with extract.pool all
    and a detector that scores every token, tokens are marked there and listed in tokens.csv; 0 for none"""
    trigger: bool = True
    """show inputs with and without their trigger, where there is one"""
    pca: bool = True
    """scatter of every layer on two principal components of its trusted rows"""
    variance: bool = True
    """bars of every layer's variance: between classes, between clean and anomalous rows, along leading directions"""
    feature_rows: int = 1000
    """rows of each group (trusted, clean, anomalous, each control) that these two read, drawn by the seed; from 2"""
    marker_size: float = 2.5
    """diameter of a mark in the scatter, in points"""
    top_eigenvectors: int = 10
    """leading directions of trusted rows whose share of the variance is shown; 1 or more"""

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(20 <= self.dpi <= 1200, f"dpi must be between 20 and 1200, got {self.dpi}")
        require(self.worst_mistakes >= 0, f"worst_mistakes must be 0 or more, got {self.worst_mistakes}")
        require(self.extreme_texts >= 0, f"extreme_texts must be 0 or more, got {self.extreme_texts}")
        require(self.feature_rows >= 2, f"feature_rows must be 2 or more, got {self.feature_rows}")
        require(0 < self.marker_size <= 50, f"marker_size must be above 0 and at most 50, got {self.marker_size}")
        require(self.top_eigenvectors >= 1, f"top_eigenvectors must be 1 or more, got {self.top_eigenvectors}")


@dataclass(frozen=True)
class Config:
    """What to draw."""

    report: Options = field(default_factory=Options)
    seed: int = 0


def worst_mistakes(table: pd.DataFrame, threshold: float, count: int) -> pd.DataFrame:
    """The scored rows a detector gets most wrong, worst first; equal scores keep the order of the rows.

    Args:
        table: ``scores.parquet``; held-out trusted rows and controls are left out.
        threshold: rows with a larger score are flagged.
        count: rows of each kind.

    Returns:
        Columns kind ("clean": highest scores; "anomalous": lowest scores), rank from 1, id, part, label,
        clean_label, score, flagged.
    """
    rows = measured_rows(table)
    anomalous = rows["is_anomalous"].astype(bool)
    found = []
    for kind, members in (("clean", rows[~anomalous]), ("anomalous", rows[anomalous])):
        worst = members.sort_values("score", ascending=kind == "anomalous", kind="stable").head(count)
        flagged = worst["score"] > threshold
        found.append(worst.assign(kind=kind, rank=range(1, len(worst) + 1), flagged=flagged))
    return pd.concat(found, ignore_index=True)[MISTAKE_COLUMNS]


def extreme_rows(table: pd.DataFrame, split: Split, count: int) -> pd.DataFrame:
    """The scored texts with the highest and the lowest scores; controls are among them.

    Args:
        table: ``scores.parquet``; held-out trusted rows are left out.
        split: texts of the rows.
        count: rows of each end.

    Returns:
        Columns end ("most" or "least" anomalous), rank from 1, id, part, is_anomalous, control, score, text.
    """
    rows = table[table["part"] != "calibration"].copy()
    rows["control"] = rows.get("control", "")
    rows["text"] = split.texts(rows_by_id(split.rows, rows["id"]))
    ends = []
    for end, ascending in (("most", False), ("least", True)):
        found = rows.sort_values("score", ascending=ascending, kind="stable").head(count)
        ends.append(found.assign(end=end, rank=range(1, len(found) + 1)))
    return pd.concat(ends, ignore_index=True)[EXTREME_COLUMNS]


def rows_by_id(rows: pd.DataFrame, ids: pd.Series[str]) -> torch.Tensor:
    """(n,) int64 row numbers in the rows of a split or of features.

    Raises:
        DataError: there is no row of such an id.
    """
    numbers = pd.Index(rows["id"]).get_indexer(pd.Index(ids))
    if (numbers < 0).any():
        unknown = ids.iloc[int((numbers < 0).argmax())]
        raise DataError(f"the scores are of other rows than the split or features given: no row '{unknown}' there")
    return torch.from_numpy(numbers.astype("int64"))


def control_table(figures: dict[str, Any]) -> pd.DataFrame:
    """One line per kind of control, from ``metrics.json``: kind, rows, AUROCs, share flagged."""
    table = pd.DataFrame([{"kind": kind, **found} for kind, found in figures["controls"].items()])
    interval = "auroc_anomalous_against_control_delong"
    if interval in table:
        limits = table.pop(interval).map(lambda pair: pair if isinstance(pair, list) else [None, None])
        table["auroc_low"], table["auroc_high"] = limits.str[0], limits.str[1]
    return table


def feature_figures(features: Features, table: pd.DataFrame, options: Options, seed: int) -> dict[str, Figure]:
    """Figures that depend on the features, not on the detector: ``pca`` and ``variance``, as far as asked for.

    Args:
        features: activations of every row.
        table: ``scores.parquet`` of any detector, which tells what part was scored.
        options: which figures, of how many rows.
        seed: of the draw of rows.
    """
    if not (options.pca or options.variance):
        return {}
    groups, figures = choose_rows(features, table, options.feature_rows, seed), {}
    if options.pca:
        figures["pca"] = pca_figure(*project(features, groups), options.marker_size)
    if options.variance:
        shares = variance_by_layer(features, groups, options.top_eigenvectors)
        figures["variance"] = variance_figure(shares, options.top_eigenvectors)
    return figures


def run(config: Config, inputs: dict[str, Any], context: Context) -> None:
    """Write the figures that mean something for these scores, and tables.

    ``mistakes.csv``, ``controls.csv`` and, of text, ``texts.csv`` and ``texts.html``: the most and the least anomalous
    rows; with ``tokens.csv`` where the detector scores every token.
    """
    scores: AnomalyScores = inputs["scores"]
    split: Split = inputs["attacked"]
    features: Features = inputs["features"]
    options = config.report
    table, figures = scores.table("scores.parquet"), scores.json("metrics.json")
    if figures["threshold"]["score"] is None:  # JSON has no infinity: no row is above the threshold
        figures["threshold"]["score"] = math.inf
    threshold = figures["threshold"]["score"]
    mistakes = worst_mistakes(table, threshold, options.worst_mistakes)
    texts = split.kind == "text"
    if texts:
        mistakes["text"] = split.texts(rows_by_id(split.rows, mistakes["id"]))
        _write_texts(scores, features, extreme_rows(table, split, options.extreme_texts), context)
    _write_table("mistakes.csv", mistakes, context)
    rows = measured_rows(table)
    anomalous, flagged = rows["is_anomalous"].astype(bool), rows["score"] > threshold
    _write("histogram", histogram_figure(table, figures), options, context)
    if anomalous.nunique() == 2:
        _write("roc", roc_figure(table, figures), options, context)
        _write("precision_recall", precision_recall_figure(table, figures), options, context)
        if len(figures["metrics"]) > 2:  # the aggregate and two layers or more
            _write("layers", layer_auroc_figure(table, figures), options, context)
    if figures.get("controls"):
        _write("controls", control_figure(table, figures), options, context)
        _write_table("controls.csv", control_table(figures), context)
    if len(mistakes) and not texts:
        images = split.images(rows_by_id(split.rows, mistakes["id"]))
        _write("mistakes", mistakes_figure(mistakes, images, split.class_names), options, context)
    if options.trigger and len(triggered_rows(split)):
        _write("trigger", trigger_figure(split), options, context)
    rows_by_id(features.rows, rows["id"])
    for name, figure in feature_figures(features, table, options, config.seed).items():
        _write(name, figure, options, context)
    context.metrics |= {
        "false_alarms": int((flagged & ~anomalous).sum()),
        "missed_anomalies": int((~flagged & anomalous).sum()),
    }
    context.summary |= {**context.metrics, "plots": list(context.plots), "scored_rows": len(rows)}


def _write_texts(scores: AnomalyScores, features: Features, shown: pd.DataFrame, context: Context) -> None:
    """The most and the least anomalous rows as a table and as a page, with their tokens where these have scores."""
    _write_table("texts.csv", shown, context)
    tokens = token_table(scores, features, shown, context.draft.store)
    if tokens is not None:
        _write_table("tokens.csv", tokens, context)
    context.draft.write("texts.html", lambda path: path.write_text(text_page(shown, tokens), encoding="utf-8"))
    context.plots.append("texts.html")


def _write(name: str, figure: Figure, options: Options, context: Context) -> None:
    file = f"{name}.{options.format}"
    context.draft.write(file, lambda path: save_figure(figure, path, options.format, options.dpi))
    context.plots.append(file)
    # Artists and figure refer to each other; without this the pixels live until the next garbage collection.
    figure.clear()


def _write_table(name: str, table: pd.DataFrame, context: Context) -> None:
    context.draft.write(name, lambda path: table.to_csv(path, index=False, lineterminator="\n"))


STAGE = Stage("report", Config, {"scores": "detect", "attacked": "attack", "features": "extract"}, run)
