"""How many processes a stage asks for: a number, ``auto``, or a range that a cluster fills as its nodes come and go."""

from __future__ import annotations

import re

from mad.config import require
from mad.context import Workers

_RANGE = re.compile(r"([1-9]\d*)-([1-9]\d*)")


def check_workers(workers: Workers) -> None:
    """Check an option.

    Raises:
        ConfigError: it is neither a number of processes, nor a range with its ends in order, nor ``auto``.
    """
    found = worker_range(workers)
    if isinstance(workers, int):
        require(workers >= 0, f"workers must be 0 or more, got {workers}")
    elif found:
        require(found[0] <= found[1], f"workers: the range {workers} ends before it begins")
    else:
        require(workers == "auto", f"workers must be a number, a range such as 2-8, or auto, got {workers!r}")


def worker_range(workers: Workers) -> tuple[int, int] | None:
    """The fewest and the most processes of a range such as ``2-8``; None where it is none."""
    found = _RANGE.fullmatch(workers) if isinstance(workers, str) else None
    return (int(found[1]), int(found[2])) if found else None
