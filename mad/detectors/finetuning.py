"""How far fine-tuning on trusted rows moves the model's answer.

A copy of the model is trained on trusted inputs to answer as the model does: each target is the class that the
model predicts. Mechanisms that trusted rows use are kept, others are forgotten::

    score(x) = KL(answer of the model || answer of the copy) at x

Both are in eval mode throughout: no dropout, and batch normalisation by the statistics it has.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from mad.config import require
from mad.detectors._base import Batch, Population, State, check_finite, predicted_class
from mad.detectors._population import NO_LOGITS
from mad.detectors._training import Objective, Step, TrainedDetector, check_training
from mad.errors import FitError
from mad.stats.divergence import bernoulli_kl, kl

COPY = "copy/"
SCORED = 512  # rows at once


@dataclass(frozen=True)
class Config:
    """Fine-tuning."""

    answer: Literal["class", "labels"] = "class"
    """What the logits say: one class of several, or yes or no to each of several labels (multilabel head). A single
    logit is yes or no either way."""

    epochs: int = 20
    """Passes over the trusted rows, at least 1."""

    batch_size: int = 32
    """Rows per gradient step, over all workers together, at least 1."""

    lr: float = 3e-3
    """Learning rate of Adam, above 0: too small, and nothing is forgotten; too large, and everything is."""

    weight_decay: float = 0.0
    """Decoupled weight decay of Adam, not negative."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.answer in ("class", "labels"), f"answer must be class or labels, got {self.answer}")
        check_training(self)


class Detector(TrainedDetector):
    """Divergence of the fine-tuned copy from the model, as the one score ``output``.

    State: ``copy/<name>`` for every parameter and buffer of the copy. Scoring takes the answers of the model from
    the logits of the rows, and of the model itself its structure only: its own weights never enter.

    Raises:
        FitError: no model, inputs or logits; values that are not finite; a model that the copy does not fit.
    """

    needs = frozenset({"logits", "model"})
    config: Config

    def objectives(self, populations: dict[str, Population], seed: int) -> dict[str, Objective]:
        """The loss of the copy."""
        return {"": Imitation(populations["trusted"], self._model(), self.config)}

    def _model(self) -> nn.Module:
        if self.subject is None:
            raise FitError("fine-tuning needs the model: set the detector's subject first")
        model = self.subject.model
        return copy.deepcopy(model).eval() if any(part.training for part in model.modules()) else model

    def score(self, batch: Batch) -> dict[str, Tensor]:
        tuned = self.tensors(COPY)
        logits, inputs = _logits(batch), _inputs(batch)
        model = self._model()
        _check_fits(model, tuned)
        device = next(iter(model.parameters())).device
        # On a CPU in float64: there it costs little, and a score depends the less on what else is in its batch.
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        weights = {name: t.to(device, dtype if t.is_floating_point() else t.dtype) for name, t in tuned.items()}
        parts = [_call(model, weights, x.to(device, dtype)) for x in inputs.split(SCORED)]
        answers = torch.cat(parts).double().cpu()
        if answers.shape != logits.shape:
            raise FitError(f"logits have width {logits.shape[1]}, the model gives width {answers.shape[1]}")
        check_finite(answers, "logits of the fine-tuned model")
        divergence = bernoulli_kl if self.config.answer == "labels" else kl
        return {"output": divergence(logits.double().cpu(), answers)}


class Imitation(Objective):
    """Cross-entropy of the copy's answers against the classes that the model predicts.

    Trusted inputs are held in memory: the order of an epoch runs through all of them.
    """

    def __init__(self, trusted: Population, model: nn.Module, config: Config):
        self.config, self._model = config, model
        logits = trusted.logits()
        check_finite(logits, "trusted logits")
        self._inputs = torch.cat([_inputs(batch).cpu() for batch in trusted.batches])
        check_finite(self._inputs, "trusted inputs")
        self._targets = (logits > 0).float() if _is_binary(config, logits) else predicted_class(logits)
        self.rows = len(logits)
        self.initial = {COPY + name: p.detach() for name, p in model.named_parameters()}
        self.constants = {COPY + name: b.detach() for name, b in model.named_buffers()}

    def losses(self, weights: State, step: Step) -> Tensor:
        """(m,) cross-entropies; of yes-or-no answers, summed over the labels."""
        if not len(step.rows):  # not every model takes a batch without rows
            return torch.zeros(0, device=step.group.device)
        buffers = {name: b.to(step.group.device) for name, b in self.constants.items()}
        tuned = {name.removeprefix(COPY): t for name, t in {**weights, **buffers}.items()}
        logits = _call(self._model, tuned, step.here(self._inputs)).float()
        targets = step.here(self._targets)
        if targets.is_floating_point():
            return binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1)
        return cross_entropy(logits, targets, reduction="none")


def _is_binary(config: Config, logits: Tensor) -> bool:
    return config.answer == "labels" or logits.shape[1] == 1


def _call(model: nn.Module, weights: State, x: Tensor) -> Tensor:
    """Logits of the model with other weights."""
    logits = functional_call(model, weights, (x,))
    if logits.ndim != 2:
        raise FitError(f"fine-tuning needs (rows, outputs) logits, the model gives {tuple(logits.shape)}")
    return logits


def _logits(batch: Batch) -> Tensor:
    if batch.logits is None:
        raise FitError(NO_LOGITS.format("these"))
    check_finite(batch.logits, "logits")
    return batch.logits


def _inputs(batch: Batch) -> Tensor:
    if batch.inputs is None:
        raise FitError("fine-tuning needs the inputs of the model, and these rows come without")
    inputs = batch.inputs()
    if len(inputs) != len(batch):
        raise FitError(f"{len(inputs)} inputs for {len(batch)} rows")
    return inputs


def _check_fits(model: nn.Module, tuned: State) -> None:
    own = {name: tuple(t.shape) for name, t in (*model.named_parameters(), *model.named_buffers())}
    given = {name: tuple(t.shape) for name, t in tuned.items()}
    if own != given:
        name = next(n for n in sorted({*own, *given}) if own.get(n) != given.get(n))
        raise FitError(
            f"the fine-tuned copy is of another model: '{name}' is {given.get(name)}, here {own.get(name)} "
            "(None: absent)"
        )
