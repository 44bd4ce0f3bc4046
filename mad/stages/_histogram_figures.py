"""Histograms of one detector's scores: of the aggregate and every layer, and beside those of control rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from mad.stages._figures import (
    BLACK,
    BLUE,
    COLUMN_WIDTH,
    GREEN,
    GREY,
    PAGE_WIDTH,
    VERMILLION,
    new_figure,
    panel_grid,
    plain,
    rate,
    style,
)
from mad.stages._score_figures import measured_rows, score_columns, titles

BINS = 15, 50
"""fewest and most bins of a histogram; in between they grow with the square root of the rows"""
TAIL = 0.5
"""per cent of a group of rows that may lie beyond either end of a histogram's axis"""
WIDE = 20.0
"""an axis is logarithmic where it is this many times longer than the middle 90% of the clean scores"""

LOOKS: dict[str, dict[str, Any]] = {
    "clean": dict(color=BLUE, fill=True, alpha=0.55, lw=0, label="clean"),
    "anomalous": dict(color=VERMILLION, fill=True, alpha=0.55, lw=0, label="anomalous"),
    "trusted": dict(color=BLACK, lw=0.7, label="held-out trusted (outline)"),
    "control": dict(color=GREEN, fill=True, alpha=0.55, lw=0, label="control (unusual but benign)"),
}
"""Groups of rows in histograms."""

Groups = dict[str, np.ndarray]


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
    rows, trusted = measured_rows(table), table[table["part"] == "calibration"]
    anomalous = rows["is_anomalous"].astype(bool)
    groups = {"clean": rows[~anomalous], "anomalous": rows[anomalous], "trusted": trusted}
    panels = panel_grid(figure, len(columns), across)
    for panel, (column, title) in zip(panels, titles(columns).items(), strict=True):
        _histogram(panel, {name: group[column].to_numpy(float) for name, group in groups.items()})
        panel.set_title(title, fontsize=7)
    _threshold(panels[0], figures)
    _label(figure, panels[0], 4 if across > 2 else 2)
    return figure


@style()
def control_figure(table: pd.DataFrame, figures: dict[str, Any]) -> Figure:
    """Histograms of the aggregate, one panel per kind of control: clean, anomalous, and control rows.

    Args:
        table: ``scores.parquet`` with control rows.
        figures: ``metrics.json``.
    """
    rows, controls = measured_rows(table), figures["controls"]
    anomalous = rows["is_anomalous"].to_numpy(bool)
    scores = rows["score"].to_numpy(float)
    across = min(len(controls), 3)
    figure = new_figure(PAGE_WIDTH * max(across, 2) / 3, 1.7 * -(-len(controls) // across) + 0.75)
    panels = panel_grid(figure, len(controls), across)
    for panel, (kind, found) in zip(panels, controls.items(), strict=True):
        mine = table.loc[(table["part"] == "control") & (table["control"] == kind), "score"].to_numpy(float)
        _histogram(panel, {"clean": scores[~anomalous], "anomalous": scores[anomalous], "control": mine})
        _threshold(panel, figures)
        area = rate(found["auroc_anomalous_against_control"])
        told = f"anomalous against it: AUROC {area}; {100 * found['flagged']:.3g}% flagged"
        panel.set_title(f"control: {plain(kind)}\n{told}", fontsize=6)
    _label(figure, panels[0], 4 if across > 2 else 2)
    return figure


def _threshold(panel: Axes, figures: dict[str, Any]) -> None:
    """A line at the threshold of the aggregate, if it has one."""
    cut = figures["threshold"]
    if np.isfinite(cut["score"]):
        name = f"threshold (aim: {100 * cut['false_positive_rate']:g}% false positives)"
        panel.axvline(cut["score"], color=BLACK, lw=0.9, ls="--", label=name)


def _label(figure: Figure, panel: Axes, columns: int) -> None:
    """Axis labels of the whole figure, and a legend above it of what ``panel`` shows."""
    figure.supxlabel("anomaly score (end bins also hold the rows beyond the axis)", fontsize=8)
    figure.supylabel("rows per bin", fontsize=8)
    handles, names = panel.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=columns)


def _histogram(panel: Axes, groups: Groups) -> None:
    """Histograms of several groups, named as in ``LOOKS``, on one logarithmic axis of counts."""
    edges = _edges(panel, groups)
    top = 12.0  # the axis always shows both 1 and 10
    for name, values in groups.items():
        if len(values):
            counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
            # A log axis has no zero: empty bins lie on its lower end.
            panel.stairs(np.maximum(counts, 0.5), edges, baseline=0.5, **LOOKS[name])
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
