"""power: how many prompts will an audit need? The real test on streams drawn from an assumed shift or from a pilot."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from mad import registry
from mad.config import placement, require
from mad.context import Context
from mad.errors import DataError
from mad.stages._base import Stage
from mad.stages._calibrated_tolerance import settle
from mad.stages._disjoint_prompts import refers_to
from mad.stages._figures import save_figure
from mad.stages._power_curves import at_the_end, power_table, sample_sizes
from mad.stages._power_figures import samples_figure, tolerance_figure
from mad.stages._score_files import ScoreFile, describe_file
from mad.stages._sequential_audit import Options as AuditOptions
from mad.stats import planning
from mad.stats.bets._base import Bet, Pairs
from mad.stats.clusters import group
from mad.stats.learned_distance import held_out_payoffs
from mad.stats.sequential_test import Settings

IDLE = ("mean_tolerance", "range", "shuffle", "stop")
"""options of an audit that a plan has no use for"""
FOR_GROWTH = 8000
"""prompts from which the growth rate is estimated"""


@dataclass(frozen=True)
class Options:
    """The shift that is planned for: two Beta distributions, or a pilot."""

    assumed_baseline: list[float] = field(default_factory=lambda: [2.0, 8.0])
    """shapes [A, B] of the baseline's Beta distribution, above 0"""
    assumed_candidate: list[float] = field(default_factory=lambda: [2.5, 7.0])
    """shapes [A, B] of the candidate's Beta distribution, above 0"""
    pilot: str | None = placement(None)
    """CSV, JSONL or parquet file of scores from which prompts are drawn in place of assumed ones; their noise floor
    is taken out"""
    baseline: str = ""
    """column of the pilot: the baseline's scores"""
    candidate: str = ""
    """column of the pilot: the candidate's scores"""
    cluster: str | None = None
    """column of the pilot that names the prompt, see mad audit (default: every row is a prompt)"""
    samples: int = 2000
    """most prompts of an audit, at least a batch"""
    streams: int = 200
    """simulated audits, at least 2"""
    power: float = 0.8
    """the power that is asked for, in (0, 1]"""

    def __post_init__(self) -> None:
        require(self.streams >= 2, f"streams must be at least 2, got {self.streams}")
        require(self.samples >= 2, f"samples must be at least 2, got {self.samples}")
        require(0 < self.power <= 1, f"power must lie in (0, 1], got {self.power}")
        for name in ("assumed_baseline", "assumed_candidate"):
            shapes = getattr(self, name)
            told = f"{name} takes two shapes above 0, got {shapes}"
            require(len(shapes) == 2 and min(shapes) > 0, told)


@dataclass(frozen=True)
class Config:
    """Which audit is planned, and for what."""

    audit: AuditOptions = field(default_factory=AuditOptions)
    plan: Options = field(default_factory=Options)
    seed: int = 0
    """root of all seeds, 0 or more"""

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"--seed must be 0 or more, got {self.seed}")
        told = f"samples {self.plan.samples} is less than a batch of {self.audit.batch_size}"
        require(self.plan.samples >= self.audit.batch_size, told)


def _identity(config: Config, workers: int) -> dict[str, Any]:
    return {} if config.plan.pilot is None else {"pilot": describe_file(config.plan.pilot)}


def read_pilot(options: Options) -> Pairs:
    """One stream of the pilot's prompts with both scores.

    Raises:
        DataError: a file or column that is absent or holds what it should not; fewer than 2 prompts.
    """
    file = ScoreFile(str(options.pilot))
    flags = {options.baseline: "--baseline", options.candidate: "--candidate"}
    flags |= {options.cluster: "--cluster"} if options.cluster else {}
    table = file.table(flags)
    sides = [file.numbers(table[name]) for name in (options.baseline, options.candidate)]
    whole = np.isfinite(sides[0]) & np.isfinite(sides[1])
    names = file.names(table[options.cluster]) if options.cluster else pd.Series(np.arange(len(table)))
    codes = torch.from_numpy(pd.factorize(names[whole])[0].astype(np.int64))
    if len(codes.unique()) < 2:
        raise DataError(f"{options.pilot} holds {len(codes.unique())} prompts with both scores, too few for a pilot")
    x, y = (torch.from_numpy(side[whole]) for side in sides)
    return group(x, codes, y, codes)


