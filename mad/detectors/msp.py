"""Maximum softmax probability (1610.02136): how far the model is from sure of its answer.

With logits z at temperature T::

    score(h) = 1 - max_i softmax(z / T)_i

It needs no features and nothing is learnt: trusted rows only say how many outputs there are.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mad.config import require
from mad.detectors._outputs import OutputDetector, msp


@dataclass(frozen=True)
class Config:
    """Maximum softmax probability."""

    temperature: float = 1.0
    """Divisor of the logits, above 0 (published: 1; large values are those of ODIN, 1706.02690)."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.temperature > 0, f"temperature must be above 0, got {self.temperature}")


class Detector(OutputDetector):
    """One minus the largest class probability, in [0, 1), resolved also where that probability rounds to 1.

    Raises:
        FitError: rows without logits, or with another number of outputs than the trusted ones.
    """

    config: Config

    def score_outputs(self, x: Tensor) -> Tensor:
        """(m,) scores of (m, k) logits."""
        return msp(x, self.config.temperature)
