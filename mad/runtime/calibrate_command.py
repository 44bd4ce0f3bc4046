"""``mad calibrate``: a tolerance from accepted reference changes."""

from __future__ import annotations

from typing import Any

from mad import terminal
from mad.artifacts import Artifact
from mad.config import Option
from mad.runtime import short_names
from mad.runtime.commands import run_and_tell
from mad.runtime.short_names import join_values
from mad.stages import calibrate, columns

TARGET = "calibrate"
SHORT = {
    "scores": "columns.file",
    "references": "columns.candidates",
    **{k: v for k, v in short_names.of_section("columns", columns.Options).items() if k != "candidates"},
    **short_names.of_section("calibrate", calibrate.Options),
}
"""Short name of an option to its full one."""


def join(words: list[str]) -> list[str]:
    """``--references A B`` as one value, ``[A, B]``."""
    return join_values(words, (), ("--references", "--rejected", "--baselines"))


def run(flags: dict[str, Any]) -> int:
    """Calibrate, print the tolerance, write ``--json``.

    Raises:
        MadError: whatever the user can mend.
    """
    flags = short_names.expand(TARGET, flags, SHORT)
    run_and_tell(TARGET, flags, "calibration.json", _tell)
    return 0


def _tell(found: dict[str, Any], artifact: Artifact) -> None:
    show(found, artifact)
    found["key"] = artifact.key  # by which pipelines name it to the audit


def show(found: dict[str, Any], artifact: Artifact) -> None:
    """What a person reads.

    Args:
        found: ``calibration.json``.
        artifact: that it is of.
    """
    names = ("reference", "accepted", "shift", "lower", "upper", "histogram_estimate", "histogram_noise_floor")
    rows = [[str(row[name]) if name == "accepted" else row[name] for name in names] for row in found["references"]]
    titles = (*names[:5], "histogram", "its floor")
    terminal.table("", titles, rows, right=titles[2:])
    tolerance, high = found["tolerance"], found["high"]
    if tolerance is not None:
        told = [f"recommended tolerance: {tolerance:.4g} ({found['strategy']})"]
    elif found["strategy"] == "grid":
        told = [f"tolerances to test at: {', '.join(f'{t:g}' for t in found['grid'])}"]
    else:
        told = ["no tolerance is recommended: what was accepted cannot be told from what must be rejected, or is at 1"]
    limit = "" if high is None else f" to {high:.4g}"
    told += [f"reasonable: from {found['low']:.4g}{limit}; noise floor of the histogram: {found['noise_floor']:.4g}"]
    told += [f"prompts: {found['prompts']}; {found['missing']} rows lack a score and were left out"]
    told += ["note: audit other prompts: mad audit --calibration refuses these, and takes the tolerance over"]
    for line in [*told, f"artifact: {artifact.key} in {artifact.folder}"]:
        terminal.out.print(line, soft_wrap=True, markup=False)


def help_groups(flags: dict[str, Any]) -> list[tuple[str, list[Option]]]:
    """What ``mad calibrate -h`` tells."""
    return short_names.help_groups(TARGET, short_names.expand(TARGET, flags, SHORT), SHORT)