def make_source(options: Options, seed: int) -> tuple[planning.Source, dict[str, Any]]:
    """Where prompts come from, and what is to be told of it."""
    if options.pilot is None:
        sides = (options.assumed_baseline, options.assumed_candidate)
        return planning.beta_source(*((a, b) for a, b in sides)), {"source": "assumed"}
    pilot = read_pilot(options)
    share = planning.true_share(pilot, seed=seed)
    return planning.pilot_source(pilot, share), {"source": "pilot", "pilot_prompts": pilot.units, "share": share}


def growth(source: planning.Source, grid: tuple[float, ...], alpha: float, seed: int) -> list[float | None]:
    """Prompts by the growth rate, of each tolerance; None where wealth does not grow."""
    bets = registry.load("bets", "ratio")
    bet: Bet = bets.Bet(bets.Config())
    payoffs = held_out_payoffs(source(1, FOR_GROWTH, seed + 1), bet, seed=seed)[0]
    rates = planning.growth_rate(payoffs, torch.tensor(grid, dtype=torch.float64))
    found = planning.pairs_by_growth(rates, alpha)
    return [float(n) if rate > 1e-6 else None for n, rate in zip(found, rates, strict=True)]


def run(config: Config, inputs: dict[str, Any], context: Context) -> None:
    """Simulate, and write ``plan.json``, ``power.parquet`` and figures."""
    options, plan = config.audit, config.plan
    module = registry.load("bets", registry.name_of("bets", type(options.bet).__module__))
    settings = Settings(options.grid, options.alpha, options.batch_size, options.penalty, config.seed)
    source, facts = make_source(plan, config.seed)
    rejected_at = planning.rejections(source, plan.streams, plan.samples, module.Bet(options.bet), settings)
    rates = at_the_end(rejected_at, options.grid, plan.samples, plan.power)
    for row, quick in zip(rates, growth(source, options.grid, options.alpha, config.seed), strict=True):
        row["samples_by_growth"] = quick
    table = power_table(rejected_at, options.grid, sample_sizes(plan.samples, options.batch_size))
    found = {
        **facts,
        "rates": rates,
        "samples": plan.samples,
        "streams": plan.streams,
        "power": plan.power,
        "alpha": options.alpha,
        "tolerance": options.tolerated,
        "bet": registry.name_of("bets", type(options.bet).__module__),
        "seed": config.seed,
    }
    context.draft.write("power.parquet", lambda path: table.to_parquet(path, index=False))
    context.draft.write_json("plan.json", found)
    own = next(row for row in rates if row["tolerance"] == options.tolerated)
    context.summary |= {**found, "rates": [own]}
    context.metrics |= {name: float(own[name]) for name in ("rate", "samples_for_power") if own[name] is not None}
    figures = {
        "power_over_samples.png": samples_figure(table, "tolerance", options.alpha),
        "power_over_tolerance.png": tolerance_figure(table, "samples", options.alpha),
    }
    for name, figure in figures.items():
        context.draft.write(name, partial(save_figure, figure))
        context.plots.append(name)


def _unused(config: Config) -> dict[str, str]:
    told = "the plan is for the test of a shift, on prompts that it draws itself and to their end"
    found = dict.fromkeys((f"audit.{name}" for name in IDLE), told)
    if config.plan.pilot is not None:
        return found | {f"plan.{name}": "a pilot is given" for name in ("assumed_baseline", "assumed_candidate")}
    return found | {f"plan.{name}": "no --pilot is given" for name in ("baseline", "candidate", "cluster")}


STAGE = Stage(
    "power",
    Config,
    {},
    run,
    identity=_identity,
    refers_to=lambda config: refers_to(config.audit.calibration),
    settles=lambda config, store: settle(config.audit, store),
    unused=_unused,
)
