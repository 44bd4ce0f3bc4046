"""The auditing test of scores that come in batch by batch, while the models still answer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from mad.errors import DataError
from mad.stages._judged_pairs import score_columns
from mad.stages._sequential_audit import (
    Auditor,
    Options,
    Step,
    Units,
    check_range,
    joined,
    make_trace,
    random_order,
    units_of,
)

SIDES = ("baseline", "candidate")


class Shares(NamedTuple):
    """How the prompts are dealt out.

    Attributes:
        rows: numbers of the prompts in the order in which they are asked, those of a cluster together.
        ends: one past the last of ``rows`` in each batch.
    """

    rows: np.ndarray
    ends: np.ndarray

    def batch(self, number: int) -> np.ndarray:
        """Numbers of the prompts in a batch."""
        return self.rows[self.ends[number - 1] if number else 0 : self.ends[number]]


def deal(prompts: pd.DataFrame, options: Options, seed: int) -> Shares:
    """Batches of ``batch_size`` clusters, in the order of the prompts or in one drawn by the seed.

    Args:
        prompts: with a column ``cluster``.
        options: of the audit.
        seed: of the order.

    Raises:
        DataError: fewer clusters than a batch.
    """
    codes, names = pd.factorize(prompts["cluster"])
    if len(names) < options.batch_size:
        told = f"{len(prompts)} prompts make {len(names)} independent units, fewer than a batch"
        raise DataError(f"{told}: give more, or a batch_size below {options.batch_size}")
    place = np.arange(len(names))
    if options.shuffle:
        place = random_order(len(names), seed).argsort().numpy()
    rows = np.argsort(place[codes], kind="stable")
    last = np.searchsorted(place[codes][rows], np.arange(len(names)), side="right")
    return Shares(rows, last[[*range(options.batch_size - 1, len(names) - 1, options.batch_size), len(names) - 1]])


class StreamedTest:
    """A test fed with scored prompts; it bets once ``batch_size`` independent units have both scores.

    The same scores all at once, in the same order, give the same trace: see :func:`mad.stages._sequential_audit.walk`.

    Args:
        options: how it is tested.
        seed: of the bet.

    Attributes:
        missing: pairs seen so far that lack a score, in all and by side.
    """

    def __init__(self, options: Options, seed: int):
        self.options, self.auditor = options, Auditor(options, seed)
        self.missing = dict.fromkeys(("missing", *(f"missing_{side}" for side in SIDES)), 0)
        self._waiting: list[pd.DataFrame] = []
        self._seen: list[Units] = []
        self._steps: list[Step] = []

    @property
    def decided(self) -> bool:
        """Whether there is a verdict to stop at."""
        return self.auditor.decided

    def take(self, rows: pd.DataFrame) -> None:
        """Take in scored prompts, whole clusters of them: ``cluster`` and the scores of both sides, NaN if missing.

        Raises:
            DataError: scores outside the declared range.
        """
        check_range(rows, self.options)
        absent = {side: rows[score_columns(rows, side)].isna().any(axis=1) for side in SIDES}
        either = absent["baseline"] | absent["candidate"]
        self.missing["missing"] += int(either.sum())
        for side in SIDES:
            self.missing[f"missing_{side}"] += int(absent[side].sum())
        self._waiting.append(rows[~either])
        self._bet(last=False)

    def finish(self) -> pd.DataFrame:
        """Bet on what is left, and give the trace, see :func:`mad.stages._sequential_audit.make_trace`.

        Raises:
            DataError: fewer units with both scores than a batch.
        """
        self._bet(last=True)
        if not self._steps or (len(self._steps) == 1 and self._seen[0].sizes.numel() < self.options.batch_size):
            count = sum(len(units.sizes) for units in self._seen)
            told = f"{count} prompts have both scores ({self.missing['missing']} pairs lack one), fewer than a batch"
            raise DataError(f"{told}: give more prompts, or a batch_size below {self.options.batch_size}")
        return make_trace(self._all(), joined(self._steps), self.options)

    def _bet(self, last: bool) -> None:
        waiting = pd.concat(self._waiting, ignore_index=True) if self._waiting else pd.DataFrame()
        size = self.options.batch_size
        while len(waiting) and not self.decided:
            codes, names = pd.factorize(waiting["cluster"])
            if len(names) < size and not last:
                break
            units = units_of(waiting[codes < size])
            self._steps.append(self.auditor.update(units))
            self._seen.append(units)
            waiting = waiting[codes >= size].reset_index(drop=True)
        self._waiting = [waiting] if len(waiting) else []

    def _all(self) -> Units:
        scores = self._seen[0].scores
        for units in self._seen[1:]:
            scores = scores.joined(units.scores)
        sizes = torch.cat([units.sizes for units in self._seen])
        return Units(scores, sizes, np.concatenate([units.names for units in self._seen]))
