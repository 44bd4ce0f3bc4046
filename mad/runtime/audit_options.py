"""What all kinds of ``mad audit`` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

SHIFTED = 3
"""exit code with ``--fail_on shifted``"""


def population(audit: dict[str, Any]) -> str:
    """What a verdict is about, and what it rests on.

    Args:
        audit: options of the audit.
    """
    told = "the claim is about the population that the prompts were drawn from, not about this list of prompts: it "
    told += "holds if they were drawn independently"
    if audit["shuffle"]:
        return told
    return f"{told} and come in a random order; a file sorted by kind of prompt voids it unless --shuffle is given"


@dataclass(frozen=True)
class Gate:
    """What pipelines ask for."""

    fail_on: Literal["shifted"] | None = None
    """exit with code 3 at this verdict (default: code 0 whatever the verdict)"""


@dataclass(frozen=True)
class Kinds:
    """Options that make another audit of it: each has its own help, as in ``mad audit --folds 20 -h``."""

    baseline_model: str | None = None
    """hub id, folder or name of a trained model, beside candidate_model: both answer prompts until the verdict"""
    candidate_model: str | None = None
    """see baseline_model"""
    candidates: list[str] | None = None
    """columns of several candidates, '[a, b]': which of them have shifted, at a false discovery rate of alpha"""
    folds: int | None = None
    """how often the test rejects on this many disjoint parts of the prompts: its power, or its false alarms"""
    seeds: int | None = None
    """the same audit with this many seeds, each with an order of the prompts of its own: the spread of its result"""
    noise: list[float] | None = None
    """the same with normal noise of these standard deviations on the scores: what a noisy judge costs"""
    drift: float | None = None
    """the same where the shift grows from none over this share of each part: what a creeping change costs"""
    tests: list[str] | None = None
    """other tests on the same folds, '[ks, mmd]': asked once, and asked at every look"""
