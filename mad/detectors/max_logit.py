"""Largest logit (1911.11132): a model has no large logit for what it has not seen.

With logits z::

    score(h) = -max_i z_i

Unlike a probability it does not fall where several classes are likely at once. It needs no features and nothing
is learnt: trusted rows only say how many outputs there are.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mad.detectors._outputs import OutputDetector, max_logit


@dataclass(frozen=True)
class Config:
    """Largest logit; there is nothing to set."""


class Detector(OutputDetector):
    """Negative largest logit.

    Raises:
        FitError: rows without logits, or with another number of outputs than the trusted ones.
    """

    config: Config

    def score_outputs(self, x: Tensor) -> Tensor:
        """(m,) scores of (m, k) logits."""
        return max_logit(x)
