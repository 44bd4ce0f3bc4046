"""Mechanistic anomaly detection and behavioural-shift audits.

The functions here do what the command line does; the classes are what a plug-in derives from. Everything is
imported on first use, so that ``import mad`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mad.api import open_artifact as open_artifact
    from mad.api import run_stage as run_stage
    from mad.api import run_sweep as run_sweep
    from mad.detectors._base import Batch as Batch
    from mad.detectors._base import Detector as Detector
    from mad.detectors._base import LayerwiseDetector as LayerwiseDetector
    from mad.detectors._base import Population as Population
    from mad.errors import MadError as MadError
    from mad.tasks._base import Rows as Rows

_HOMES = {
    "run_stage": "mad.api",
    "run_sweep": "mad.api",
    "open_artifact": "mad.api",
    "Batch": "mad.detectors._base",
    "Detector": "mad.detectors._base",
    "LayerwiseDetector": "mad.detectors._base",
    "Population": "mad.detectors._base",
    "MadError": "mad.errors",
    "Rows": "mad.tasks._base",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mad' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
