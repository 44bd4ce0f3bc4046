"""audit: has the behaviour of the candidate shifted by more than is tolerated? Tested on pairs of scores.

The claim is about the population that the prompts were drawn from, not about the prompts themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from mad import registry
from mad.artifacts import ScorePairs
from mad.config import require
from mad.context import Context
from mad.stages._audit_figures import interval_figure, scores_figure, wealth_figure
from mad.stages._base import Stage
from mad.stages._figures import save_figure
from mad.stages._sequential_audit import Options, Step, make_trace, make_units, walk
from mad.stats import wealth
from mad.stats.confidence_sequence import verdict


@dataclass(frozen=True)
class Config:
    """How to test."""

    audit: Options = field(default_factory=Options)
    seed: int = 0
    """root of all seeds, 0 or more: the order of the prompts if shuffled, and random numbers of a bet"""

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"--seed must be 0 or more, got {self.seed}")


def judge(trace: pd.DataFrame, missing: int, config: Config) -> dict[str, Any]:
    """The verdict and its figures at the end of the trace.

    Args:
        trace: see :func:`make_trace`.
        missing: pairs that lack a score.
        config: what was asked.
    """
    options, last = config.audit, trace.iloc[-1]
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
        "tolerance": options.tolerance,
        "shift_lower_bound": float(last["shift_lower_bound"]),
        "mean_difference": float(last["mean_difference"]),
        "mean_difference_interval": [low, high] if options.range else None,
        "bet": registry.name_of("bets", type(options.bet).__module__),
        "seed": config.seed,
    }


def run(config: Config, inputs: dict[str, Any], context: Context) -> None:
    """Test, and write ``trace.parquet``, ``verdict.json`` and figures."""
    pairs: ScorePairs = inputs["pairs"]
    options, rows = config.audit, pairs.rows
    units = make_units(rows, options, config.seed)
    found, total = [], len(units.sizes)
    for step in walk(units, options, config.seed):
        found.append(step)
        done = min(len(found) * options.batch_size, total)
        context.progress.update("audit", done, total)
    trace = make_trace(units, Step(*(torch.cat(parts, dim=-1) for parts in zip(*found, strict=True))), options)
    result = judge(trace, pairs.summary["missing"], config)
    context.draft.write("trace.parquet", lambda path: trace.to_parquet(path, index=False))
    context.draft.write_json("verdict.json", result)
    sides = {name: pairs.summary[name] for name in ("missing_baseline", "missing_candidate")}
    context.summary |= {**result, **sides}
    _log(trace, result, config, context)
    figures = {"wealth.png": wealth_figure(trace, options.alpha), "scores.png": scores_figure(trace)}
    if options.range:
        figures["interval.png"] = interval_figure(trace, options.mean_tolerance, options.alpha)
    for name, figure in figures.items():
        context.draft.write(name, partial(save_figure, figure))
        context.plots.append(name)


def _log(trace: pd.DataFrame, result: dict[str, Any], config: Config, context: Context) -> None:
    """What the tracker gets: the test at the end of every batch, and the figures of the verdict."""
    size = config.audit.batch_size
    last = [*range(size - 1, len(trace) - 1, size), len(trace) - 1]
    curves = {
        "log_wealth": "log_wealth",
        "shift_lower_bound": "shift_lower_bound",
        "mean_difference": "mean_difference",
    }
    if config.audit.range:
        curves |= {"mean_difference_low": "low", "mean_difference_high": "high"}
    context.metrics |= {name: trace[column].iloc[last].tolist() for name, column in curves.items()}
    context.metrics |= {name: float(result[name]) for name in ("rejected", "samples", "missing")}


STAGE = Stage("audit", Config, {"pairs": "pairs"}, run)
