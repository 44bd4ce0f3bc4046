"""audit_study: how often does the audit reject on disjoint parts of the prompts? Its power, or its false alarms.

Every fold is a stream of its own, all of them one tensor problem. Where nothing differs (the same model with another
seed) the rate over samples is the false-alarm rate over time, which alpha bounds. With seeds in place of folds it is
the same audit of all prompts again and again, each time in another order: how far a result hangs on its seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd
import torch

from mad import registry
from mad.artifacts import ScorePairs
from mad.config import require
from mad.context import Context
from mad.errors import DataError
from mad.stages._base import Stage
from mad.stages._calibrated_tolerance import settle
from mad.stages._disjoint_prompts import check_disjoint, refers_to
from mad.stages._figures import save_figure
from mad.stages._fold_baselines import baseline_rates
from mad.stages._fold_figures import detection_figure, paths_figure
from mad.stages._power_curves import at_the_end, power_table, sample_sizes
from mad.stages._power_figures import samples_figure, tolerance_figure
from mad.stages._sequential_audit import Options as AuditOptions
from mad.stages._sequential_audit import make_units, random_order
from mad.stats import random
from mad.stats.bets._base import Bet, Pairs
from mad.stats.calibration import bounds
from mad.stats.learned_distance import PORTIONS, held_out_payoffs
from mad.stats.sequential_test import Result, SequentialTest, Settings

IDLE = ("mean_tolerance", "stop")
"""options of an audit that a study has no use for"""


@dataclass(frozen=True)
class Options:
    """How prompts are parted, and what is done to their scores."""

    folds: int = 20
    """disjoint parts of the prompts, at least 2"""
    seeds: int | None = None
    """in place of folds: audits of all prompts, at least 2, in the orders of the seeds seed, seed + 1, ..., as mad
    audit --shuffle --seed takes them; the spread of their results is told"""
    noise: list[float] = field(default_factory=lambda: [0.0])
    """standard deviations of normal noise added to every score, each 0 or more: a study of a noisy judge; above 0 it
    needs range, to which scores are clipped"""
    drift: float = 0.0
    """share of each fold over which the shift grows, linearly, from none to all that there is, 0 or more (0: all of it
    from the first prompt); until it has, the sides of a pair change places with a probability that falls from 1/2 to
    0"""
    tests: list[str] = field(default_factory=list)
    """other tests on the same folds, with the first noise: ks, paired_t, anderson_darling, mmd, c2st, ons_c2st, e_c2st,
    l_c2st, ecrt; none of them knows a tolerance"""
    power: float = 0.8
    """the sample at which this share of the folds is rejected is told, in (0, 1]"""

    def __post_init__(self) -> None:
        require(self.folds >= 2, f"folds must be at least 2, got {self.folds}")
        require(self.seeds is None or self.seeds >= 2, f"seeds must be at least 2, got {self.seeds}")
        good = len(self.noise) > 0 and min(self.noise) >= 0 and len({*self.noise}) == len(self.noise)
        require(good, f"noise takes different standard deviations of 0 or more, at least one, got {self.noise}")
        require(0 <= self.drift < math.inf, f"drift must be a share of 0 or more, got {self.drift}")
        require(0 < self.power <= 1, f"power must lie in (0, 1], got {self.power}")
        for name in self.tests:
            registry.load("baselines", name)


@dataclass(frozen=True)
class Config:
    """What is repeated, and how."""

    audit: AuditOptions = field(default_factory=AuditOptions)
    study: Options = field(default_factory=Options)
    seed: int = 0
    """root of all seeds, 0 or more: the order of the prompts if shuffled, noise, and random numbers of a bet"""

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"--seed must be 0 or more, got {self.seed}")
        told = "noise needs the range that scores are clipped to: give --range LOW HIGH"
        require(self.audit.range is not None or max(self.study.noise) == 0, told)

    @property
    def shuffled_once(self) -> bool:
        """Whether the prompts are put into one order, that of the seed, before they are parted."""
        return self.audit.shuffle and self.study.seeds is None


def in_folds(units: Pairs, folds: int, batch_size: int) -> Pairs:
    """Units of one stream as streams of equal length, in their order; what is left over is left out.

    Raises:
        DataError: a fold would be smaller than a batch.
    """
    size = units.units // folds
    if size < batch_size:
        told = f"{units.units} prompts in {folds} folds are {size} each, fewer than a batch of {batch_size}"
        raise DataError(f"{told}: ask for fewer folds, or a smaller batch_size")
    return Pairs(*(part[0, : size * folds].unflatten(0, (folds, size)) for part in units))


def in_orders(units: Pairs, seeds: range) -> Pairs:
    """Units of one stream as one stream for each seed, each in the order that an audit with this seed takes."""
    orders = torch.stack([random_order(units.units, seed) for seed in seeds])
    return Pairs(*(part[0, orders] for part in units))


def with_noise(units: Pairs, deviation: float, limits: list[float] | None, seed: int) -> Pairs:
    """Units with normal noise on every score, clipped; noise of other sizes has the same draws."""
    if deviation == 0 or limits is None:
        return units
    sides = []
    for name, scores in (("x", units.x), ("y", units.y)):
        count = scores[0, 0].numel()
        drawn = random.normal(random.derive(seed, "noise", name), torch.arange(units.units), count)
        sides.append((scores + deviation * drawn.reshape(scores.shape)).clamp(*limits))
    return units._replace(x=sides[0], y=sides[1])


def with_drift(folds: Pairs, share: float, seed: int) -> Pairs:
    """Streams in which the shift grows: at a place t in [0, 1] its total variation is t / share of what it was.

    Sides that change places with probability 1/2 have one distribution, and no test can tell them apart.
    """
    if share == 0:
        return folds
    grown = (torch.arange(folds.units, dtype=torch.float64) / (share * folds.units)).clamp(max=1)
    drawn = random.uniform(random.derive(seed, "drift"), torch.arange(folds.streams), folds.units)
    swap = drawn < (1 - grown) / 2
    exchanged = Pairs(folds.y, folds.x, folds.y_weights, folds.x_weights)
    parts = zip(folds, exchanged, strict=True)
    return Pairs(*(torch.where(swap.reshape(*swap.shape, *[1] * (own.ndim - 2)), new, own) for own, new in parts))


def measured_shift(units: Pairs, bet: Bet, alpha: float, seed: int) -> dict[str, float] | None:
    """What the bet sees of the total variation on all prompts, held out; None of fewer than 160 prompts.

    Returns:
        ``estimate``, and ``lower`` and ``upper``, bounds at level alpha each.
    """
    if units.units < 20 * PORTIONS:
        return None
    found = bounds(held_out_payoffs(units, bet, seed=seed)[0], alpha)
    return dict(zip(("estimate", "lower", "upper"), map(float, found), strict=True))


def make_streams(units: Pairs, noise: float, config: Config) -> Pairs:
    """The streams that are tested, with noise of a standard deviation and drift."""
    study, first = config.study, config.seed
    noisy = with_noise(units, noise, config.audit.range, first)
    if study.seeds is not None:
        return with_drift(in_orders(noisy, range(first, first + study.seeds)), study.drift, first)
    return with_drift(in_folds(noisy, study.folds, config.audit.batch_size), study.drift, first)


def spread(result: Result, options: AuditOptions) -> dict[str, list[float]]:
    """Smallest, quartiles and largest over the streams, per figure of the result.

    Returns:
        ``shift_lower_bound``, ``log_wealth`` after all prompts, and of those that rejected ``rejected_at``.
    """
    place = options.grid.index(options.tolerated)
    at = result.rejected_at[:, place]
    values = {
        "shift_lower_bound": result.shift_lower_bound,
        "log_wealth": result.log_wealth[:, place, -1],
        "rejected_at": at[at > 0].double(),
    }
    shares = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    return {name: found.quantile(shares).tolist() if len(found) else [] for name, found in values.items()}


def run(config: Config, inputs: dict[str, Any], context: Context) -> None:
    """Test every fold, and write ``study.json``, ``power.parquet`` and figures."""
    pairs: ScorePairs = inputs["pairs"]
    options, study = config.audit, config.study
    check_disjoint(pairs.rows, options.calibration, context.draft.store)
    units = make_units(pairs.rows, replace(options, shuffle=config.shuffled_once), config.seed).scores
    module = registry.load("bets", registry.name_of("bets", type(options.bet).__module__))
    settings = Settings(options.grid, options.alpha, options.batch_size, options.penalty, config.seed)
    tables, ends, paths, spreads = [], [], [], []
    for done, noise in enumerate(study.noise):
        folds = make_streams(units, noise, config)
        result = SequentialTest(module.Bet(options.bet), settings).run(folds, learn_last=False)
        spreads.append({"noise": noise, **spread(result, options)})
        rejected_at = result.rejected_at
        paths.append(result.log_wealth[:, options.grid.index(options.tolerated)])
        tables.append(
            power_table(rejected_at, options.grid, sample_sizes(folds.units, options.batch_size), noise=noise)
        )
        ends += [{"noise": noise, **row} for row in at_the_end(rejected_at, options.grid, folds.units, study.power)]
        context.progress.update("audit study", done + 1, len(study.noise))
    others = baseline_rates(
        study.tests, make_streams(units, study.noise[0], config), options.batch_size, options.alpha, config.seed
    )
    table = pd.concat(tables, ignore_index=True)
    noisy = with_noise(units, study.noise[0], options.range, config.seed)
    shift = measured_shift(noisy, module.Bet(options.bet), min(options.alpha, 0.49), config.seed)
    found = {
        "rates": ends,
        "tests": others,
        "shift": shift,
        "folds": folds.streams,
        "seeds": study.seeds,
        "spread": spreads,
        "drift": study.drift,
        "fold_size": folds.units,
        "left_over": 0 if study.seeds else units.units - folds.units * study.folds,
        "missing": pairs.summary["missing"],
        "alpha": options.alpha,
        "tolerance": options.tolerated,
        "power": study.power,
        "bet": registry.name_of("bets", type(options.bet).__module__),
        "seed": config.seed,
    }
    context.draft.write("power.parquet", lambda path: table.to_parquet(path, index=False))
    context.draft.write_json("study.json", found)
    own = [row for row in ends if row["tolerance"] == options.tolerated]
    context.summary |= {**found, "rates": own, "rejection_rate": own[0]["rate"], "shift": shift and shift["estimate"]}
    context.metrics |= {"rejection_rate": [row["rate"] for row in own], "folds": float(folds.streams)}
    context.metrics |= {} if shift is None else {"shift": shift["estimate"]}
    clean = [row for row in ends if row["noise"] == study.noise[0]]
    extra = {
        "wealth_paths.png": paths_figure(paths[0], options.alpha),
        "detection.png": detection_figure(clean, options.tolerated, shift),
    }
    _plot(table, extra, config, context)


def _plot(table: pd.DataFrame, extra: dict[str, Any], config: Config, context: Context) -> None:
    options, several = config.audit, len(config.study.noise) > 1
    own, last = table["tolerance"] == options.tolerated, table["samples"] == table["samples"].max()
    clean = table["noise"] == config.study.noise[0]
    figures = {
        **extra,
        "power_over_samples.png": samples_figure(table[own], "noise", options.alpha)
        if several
        else samples_figure(table, "tolerance", options.alpha),
        "power_over_tolerance.png": tolerance_figure(table[last], "noise", options.alpha)
        if several
        else tolerance_figure(table[clean], "samples", options.alpha),
    }
    for name, figure in figures.items():
        context.draft.write(name, partial(save_figure, figure))
        context.plots.append(name)


def _unused(config: Config) -> dict[str, str]:
    found = {f"audit.{name}": "every fold is tested for a shift, up to its last prompt" for name in IDLE}
    if config.study.seeds is None:
        return found
    told = "every seed takes all prompts, in an order of its own"
    return found | {"study.folds": told, "audit.shuffle": told}


STAGE = Stage(
    "audit_study",
    Config,
    {"pairs": "pairs"},
    run,
    refers_to=lambda config: refers_to(config.audit.calibration),
    settles=lambda config, store: settle(config.audit, store),
    unused=_unused,
)
