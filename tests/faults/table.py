"""The table of a campaign: a row per injected fault, shown by fault and stage."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

REPORT = "MAD_FAULTS_JSON"
"""Environment variable that names a file for the rows of a campaign."""


@dataclass(frozen=True)
class Row:
    """One injected fault.

    Attributes:
        fault: what was done.
        stage: what was running.
        outcome: how its final artifact compares with that of an undisturbed run.
        seconds: from the fault to the next piece of work that was finished; None where nothing was waited for.
        repeated: pieces (chunks, epochs, configurations) that were begun again; None where they were not counted.
    """

    fault: str
    stage: str
    outcome: str
    seconds: float | None = None
    repeated: int | None = None


ROWS: list[Row] = []
"""Of this process."""


def record(*rows: Row) -> None:
    """Add rows, also to the file that is asked for."""
    ROWS.extend(rows)
    if os.environ.get(REPORT):
        Path(os.environ[REPORT]).write_text(json.dumps([asdict(row) for row in ROWS], indent=1))


def markdown(rows: list[Row]) -> list[str]:
    """The lines of the table, faults of one kind in one stage together."""
    lines = ["| fault | stage | times | outcome | extra seconds | begun again |", "|---|---|---|---|---|---|"]
    ordered = sorted(rows, key=lambda row: (row.fault, row.stage, row.outcome))
    for (fault, stage, outcome), found in groupby(ordered, lambda row: (row.fault, row.stage, row.outcome)):
        same = list(found)
        seconds = [row.seconds for row in same if row.seconds is not None]
        again = [row.repeated for row in same if row.repeated is not None]
        cells = (_span(seconds, ".1f"), _span(again, "d"))
        lines.append(f"| {fault} | {stage} | {len(same)} | {outcome} | {cells[0]} | {cells[1]} |")
    return lines


def _span(values: list, form: str) -> str:
    if not values:
        return ""
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"
