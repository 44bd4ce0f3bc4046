"""``mad audit --folds N`` or ``--seeds N``: how often the audit rejects on parts of the prompts, or in other orders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mad import terminal
from mad.artifacts import Artifact
from mad.config import Option
from mad.runtime import short_names
from mad.runtime.audit_options import population
from mad.runtime.commands import run_and_tell
from mad.stages import audit_study, pairs

TARGET = "audit_study"
SHORT = {
    **short_names.of_section("pairs", pairs.Options),
    **{k: v for k, v in short_names.of_section("audit", audit_study.AuditOptions).items() if k not in audit_study.IDLE},
    **short_names.of_section("study", audit_study.Options),
    "scores": "pairs.file",
}
"""Short name of an option to its full one."""
FLAGS = {"drift", "folds", "noise", "power", "seeds", "study", "tests"}


def asked(flags: dict[str, Any]) -> bool:
    """Whether options of ``mad audit`` are those of a study."""
    return bool(FLAGS & {name.partition(".")[0] for name in flags})


def run(flags: dict[str, Any]) -> int:
    """Run the study, print how often each fold was rejected, write ``--json``.

    Raises:
        MadError: whatever the user can mend.
    """
    flags = short_names.expand(TARGET, flags, SHORT)
    run_and_tell(TARGET, flags, "study.json", show)
    return 0


def show(found: dict[str, Any], artifact: Artifact) -> None:
    """What a person reads: the tolerance asked for, or with one size of noise all tolerances.

    Args:
        found: ``study.json``.
        artifact: that it is of.
    """
    several = len({row["noise"] for row in found["rates"]}) > 1
    rows = [row for row in found["rates"] if not several or row["tolerance"] == found["tolerance"]]
    first = "noise" if several else "tolerance"
    print_rates(rows, first, found["power"])
    if found["tests"]:
        names = ("baseline", "null", "rate", "peeking_rate")
        titles = ("other test", "of (no tolerance)", "asked once", "at every look")
        terminal.table("", titles, [[row[name] for name in names] for row in found["tests"]], right=titles[2:])
    streams = "folds of" if found["seeds"] is None else "orders of all"
    told = [f"{found['folds']} {streams} {found['fold_size']} prompts at alpha {found['alpha']:g}"]
    told[0] += f", tolerance {found['tolerance']:g}" if several else ""
    told += [f"{found['left_over']} prompts left over; {found['missing']} pairs lack a score and were left out"]
    told += [f"the shift grows from none over {found['drift']:g} of each fold"] if found["drift"] else []
    if found["seeds"] is not None:
        told += [*_spread(found["spread"][0])]
    if found["shift"]:
        distance, low, high = (found["shift"][name] for name in ("estimate", "lower", "upper"))
        told += [f"measured distance (held out, as the bet sees it): {distance:.3g} (bounds {low:.3g}, {high:.3g})"]
    asked = artifact.meta["config"]["audit"]
    note = population({**asked, "shuffle": asked["shuffle"] or found["seeds"] is not None})
    told += [f"note: {note}", f"plots and tables: {artifact.folder}"]
    for line in told:
        terminal.out.print(line, soft_wrap=True, markup=False)


def _spread(found: dict[str, list[float]]) -> Iterator[str]:
    """How far the results of several seeds lie apart."""
    names = {"rejected_at": "rejected at pair", "shift_lower_bound": "lower bound on the shift"}
    for name, title in names.items():
        if found[name]:
            low, first, middle, third, high = found[name]
            told = f"{low:.4g} to {high:.4g}, median {middle:.4g}, half of them {first:.4g} to {third:.4g}"
            yield f"{title}, over the seeds: {told}"


def print_rates(rows: list[dict[str, Any]], first: str, power: float, *more: str) -> None:
    """Table of rejection rates, up to the first tolerance that nothing was rejected at.

    Args:
        rows: of :func:`mad.stages._power_curves.at_the_end`.
        first: name of the first column.
        power: that ``samples_for_power`` is for.
        *more: further columns.
    """
    if first == "tolerance":
        silent = [k for k, row in enumerate(rows) if row["rate"] == 0]
        rows = rows[: silent[0] + 1] if silent else rows
    names = (first, "rate", "low", "high", "median_samples", "samples_for_power", *more)
    titles = (first, "rejected", "low", "high", "median", f"for {100 * power:g}%", *("by growth" for _ in more))
    terminal.table("", titles, [[row[name] for name in names] for row in rows], right=titles)


def help_groups(flags: dict[str, Any]) -> list[tuple[str, list[Option]]]:
    """What ``mad audit --folds 20 -h`` tells."""
    return short_names.help_groups(TARGET, short_names.expand(TARGET, flags, SHORT), SHORT)
