"""Figures of one detector's scores: histograms, ROC and precision-recall curves of aggregate and layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from mad.stages._figures import (
    BLACK,
    BLUE,
    COLUMN_WIDTH,
    CYCLE,
    DEPTH,
    GREY,
    PAGE_WIDTH,
    VERMILLION,
    new_figure,
    panel_grid,
    plain,
    rate,
    style,
)

BINS = 15, 50
"""fewest and most bins of a histogram; in between they grow with the square root of the rows"""
TAIL = 0.5
"""per cent of a group of rows that may lie beyond either end of a histogram's axis"""
WIDE = 20.0
"""an axis is logarithmic where it is this many times longer than the middle 90% of the clean scores"""

Groups = dict[str, np.ndarray]
Points = tuple[np.ndarray, np.ndarray]


def score_columns(table: pd.DataFrame) -> list[str]:
    """The aggregate, then the layers in model order."""
    return ["score", *(c for c in table.columns if c.startswith("score/"))]


def titles(columns: list[str], limit: int = 26) -> dict[str, str]:
    """What score columns are called in figures; long names lose the dotted ends that all layers share."""
    layers = [column for column in columns if column != "score"]
    names = [column.removeprefix("score/").split(".") for column in layers]
    head = tail = ""
    while len(names) > 1 and max(len(".".join(name)) for name in names) > limit - 2:
        cuttable = min(map(len, names)) > 1
        shared = [end for end in (-1, 0) if cuttable and len({name[end] for name in names}) == 1]
        if -1 in shared:
            names, tail = [name[:-1] for name in names], "…"
        elif 0 in shared:
            names, head = [name[1:] for name in names], "…"
        else:
            break
    shown = [plain(f"{head}{'.'.join(name)}{tail}", limit) for name in names]
    return {"score": "aggregate", **dict(zip(layers, shown, strict=True))}


@style()
def histogram_figure(table: pd.DataFrame, figures: dict[str, Any]) -> Figure:
    """Histograms of the aggregate and every layer: clean, anomalous, and held-out trusted rows.

    Args:
        table: ``scores.parquet``.
        figures: ``metrics.json``.
    """
    columns = score_columns(table)
    across = -(-len(columns) // -(-len(columns) // 4))
    width = PAGE_WIDTH if across > 2 else COLUMN_WIDTH * across / 2 + 1
    figure = new_figure(width, 1.45 * -(-len(columns) // across) + 0.75)
    trusted, anomalous = table["part"] == "calibration", table["is_anomalous"].astype(bool)
    masks = {"clean": ~trusted & ~anomalous, "anomalous": ~trusted & anomalous, "trusted": trusted}
    panels = panel_grid(figure, len(columns), across)
    for panel, (column, title) in zip(panels, titles(columns).items(), strict=True):
        values = table[column].to_numpy(float)
        _histogram(panel, {name: values[mask.to_numpy()] for name, mask in masks.items()})
        panel.set_title(title, fontsize=7)
    cut = figures["threshold"]
    if np.isfinite(cut["score"]):
        name = f"threshold (aim: {100 * cut['false_positive_rate']:g}% false positives)"
        panels[0].axvline(cut["score"], color=BLACK, lw=0.9, ls="--", label=name)
    figure.supxlabel("anomaly score (end bins also hold the rows beyond the axis)", fontsize=8)
    figure.supylabel("rows per bin", fontsize=8)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=4 if across > 2 else 2)
    return figure


def _histogram(panel: Axes, groups: Groups) -> None:
    edges = _edges(panel, groups)
    looks: dict[str, dict[str, Any]] = {
        "clean": dict(color=BLUE, fill=True, alpha=0.55, lw=0, label="clean"),
        "anomalous": dict(color=VERMILLION, fill=True, alpha=0.55, lw=0, label="anomalous"),
        "trusted": dict(color=BLACK, lw=0.7, label="held-out trusted (outline)"),
    }
    top = 12.0  # the axis always shows both 1 and 10
    for name, values in groups.items():
        if len(values):
            counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
            # A log axis has no zero: empty bins lie on its lower end.
            panel.stairs(np.maximum(counts, 0.5), edges, baseline=0.5, **looks[name])
            top = max(top, 1.5 * counts.max())
    panel.set_yscale("log")
    panel.set_ylim(0.5, top)
    panel.yaxis.set_major_locator(LogLocator(numticks=5))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    everything = np.concatenate(list(groups.values()))
    below, above = int((everything < edges[0]).sum()), int((everything > edges[-1]).sum())
    notes = [f"{below:,} below"] * (below > 0) + [f"{above:,} above"] * (above > 0)
    panel.set_xlabel(", ".join(notes) or " ", fontsize=6, color=GREY, labelpad=1)


def _edges(panel: Axes, groups: Groups) -> np.ndarray:
    """Bin edges over all groups but for their extreme rows; sets the scale of the axis to match."""
    ends = np.array([np.percentile(v, [TAIL, 100 - TAIL]) for v in groups.values() if len(v)])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):
        margin = 0.5 * max(abs(low), 1e-3)
        low, high = low - margin, high + margin
    panel.set_xlim(low, high)
    clean = groups["clean"] if len(groups["clean"]) else np.array([low, high])
    bins = int(np.clip(1.5 * np.sqrt(sum(map(len, groups.values()))), *BINS))
    bulk = float(np.subtract(*np.percentile(clean, [95, 5])))
    if bulk <= 0 or high - low <= WIDE * bulk:
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.ticklabel_format(axis="x", scilimits=(-3, 4), useMathText=True)
        return np.linspace(low, high, bins + 1)
    if low > 0 and high > WIDE * low:
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(numticks=5))
        panel.xaxis.set_minor_formatter(NullFormatter())
        return np.geomspace(low, high, bins + 1)
    # Standardised scores lie on both sides of zero: linear among the bulk, logarithmic beyond.
    panel.set_xscale("asinh", linear_width=bulk)
    panel.xaxis.set_major_locator(FixedLocator(_asinh_ticks(low, high, bulk)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda score, _: f"{score:g}"))
    return bulk * np.sinh(np.linspace(np.arcsinh(low / bulk), np.arcsinh(high / bulk), bins + 1))


def _asinh_ticks(low: float, high: float, linear: float) -> list[float]:
    """Zero, and at most three powers of ten on either side that lie clear of it."""
    first, last = np.ceil(np.log10(2 * linear)), np.floor(np.log10(max(high, -low)))
    powers = 10.0 ** np.arange(first, last + 1)
    powers = powers[:: -(-len(powers) // 3) or 1]
    return [float(tick) for tick in (*-powers[::-1], 0, *powers) if low <= tick <= high]


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
    rows = table[table["part"] != "calibration"]
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
    rows = table[table["part"] != "calibration"]
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
