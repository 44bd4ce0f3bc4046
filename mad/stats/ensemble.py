"""Ensembles of detectors, chosen on validation rows: greedy forward selection (Caruana et al. 2004)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from mad.stats.conformal import aggregate

GAIN = 1e-6
"""A detector joins only if it makes the objective better by more than this."""


def combine(scores: dict[str, Tensor], calibration: dict[str, Tensor], members: Sequence[str]) -> Tensor:
    """Mean of the members' scores, each standardised by its own held-out trusted scores.

    Args:
        scores: detector to (n,) scores of the rows.
        calibration: detector to (m,) scores of held-out trusted rows.
        members: detectors that take part.

    Returns:
        (n,) float64.
    """
    mine, held_out = ({name: table[name] for name in members} for table in (scores, calibration))
    return aggregate(mine, held_out)


def forward_selection(
    scores: dict[str, Tensor], calibration: dict[str, Tensor], objective: Callable[[Tensor], float]
) -> list[str]:
    """Start from the best detector and add the one that helps most, until none does.

    Args:
        scores: detector to (n,) scores of validation rows.
        calibration: detector to (m,) scores of held-out trusted rows.
        objective: of (n,) scores, larger is better.

    Returns:
        The members in the order they joined; of equal candidates the first given joins.
    """
    members: list[str] = []
    reached = -float("inf")
    while len(members) < len(scores):
        values = {
            name: objective(combine(scores, calibration, [*members, name])) for name in scores if name not in members
        }
        best = max(values, key=values.__getitem__)
        if members and values[best] <= reached + GAIN:
            break
        members.append(best)
        reached = values[best]
    return members
