"""``mad audit``: short names of its options, what it prints, its exit code."""

from __future__ import annotations

from typing import Any

from mad.config import Option, parse
from mad.runtime import family_command, short_names, stream_command, study_command
from mad.runtime.audit_options import SHIFTED, Gate, Kinds
from mad.runtime.commands import run_and_tell
from mad.runtime.short_names import join_values
from mad.runtime.verdict_lines import print_verdict
from mad.stages import audit, pairs

SHORT = {
    "scores": "pairs.file",
    **short_names.of_section("pairs", pairs.Options),
    **short_names.of_section("audit", audit.Options),
}
"""Short name of an option to its full one: --alpha is --audit.alpha."""


def join(words: list[str]) -> list[str]:
    """``--range LOW HIGH`` as one value, ``[LOW, HIGH]``, and ``--candidates A B`` as ``[A, B]``."""
    return join_values(words, ("--range", "--audit.range"), ("--candidates", "--baselines", "--noise", "--tests"))


def expand(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags by their full names.

    Raises:
        ConfigError: no such option, or one that is given under both names.
    """
    judged = {"baseline_scores", "pairs.baseline_scores"} & set(flags)
    # Beside a file of the baseline's scores, those of the candidate are in a file as well.
    short = SHORT if judged else {**SHORT, "candidate_scores": "pairs.candidate_file"}
    return short_names.expand("audit", flags, short, (Gate,))


def run(flags: dict[str, Any]) -> int:
    """Run the audit, print the verdict, write ``--json``.

    Returns:
        0, or 3 where the verdict is one to fail on.

    Raises:
        MadError: whatever the user can mend.
    """
    for kind in (stream_command, family_command, study_command):
        if kind.asked(flags):
            return kind.run(flags)
    flags = expand(flags)
    gate = parse(Gate, {k: flags.pop(k) for k in ("fail_on",) if k in flags})
    found = run_and_tell("audit", flags, "verdict.json", print_verdict)
    return SHIFTED if found and gate.fail_on == found["verdict"] else 0


def help_groups(flags: dict[str, Any]) -> list[tuple[str, list[Option]]]:
    """What ``mad audit -h`` tells."""
    for kind in (stream_command, family_command, study_command):
        if kind.asked(flags):
            return kind.help_groups(flags)
    return short_names.help_groups("audit", expand(flags), SHORT, (("Exit code", Gate), ("Other audits", Kinds)))
