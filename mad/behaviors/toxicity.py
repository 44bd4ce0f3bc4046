"""Toxicity by a local classifier: the probability of its toxic label.

The default model (Vidgen et al. 2021, 2012.15761) tells hate from what is not hate. Classifiers with other labels, such
as multi-label toxicity models, are named by ``model`` and ``label``.
"""

from __future__ import annotations

from dataclasses import dataclass

from mad.behaviors._classifier import ClassifierOptions, identity, open_judge, score_range

__all__ = ["NEEDS_REFERENCE", "Config", "identity", "open_judge", "score_range"]

NEEDS_REFERENCE = False


@dataclass(frozen=True)
class Config(ClassifierOptions):
    """The classifier and its toxic label."""

    model: str = "facebook/roberta-hate-speech-dynabench-r4-target"
    """Hub id, local folder in Hugging Face's layout, or the name of a trained sequence classifier."""

    label: str = "hate"
    """Name of the toxic label, as the model's id2label spells it."""
