"""audit_family: which of several candidates or behaviours have shifted? False discovery rate under any dependence.

All streams see the same prompts in the same order. A stream stops when the joint e-BH set contains it, which it does
at the latest when its wealth reaches K / alpha; the average of the wealths tests that none has shifted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mad import registry
from mad.artifacts import ScoreColumns
from mad.config import require
from mad.context import Context
from mad.stages._base import Stage
from mad.stages._calibrated_tolerance import settle
from mad.stages._disjoint_prompts import check_disjoint, refers_to
from mad.stages._family_figures import family_figure
from mad.stages._figures import save_figure
from mad.stages._sequential_audit import Options, Units, make_units
from mad.stats import multiplicity, wealth
from mad.stats.bets._base import Pairs
from mad.stats.multiplicity import Family, stop_jointly
from mad.stats.sequential_test import SequentialTest, Settings


@dataclass(frozen=True)
class Config:
    """How to test; alpha is the false discovery rate, and the level of the test of all together."""

    audit: Options = field(default_factory=Options)
    seed: int = 0
    """root of all seeds, 0 or more: the order of the prompts if shuffled, and random numbers of a bet"""

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"--seed must be 0 or more, got {self.seed}")
        told = "mean_tolerance certifies one candidate: audit each alone for it"
        require(self.audit.mean_tolerance is None, told)


def family_units(columns: ScoreColumns, options: Options, seed: int) -> tuple[Units, Pairs]:
    """The units of the first comparison, and the scores of all as streams.

    Raises:
        DataError: scores outside the declared range, or fewer units than a batch.
    """
    found = [make_units(columns.pairs(k), options, seed) for k in range(len(columns.names))]
    return found[0], Pairs(*(torch.cat(parts) for parts in zip(*(units.scores for units in found), strict=True)))


def make_test(options: Options, seed: int, count: int) -> SequentialTest:
    """The test of all streams, before its first batch.

    Its lower bounds have level alpha / K each: whatever passes 1 over that is in the e-BH set, so that no bound
    contradicts a verdict, and all of them hold together at alpha.
    """
    module = registry.load("bets", registry.name_of("bets", type(options.bet).__module__))
    settings = Settings(options.grid, options.alpha / count, options.batch_size, options.penalty, seed)
    return SequentialTest(module.Bet(options.bet), settings)


def walk(test: SequentialTest, scores: Pairs, options: Options) -> Iterator[Tensor]:
    """Batch by batch (K, B) log wealth at the tolerance, until all streams have stopped."""
    place, paths = options.grid.index(options.tolerated), []
    for path in test.walk(scores):
        paths.append(path[:, place])
        yield paths[-1]
        if options.stop and bool((stop_jointly(torch.cat(paths, dim=1), options.alpha).stopped_at > 0).all()):
            return


def judge(columns: ScoreColumns, units: Units, family: Family, bounds: Tensor, used: int, config: Config) -> dict:
    """What was found, as ``family.json``.

    Args:
        columns: what was tested.
        units: prompts.
        family: where the streams stopped.
        bounds: (K,) lower bounds on the shifts, each at level alpha / K.
        used: prompts used.
        config: what was asked.
    """
    options, pairs = config.audit, units.sizes.cumsum(0)
    candidates = []
    for k, name in enumerate(columns.names):
        stopped = int(family.stopped_at[k])
        candidates.append(
            {
                "candidate": name,
                "verdict": "shifted" if bool(family.discovered[k]) else "undecided",
                "rejected_at": int(pairs[stopped - 1]) if stopped else None,
                "log_wealth": float(family.log_e[k]),
                "shift_lower_bound": float(bounds[k]),
            }
        )
    return {
        "candidates": candidates,
        "discoveries": int(family.discovered.sum()),
        "log_average_wealth": float(wealth.average(family.log_e, dim=0)),
        "any_shifted": bool(multiplicity.global_test(family.log_e, options.alpha)),
        "alpha": options.alpha,
        "bound_level": options.alpha / len(candidates),
        "tolerance": options.tolerated,
        "samples": int(pairs[used - 1]),
        "missing": columns.summary["missing"],
        "bet": registry.name_of("bets", type(options.bet).__module__),
        "seed": config.seed,
    }


def run(config: Config, inputs: dict[str, Any], context: Context) -> None:
    """Test, and write ``family.json``, ``trace.parquet`` and a figure."""
    columns: ScoreColumns = inputs["columns"]
    options = config.audit
    check_disjoint(columns.rows, options.calibration, context.draft.store)
    units, scores = family_units(columns, options, config.seed)
    test, paths = make_test(options, config.seed, scores.streams), []
    for path in walk(test, scores, options):
        paths.append(path)
        context.progress.update("audit", min(len(paths) * options.batch_size, scores.units), scores.units)
    log_wealth = torch.cat(paths, dim=1)
    used = log_wealth.shape[1]
    family = stop_jointly(log_wealth, options.alpha)
    found = judge(columns, units, family, test.shift_lower_bound, used, config)
    trace = make_trace(columns.names, units, log_wealth, family)
    context.draft.write("trace.parquet", lambda path: trace.to_parquet(path, index=False))
    context.draft.write_json("family.json", found)
    context.summary |= found
    ends = [*range(options.batch_size - 1, used - 1, options.batch_size), used - 1]
    context.metrics |= {f"log_wealth_{k}": trace[f"log_wealth_{k}"].iloc[ends].tolist() for k in range(len(scores.x))}
    context.metrics |= {name: float(found[name]) for name in ("discoveries", "any_shifted", "samples", "missing")}
    context.draft.write("wealth.png", partial(save_figure, family_figure(trace, columns.names, options.alpha)))
    context.plots.append("wealth.png")


def make_trace(names: list[str], units: Units, log_wealth: Tensor, family: Family) -> pd.DataFrame:
    """One line per prompt used: ``cluster``, ``pairs`` used up to here, ``log_wealth_K``, kept where K has stopped."""
    used = log_wealth.shape[1]
    columns: dict[str, np.ndarray] = {
        "cluster": units.names[:used],
        "pairs": units.sizes[:used].cumsum(0).numpy(),
    }
    for k in range(len(names)):
        stopped = int(family.stopped_at[k]) or used
        columns[f"log_wealth_{k}"] = torch.where(torch.arange(used) < stopped, log_wealth[k], family.log_e[k]).numpy()
    return pd.DataFrame(columns)


STAGE = Stage(
    "audit_family",
    Config,
    {"columns": "columns"},
    run,
    refers_to=lambda config: refers_to(config.audit.calibration),
    settles=lambda config, store: settle(config.audit, store),
)
