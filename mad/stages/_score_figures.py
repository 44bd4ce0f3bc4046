"""Figures of one detector's scores: ROC and precision-recall curves of aggregate and layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mad.stages._figures import (
    BLACK,
    COLUMN_WIDTH,
    CYCLE,
    DEPTH,
    GREY,
    PAGE_WIDTH,
    new_figure,
    rate,
    short_names,
    style,
)

Points = tuple[np.ndarray, np.ndarray]


def measured_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that figures of merit are of: neither held-out trusted rows nor controls."""
    return table[~table["part"].isin(["calibration", "control"])]


def score_columns(table: pd.DataFrame) -> list[str]:
    """The aggregate, then the layers in model order."""
    return ["score", *(c for c in table.columns if c.startswith("score/"))]


def titles(columns: list[str]) -> dict[str, str]:
    """What score columns are called in figures."""
    layers = {column: column.removeprefix("score/") for column in columns if column != "score"}
    shown = short_names(list(layers.values()))
    return {"score": "aggregate", **{column: shown[layer] for column, layer in layers.items()}}


def _caught(scores: np.ndarray, labels: np.ndarray) -> Points:
    """Normal and anomalous rows at or above each distinct score, from the largest, with (0, 0) first."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    anomalous = np.append(0, np.cumsum(labels[order])[last])
    return np.append(0, last + 1) - anomalous, anomalous


def roc_points(scores: np.ndarray, labels: np.ndarray) -> Points:
    """(k,) false- and true-positive rates at every distinct score, from (0, 0) to (1, 1).

    Args:
        scores: (n,).
        labels: (n,) bool, both kinds present.
    """
    normal, anomalous = _caught(scores, labels)
    return normal / normal[-1], anomalous / anomalous[-1]


def precision_recall_points(scores: np.ndarray, labels: np.ndarray) -> Points:
    """(k,) recall and precision at every distinct score; precision holds back to the recall before it.

    The area under these steps is the average precision.

    Args:
        scores: (n,).
        labels: (n,) bool, both kinds present.
    """
    normal, anomalous = _caught(scores, labels)
    precision = anomalous[1:] / (normal + anomalous)[1:]
    return anomalous / anomalous[-1], np.append(precision[0], precision)


@style()
def roc_figure(table: pd.DataFrame, figures: dict[str, Any]) -> Figure:
    """ROC curves on a linear and on a logarithmic false-positive axis.

    Args:
        table: ``scores.parquet``; the scored part holds both kinds of rows.
        figures: ``metrics.json``.
    """
    rows = measured_rows(table)
    normal = int((~rows["is_anomalous"].astype(bool)).sum())
    figure = new_figure(PAGE_WIDTH, 3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    grid = np.geomspace(1 / (2 * normal), 1, 300)

    def draw(scores: np.ndarray, labels: np.ndarray, look: dict[str, Any]) -> None:
        false, true = roc_points(scores, labels)
        left.plot(false, true, **look)
        # Straight lines between points bend on a log axis, so points are put between them.
        filled = np.append(false, grid), np.append(true, np.interp(grid, false, true))
        order = np.lexsort(filled[::-1])
        right.plot(filled[0][order], filled[1][order], **look)

    cut = figures["threshold"]
    false, true = cut["realized_false_positive_rate"], cut["true_positive_rate"]
    for panel in (left, right):
        panel.plot(np.append(0, grid), np.append(0, grid), color=GREY, lw=0.7, ls=":", label="chance")
        if panel is left or false > 0:  # a log axis has no zero
            look = dict(color=BLACK, ms=4, clip_on=False, zorder=3)
            panel.plot(false, true, "o", label="aggregate at its threshold", **look)
    _draw_columns(figure, [left, right], rows, figures, "auroc", "AUROC", draw)
    left.set(xlim=(-0.01, 1), ylim=(0, 1.01), xlabel="false-positive rate", ylabel="true-positive rate")
    note = f"false-positive rate (log axis from 1/{normal:,}, one clean row)"
    right.set(xscale="log", xlim=(1 / normal, 1), xlabel=note)
    return figure


@style()
def precision_recall_figure(table: pd.DataFrame, figures: dict[str, Any]) -> Figure:
    """Precision against recall.

    Args:
        table: ``scores.parquet``; the scored part holds both kinds of rows.
        figures: ``metrics.json``.
    """
    rows = measured_rows(table)
    share = float(rows["is_anomalous"].mean())
    figure = new_figure(COLUMN_WIDTH + 0.6, 3.9)
    panel = figure.subplots()

    def draw(scores: np.ndarray, labels: np.ndarray, look: dict[str, Any]) -> None:
        panel.plot(*precision_recall_points(scores, labels), drawstyle="steps-pre", **look)

    panel.axhline(share, color=GREY, lw=0.7, ls=":", label=f"chance ({100 * share:.3g}% are anomalous)")
    _draw_columns(figure, [panel], rows, figures, "ap", "AP", draw)
    panel.set(xlim=(0, 1.01), ylim=(0, 1.01), xlabel="recall (true-positive rate)", ylabel="precision")
    return figure


def _draw_columns(
    figure: Figure,
    panels: list[Axes],
    rows: pd.DataFrame,
    figures: dict[str, Any],
    metric: str,
    name: str,
    draw: Callable[[np.ndarray, np.ndarray, dict[str, Any]], None],
) -> None:
    """Draw layers thin and the aggregate bold on top, with the metric in a legend below the panels."""
    aggregate, *layers = score_columns(rows)
    values = {column: figures["metrics"][column][metric] for column in (aggregate, *layers)}
    labels = rows["is_anomalous"].to_numpy(bool)
    many = len(layers) > len(CYCLE)
    shown = titles([aggregate, *layers])
    best = max(layers, key=lambda column: values[column], default=None)
    for number, column in enumerate(layers):
        color = DEPTH(number / (len(layers) - 1)) if many else CYCLE[number]
        text = f"{'best layer, ' if many else ''}{shown[column]}: {name} {rate(values[column])}"
        look = {"color": color, "lw": 0.8, "label": text if not many or column == best else None}
        draw(rows[column].to_numpy(float), labels, look)
    text = f"aggregate: {name} {rate(values[aggregate])}"
    low, high = figures["intervals"].get(aggregate, {}).get(metric, (np.nan, np.nan))
    text += f" [{rate(low)}, {rate(high)}]" if np.isfinite([low, high]).all() else ""
    draw(rows[aggregate].to_numpy(float), labels, {"color": BLACK, "lw": 1.6, "label": text})
    if many:
        scale = ScalarMappable(Normalize(1, len(layers)), DEPTH)
        bar = figure.colorbar(scale, ax=panels, label="layer, first to last", aspect=30, pad=0.02)
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], loc="outside lower center", ncols=len(panels))
