"""audit: has the behaviour of the candidate shifted by more than is tolerated? Tested on pairs of scores.

The claim is about the population that the prompts were drawn from, not about the prompts themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mad.artifacts import ScorePairs
from mad.config import require
from mad.context import Context
from mad.stages._base import Stage
from mad.stages._calibrated_tolerance import settle
from mad.stages._disjoint_prompts import check_disjoint, refers_to
from mad.stages._sequential_audit import Options, joined, make_trace, make_units, walk
from mad.stages._verdict import conclude


@dataclass(frozen=True)
class Config:
    """How to test."""

    audit: Options = field(default_factory=Options)
    seed: int = 0
    """root of all seeds, 0 or more: the order of the prompts if shuffled, and random numbers of a bet"""

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"--seed must be 0 or more, got {self.seed}")


def run(config: Config, inputs: dict[str, Any], context: Context) -> None:
    """Test, and write ``trace.parquet``, ``verdict.json`` and figures."""
    pairs: ScorePairs = inputs["pairs"]
    options, rows = config.audit, pairs.rows
    check_disjoint(rows, options.calibration, context.draft.store)
    units = make_units(rows, options, config.seed)
    found, total = [], len(units.sizes)
    for step in walk(units, options, config.seed):
        found.append(step)
        done = min(len(found) * options.batch_size, total)
        context.progress.update("audit", done, total)
    missing = {name: pairs.summary[name] for name in ("missing", "missing_baseline", "missing_candidate")}
    conclude(make_trace(units, joined(found), options), missing, options, config.seed, context)


STAGE = Stage(
    "audit",
    Config,
    {"pairs": "pairs"},
    run,
    refers_to=lambda config: refers_to(config.audit.calibration),
    settles=lambda config, store: settle(config.audit, store),
)
