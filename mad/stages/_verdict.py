"""The end of an audit: its verdict, figures, and what the tracker gets."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from mad import registry
from mad.context import Context
from mad.stages._audit_figures import interval_figure, scores_figure, wealth_figure
from mad.stages._figures import save_figure
from mad.stages._sequential_audit import Options
from mad.stats import wealth
from mad.stats.confidence_sequence import verdict


def conclude(trace: pd.DataFrame, missing: dict[str, int], options: Options, seed: int, context: Context) -> None:
    """Write ``trace.parquet``, ``verdict.json`` and figures; fill the summary and the metrics.

    Args:
        trace: see :func:`mad.stages._sequential_audit.make_trace`.
        missing: pairs that lack a score (``missing``), and on which side (``missing_baseline``, ...).
        options: how it was tested.
        seed: of the test.
        context: what is filled.
    """
    result = judged(trace, missing["missing"], options, seed)
    context.draft.write("trace.parquet", lambda path: trace.to_parquet(path, index=False))
    context.draft.write_json("verdict.json", result)
    context.summary |= {**result, **missing}
    context.metrics |= _metrics(trace, result, options)
    figures = {"wealth.png": wealth_figure(trace, options.alpha)}
    if result["mean_difference"] is not None:
        figures["scores.png"] = scores_figure(trace)
    if options.range:
        figures["interval.png"] = interval_figure(trace, options.mean_tolerance, options.alpha)
    for name, figure in figures.items():
        context.draft.write(name, partial(save_figure, figure))
        context.plots.append(name)


def judged(trace: pd.DataFrame, missing: int, options: Options, seed: int) -> dict[str, Any]:
    """The verdict and its figures at the end of the trace.

    Args:
        trace: see :func:`mad.stages._sequential_audit.make_trace`.
        missing: pairs that lack a score.
        options: how it was tested.
        seed: of the test.
    """
    last = trace.iloc[-1]
    vectors = bool(np.isnan(last["mean_difference"]))
    crossed = np.flatnonzero(trace["log_wealth"] >= wealth.threshold(options.alpha))
    low, high = float(last["low"]), float(last["high"])
    return {
        "verdict": verdict(bool(len(crossed)), low, high, options.mean_tolerance),
        "rejected": bool(len(crossed)),
        "rejected_at": int(trace["pairs"].iloc[crossed[0]]) if len(crossed) else None,
        "samples": int(last["pairs"]),
        "missing": missing,
        "log_wealth": float(last["log_wealth"]),
        "alpha": options.alpha,
        "tolerance": options.tolerated,
        "shift_lower_bound": float(last["shift_lower_bound"]),
        "mean_difference": None if vectors else float(last["mean_difference"]),
        "mean_difference_interval": [low, high] if options.range else None,
        "bet": registry.name_of("bets", type(options.bet).__module__),
        "seed": seed,
    }


def _metrics(trace: pd.DataFrame, result: dict[str, Any], options: Options) -> dict[str, Any]:
    """The test at the end of every batch, and the figures of the verdict."""
    size = options.batch_size
    last = [*range(size - 1, len(trace) - 1, size), len(trace) - 1]
    curves = {"log_wealth": "log_wealth", "shift_lower_bound": "shift_lower_bound"}
    if result["mean_difference"] is not None:
        curves["mean_difference"] = "mean_difference"
    if options.range:
        curves |= {"mean_difference_low": "low", "mean_difference_high": "high"}
    found: dict[str, Any] = {name: trace[column].iloc[last].tolist() for name, column in curves.items()}
    return found | {name: float(result[name]) for name in ("rejected", "samples", "missing")}
