"""Sentiment by a local classifier: the probability of its positive label."""

from __future__ import annotations

from dataclasses import dataclass

from mad.behaviors._classifier import ClassifierOptions, identity, open_judge, score_range

__all__ = ["NEEDS_REFERENCE", "Config", "identity", "open_judge", "score_range"]

NEEDS_REFERENCE = False


@dataclass(frozen=True)
class Config(ClassifierOptions):
    """The classifier and its positive label."""

    model: str = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
    """Hub id, local folder in Hugging Face's layout, or the name of a trained sequence classifier."""

    label: str = "POSITIVE"
    """Name of the positive label, as the model's id2label spells it."""
