"""Adversarial examples: the fast gradient sign method (1412.6572) and projected gradient descent (1706.06083).

Inputs are pixels in [0, 1], and epsilon is in the same units. An attack climbs the gain of each row inside a
ball about its input and inside the pixel range; what gain and success mean is the caller's. Rows do not touch
one another, and random starts hang on row numbers, so that a row's attack does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mad.config import require
from mad.stats.random import derive, normal, uniform

Norm = Literal["linf", "l2"]
Objective = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps (n, C, H, W) inputs to (n,) gains, which are climbed and must be differentiable, and (n,) bool successes."""

STEP = 2.5
"""Default step in units of epsilon / steps: the ball can be crossed, and its border reached from any start."""


@dataclass(frozen=True)
class Ball:
    """Perturbations up to a norm.

    Attributes:
        norm: ``linf``, the largest change of any pixel and channel, or ``l2``, over all of them.
        epsilon: the radius, in pixel units.
    """

    norm: Norm
    epsilon: float

    def sizes(self, change: Tensor) -> Tensor:
        """(n,) norms of (n, C, H, W) perturbations."""
        flat = change.flatten(1)
        return flat.abs().amax(dim=1) if self.norm == "linf" else flat.norm(dim=1)

    def project(self, change: Tensor) -> Tensor:
        """The nearest perturbations inside the ball."""
        if self.norm == "linf":
            return change.clamp(-self.epsilon, self.epsilon)
        shrunk = self.epsilon / self.sizes(change).clamp(min=self.epsilon)
        return change * shrunk[:, None, None, None]

    def direction(self, gradient: Tensor) -> Tensor:
        """The perturbations of norm 1 along which a linear gain grows fastest; 0 where the gradient is."""
        if self.norm == "linf":
            return gradient.sign()
        flat = gradient.flatten(1)
        # Scaled first: the squares of a sure model's gradients underflow.
        least = torch.finfo(flat.dtype).tiny
        flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp(min=least)
        return (flat / flat.norm(dim=1, keepdim=True).clamp(min=least)).view_as(gradient)

    def draw(self, seed: int, rows: Tensor, like: Tensor) -> Tensor:
        """Perturbations drawn uniformly from the ball, (n, C, H, W), for (n,) row numbers."""
        count = like[0].numel()
        if self.norm == "linf":
            drawn = (2 * uniform(seed, rows, count) - 1) * self.epsilon
        else:
            drawn = normal(seed, rows, count)
            radius = uniform(derive(seed, "radius"), rows, 1) ** (1 / count) * self.epsilon
            drawn = drawn / drawn.norm(dim=1, keepdim=True) * radius
        return drawn.to(like).view_as(like)

    def around(self, x: Tensor, change: Tensor) -> Tensor:
        """Inputs moved by perturbations, brought back into the ball and into [0, 1]."""
        return (x + self.project(change)).clamp(0, 1)  # the clamp only shortens: x is in the range itself


@dataclass(frozen=True)
class Attacked:
    """What an attack found.

    Attributes:
        inputs: (n, C, H, W), the best input of each row: one that succeeds, if there is any, then the larger gain.
        gain: (n,) its gain.
        success: (n,) bool.
    """

    inputs: Tensor
    gain: Tensor
    success: Tensor

    def or_better(self, other: Attacked) -> Attacked:
        """Row by row the better of two; the first of equals."""
        larger = other.gain > self.gain
        better = (other.success & ~self.success) | ((other.success == self.success) & larger)
        return Attacked(
            torch.where(better[:, None, None, None], other.inputs, self.inputs),
            torch.where(better, other.gain, self.gain),
            self.success | other.success,
        )


def fgsm(objective: Objective, x: Tensor, ball: Ball) -> Attacked:
    """One step of length epsilon from the input itself (1412.6572; for l2 along the gradient).

    Args:
        objective: see ``Objective``.
        x: (n, C, H, W) in [0, 1].
        ball: allowed perturbations.
    """
    gradient, _ = _climb(objective, x)
    return _judge(objective, ball.around(x, ball.epsilon * ball.direction(gradient)))


def pgd(
    objective: Objective,
    x: Tensor,
    ball: Ball,
    rows: Tensor,
    seed: int,
    steps: int = 40,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
) -> Attacked:
    """Projected gradient steps (1706.06083), the best input of all steps and restarts kept.

    A further restart changes no earlier one, so that more restarts never succeed on fewer rows.

    Args:
        objective: see ``Objective``.
        x: (n, C, H, W) in [0, 1].
        ball: allowed perturbations.
        rows: (n,) int64, what the random starts hang on besides the seed.
        seed: of the random starts.
        steps: gradient steps of each restart.
        step_size: norm of a step, in pixel units (default: 2.5 epsilon / steps).
        restarts: starting points.
        random_start: start anywhere in the ball, not at the input itself.

    Raises:
        ConfigError: counts below 1, or several restarts from the same point.
    """
    require(steps >= 1 and restarts >= 1, f"steps and restarts must be 1 or more, got {steps} and {restarts}")
    require(random_start or restarts == 1, f"{restarts} restarts need random_start: without it they are the same")
    size = STEP * ball.epsilon / steps if step_size is None else step_size
    best: Attacked | None = None
    for restart in range(restarts):
        start = ball.draw(derive(seed, "restart", restart), rows, x) if random_start else torch.zeros_like(x)
        current = ball.around(x, start)
        for _ in range(steps):
            gradient, found = _climb(objective, current)
            best = found if best is None else best.or_better(found)
            current = ball.around(x, current - x + size * ball.direction(gradient))
        last = _judge(objective, current)
        best = last if best is None else best.or_better(last)
    assert best is not None
    return best


def _climb(objective: Objective, x: Tensor) -> tuple[Tensor, Attacked]:
    """The gradient of each row's gain, and how good the inputs are as they stand."""
    with torch.enable_grad():
        moving = x.detach().requires_grad_()
        gain, success = objective(moving)
        (gradient,) = torch.autograd.grad(gain.sum(), moving)
    return gradient, Attacked(x, gain.detach(), success)


def _judge(objective: Objective, x: Tensor) -> Attacked:
    with torch.no_grad():
        gain, success = objective(x)
    return Attacked(x, gain, success)
