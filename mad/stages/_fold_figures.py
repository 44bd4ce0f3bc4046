"""Figures of an audit repeated on folds: all wealth paths, and the rate of detection beside the measured distance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor

from mad.stages._figures import BLACK, BLUE, COLUMN_WIDTH, GREY, VERMILLION, new_figure, style

MOST_PATHS = 50
"""folds that are drawn; of more, evenly taken ones"""


@style()
def paths_figure(log_wealth: Tensor, alpha: float) -> Figure:
    """Wealth of every fold over its prompts, on a logarithmic axis, with the threshold 1 / alpha.

    A path that reaches the threshold is a rejection: it is drawn up to there, with a dot.

    Args:
        log_wealth: (F, n) after each prompt, natural.
        alpha: level.
    """
    figure = new_figure(COLUMN_WIDTH + 0.6, 2.6)
    panel = figure.subplots()
    # Powers of ten as a linear axis: the wealth itself may exceed the largest float.
    paths = np.pad(log_wealth.numpy(), ((0, 0), (1, 0))) / math.log(10)
    threshold, (folds, length) = -math.log10(alpha), paths.shape
    crossed = np.where((paths >= threshold).any(axis=1), (paths >= threshold).argmax(axis=1), length)
    lowest, highest = -0.5, threshold
    for fold in np.unique(np.linspace(0, folds - 1, min(folds, MOST_PATHS)).round().astype(int)):
        stop = crossed[fold]
        own = paths[fold, : stop + 1]
        rejected = stop < length
        panel.plot(own, color=BLUE if rejected else GREY, lw=0.7, alpha=0.7)
        if rejected:
            panel.plot(stop, own[-1], "o", color=BLUE, ms=2.5, clip_on=False)
        lowest, highest = min(lowest, float(own.min())), max(highest, float(own.max()))
    share = f"{(crossed < length).sum()} of {folds} reject"
    panel.axhline(threshold, color=VERMILLION, lw=0.9, ls="--", label=f"1/α = {1 / alpha:g}: {share}")
    room = 0.06 * (highest - lowest)
    panel.set(xlim=(0, length - 1), ylim=(lowest - room, highest + room), xlabel="prompts", ylabel="wealth (start: 1)")
    panel.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda power, _: f"$10^{{{power:g}}}$"))
    panel.legend(loc="best")
    return figure


@style()
def detection_figure(rates: list[dict[str, Any]], tolerance: float, shift: dict[str, float] | None) -> Figure:
    """Rate of detection over the tolerance, with the tolerance that was asked for and the distance that was measured.

    A test that is worth its calibration detects at tolerances below the distance, and none above it.

    Args:
        rates: of :func:`mad.stages._power_curves.at_the_end`.
        tolerance: that was asked for, such as one from a calibration.
        shift: held-out ``estimate`` of the total variation, ``lower`` and ``upper`` bound; None where there is none.
    """
    figure = new_figure(COLUMN_WIDTH + 1.8, 2.6)
    panel = figure.subplots()
    places, rate, low, high = (np.array([row[name] for row in rates]) for name in ("tolerance", "rate", "low", "high"))
    panel.plot(places, rate, "o-", color=BLUE, ms=2.5, label="rejected")
    panel.fill_between(places, low, high, color=BLUE, alpha=0.15, lw=0)
    panel.axvline(tolerance, color=VERMILLION, lw=0.9, ls="--", label=f"tolerance {tolerance:.3g}")
    far = tolerance
    if shift is not None:
        panel.axvspan(max(0.0, shift["lower"]), max(0.0, shift["upper"]), color=GREY, alpha=0.3, lw=0)
        name = f"measured distance {shift['estimate']:.3g}"
        panel.axvline(max(0.0, shift["estimate"]), color=BLACK, lw=0.9, label=name)
        far = max(far, shift["upper"])
    silent = places[rate == 0]
    end = max(1.3 * far, float(silent.min()) if len(silent) else 1.0, 0.05)
    panel.set(xlim=(0, min(1.0, end)), ylim=(-0.02, 1.02), xlabel="tolerance (total variation)", ylabel="rejected")
    panel.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
