"""``mad audit --candidates '[a, b, c]'``: several candidates or behaviours in one file, audited together."""

from __future__ import annotations

from typing import Any

from mad import terminal
from mad.artifacts import Artifact
from mad.config import Option, parse
from mad.runtime import short_names
from mad.runtime.audit_options import SHIFTED, Gate, population
from mad.runtime.commands import run_and_tell
from mad.stages import audit_family, columns

TARGET = "audit_family"
SHORT = {
    "scores": "columns.file",
    **short_names.of_section("columns", columns.Options),
    **{k: v for k, v in short_names.of_section("audit", audit_family.Options).items() if k != "mean_tolerance"},
}
"""Short name of an option to its full one."""
FLAGS = {name for short, name in SHORT.items() if name.startswith("columns.")} | {"candidates", "baselines", "columns"}


def asked(flags: dict[str, Any]) -> bool:
    """Whether options of ``mad audit`` are those of a family."""
    return bool(FLAGS & set(flags))


def run(flags: dict[str, Any]) -> int:
    """Run the audit, print a table of candidates, write ``--json``.

    Returns:
        0, or 3 where a candidate has shifted and ``--fail_on shifted`` is given.

    Raises:
        MadError: whatever the user can mend.
    """
    flags = short_names.expand(TARGET, flags, SHORT, (Gate,))
    gate = parse(Gate, {k: flags.pop(k) for k in ("fail_on",) if k in flags})
    found = run_and_tell(TARGET, flags, "family.json", show)
    return SHIFTED if found and gate.fail_on == "shifted" and found["discoveries"] else 0


def show(found: dict[str, Any], artifact: Artifact) -> None:
    """What a person reads.

    Args:
        found: ``family.json``.
        artifact: that it is of.
    """
    names = ("candidate", "verdict", "rejected_at", "log_wealth", "shift_lower_bound")
    rows = [[row[name] for name in names] for row in found["candidates"]]
    terminal.table("", names, rows, right=names[2:])
    alpha, count = found["alpha"], len(rows)
    told = [f"{found['discoveries']} of {count} candidates shifted by more than {found['tolerance']:g}"]
    told[0] += f" (false discovery rate at most {alpha:g}, whatever depends on what)"
    known = "refuted" if found["any_shifted"] else "not refuted"
    told += [f"that none has shifted is {known} (log average wealth {found['log_average_wealth']:.4g})"]
    told += [f"lower bounds on the shifts hold at all times and all together, with probability {1 - alpha:g}"]
    told += [f"pairs used: {found['samples']}; {found['missing']} rows lack a score and were left out for all"]
    told += [f"note: {population(artifact.meta['config']['audit'])}", f"plots and trace: {artifact.folder}"]
    for line in told:
        terminal.out.print(line, soft_wrap=True, markup=False)


def help_groups(flags: dict[str, Any]) -> list[tuple[str, list[Option]]]:
    """What ``mad audit --candidates '[a, b]' -h`` tells."""
    full = short_names.expand(TARGET, flags, SHORT, (Gate,))
    return short_names.help_groups(TARGET, full, SHORT, (("Exit code", Gate),))
