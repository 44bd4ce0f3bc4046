"""Figures of whole studies: leaderboard of detectors, search over settings, training of the classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mad.stages._figures import (
    BLACK,
    BLUE,
    COLUMN_WIDTH,
    CYCLE,
    FAINT,
    GREY,
    MARKERS,
    PAGE_WIDTH,
    VERMILLION,
    new_figure,
    panel_grid,
    plain,
    rate,
    scale_auroc,
    style,
)

MOST_NAMED = 40
"""Slots of an axis that get a label; of more, some are left out at even steps."""
GOLDEN = 0.6180339887
"""multiples of it, modulo one, spread points evenly without chance"""


def _numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    """(n,) float64, NaN where the column or the value is missing."""
    found = table[column] if column in table else pd.Series(np.nan, index=table.index)
    return pd.to_numeric(found, errors="coerce").to_numpy("float64", na_value=np.nan)


@style()
def leaderboard_figure(rows: pd.DataFrame) -> Figure:
    """Detectors from best to worst: AUROC with its interval, validation AUROC, and the figures as numbers.

    Args:
        rows: one line per detector, columns detector, auroc, auroc_low, auroc_high, val_auroc, ap, fpr95;
            what is missing or NaN is left out.
    """
    table = rows.sort_values("auroc", ascending=False, kind="stable", na_position="last")
    value, low, high = (_numbers(table, name) for name in ("auroc", "auroc_low", "auroc_high"))
    validation = _numbers(table, "val_auroc")
    place = np.arange(len(table))[::-1]
    figure = new_figure(COLUMN_WIDTH * 1.4, 0.24 * len(table) + 1.15)
    panel, numbers = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1.5])
    scale_auroc(panel, "x", np.concatenate([value, low, high, validation]), "AUROC")
    panel.hlines(place, 0, 1, color=FAINT, lw=0.5, zorder=0)
    if np.isfinite(high - low).any():
        panel.hlines(place, low, high, color=BLUE, lw=1.4, label="95% interval")
    looks: dict[str, dict[str, Any]] = {
        "test": dict(color=BLUE, marker="o", ms=4),
        "validation": dict(color=VERMILLION, marker="D", ms=3, mfc="white", mew=0.8),
    }
    for (name, look), x, y in zip(looks.items(), (value, validation), (place, place - 0.25), strict=True):
        known = np.isfinite(x)
        if known.any():
            panel.plot(x[known], y[known], ls="none", clip_on=False, label=name, **look)
    if panel.get_xlim()[0] < 0.5:
        panel.axvline(0.5, color=GREY, lw=0.7, ls=":", label="chance")
    _name_rows(panel, [plain(name) for name in reversed(list(table["detector"]))])
    _number_columns(numbers, table, place)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _name_rows(panel: Axes, names: list[str]) -> None:
    """Names from the lowest row up, in place of an axis."""
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(-0.6, len(names) - 0.4)
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)


def _number_columns(panel: Axes, table: pd.DataFrame, place: np.ndarray) -> None:
    """Print the test figures as a table, level with the rows of the panel beside it."""
    panel.set_axis_off()
    panel.set_xlim(0, 3)
    for column, (name, title) in enumerate({"auroc": "AUROC", "ap": "AP", "fpr95": "FPR95"}.items(), start=1):
        panel.text(column, len(table) - 0.4, title, ha="right", va="bottom", fontsize=7)
        for y, number in zip(place, _numbers(table, name), strict=True):
            panel.text(column, y, rate(number), ha="right", va="center", fontsize=7)


@style()
def search_figure(trials: pd.DataFrame) -> Figure:
    """Validation AUROC of every trial: per detector, then against every setting that varies.

    Args:
        trials: one line per trial, columns detector, val_auroc and any ``config.*``; a setting is missing
            where the trial's detector does not have it, and such trials are left out of its panel.
    """
    table = trials[np.isfinite(_numbers(trials, "val_auroc"))]
    best = table.groupby(table["detector"].astype(str))["val_auroc"].max()
    names = list(best.sort_values(ascending=False, kind="stable").index)
    varied = [column for column in table.columns if column.startswith("config.") and _varies(table, column)]
    heights = [0.2 * max(len(names), 2) + 0.65, *([1.7 * -(-len(varied) // 3)] if varied else [])]
    figure = new_figure(PAGE_WIDTH, sum(heights))
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _detector_strip(parts[0].subplots(), table, names)
    if varied:
        for panel, column in zip(panel_grid(parts[1], len(varied), 3), varied, strict=True):
            _setting(panel, table[table[column].notna()], column, names)
        parts[1].supylabel("validation AUROC", fontsize=8)
    return figure


def _varies(table: pd.DataFrame, column: str) -> bool:
    texts = table[column].dropna().map(str)
    return texts.nunique() > 1 and not (texts == table["detector"].loc[texts.index].map(str)).all()


def _look(names: list[str], name: str) -> dict[str, Any]:
    """Colour and marker of a detector: each pair occurs once among forty-two."""
    rank = names.index(name)
    look = {"color": CYCLE[rank % len(CYCLE)], "marker": MARKERS[rank % len(MARKERS)]}
    return {**look, "ls": "none", "ms": 3.5, "alpha": 0.8, "mew": 0}


def _spread(count: int) -> np.ndarray:
    """(count,) offsets within ±0.3, so that equal values stay apart."""
    return ((np.arange(count) * GOLDEN) % 1 - 0.5) * 0.6


def _detector_strip(panel: Axes, table: pd.DataFrame, names: list[str]) -> None:
    scale_auroc(panel, "x", _numbers(table, "val_auroc"), "validation AUROC")
    for place, name in enumerate(reversed(names)):
        values = _numbers(table[table["detector"].astype(str) == name], "val_auroc")
        panel.axhline(place, color=FAINT, lw=0.5, zorder=0)
        panel.plot(values, place + _spread(len(values)), clip_on=False, **_look(names, name))
        panel.plot(values.max(), place, "|", color=BLACK, ms=9, mew=1.2, clip_on=False)
    counts = table["detector"].astype(str).value_counts()
    _name_rows(panel, [f"{plain(name)} ({counts[name]})" for name in reversed(names)])
    note = "one mark per trial (number of trials), bar: the best; same colours and shapes below"
    panel.set_title(note, loc="left")


def _setting(panel: Axes, table: pd.DataFrame, column: str, names: list[str]) -> None:
    """One hyper-parameter: numbers on a (log) axis; anything else, or a mixture, in slots."""
    y = _numbers(table, "val_auroc")
    scale_auroc(panel, "y", y, "")
    panel.set_ylabel("")
    booleans = table[column].map(lambda value: isinstance(value, (bool, np.bool_))).any()
    x = np.full(len(table), np.nan) if booleans else _numbers(table, column)
    if np.isfinite(x).all():
        spans_decades = x.min() > 0 and x.max() / x.min() >= 50
        panel.set_xscale("log" if spans_decades else "linear")
        if not spans_decades:
            panel.xaxis.set_major_locator(MaxNLocator(4, integer=bool((x == np.round(x)).all())))
    else:
        x = _slots(panel, table[column].map(str))
    detectors = table["detector"].astype(str).to_numpy()
    for name in filter(set(detectors).__contains__, names):
        mine = detectors == name
        panel.plot(x[mine], y[mine], clip_on=False, **_look(names, name))
    panel.set_xlabel(plain(column.removeprefix("config."), 34))


def _slots(panel: Axes, texts: pd.Series[str]) -> np.ndarray:
    """One place on the axis per distinct text, numbers first; (n,) places, spread within their slots."""
    numbers = pd.to_numeric(texts, errors="coerce").fillna(np.inf)
    sorted_texts = pd.DataFrame({"number": numbers, "text": texts}).sort_values(["number", "text"])["text"]
    order = list(sorted_texts.unique())
    named = range(0, len(order), -(-len(order) // MOST_NAMED))
    labels = [plain(order[place], 14) for place in named]
    turned: dict[str, Any] = {"rotation": 25, "ha": "right"} if sum(map(len, labels)) > 24 else {}
    panel.set_xticks(named, labels, **turned)
    places = {text: place for place, text in enumerate(order)}
    return texts.map(places).to_numpy(float) + _spread(len(texts))


@style()
def training_figure(history: list[dict[str, Any]]) -> Figure:
    """Loss, clean accuracy and attack success rate of every epoch.

    Args:
        history: one dict per epoch, keys loss, val_clean_accuracy, val_attack_success_rate; what is missing is
            left out.
    """
    table = pd.DataFrame(history)
    epochs = np.arange(1, len(table) + 1)
    marker = "o" if len(table) <= 30 else ""
    figure = new_figure(COLUMN_WIDTH, 3.3)
    top, bottom = figure.subplots(2, 1, sharex=True)
    loss = _numbers(table, "loss")
    top.plot(epochs, loss, color=BLACK, marker=marker, ms=2.5)
    positive = loss[loss > 0]
    if len(positive) and positive.max() > 20 * positive.min():
        top.set_yscale("log")
    top.set_ylabel("training loss")
    shown = {
        "val_clean_accuracy": ("clean accuracy", BLUE, "-"),
        "val_attack_success_rate": ("attack success rate", VERMILLION, "--"),
    }
    for name, (label, color, line) in shown.items():
        values = 100 * _numbers(table, name)
        look = dict(color=color, ls=line, marker=marker, ms=2.5, clip_on=False)
        if np.isfinite(values).any():
            bottom.plot(epochs, values, label=label, **look)
    bottom.set(xlim=(0.5, len(table) + 0.5), ylim=(0, 100), xlabel="epoch", ylabel="validation rows (%)")
    bottom.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    bottom.yaxis.set_major_formatter(FuncFormatter(lambda percent, _: f"{percent:g}"))
    if bottom.lines:
        figure.legend(loc="outside lower center", ncols=2)
    return figure
