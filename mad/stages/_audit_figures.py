"""Figures of one audit: wealth and the interval of the mean difference over pairs, scores of both sides."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mad.stages._figures import BLACK, BLUE, COLUMN_WIDTH, GREY, VERMILLION, new_figure, style

BINS = 15, 50
"""fewest and most bins of a histogram; in between they grow with the square root of the scores"""


@style()
def wealth_figure(trace: pd.DataFrame, alpha: float) -> Figure:
    """Wealth of the test over pairs, on a logarithmic axis, with the threshold 1 / alpha.

    Args:
        trace: ``trace.parquet``.
        alpha: level.
    """
    figure = new_figure(COLUMN_WIDTH + 0.6, 2.6)
    panel = figure.subplots()
    # Powers of ten as a linear axis: the wealth itself may exceed the largest float.
    powers = np.append(0, trace["log_wealth"]) / math.log(10)
    panel.plot(np.append(0, trace["pairs"]), powers, color=BLUE, label="wealth")
    threshold = -math.log10(alpha)
    panel.axhline(threshold, color=VERMILLION, lw=0.9, ls="--", label=f"shifted: 1/α = {1 / alpha:g}")
    panel.axhline(0, color=GREY, lw=0.6)
    low, high = min(float(powers.min()), -0.5), max(float(powers.max()), threshold)
    room = 0.06 * (high - low)
    panel.set(xlim=(0, None), ylim=(low - room, high + room), xlabel="pairs", ylabel="wealth (start: 1)")
    panel.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda power, _: f"$10^{{{power:g}}}$"))
    panel.legend(loc="best")
    return figure


@style()
def interval_figure(trace: pd.DataFrame, mean_tolerance: float | None, alpha: float) -> Figure:
    """The running mean difference with its interval, which holds at all times, and what is tolerated.

    Args:
        trace: ``trace.parquet`` with an interval.
        mean_tolerance: in score units, or None.
        alpha: level of the interval.
    """
    figure = new_figure(COLUMN_WIDTH + 0.6, 2.6)
    panel = figure.subplots()
    name = f"{100 * (1 - alpha):g}% interval, at all times"
    panel.fill_between(trace["pairs"], trace["low"], trace["high"], color=BLUE, alpha=0.25, lw=0, label=name)
    panel.plot(trace["pairs"], trace["mean_difference"], color=BLUE, label="mean difference")
    panel.axhline(0, color=GREY, lw=0.6)
    if mean_tolerance is not None:
        panel.axhline(mean_tolerance, color=VERMILLION, lw=0.9, ls="--", label="tolerated")
        panel.axhline(-mean_tolerance, color=VERMILLION, lw=0.9, ls="--")
    # The interval starts as the whole range of differences: the axis is that of the pairs after the first tenth.
    shown = trace.iloc[(len(trace) - 1) // 10 :]
    edge = mean_tolerance or 0.0
    low, high = min(float(shown["low"].min()), -edge), max(float(shown["high"].max()), edge)
    room = 0.08 * (high - low)
    panel.set(xlim=(0, None), ylim=(low - room, high + room), xlabel="pairs", ylabel="candidate − baseline")
    panel.legend(loc="best")
    return figure


@style()
def scores_figure(trace: pd.DataFrame) -> Figure:
    """Histograms of the scores of both sides (of a prompt with several generations, their mean).

    Args:
        trace: ``trace.parquet``.
    """
    figure = new_figure(COLUMN_WIDTH + 0.6, 2.6)
    panel = figure.subplots()
    both = trace[["baseline", "candidate"]].to_numpy(float)
    edges = np.histogram_bin_edges(both, int(np.clip(math.sqrt(len(trace)), *BINS)))
    counts = {name: np.histogram(side, edges)[0] for name, side in zip(("baseline", "candidate"), both.T, strict=True)}
    panel.stairs(counts["baseline"], edges, fill=True, color=BLUE, alpha=0.45, lw=0, label="baseline")
    panel.stairs(counts["candidate"], edges, color=VERMILLION, lw=1.2, label="candidate")
    panel.axvline(both[:, 0].mean(), color=BLUE, lw=0.9, ls=":")
    panel.axvline(both[:, 1].mean(), color=VERMILLION, lw=0.9, ls=":", label="means (dotted)")
    panel.set(xlabel="score", ylabel="prompts per bin", xlim=(edges[0], edges[-1]))
    panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    panel.legend(loc="best", labelcolor=BLACK)
    return figure
