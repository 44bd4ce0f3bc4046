"""Scores of a classifier's outputs, and what detectors share that read its last layer only.

Of the logits z of one row, at temperature T; larger is more anomalous::

    msp(z) = 1 - max_i softmax(z / T)_i
    max_logit(z) = - max_i z_i
    energy(z) = - T log sum_i exp(z_i / T)
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mad.detectors._base import Batch, Detector, Population, Report, State, check_finite
from mad.detectors._population import NO_LOGITS, NO_PENULTIMATE
from mad.errors import FitError
from mad.stats.gaussian import blocks


def two_sided(logits: Tensor) -> Tensor:
    """(n, k) float64 logits; a single logit z, of a binary head, becomes the pair (-z/2, z/2).

    Both have the same probabilities as (0, z), but only here are the two classes alike: against 0 a row that is
    surely of the first class has a largest logit as low as an unsure one.
    """
    z = logits.double()
    return torch.cat([-z / 2, z / 2], dim=1) if z.shape[1] == 1 else z


def msp(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """(n,) one minus the largest softmax probability of (n, k) logits.

    It is the sum of the other probabilities that is taken: 1 - p rounds to 0 for every row of which the model is
    sure, and such rows would tie.
    """
    z = two_sided(logits) / temperature
    others = z.scatter(1, z.argmax(dim=1, keepdim=True), float("-inf"))
    return (torch.logsumexp(others, dim=1) - torch.logsumexp(z, dim=1)).exp()


def max_logit(logits: Tensor) -> Tensor:
    """(n,) negative largest of (n, k) logits."""
    return -two_sided(logits).amax(dim=1)


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """(n,) free energy of (n, k) logits."""
    return -temperature * torch.logsumexp(two_sided(logits) / temperature, dim=1)


class OutputDetector(Detector):
    """A detector that reads one matrix of a batch: the logits, or the penultimate features.

    It gives one score, ``output``. State: ``width`` (), the columns of that matrix, and what ``fit_outputs`` adds.
    """

    needs = frozenset({"logits"})
    reads: ClassVar[Literal["logits", "penultimate"]] = "logits"

    def fit_outputs(self, x: Tensor) -> State:
        """Tensors learnt from the (n, d) matrix of the trusted rows."""
        return {}

    @abstractmethod
    def score_outputs(self, x: Tensor) -> Tensor:
        """Score (m, d) float64 rows of the matrix: (m,) float64."""

    def fit(self, populations: dict[str, Population], seed: int, report: Report | None = None) -> None:
        trusted = populations.get("trusted")
        x = getattr(trusted, self.reads)() if trusted is not None and len(trusted.batches) else torch.empty(0, 0)
        if len(x) < 2:
            raise FitError(f"trusted rows: {len(x)} given, at least 2 needed")
        check_finite(x, f"trusted {self.reads}")
        self.state = {"width": torch.tensor(x.shape[1])} | self.fit_outputs(x)

    def score(self, batch: Batch) -> dict[str, Tensor]:
        if "width" not in self.state:
            raise FitError(f"{type(self).__module__.rpartition('.')[2]} is not fitted: call fit first")
        x = getattr(batch, self.reads)
        if x is None:
            raise FitError((NO_LOGITS if self.reads == "logits" else NO_PENULTIMATE).format("these"))
        check_finite(x, self.reads)
        width = int(self.state["width"])
        if x.shape[1] != width:
            raise FitError(f"{self.reads} have width {x.shape[1]}, fitted on width {width}")
        parts = [self.score_outputs(rows) for rows in blocks([x])]
        return {"output": torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)}


class HeadDetector(OutputDetector):
    """An output detector that reads penultimate features and computes logits from them by the model's head.

    State: also ``weight`` (k, d) and ``bias`` (k,), float64, a copy of the head.
    """

    needs = frozenset({"head"})
    reads = "penultimate"

    @abstractmethod
    def fit_head(self, x: Tensor, head: State) -> State:
        """Tensors learnt from (n, d) trusted penultimate features and the head."""

    def fit_outputs(self, x: Tensor) -> State:
        """A copy of the head, and what ``fit_head`` learns with it."""
        if self.subject is None:
            raise FitError("the head of the model is needed: set the detector's subject first")
        weight, bias = (t.detach().to(x.device, torch.float64, copy=True) for t in self.subject.head)
        if weight.shape[1] != x.shape[1]:
            raise FitError(f"trusted penultimate have width {x.shape[1]}, the head reads width {weight.shape[1]}")
        head = {"weight": weight.contiguous(), "bias": bias.contiguous()}
        return head | self.fit_head(x, head)


def apply_head(state: State, x: Tensor) -> Tensor:
    """(m, k) logits of (m, d) float64 penultimate features."""
    return torch.addmm(state["bias"], x, state["weight"].T)
