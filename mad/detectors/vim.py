"""Virtual-logit matching (2203.10807): what leaves the trusted subspace, weighed against the logits.

With the head W, b, the origin o = -W^+ b (there all logits are equal to 0 or as near as can be), R the directions
of least second moment of the trusted p - o, and z = W p + b::

    score(h) = alpha |R'(p - o)| - log sum_i exp(z_i)
    alpha = mean max_i z_i / mean |R'(p - o)|    over trusted rows

so that the residual counts as one more logit, on the scale of the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mad.config import require
from mad.detectors._base import State
from mad.detectors._outputs import HeadDetector, apply_head, energy, max_logit
from mad.errors import FitError
from mad.stats.gaussian import Moments, blocks

RANK_TOLERANCE = 1e-10  # second moments below this part of the largest are rounding of float32 features


@dataclass(frozen=True)
class Config:
    """Virtual-logit matching."""

    dim: int | None = None
    """Dimensions of the principal subspace, at least 1 and below those that trusted rows span. Default: 1000 from
    1500 units on and 512 from 768 on, as published; half the units below; half the span where that is less."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.dim is None or self.dim >= 1, f"dim must be at least 1, got {self.dim}")


class Detector(HeadDetector):
    """Scaled norm of the residual, plus the free energy of the logits.

    State, float64: ``origin`` (d,), ``residual`` (d, d - dim) and ``alpha`` (), beside the head.

    Raises:
        FitError: the model ends in no linear layer, rows carry no penultimate features, trusted rows leave no
            residual, or their largest logits are negative on average.
    """

    config: Config

    def fit_head(self, x: Tensor, head: State) -> State:
        """Origin, residual directions and scale of (n, d) trusted features."""
        origin = -torch.linalg.pinv(head["weight"]) @ head["bias"]
        moments = Moments.of([x])
        offset = moments.mean - origin
        values, vectors = torch.linalg.eigh(torch.addr(moments.covariance(), offset, offset))
        span = int((values > RANK_TOLERANCE * values[-1]).sum())
        residual = vectors[:, : len(origin) - self._dim(len(origin), span)].contiguous()
        norm = torch.cat([_norms(rows, origin, residual) for rows in blocks([x])]).mean()
        largest = torch.cat([-max_logit(apply_head(head, rows)) for rows in blocks([x])]).mean()
        if not largest > 0:
            raise FitError(
                f"the largest logit of trusted rows is {float(largest):.3g} on average: vim needs it above 0"
            )
        return {"origin": origin, "residual": residual, "alpha": largest / norm}

    def _dim(self, width: int, span: int) -> int:
        published = 1000 if width >= 1500 else 512 if width >= 768 else width // 2
        dim = self.config.dim or (published if published < span else span // 2)
        if not 1 <= dim < span:
            raise FitError(f"trusted penultimate features span {span} directions: dim {dim} leaves no residual")
        return dim

    def score_outputs(self, x: Tensor) -> Tensor:
        """(m,) scores of (m, d) penultimate features."""
        residual = _norms(x, self.state["origin"], self.state["residual"])
        return self.state["alpha"] * residual + energy(apply_head(self.state, x))


def _norms(x: Tensor, origin: Tensor, residual: Tensor) -> Tensor:
    return ((x - origin) @ residual).norm(dim=1)
