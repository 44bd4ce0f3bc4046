"""Rectified activations (2111.12797): logits recomputed after large penultimate activations are clipped.

With c a percentile of the trusted penultimate activations, all units pooled, and the head W, b::

    score(h) = s(W min(p, c) + b),    s the energy, the softmax probability or the largest logit

Unusual inputs often drive a few units far beyond what trusted ones do, and look sure for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mad.config import require
from mad.detectors._base import State
from mad.detectors._outputs import HeadDetector, apply_head, energy, max_logit, msp


@dataclass(frozen=True)
class Config:
    """Rectified activations."""

    percentile: float = 90.0
    """Trusted activations at or below the clip, percent; above 0 and at most 100."""

    score: Literal["energy", "msp", "max_logit"] = "energy"
    """Score of the logits after clipping (published: ``energy``)."""

    temperature: float = 1.0
    """Divisor of the logits in ``energy`` and ``msp``, above 0."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(0 < self.percentile <= 100, f"percentile must be above 0 and at most 100, got {self.percentile}")
        require(self.temperature > 0, f"temperature must be above 0, got {self.temperature}")


class Detector(HeadDetector):
    """A score of the logits of clipped penultimate features.

    State: ``threshold`` (), the clip, float64, beside the head.

    Raises:
        FitError: the model ends in no linear layer, or rows carry no penultimate features.
    """

    config: Config

    def fit_head(self, x: Tensor, head: State) -> State:
        """The percentile of (n, d) activations, interpolated between the two nearest."""
        values = x.detach().cpu()
        values = values if values.dtype in (torch.float32, torch.float64) else values.float()
        return {"threshold": torch.tensor(float(np.percentile(values.numpy(), self.config.percentile))).double()}

    def score_outputs(self, x: Tensor) -> Tensor:
        """(m,) scores of (m, d) penultimate features."""
        logits = apply_head(self.state, torch.minimum(x, self.state["threshold"]))
        if self.config.score == "max_logit":
            return max_logit(logits)
        return (msp if self.config.score == "msp" else energy)(logits, self.config.temperature)
