"""The auditing test on prompts with scores of both sides: options, independent units, and the walk to a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mad import registry
from mad.config import plugin, require
from mad.errors import DataError
from mad.files import KEY
from mad.stages._judged_pairs import score_columns
from mad.stats import wealth
from mad.stats.bets._base import Pairs
from mad.stats.clusters import group
from mad.stats.confidence_sequence import MeanDifference
from mad.stats.random import generator
from mad.stats.sequential_test import SequentialTest, Settings

GRID = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Options:
    """What is tolerated, and how it is tested."""

    alpha: float = 0.05
    """level in (0, 1): the probability that a tolerated change is ever called a shift is at most this; the
    interval of the mean difference has the same level of its own"""
    tolerance: float | None = None
    """largest total variation between the score distributions that is tolerated, in [0, 1) (default: what the
    calibration recommends, 0 without one)"""
    calibration: str | None = None
    """name, key (calibrate-...) or folder of a calibration: the tolerance is its recommendation unless one is given,
    and prompts that it used are refused"""
    mean_tolerance: float | None = None
    """largest difference of the mean scores that is tolerated, in score units (default: nothing is certified); needs
    range"""
    range: list[float] | None = None
    """smallest and largest possible score, for the interval of the mean difference (default: no interval)"""
    bet: Any = plugin("bets", "mixture")
    """how the test bets on a shift"""
    batch_size: int = 25
    """prompts between refits of the bet, at least 1; the first batch is only learnt from"""
    penalty: wealth.Penalty = "fraction"
    """how wealth is staked: fraction; exp (the paper's form) and all_in are for comparison"""
    tolerances: list[float] = field(default_factory=lambda: [*GRID])
    """grid of total variations in [0, 1), increasing, that the lower bound on the shift is taken from"""
    shuffle: bool = False
    """take the prompts in an order drawn by the seed (default: that of the file)"""
    stop: bool = True
    """stop at the verdict; false goes on through all pairs, for a sharper bound and interval"""

    def __post_init__(self) -> None:
        if self.tolerance is None and not self.calibration:
            object.__setattr__(self, "tolerance", 0.0)  # so that what was left open has the key of what was given
        wealth.check_settings((0.0 if self.tolerance is None else self.tolerance,), self.alpha)
        wealth.check_settings(self.tolerances, self.alpha)
        require(self.batch_size >= 1, f"batch_size must be at least 1, got {self.batch_size}")
        key = self.calibration or "calibrate-" + "0" * 20
        told = f"calibration must be the key of one, calibrate- and 20 hex digits, got {key}"
        require(bool(KEY.fullmatch(key)) and key.startswith("calibrate-"), told)
        if self.range is not None:
            given = len(self.range) == 2 and self.range[0] < self.range[1]
            require(
                given, f"range takes the smallest and the largest score, LOW HIGH with LOW < HIGH, got {self.range}"
            )
        if self.mean_tolerance is not None:
            require(self.mean_tolerance > 0, f"mean_tolerance must be above 0, got {self.mean_tolerance}")
            self._check_range_is_known()

    def _check_range_is_known(self) -> None:
        told = f"mean_tolerance {self.mean_tolerance} needs the range that the scores lie in: give --range LOW HIGH"
        require(self.range is not None, told)

    @property
    def tolerated(self) -> float:
        """The tolerance, which is settled before a stage runs, see :mod:`mad.stages._calibrated_tolerance`."""
        assert self.tolerance is not None
        return self.tolerance

    @property
    def grid(self) -> tuple[float, ...]:
        """All tolerances that are tested."""
        return tuple(sorted({*self.tolerances, self.tolerated}))


class Units(NamedTuple):
    """Independent units, one per prompt.

    Attributes:
        scores: one stream of n units.
        sizes: (n,) int64 pairs in each.
        names: (n,) names of the prompts.
    """

    scores: Pairs
    sizes: Tensor
    names: np.ndarray


class Step(NamedTuple):
    """What one batch of B units added.

    Attributes:
        log_wealth: (T, B) after each unit, at each tolerance of the grid.
        low: (B,) lower bound of the mean difference, candidate less baseline; NaN without a range.
        high: (B,) upper bound.
    """

    log_wealth: Tensor
    low: Tensor
    high: Tensor


def make_units(rows: pd.DataFrame, options: Options, seed: int) -> Units:
    """Pairs with both scores as independent units, in their order or in one drawn by the seed.

    Args:
        rows: see :class:`mad.artifacts.ScorePairs`.
        options: range and order.
        seed: of the order.

    Raises:
        DataError: scores outside the declared range, or fewer units than a batch.
    """
    check_range(rows, options)
    units = units_of(rows)
    if len(units.names) < options.batch_size:
        told = f"{len(units.names)} prompts have both scores ({len(rows)} pairs were given), fewer than a batch"
        raise DataError(f"{told}: give more, or a batch_size below {options.batch_size}")
    if not options.shuffle:
        return units
    order = random_order(len(units.names), seed)
    return Units(Pairs(*(part[:, order] for part in units.scores)), units.sizes[order], units.names[order.numpy()])


def random_order(count: int, seed: int) -> Tensor:
    """(count,) numbers of the prompts, in the order that a seed draws."""
    return torch.randperm(count, generator=generator(seed, "order of the audit"))


def units_of(rows: pd.DataFrame) -> Units:
    """Pairs with both scores as independent units, in the order in which their clusters appear."""
    columns = {side: score_columns(rows, side) for side in ("baseline", "candidate")}
    found = rows.dropna(subset=[name for names in columns.values() for name in names])
    codes, names = pd.factorize(found["cluster"])
    if not len(names):
        raise DataError(f"0 prompts have both scores ({len(rows)} pairs were given)")
    clusters = torch.from_numpy(codes.astype(np.int64))
    x, y = (torch.from_numpy(found[side].to_numpy(np.float64, copy=True)) for side in columns.values())
    return Units(group(x, clusters, y, clusters), clusters.bincount(), np.asarray(names, dtype=object))


def check_range(rows: pd.DataFrame, options: Options) -> None:
    """Refuse scores outside the declared range: the interval would not hold.

    Raises:
        ConfigError: a range of vectors.
        DataError: a score outside.
    """
    if options.range is None:
        return
    told = f"range {options.range} is for the difference of two means, but the scores are vectors: leave it out"
    require(score_columns(rows, "baseline") == ["baseline"], told)
    low, high = options.range
    for side in ("baseline", "candidate"):
        outside = rows[(rows[side] < low) | (rows[side] > high)]
        if len(outside):
            first = f"first: {outside[side].iloc[0]:g}, id '{outside['id'].iloc[0]}'"
            told = f"{len(outside)} scores of the {side} lie outside the declared range [{low:g}, {high:g}] ({first})"
            raise DataError(f"{told}: mend them or give the --range that the scores can take")


class Auditor:
    """The test of one stream, batch by batch, up to the unit with the verdict.

    Args:
        options: how it is tested.
        seed: of the bet.

    Attributes:
        decided: whether there is a verdict to stop at.
    """

    def __init__(self, options: Options, seed: int):
        module = registry.load("bets", registry.name_of("bets", type(options.bet).__module__))
        settings = Settings(options.grid, options.alpha, options.batch_size, options.penalty, seed)
        self.options, self.decided = options, False
        self.test = SequentialTest(module.Bet(options.bet), settings)
        self._mean = MeanDifference(options.range[0], options.range[1], options.alpha) if options.range else None
        self._state = self._mean.start(1) if self._mean else {}

    def update(self, batch: Units) -> Step:
        """Bet on a batch of fresh units."""
        return self.step(self.test.update(batch.scores)[0], *means(batch))

    def step(self, path: Tensor, x: Tensor, y: Tensor) -> Step:
        """Take in what a batch did to the wealth.

        Args:
            path: (T, B) log wealth after each unit.
            x: (B,) mean scores of the baseline.
            y: (B,) of the candidate.
        """
        low = high = torch.full((1, len(x)), torch.nan, dtype=torch.float64)
        if self._mean:
            self._state, (low, high) = self._mean.update(self._state, y[None], x[None])
        step = Step(path, low[0], high[0])
        found = _decided(step, self.options).nonzero()[:, 0]
        if not self.options.stop or not len(found):
            return step
        self.decided = True
        return Step(*(part[..., : int(found[0]) + 1] for part in step))


def walk(units: Units, options: Options, seed: int) -> Iterator[Step]:
    """The test of units that are all there; it stops after the unit with the verdict, unless told to go on."""
    auditor, done = Auditor(options, seed), 0
    x, y = means(units)
    for path in auditor.test.walk(units.scores):
        stop = done + path.shape[2]
        yield auditor.step(path[0], x[done:stop], y[done:stop])
        if auditor.decided:
            return
        done = stop


def joined(steps: Sequence[Step]) -> Step:
    """Steps one after another."""
    return Step(*(torch.cat(parts, dim=-1) for parts in zip(*steps, strict=True)))


def _decided(step: Step, options: Options) -> Tensor:
    """(B,) whether there is a verdict after each unit."""
    crossed = step.log_wealth[options.grid.index(options.tolerated)] >= wealth.threshold(options.alpha)
    if options.mean_tolerance is None:
        return crossed
    return crossed | ((step.low >= -options.mean_tolerance) & (step.high <= options.mean_tolerance))


def means(units: Units) -> tuple[Tensor, Tensor]:
    """(n,) mean scores of the baseline and of the candidate in each unit; NaN if scores are vectors."""
    if units.scores.dimensions > 1:
        nothing = torch.full(units.sizes.shape, torch.nan, dtype=torch.float64)
        return nothing, nothing
    x, y = ((scores[0, :, :, 0] * weights[0]).sum(dim=1) for scores, weights in units.scores.sides)
    return x, y


def make_trace(units: Units, steps: Step, options: Options) -> pd.DataFrame:
    """One line per unit that was used.

    Returns:
        ``cluster``; ``pairs`` (used up to here); ``baseline`` and ``candidate`` (mean scores of the unit);
        ``log_wealth`` (natural, at the tolerance); ``shift_lower_bound``; ``mean_difference`` (running, candidate
        less baseline) with ``low`` and ``high``, its interval.
    """
    used = steps.log_wealth.shape[1]
    x, y = (side[:used] for side in means(units))
    rejected = (steps.log_wealth >= wealth.threshold(options.alpha)).cummax(dim=1).values
    bounds = wealth.shift_lower_bound(rejected.T, torch.tensor(options.grid, dtype=torch.float64))
    columns = {
        "pairs": units.sizes[:used].cumsum(0),
        "baseline": x,
        "candidate": y,
        "log_wealth": steps.log_wealth[options.grid.index(options.tolerated)],
        "shift_lower_bound": bounds,
        "mean_difference": (y - x).cumsum(0) / torch.arange(1, used + 1),
        "low": steps.low,
        "high": steps.high,
    }
    return pd.DataFrame({"cluster": units.names[:used], **{name: value.numpy() for name, value in columns.items()}})
