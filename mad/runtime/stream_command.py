"""``mad audit --baseline_model A --candidate_model B``: audit two models while they answer."""

from __future__ import annotations

from typing import Any

from mad.config import Option, parse
from mad.runtime import short_names
from mad.runtime.audit_options import SHIFTED, Gate
from mad.runtime.commands import run_and_tell
from mad.runtime.verdict_lines import print_verdict
from mad.stages import stream

TARGET = "stream"
SIDES = ("baseline", "candidate")
SHORT = {
    **{f"{side}_model": f"{side}.model" for side in SIDES},
    **{f"{side}_adapter": f"{side}.adapter" for side in SIDES},
    "candidate_seed": "stream.candidate_seed",
    **short_names.of_section("audit", stream.AuditOptions),
}
"""Short name of an option to its full one."""


def asked(flags: dict[str, Any]) -> bool:
    """Whether options of ``mad audit`` name models rather than scores."""
    named = {name for name in SHORT if name.startswith(SIDES)}
    return any(flag in named or flag.startswith(tuple(f"{side}." for side in SIDES)) for flag in flags)


def run(flags: dict[str, Any]) -> int:
    """Generate, judge and bet up to the verdict; print it, write ``--json``.

    Returns:
        0, or 3 where the verdict is one to fail on.

    Raises:
        MadError: whatever the user can mend.
    """
    flags = short_names.expand(TARGET, flags, SHORT, (Gate,))
    gate = parse(Gate, {k: flags.pop(k) for k in ("fail_on",) if k in flags})
    found = run_and_tell(TARGET, flags, "verdict.json", print_verdict)
    return SHIFTED if found and gate.fail_on == found["verdict"] else 0


def help_groups(flags: dict[str, Any]) -> list[tuple[str, list[Option]]]:
    """What ``mad audit --baseline_model A -h`` tells."""
    return short_names.help_groups(
        TARGET, short_names.expand(TARGET, flags, SHORT, (Gate,)), SHORT, (("Exit code", Gate),)
    )
