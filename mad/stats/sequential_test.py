"""The auditing test: pairs of scores through a bet, batch by batch, at a grid of tolerances.

Null at tolerance e: total variation between the score distributions of baseline and candidate is at most e. A
batch is paid by the bet fitted on the batches before it, and only then shown to the bet. The wealth moves pair
by pair, so the first crossing is exact; false alarms are at most alpha at every stopping time, for independent
units (prompts), whatever the dependence inside one (2310.19384, 2410.19406, with fractions instead of exp(-e)).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mad import registry
from mad.config import require
from mad.errors import DataError
from mad.stats import wealth
from mad.stats.bets._base import Bet, Pairs, State, checked

PAST, BET = "past.", "bet."


@dataclass(frozen=True)
class Settings:
    """What the test is about.

    Attributes:
        tolerances: increasing grid of total variations in [0, 1).
        alpha: level of each tolerance's test.
        batch_size: units between refits of the bet.
        penalty: ``fraction``, or ``exp`` and ``all_in`` for comparison.
        seed: of random numbers in a bet.
    """

    tolerances: tuple[float, ...] = (0.0,)
    alpha: float = 0.05
    batch_size: int = 25
    penalty: wealth.Penalty = "fraction"
    seed: int = 0

    def __post_init__(self) -> None:
        wealth.check_settings(self.tolerances, self.alpha)
        require(self.batch_size >= 1, f"batch_size must be at least 1, got {self.batch_size}")
        known = self.penalty in ("fraction", "exp", "all_in")
        require(known, f"penalty must be fraction, exp or all_in, got {self.penalty!r}")


@dataclass(frozen=True)
class Result:
    """What was found in F streams at T tolerances.

    Attributes:
        log_wealth: (F, T, n) after each unit.
        rejected_at: (F, T) int64, 1-based unit at which the wealth first reached 1 / alpha; 0 = not.
        shift_lower_bound: (F,), see :func:`mad.stats.wealth.shift_lower_bound`.
        units: n, independent units (pairs, or clusters of them) used per stream.
    """

    log_wealth: Tensor
    rejected_at: Tensor
    shift_lower_bound: Tensor
    units: int


class SequentialTest:
    """One test of F streams; ``state`` is all it remembers, a dict of tensors.

    A test resumed from a stored state goes on to the same bits.
    """

    def __init__(self, bet: Bet, settings: Settings, state: State | None = None):
        self.bet, self.settings = bet, settings
        self.state: State = dict(state or {})
        self.tolerances = torch.tensor(settings.tolerances, dtype=torch.float64)
        self.grid = wealth.fractions(self.tolerances, settings.penalty)

    @property
    def units(self) -> int:
        """Units seen so far."""
        return _past(self.state).units if self.state else 0

    @property
    def rejected_at(self) -> Tensor:
        """(F, T), 0 = not rejected so far."""
        return self.state["rejected_at"]

    @property
    def shift_lower_bound(self) -> Tensor:
        """(F,) so far."""
        return wealth.shift_lower_bound(self.rejected_at > 0, self.tolerances)

    @property
    def log_wealth(self) -> Tensor:
        """(F, T) so far."""
        return wealth.average(self.state["log_wealth"], dim=2)

    def update(self, fresh: Pairs, streams: Tensor | None = None) -> Tensor:
        """Bet on one batch, then learn from it.

        Args:
            fresh: the batch; all its units are bet on by what was learnt before.
            streams: (F,) int64 numbers of the streams, by default 0..F-1; read with the first batch only.

        Returns:
            (F, T, B) log wealth after each unit.
        """
        checked(fresh)
        state = self.state or self._started(fresh, streams)
        past = _past(state).joined(fresh)
        state, path = self._step(state, fresh, past)
        self.state = {**state, **_kept(past)}
        return path

    def run(self, units: Pairs, streams: Tensor | None = None, learn_last: bool = True) -> Result:
        """Bet on all units in batches of ``batch_size``, from the start, the last batch maybe smaller.

        Args:
            units: all of them.
            streams: (F,) numbers of the streams, by default 0..F-1.
            learn_last: whether the bet learns from the last batch too, as it must to go on afterwards.
        """
        path = torch.cat(list(self.walk(units, streams, learn_last)), dim=2)
        return Result(path, self.rejected_at, self.shift_lower_bound, units.units)

    def walk(self, units: Pairs, streams: Tensor | None = None, learn_last: bool = True) -> Iterator[Tensor]:
        """As :meth:`run`, batch by batch, so that one may stop: yields (F, T, B) log wealth after each unit."""
        require(not self.state, "a test that has begun takes more pairs by update")
        state = self._started(checked(units), streams)
        for start in range(0, units.units, self.settings.batch_size):
            stop = min(start + self.settings.batch_size, units.units)
            learn = learn_last or stop < units.units
            state, path = self._step(state, units.cut(start, stop), units.cut(0, stop), learn)
            self.state = {**state, **_kept(units.cut(0, stop))}
            yield path

    def _started(self, units: Pairs, streams: Tensor | None) -> State:
        streams = torch.arange(units.streams) if streams is None else streams
        if len(streams) != units.streams:
            raise DataError(f"{len(streams)} stream numbers for {units.streams} streams")
        shape = (units.streams, len(self.tolerances))
        groups = self.bet.groups
        own = self.bet.start(streams, units.dimensions, self.settings.seed)
        return {
            "growth": units.x.new_zeros(*shape, self.bet.candidates, self.grid.shape[1]),
            "log_wealth": units.x.new_zeros(*shape, len(set(groups))),
            "rejected_at": torch.zeros(shape, dtype=torch.int64),
            **{BET + key: value for key, value in own.items()},
            **_kept(units.cut(0, 0)),
        }

    def _step(self, state: State, fresh: Pairs, past: Pairs, learn: bool = True) -> tuple[State, Tensor]:
        """The state after a batch, which is paid by what was learnt before it; the given state is not changed."""
        state, groups, penalty = dict(state), self.bet.groups, self.settings.penalty
        own = {key.removeprefix(BET): value for key, value in state.items() if key.startswith(BET)}
        if past.units == fresh.units:
            # Nothing is known yet: the first batch is not bet on.
            paths = fresh.x.new_zeros(*state["log_wealth"].shape, fresh.units)
        else:
            payoffs = self.bet.payoffs(own, fresh)
            chosen = wealth.forecast(state["growth"], self.grid, self.tolerances, groups)
            logs = wealth.log_factors(payoffs, chosen, self.tolerances, groups, penalty)
            paths = state["log_wealth"][..., None] + logs.cumsum(dim=3)
            state["growth"] = state["growth"] + wealth.growth_of(payoffs, self.grid, self.tolerances)
        total = wealth.average(paths, dim=2)
        crossing = wealth.first_crossing(total, self.settings.alpha, past.units - fresh.units)
        state["rejected_at"] = torch.where(state["rejected_at"] > 0, state["rejected_at"], crossing)
        state["log_wealth"] = paths[..., -1]
        if learn:
            state.update({BET + key: value for key, value in self.bet.learn(own, past, fresh.units).items()})
        return state, total


def _past(state: State) -> Pairs:
    return Pairs(*(state[PAST + name] for name in Pairs._fields))


def _kept(units: Pairs) -> State:
    return {PAST + name: part for name, part in units._asdict().items()}


def run(
    units: Pairs,
    bet: str = "mixture",
    options: dict | None = None,
    settings: Settings | None = None,
    streams: Sequence[int] | None = None,
) -> Result:
    """Test all pairs in one go.

    Args:
        units: made by :func:`mad.stats.bets._base.pairs` or, with several generations, :mod:`mad.stats.clusters`.
        bet: name of a bet.
        options: of the bet, by field of its ``Config``.
        settings: by default tolerance 0 at level 0.05.
        streams: numbers of the streams.

    Raises:
        DataError: scores that are NaN or infinite.
        ConfigError: no such bet, or an option out of range.
    """
    module = registry.load("bets", bet)
    test = SequentialTest(module.Bet(module.Config(**(options or {}))), settings or Settings())
    return test.run(units, None if streams is None else torch.tensor(streams))
