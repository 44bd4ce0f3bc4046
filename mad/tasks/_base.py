"""What every task gives: a table of rows and the tensors the rows point to.

A task is a module with a frozen dataclass ``Config`` and two functions::

    def digest(config: Config) -> str             # content digest of the external data it reads
    def build(config: Config, seed: int) -> Rows  # the rows; the same seed gives the same rows anywhere

and, where they apply::

    def control_digest(config: Config) -> str     # of external data that only control rows are made of
    ATTACKED = True                               # anomalous rows are still clean inputs, for an attack to change
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch

PARTS = ("train", "trusted", "calibration", "untrusted", "validation", "test", "control")
COLUMNS = ("id", "part", "source", "variant", "label", "clean_label", "is_anomalous", "control")


@dataclass(frozen=True)
class Rows:
    """The rows of a task.

    Attributes:
        table: one line per row, columns ``COLUMNS``: ``id`` a stable unique string ``PART-NUMBER``, whose
            number names the untouched input in the whole data set; ``part`` one of ``PARTS``
            (``trusted`` is clean data a detector may fit, ``calibration`` is trusted data no detector ever
            fits, ``untrusted`` is an unlabelled mixture, ``control`` is new to the model but no anomaly: see
            ``mad.tasks._controls``); ``source`` index into ``inputs``; ``variant`` index
            into ``variants`` or -1 for the untouched input; ``label`` what the model is trained or attacked
            to answer (int); ``clean_label`` the true class, -1 where there is none; ``is_anomalous``;
            ``control`` the kind of a control row, "" for every other.
        inputs: (N, C, H, W) uint8, the untouched inputs.
        variants: (M, C, H, W) float32 in [0, 1], inputs with the trigger applied, decoys and control inputs.
        scale: ``inputs / scale`` lies in [0, 1].
        class_names: one name per class.
        facts: plain JSON that reports show (poison rate realised, target class, counts, ...).
        state: tensors that define the trigger (pattern, field), kept so that it can be shown and replayed; those of
            the control trigger have ``control_`` before their names.
    """

    table: pd.DataFrame
    inputs: torch.Tensor
    variants: torch.Tensor
    scale: float
    class_names: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    state: dict[str, torch.Tensor] = field(default_factory=dict)
