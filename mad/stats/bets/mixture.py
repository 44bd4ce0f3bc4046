"""The average of the wealths of two bets: again an e-process, nearly as good as the better of them.

Each bet plays with its own half of the wealth and its own fractions; the average loses at most log 2 against the
better one. By default ``kelly``, strong early and at tolerance 0, and ``ratio``, strong at positive tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mad import registry
from mad.config import plugin, require
from mad.stats.bets import _base
from mad.stats.bets._base import Pairs, State


@dataclass(frozen=True)
class Config:
    """Options of the bet."""

    first: Any = plugin("bets", "kelly")
    """a bet and its options"""
    second: Any = plugin("bets", "ratio")
    """another bet and its options"""

    def __post_init__(self) -> None:
        nested = any(isinstance(part, Config) for part in (self.first, self.second))
        require(not nested, "a mixture is of two bets, not of mixtures: name other bets")


class Bet(_base.Bet):
    """State: that of both parts, their keys led by ``first.`` and ``second.``."""

    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.parts = {"first": _bet(config.first), "second": _bet(config.second)}
        self.candidates = sum(part.candidates for part in self.parts.values())

    @property
    def groups(self) -> tuple[int, ...]:
        return tuple(i for i, part in enumerate(self.parts.values()) for _ in part.groups)

    def start(self, streams: Tensor, dimensions: int, seed: int) -> State:
        return self._join({name: part.start(streams, dimensions, seed) for name, part in self.parts.items()})

    def values(self, state: State, z: Tensor) -> Tensor:
        return torch.cat([part.values(own, z) for part, own in self._split(state)], dim=1)

    def learn(self, state: State, past: Pairs, fresh: int) -> State:
        learnt = [part.learn(own, past, fresh) for part, own in self._split(state)]
        return self._join(dict(zip(self.parts, learnt, strict=True)))

    def _join(self, states: dict[str, State]) -> State:
        return {f"{name}.{key}": value for name, own in states.items() for key, value in own.items()}

    def _split(self, state: State) -> list[tuple[_base.Bet, State]]:
        found = []
        for name, part in self.parts.items():
            found.append((part, {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}))
        return found


def _bet(config: Any) -> _base.Bet:
    name = registry.name_of("bets", type(config).__module__)
    return registry.load("bets", name).Bet(config)
