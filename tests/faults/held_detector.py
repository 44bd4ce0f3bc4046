"""A detector for sweeps under faults: a Mahalanobis distance whose fit is written into a journal and may be held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mad import LayerwiseDetector
from tests.faults.holding import Journal


@dataclass(frozen=True)
class Config:
    """Which configuration it is, and where it is written down."""

    number: int = 1
    """names the configuration; the shrinkage is a hundredth of it"""
    journal: str = ""
    """folder"""


class Detector(LayerwiseDetector):
    """Distance from the trusted mean in the trusted covariance, shrunk towards the identity."""

    config: Config

    def fit(self, populations: dict[str, Any], seed: int, report: Any = None) -> None:
        journal = Journal(self.config.journal)
        journal.write("begun", self.config.number)
        journal.pass_by(str(self.config.number))
        super().fit(populations, seed, report)
        journal.write("done", self.config.number)

    def fit_layer(self, layer: str, populations: dict[str, Any], seed: int) -> dict[str, Tensor]:
        moments, share = populations["trusted"].moments(layer), self.config.number / 100
        identity = torch.eye(len(moments.mean), dtype=moments.mean.dtype)
        factor = torch.linalg.cholesky((1 - share) * moments.covariance() + share * identity)
        return {"mean": moments.mean, "factor": factor}

    def score_layer(self, state: dict[str, Tensor], h: Tensor, classes: Tensor | None) -> Tensor:
        centred = (h.double() - state["mean"].double()).T
        return torch.linalg.solve_triangular(state["factor"].double(), centred, upper=False).square().sum(dim=0)
