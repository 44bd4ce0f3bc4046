"""The errors a user may see: one clear line each, exit code 2, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MadError(Exception):
    """A mistake in what was asked or given, told in one line: what, the value, what to do."""

    exit_code = 2


class ConfigError(MadError):
    """An unknown name, a wrong type or a value out of range."""


class DataError(MadError):
    """Input data that is missing, corrupt or unusable."""


class ArtifactError(MadError):
    """An artifact that is absent, damaged or of the wrong kind."""


class FitError(MadError):
    """A detector that cannot be fitted or scored on what it was given."""


class ClusterError(MadError):
    """A Ray cluster that does not answer or cannot hold what was asked."""


def nearest(name: str, choices: Iterable[str], limit: int = 3) -> str:
    """Return `` (did you mean a or b?)`` for the nearest choices, or the list of all if none is near."""
    choices = sorted(set(choices))
    close = difflib.get_close_matches(name, choices, n=limit, cutoff=0.6)
    if close:
        return f" (did you mean {' or '.join(close)}?)"
    shown = ", ".join(choices[:20]) + (", ..." if len(choices) > 20 else "")
    return f" (choose from: {shown})" if choices else ""
