"""Sequential classifier two-sample test whose stake follows an online Newton step (2305.00143, 2112.09162).

The classifier of the past pays p(x) - p(y) on a pair, with p the probability of "from x", or half the difference of
its guesses' signs; the wealth grows by 1 + stake payoff. Where the marginals are equal a payoff has mean 0, whatever
depends on what inside the pair. It needs no likelihood: a classifier that ranks well but is not calibrated, which
costs ``c2st`` its wealth, is answered by a smaller stake.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mad.config import require
from mad.stats.baselines import _base, _classifier
from mad.stats.bets._base import Pairs

STEP = 2 / (2 - math.log(3))
"""length of a Newton step: the log wealth is exp-concave with its inverse for stakes up to 1/2 (Cutkosky & Orabona
2018)"""


@dataclass(frozen=True)
class Config:
    """Options of the test."""

    classifier: _classifier.Name = "auto"
    """ratio (steps of single scores), kernel (random cosines), network; auto: ratio, of vectors kernel"""
    payoff: Literal["probability", "sign"] = "probability"
    """probability: p(x) - p(y); sign: whether the classifier guesses the sides of the pair, by sign"""
    largest_stake: float = 0.5
    """share of the wealth that a pair can take at most, in (0, 1/2]"""
    batch_size: int = 50
    """pairs between fits, at least 1; the first batch is only learnt from"""

    def __post_init__(self) -> None:
        require(0 < self.largest_stake <= 0.5, f"largest_stake must lie in (0, 1/2], got {self.largest_stake}")
        require(self.batch_size >= 1, f"batch_size must be at least 1, got {self.batch_size}")


class Baseline(_base.Baseline):
    """E-process at each look."""

    config: Config
    kind: _base.Kind = "e-process"
    null: _base.Null = "equal marginals"

    def test(self, units: Pairs, looks: Sequence[int], seed: int) -> Tensor:
        of_x, of_y = _classifier.prequential(units, self.config.classifier, self.config.batch_size, seed)
        signs = self.config.payoff == "sign"
        payoffs = (of_x.sign() - of_y.sign()) / 2 if signs else of_x.sigmoid() - of_y.sigmoid()
        return staked(payoffs, self.config.largest_stake)[:, torch.tensor(looks) - 1]


def staked(payoffs: Tensor, largest: float) -> Tensor:
    """Log wealth (F, n) after each payoff (F, n) in [-1, 1], at stakes in [0, largest] that the past ones chose.

    A stake hangs on the one before, so that pairs come one after another; streams go side by side.
    """
    stake, curvature = torch.zeros_like(payoffs[:, 0]), torch.ones_like(payoffs[:, 0])
    logs = []
    for paid in payoffs.unbind(dim=1):
        logs.append((stake * paid).log1p())
        slope = paid / (1 + stake * paid)
        curvature = curvature + slope**2
        stake = (stake + STEP * slope / curvature).clamp(0, largest)
    return torch.stack(logs, dim=1).cumsum(dim=1)
