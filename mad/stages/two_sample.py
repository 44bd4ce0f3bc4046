"""two_sample: power and false alarms of a test, on many streams of samples whose two sides differ or do not.

A sample z goes through two operators, and (tau1 z, tau2 z) is tested for equal distributions, pair by pair with a
bet or by a baseline at every look (2310.19384). All streams are one tensor problem.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from mad import registry
from mad.config import canonical, plugin, require
from mad.context import Context
from mad.errors import DataError
from mad.stages._base import Stage
from mad.stages._figures import save_figure
from mad.stages._two_sample_figures import rejection_figure, stopping_figure
from mad.stats import random
from mad.stats.baselines._base import Outcome
from mad.stats.bets._base import Pairs, pairs
from mad.stats.operators import _base as operators
from mad.stats.operators._base import Draws
from mad.stats.sequential_test import SequentialTest, Settings
from mad.stats.wealth import first_crossing


@dataclass(frozen=True)
class Options:
    """How samples are tested."""

    by: Literal["bet", "baseline"] = "bet"
    """what tests: the bet, or for comparison the baseline"""
    bet: Any = plugin("bets", "mixture")
    """how the auditing test bets; unused by a baseline"""
    baseline: Any = plugin("baselines", "ks")
    """two-sample test asked at the end of every batch; unused by a bet"""
    tau1: Any = plugin("operators", "projection")
    """operator that makes the first of the pair that is compared: by default the first side of a sample"""
    tau2: Any = plugin("operators", "compose")
    """operator that makes the second of it: by default swap, then projection, which is the second side"""
    draws: int = 1
    """how often operators are drawn for each sample, at least 1: a random one's several results are one unit, whose
    payoffs are averaged; only of a bet"""
    alpha: float = 0.05
    """level in (0, 1)"""
    batch_size: int = 50
    """samples between refits of a bet, and between looks of a baseline, at least 2"""
    pairs: int = 500
    """samples in each stream, at least two batches"""
    streams: int = 100
    """independent streams, at least 2: rates are shares of them"""

    def __post_init__(self) -> None:
        require(0 < self.alpha < 1, f"alpha must lie between 0 and 1, got {self.alpha}")
        require(self.batch_size >= 2, f"batch_size must be at least 2, got {self.batch_size}")
        least = 2 * self.batch_size
        require(self.pairs >= least, f"pairs must be at least two batches ({least}), got {self.pairs}")
        require(self.draws >= 1, f"draws must be at least 1, got {self.draws}")
        told = f"draws {self.draws} is for bets: a baseline takes one result of each operator"
        require(self.draws == 1 or self.by == "bet", told)
        require(self.streams >= 2, f"streams must be at least 2, got {self.streams}")
        same = canonical(self.tau1, "operators") == canonical(self.tau2, "operators")
        require(not same, "tau1 and tau2 are the same operator: a sample would be compared with itself")

    @property
    def looks(self) -> list[int]:
        """Sample sizes after each batch."""
        return [*range(self.batch_size, self.pairs, self.batch_size), self.pairs]

    @property
    def test(self) -> str:
        """Name of what tests."""
        kind, config = ("bets", self.bet) if self.by == "bet" else ("baselines", self.baseline)
        return registry.name_of(kind, type(config).__module__)


@dataclass(frozen=True)
class Config:
    """What is tested, and how."""

    stream: Any = plugin("streams", "blobs")
    """generator of samples with two sides; with --stream.null both have one distribution"""
    two_sample: Options = field(default_factory=Options)
    seed: int = 0
    """root of all seeds, 0 or more: samples, random operators, bets and permutations"""

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"--seed must be 0 or more, got {self.seed}")


def _identity(config: Config, workers: int) -> dict[str, Any]:
    read = {name: operators.digest(getattr(config.two_sample, name)) for name in ("tau1", "tau2")}
    data = {"data": sys.modules[type(config.stream).__module__].digest(config.stream), **read}
    return {name: found for name, found in data.items() if found}


def draw_pairs(config: Config) -> Pairs:
    """The pairs of all streams: what the two operators make of the samples, as vectors, of each ``draws`` results.

    Raises:
        DataError: operators that do not fit the samples, or make things of different shapes.
    """
    options, streams = config.two_sample, torch.arange(config.two_sample.streams)
    stream = sys.modules[type(config.stream).__module__]
    z = stream.draw(config.stream, random.derive(config.seed, "two_sample"), options.pairs, streams)
    draws = Draws(random.derive(config.seed, "operators"), streams)
    made = []
    for number in range(options.draws):
        of = draws.of("again", number) if number else draws
        both = (operators.apply(getattr(options, name), z, of.of(name)) for name in ("tau1", "tau2"))
        x, y = (side if side.ndim == 2 else side.flatten(2) for side in both)
        if x.shape != y.shape:
            sizes = [1 if side.ndim == 2 else side.shape[2] for side in (x, y)]
            raise DataError(f"tau1 makes {sizes[0]} numbers of a sample, tau2 {sizes[1]}: only like can be compared")
        made.append(pairs(x, y))
    x, y, x_weights, y_weights = (torch.cat(parts, dim=2) for parts in zip(*made, strict=True))
    return Pairs(x, y, x_weights / options.draws, y_weights / options.draws)


def crossings(config: Config, units: Pairs, context: Context) -> tuple[Tensor, Tensor]:
    """When each stream rejects.

    Args:
        config: of the stage.
        units: F streams of pairs.
        context: told the progress.

    Returns:
        (F,) first sample at which a test that is asked again and again rejects, 0 where none does; (F, looks) bool
        whether a test asked once, at this look, rejects. For a bet both say the same: it may be asked at any time.
    """
    options = config.two_sample
    looks = torch.tensor(options.looks)
    if options.by == "bet":
        rejected_at = _bet(config, units, context)
        return rejected_at, (rejected_at[:, None] > 0) & (rejected_at[:, None] <= looks)
    module = sys.modules[type(options.baseline).__module__]
    baseline = module.Baseline(options.baseline)
    values = baseline.test(units, options.looks, random.derive(config.seed, "baseline"))
    outcome = Outcome(baseline.kind, values, looks)
    ever = outcome.rejected(options.alpha, peeking=True)
    first = torch.where(ever.any(dim=1), looks[ever.int().argmax(dim=1)], 0)
    return first, outcome.rejected(options.alpha, peeking=False)


def _bet(config: Config, units: Pairs, context: Context) -> Tensor:
    options = config.two_sample
    module = sys.modules[type(options.bet).__module__]
    settings = Settings((0.0,), options.alpha, options.batch_size, seed=config.seed)
    test, first, done = SequentialTest(module.Bet(options.bet), settings), torch.zeros(units.streams).long(), 0
    for path in test.walk(units, learn_last=False):
        crossing = first_crossing(path[:, 0], options.alpha, done)
        first = torch.where(first > 0, first, crossing)
        done += path.shape[2]
        context.progress.update("two_sample", done, units.units)
    return first


def make_table(config: Config, rejected_at: Tensor, at_look: Tensor) -> pd.DataFrame:
    """Rejection rate over samples, one line per look.

    Returns:
        ``samples``; ``rejected``: share of streams rejected by then, looking after every batch (a bet: after every
        sample); ``rejected_once``: share rejected by a test that is asked at this look alone.
    """
    looks = torch.tensor(config.two_sample.looks)
    ever = ((rejected_at[:, None] > 0) & (rejected_at[:, None] <= looks)).double().mean(dim=0)
    columns = {"samples": looks, "rejected": ever, "rejected_once": at_look.double().mean(dim=0)}
    return pd.DataFrame({name: value.numpy() for name, value in columns.items()})


def summarise(config: Config, table: pd.DataFrame, rejected_at: Tensor) -> dict[str, Any]:
    """Figures of the test at the end: the rate is ``power`` where the sides differ, else ``false_alarms``."""
    options, null = config.two_sample, bool(config.stream.null)
    last = table.iloc[-1]
    rate, name = float(last["rejected"]), "false_alarms" if null else "power"
    stops = rejected_at[rejected_at > 0].double()
    stopped = len(stops) * 2 > len(rejected_at)
    never = float(options.pairs + 1)
    median = float(torch.where(rejected_at > 0, rejected_at.double(), never).median()) if stopped else None
    return {
        "test": options.test,
        "by": options.by,
        "stream": registry.name_of("streams", type(config.stream).__module__),
        "null": null,
        **dict.fromkeys(("power", "power_asked_once", "false_alarms", "false_alarms_asked_once")),
        name: rate,
        f"{name}_asked_once": float(last["rejected_once"]),
        "standard_error": (rate * (1 - rate) / options.streams) ** 0.5,
        "median_stop": median,
        "alpha": options.alpha,
        "samples": options.pairs,
        "streams": options.streams,
        "dimensions": None,
    }


def run(config: Config, inputs: dict[str, Any], context: Context) -> None:
    """Write ``rejections.parquet``, ``stops.parquet`` and figures."""
    units = draw_pairs(config)
    rejected_at, at_look = crossings(config, units, context)
    table = make_table(config, rejected_at, at_look)
    stops = pd.DataFrame({"stream": range(len(rejected_at)), "rejected_at": rejected_at.numpy()})
    context.draft.write("rejections.parquet", lambda path: table.to_parquet(path, index=False))
    context.draft.write("stops.parquet", lambda path: stops.to_parquet(path, index=False))
    context.summary |= summarise(config, table, rejected_at) | {"dimensions": units.dimensions}
    context.metrics |= {name: [float(v) for v in table[name]] for name in ("rejected", "rejected_once")}
    numbers = {k: v for k, v in context.summary.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    context.metrics |= {name: float(value) for name, value in numbers.items()}
    options, null = config.two_sample, bool(config.stream.null)
    name = "false_alarms.png" if null else "power.png"
    figures = {name: rejection_figure(table, options.alpha, null, options.streams, options.by == "baseline")}
    if (rejected_at > 0).any() and not null:
        figures["stops.png"] = stopping_figure(stops["rejected_at"].to_numpy(), options.pairs)
    for file, figure in figures.items():
        context.draft.write(file, partial(save_figure, figure))
        context.plots.append(file)


STAGE = Stage("two_sample", Config, {}, run, identity=_identity)
