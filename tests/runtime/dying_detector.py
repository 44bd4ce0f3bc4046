"""A detector that kills its process where it is told to: what a configuration that asks for too much memory does."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import torch

from mad.detectors._base import LayerwiseDetector


@dataclass(frozen=True)
class Config:
    """Distance along one axis."""

    axis: int = 0
    """coordinate that is read"""
    dies: bool = False
    """whether fitting kills the process"""


class Detector(LayerwiseDetector):
    """The absolute value of one coordinate."""

    def fit_layer(self, layer, populations, seed):
        if self.config.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"axis": torch.tensor(self.config.axis)}

    def score_layer(self, state, h, classes):
        return h[:, int(state["axis"])].abs().double()
