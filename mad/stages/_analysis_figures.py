"""Figures that compare layers and detectors: AUROC by layer, heat maps of AUROC, agreement of detectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from mad.artifacts import AnomalyScores
from mad.errors import DataError
from mad.stages._figures import (
    BLACK,
    BLUE,
    COLUMN_WIDTH,
    FAINT,
    GREY,
    PAGE_WIDTH,
    layer_axis,
    new_figure,
    plain,
    scale_auroc,
    short_names,
    style,
)
from mad.stages._score_figures import measured_rows, score_columns

AGGREGATE = "aggregate"
MOST_NUMBERS = 600
"""cells of a heat map with their number in them"""


def layer_aurocs(scores: Mapping[str, AnomalyScores]) -> pd.DataFrame:
    """AUROC of every layer and of the aggregate, as :func:`auroc_heatmap_figure` takes it.

    Args:
        scores: by detector.

    Returns:
        Columns detector, layer ("aggregate" for the joint score), auroc.
    """
    lines = [
        {"detector": name, "layer": column.removeprefix("score/") if column != "score" else AGGREGATE, **values}
        for name, artifact in scores.items()
        for column, values in artifact.json("metrics.json")["metrics"].items()
    ]
    return pd.DataFrame(lines)[["detector", "layer", "auroc"]]


def joined_scores(scores: Mapping[str, AnomalyScores]) -> Tensor:
    """(n, k) aggregate scores of the measured rows that k detectors have in common, joined by id.

    Raises:
        DataError: they scored no common row.
    """
    tables = {name: measured_rows(a.table("scores.parquet")).set_index("id")["score"] for name, a in scores.items()}
    joined = pd.concat(tables, axis=1, join="inner")
    if joined.empty:
        raise DataError(f"{', '.join(scores)} scored no common row")
    return torch.from_numpy(joined.to_numpy("float64", copy=True))


@style()
def layer_auroc_figure(table: pd.DataFrame, figures: dict[str, Any]) -> Figure:
    """AUROC of every layer with its interval, and the aggregate's as a line.

    Args:
        table: ``scores.parquet``.
        figures: ``metrics.json``.
    """
    aggregate, *layers = score_columns(table)
    values = {column: figures["metrics"][column]["auroc"] for column in (aggregate, *layers)}
    limits = {c: figures["intervals"].get(c, {}).get("auroc", (np.nan, np.nan)) for c in values}
    figure = new_figure(min(PAGE_WIDTH, max(COLUMN_WIDTH, 0.25 * len(layers) + 1)), 2.5)
    panel = figure.subplots()
    scale_auroc(panel, "y", np.array([*values.values(), *np.ravel(list(limits.values()))], dtype=float), "AUROC")
    low, high = limits[aggregate]
    if np.isfinite([low, high]).all():
        panel.axhspan(low, high, color=FAINT, lw=0)
    panel.axhline(values[aggregate], color=BLACK, lw=1.2, label="aggregate")
    if panel.get_ylim()[0] < 0.5:
        panel.axhline(0.5, color=GREY, lw=0.7, ls=":", label="chance")
    places, bars = range(len(layers)), np.array([limits[layer] for layer in layers], dtype=float)
    if np.isfinite(bars).all():
        panel.vlines(places, *bars.T, color=BLUE, lw=1.4, label="95% interval")
    look: dict[str, Any] = dict(color=BLUE, marker="o", ms=4, lw=0.6, ls="-", clip_on=False, label="layer")
    panel.plot(places, [values[layer] for layer in layers], **look)
    layer_axis(panel, [layer.removeprefix("score/") for layer in layers])
    figure.legend(loc="outside upper center", ncols=4)
    return figure


@style()
def auroc_heatmap_figure(table: pd.DataFrame, rows: str = "layer", columns: str = "detector") -> Figure:
    """Heat map of AUROC, layer by detector or any two columns, in the order of their first appearance.

    The aggregate comes last, set off by a gap; each column's best other cell is framed.

    Args:
        table: long: one line per cell, columns ``rows``, ``columns`` and ``auroc``; cells may be missing.
        rows: column whose values name the rows, such as ``layer`` or ``task``.
        columns: column whose values name the columns.
    """
    grid = table.pivot_table("auroc", rows, columns, aggfunc="last", sort=False, dropna=False)
    names = [name for name in table[rows].unique() if name != AGGREGATE]
    names += [AGGREGATE] if AGGREGATE in grid.index else []
    grid = grid.reindex(index=names, columns=table[columns].unique())
    values = grid.to_numpy(float)
    others = values[: len(names) - (names[-1] == AGGREGATE)]
    figure, panel = _heatmap(values, "viridis", (0.5, 1.0), "AUROC", extend="min")
    shown = short_names([str(name) for name in names]) if rows == "layer" else {}
    _name_cells(panel, [shown.get(str(name), plain(name)) for name in names], [plain(n, 18) for n in grid.columns])
    if len(others) < len(values):
        panel.axhline(len(others) - 0.5, color="white", lw=2.5)
    for column, cells in enumerate(others.T):
        if len(others) > 1 and np.isfinite(cells).any():
            corner = column - 0.5, int(np.nanargmax(cells)) - 0.5
            panel.add_patch(Rectangle(corner, 1, 1, fill=False, ec=BLACK, lw=1.0, zorder=3))
    panel.set_ylabel(rows)
    return figure


@style()
def agreement_figure(matrix: Tensor | np.ndarray, names: list[str]) -> Figure:
    """Rank correlation of the scores of every two detectors.

    Args:
        matrix: (k, k) in [-1, 1], as ``mad.stats.agreement.rank_correlation`` gives it; NaN cells stay empty.
        names: of the k detectors.
    """
    figure, panel = _heatmap(np.asarray(matrix, dtype=float), "RdBu_r", (-1.0, 1.0), "Spearman's rank correlation")
    _name_cells(panel, [plain(name) for name in names], [plain(name, 18) for name in names])
    return figure


def _heatmap(
    values: np.ndarray, colors: str, limits: tuple[float, float], label: str, extend: str = "neither"
) -> tuple[Figure, Axes]:
    """Coloured cells with their numbers, as far as these fit, and a colour bar."""
    down, across = values.shape
    numbered = values.size <= MOST_NUMBERS and across <= 24
    cell = min(0.34, max(0.28, 5.3 / across)) if numbered else min(0.34, 5.0 / across)
    height = 0.2 if numbered else min(0.2, 8.0 / down)
    figure = new_figure(max(2.4, cell * across + 1.9), max(1.4, height * down + 0.95))
    panel = figure.subplots()
    image = panel.imshow(values, cmap=colors, vmin=limits[0], vmax=limits[1], aspect="auto")
    panel.set_facecolor(FAINT)
    bar = figure.colorbar(image, ax=panel, label=label, aspect=18, pad=0.02, extend=extend)
    bar.outline.set_visible(False)  # type: ignore[operator]
    if numbered:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                red, green, blue, _ = image.cmap(image.norm(value))
                dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
                look: dict[str, Any] = dict(ha="center", va="center", fontsize=5.5, color="white" if dark else BLACK)
                panel.text(column, row, _two_decimals(float(value)), **look)
    return figure, panel


def _two_decimals(value: float) -> str:
    """Two decimals without the leading zero; 1 only where it is exactly 1."""
    if abs(value) >= 0.995:
        return f"{value:.0f}" if abs(value) == 1 else "<-.99" if value < 0 else ">.99"
    return f"{round(value, 2) + 0:.2f}".replace("0.", ".", 1)  # adding 0 turns -0 into 0


def _name_cells(panel: Axes, rows: list[str], columns: list[str]) -> None:
    panel.set_yticks(range(len(rows)), rows)
    panel.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
    panel.tick_params(length=0)
    for spine in panel.spines.values():
        spine.set_visible(False)
