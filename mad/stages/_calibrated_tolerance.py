"""The tolerance of an audit that leaves it to a calibration: one rule for commands, sweeps and Python."""

from __future__ import annotations

from typing import Any

from mad.errors import ArtifactError, ConfigError
from mad.stages._sequential_audit import Options
from mad.store import Store


def settle(options: Options, store: Store) -> dict[str, Any]:
    """The option that is left open, for :class:`mad.stages._base.Stage`; nothing where a tolerance is given.

    Args:
        options: of an audit.
        store: where the calibration lies.

    Raises:
        ArtifactError: the calibration is not made yet.
        ConfigError: it recommends no tolerance.
    """
    key = options.calibration
    if options.tolerance is not None or not key:
        return {}
    if not store.has(key):
        told = f"the tolerance is left to {key}, which is not in {store.shown}"
        raise ArtifactError(f"{told}: make the calibration first, or give --tolerance (audit.tolerance)")
    tolerance = store.meta(key)["summary"]["tolerance"]
    if tolerance is None:
        raise ConfigError(f"calibration {key} recommends no tolerance: give --tolerance (audit.tolerance)")
    return {"audit.tolerance": tolerance}
