"""Probability that a sequence classifier gives to one of its labels, chosen by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from mad.behaviors._base import MISSING, Item, Judge, Part, is_empty, part_of
from mad.behaviors._local_model import ModelJudge, ModelOptions, model_identity
from mad.config import require
from mad.errors import ConfigError


@dataclass(frozen=True)
class ClassifierOptions(ModelOptions):
    """The classifier, its label, and how a long or empty answer is dealt with."""

    label: str = ""
    """Name of the label whose probability is the score, as the model's id2label spells it."""

    activation: Literal["auto", "softmax", "sigmoid"] = "auto"
    """How logits become probabilities: softmax (one label is true), sigmoid (each may be), or auto (sigmoid if the
    model says it is multi-label or has one logit, else softmax)."""

    text: Part = "output"
    """What is read: the answer alone, or the prompt with the answer as its continuation."""

    long: Literal["truncate", "windows"] = "truncate"
    """What is read of a text longer than the context: its beginning, or all of it in overlapping windows, of which the
    highest score counts."""

    empty_score: float | None = None
    """Score of an empty answer, in [0, 1]; null leaves it missing."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value is out of range.
        """
        super().__post_init__()
        require(bool(self.label), "label: name the label whose probability is the score")
        empty = self.empty_score
        require(empty is None or 0 <= empty <= 1, f"empty_score must be in [0, 1] or null, got {empty}")


class ClassifierJudge(ModelJudge):
    """Scores by the probability of the label.

    Raises:
        ConfigError: the model is absent or has no such label.
    """

    def __init__(self, config: ClassifierOptions, device: str) -> None:
        super().__init__(config, device, "classifier")
        self.config = config
        self.column = label_column(self.model.config.id2label, config.label, config.model)
        self.sigmoid = _is_sigmoid(config.activation, self.model.config)

    def __call__(self, items: Sequence[Item]) -> np.ndarray:
        empty = MISSING if self.config.empty_score is None else self.config.empty_score
        scores = np.full(len(items), empty)
        read = np.array([i for i, item in enumerate(items) if not is_empty(item.output)], dtype=np.int64)
        self.counts["empty"] += len(items) - len(read)
        texts = [part_of(items[i], self.config.text) for i in read]
        if self.config.long == "windows":
            sequences, owners = self.windows(texts)
            highest = np.zeros(len(texts))
            np.maximum.at(highest, np.array(owners, dtype=np.int64), self.probabilities(sequences))
            scores[read] = highest
        else:
            scores[read] = self.probabilities(self.beginnings(texts))
        return scores

    @torch.inference_mode()
    def probabilities(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """Probability of the label for each token sequence, (n,) float64."""
        found = np.empty(len(sequences))
        for batch in self.batches(sequences):
            logits = self.model(input_ids=batch.tokens, attention_mask=batch.mask).logits.double()
            share = logits.sigmoid() if self.sigmoid else logits.softmax(dim=1)
            found[batch.rows.numpy()] = share[:, self.column].cpu().numpy()
        return found


def score_range(config: ClassifierOptions) -> tuple[float, float]:
    """A probability: 1 is certainly the label."""
    return 0.0, 1.0


def identity(config: ClassifierOptions) -> dict[str, Any]:
    """Commit or digest of the classifier, and the label."""
    return {**model_identity(config), "label": config.label}


def open_judge(config: ClassifierOptions, device: str) -> Judge:
    """Loads the classifier; the score of an empty output is ``empty_score``.

    Raises:
        ConfigError: the model is absent or has no such label.
    """
    return ClassifierJudge(config, device)


def label_column(id2label: dict[int, str], label: str, model: str) -> int:
    """The logit that a label's name stands for; its case matters only where two names differ by nothing else.

    Raises:
        ConfigError: no label, or more than one, has that name.
    """
    names = {int(i): str(name) for i, name in id2label.items()}
    exact = [i for i, name in names.items() if name == label]
    found = exact or [i for i, name in names.items() if name.casefold() == label.casefold()]
    if len(found) != 1:
        raise ConfigError(f"label: {model} has no single label {label!r} (choose from: {', '.join(names.values())})")
    return found[0]


def _is_sigmoid(activation: str, settings: Any) -> bool:
    if activation != "auto":
        return activation == "sigmoid"
    kind = getattr(settings, "problem_type", None)
    if kind == "regression":
        raise ConfigError("activation: the judge model was trained for regression, choose softmax or sigmoid")
    return kind == "multi_label_classification" or len(settings.id2label) == 1
