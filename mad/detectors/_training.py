"""Training a detector by gradient steps: alone or as one of a group of processes, resumable after any epoch.

A batch is drawn from the seed and the number of the epoch alone and dealt out row by row, gradients are summed
over the group, and random numbers are addressed by epoch and row. So one process gives the same bytes every
time, from the start or resumed, and a group gives the same detector up to rounding.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from mad.config import require
from mad.detectors._base import Detector, Population, Report, State, check_population
from mad.errors import FitError
from mad.stats.random import derive, generator


class Group(Protocol):
    """The processes that train together, as one of them sees it; with several, torch.distributed is set up."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""

    @property
    def world_size(self) -> int:
        """Number of processes."""

    @property
    def device(self) -> str:
        """Where this process computes."""


@dataclass(frozen=True)
class Alone:
    """A group of one."""

    device: str = "cpu"
    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True)
class Step:
    """One worker's part of a gradient step.

    Attributes:
        rows: (m,) numbers of the worker's rows, on the CPU; empty where a small batch does not go round.
        size: rows of the whole batch, over all workers.
        seed: of the random numbers of this epoch, which are to be addressed by row.
        group: the workers.
    """

    rows: Tensor
    size: int
    seed: int
    group: Group

    def here(self, x: Tensor) -> Tensor:
        """The worker's rows of a tensor that has all of them, where the worker computes."""
        return x[self.rows].to(self.group.device)

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over the workers, without gradient; all of them must call it."""
        values = values.detach()
        if self.group.world_size > 1:
            values = values.contiguous().clone()
            dist.all_reduce(values)
        return values


class Objective(ABC):
    """What is minimised: the mean over rows of a loss per row.

    Attributes:
        rows: number of rows.
        constants: tensors of the state that are not trained.
        initial: float tensors of the state that are, as they are at first.
    """

    rows: int
    constants: State
    initial: State

    @abstractmethod
    def losses(self, weights: State, step: Step) -> Tensor:
        """(m,) losses of the rows of a step, differentiable in the weights."""


@dataclass(frozen=True)
class Epoch:
    """A finished epoch, and all that going on from it takes.

    Attributes:
        number: counted from 1.
        loss: mean over the rows, summed over the objectives.
        state: of the detector.
        optimizer: of Adam: ``<tensor>/<what>``.
    """

    number: int
    loss: float
    state: State
    optimizer: State


class TrainedDetector(Detector):
    """A detector whose config has ``epochs``, ``batch_size``, ``lr`` and perhaps ``weight_decay``."""

    trains_in_epochs = True

    @abstractmethod
    def objectives(self, populations: dict[str, Population], seed: int) -> dict[str, Objective]:
        """What is trained, by the prefix of its tensors in the state; each is trained by itself, side by side."""

    def train(
        self, populations: dict[str, Population], seed: int, group: Group | None = None, before: Epoch | None = None
    ) -> Iterator[Epoch]:
        """Train epoch by epoch; after each, ``state`` is that of the epoch.

        Args:
            populations: by name.
            seed: of weights, order and noise.
            group: the processes that train together; by default this one, on the CPU.
            before: the epoch to go on from.

        Raises:
            FitError: unusable rows, or a loss that is no longer finite.
        """
        group = group or Alone()
        for name in self.fits_on:
            check_population(populations, name)
        objectives = self.objectives(populations, seed)
        runs = {p: _Run(p, o, self.config, derive(seed, "training", p), group) for p, o in objectives.items()}
        if before is not None:
            self.state = before.state
            for run in runs.values():
                run.restore(before)
        for number in range(before.number + 1 if before else 1, self.config.epochs + 1):
            loss = sum(run.epoch(number) for run in runs.values())
            self.state = {k: t for run in runs.values() for k, t in run.state().items()}
            optimizer = {k: t for run in runs.values() for k, t in run.optimizer_state().items()}
            yield Epoch(number, loss, self.state, optimizer)

    def fit(self, populations: dict[str, Population], seed: int, report: Report | None = None) -> None:
        for epoch in self.train(populations, seed):
            if report is not None:
                report(epoch.number, epoch.state)

    def tensors(self, prefix: str = "") -> State:
        """The tensors of the state that begin with a prefix, without it.

        Raises:
            FitError: the detector is not fitted.
        """
        if not self.state:
            raise FitError(f"{type(self).__module__.rsplit('.', 1)[-1]} is not fitted: call fit first")
        return {name.removeprefix(prefix): t for name, t in self.state.items() if name.startswith(prefix)}


def check_training(config: Any) -> None:
    """Check the options of the loop.

    Raises:
        ConfigError: a value out of range.
    """
    for name in ("epochs", "batch_size"):
        require(getattr(config, name) >= 1, f"{name} must be at least 1, got {getattr(config, name)}")
    require(config.lr > 0, f"lr must be above 0, got {config.lr}")
    decay = getattr(config, "weight_decay", 0.0)
    require(decay >= 0, f"weight_decay must not be negative, got {decay}")


class _Run:
    """The weights of one objective on their way, with Adam (1412.6980, decoupled decay: 1711.05101)."""

    def __init__(self, prefix: str, objective: Objective, config: Any, seed: int, group: Group):
        self.prefix, self.objective, self.config, self.seed, self.group = prefix, objective, config, seed, group
        self.weights = {
            name: t.detach().to(group.device, copy=True).requires_grad_() for name, t in objective.initial.items()
        }
        decay = getattr(config, "weight_decay", 0.0)
        self.optimizer = torch.optim.AdamW(self.weights.values(), config.lr, weight_decay=decay)

    def epoch(self, number: int) -> float:
        """One pass over the rows; returns the mean loss."""
        order = torch.randperm(self.objective.rows, generator=generator(self.seed, "order", number))
        noise = derive(self.seed, "noise", number)
        total = torch.zeros((), dtype=torch.float64, device=self.group.device)
        # Of equal size, give or take a row: a remainder would weigh as much as a whole batch.
        for batch in order.tensor_split(math.ceil(len(order) / self.config.batch_size)):
            mine = batch[self.group.rank :: self.group.world_size]
            total += self._step(Step(mine, len(batch), noise, self.group)) * len(batch)
        loss = float(total) / self.objective.rows
        if not math.isfinite(loss) or not all(bool(torch.isfinite(w).all()) for w in self.weights.values()):
            where = f"layer '{self.prefix[:-1]}': " if self.prefix else ""
            raise FitError(f"{where}the loss of epoch {number} is not finite: lower lr ({self.config.lr})")
        return loss

    def _step(self, step: Step) -> Tensor:
        """Move the weights; returns the mean loss of the whole batch."""
        weights = list(self.weights.values())
        loss = self.objective.losses(self.weights, step).sum() / step.size
        gradients = (
            torch.autograd.grad(loss, weights, materialize_grads=True)
            if loss.requires_grad  # it does not where there are no rows
            else [torch.zeros_like(w) for w in weights]
        )
        summed = step.total(torch.cat([loss.detach()[None], *(g.flatten() for g in gradients)]))
        for weight, gradient in zip(weights, summed[1:].split([w.numel() for w in weights]), strict=True):
            weight.grad = gradient.view_as(weight).to(weight.dtype)
        self.optimizer.step()
        return summed[0].double()

    def state(self) -> State:
        """A copy of the constants and weights, named as in the detector's state, on the CPU."""
        both = {**self.objective.constants, **self.weights}
        return {self.prefix + name: t.detach().to("cpu", copy=True).contiguous() for name, t in both.items()}

    def optimizer_state(self) -> State:
        """A copy of what Adam remembers, on the CPU."""
        return {
            f"{self.prefix}{name}/{what}": t.detach().to("cpu", copy=True).contiguous()
            for name, weight in self.weights.items()
            for what, t in self.optimizer.state[weight].items()
        }

    def restore(self, before: Epoch) -> None:
        """Take weights and optimiser from a finished epoch."""
        for name, weight in self.weights.items():
            weight.data.copy_(before.state[self.prefix + name])
            start = f"{self.prefix}{name}/"
            kept = {k.removeprefix(start): t for k, t in before.optimizer.items() if k.startswith(start)}
            # Adam keeps its count of steps, which has no dimensions, on the CPU.
            moved = {k: t.to(weight.device if t.ndim else "cpu", copy=True) for k, t in kept.items()}
            self.optimizer.state[weight] = moved
