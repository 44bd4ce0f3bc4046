"""Free energy of the logits (2010.03759), the negative log of an unnormalised density that a classifier implies.

With logits z at temperature T::

    score(h) = -T log sum_i exp(z_i / T)

It needs no features and nothing is learnt: trusted rows only say how many outputs there are.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mad.config import require
from mad.detectors._outputs import OutputDetector, energy


@dataclass(frozen=True)
class Config:
    """Free energy."""

    temperature: float = 1.0
    """T, above 0 (published: 1); toward 0 the score becomes the negative largest logit."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.temperature > 0, f"temperature must be above 0, got {self.temperature}")


class Detector(OutputDetector):
    """Free energy of the logits.

    Raises:
        FitError: rows without logits, or with another number of outputs than the trusted ones.
    """

    config: Config

    def score_outputs(self, x: Tensor) -> Tensor:
        """(m,) scores of (m, k) logits."""
        return energy(x, self.config.temperature)
