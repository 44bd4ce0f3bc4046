"""Connecting to Ray: a local cluster on a bare machine, the running one elsewhere."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Any

from mad.errors import ClusterError
from mad.runtime.resources import Kind, Request, announced, check

_asked = Request({})

# Read by Ray when it is imported or initialised; what the user set wins.
_ENVIRONMENT = {
    # Workers use this interpreter and its installed packages; without it Ray would build the environment again.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune's own handler ends its run as if it were complete: half a sweep would be reported as a whole one.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


def prepare_environment() -> None:
    """Set Ray's switches; must run before Ray is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def connect() -> None:
    """Connect to the cluster of RAY_ADDRESS, or start a local one; does nothing when already connected.

    Raises:
        ClusterError: the address does not answer.
    """
    prepare_environment()
    import ray

    if ray.is_initialized():
        return
    address = os.environ["RAY_ADDRESS"] if is_remote() else "local"
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": bool(os.environ.get("MAD_WORKER_LOGS"))}
    if address == "local":
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        options["include_dashboard"] = False
    elif not address.startswith(("http", "auto")):
        _check_reachable(address)
    try:
        ray.init(address=address, **options)
    except (ConnectionError, TimeoutError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ClusterError(
            f"no Ray cluster answers at '{address}': {reason}; unset RAY_ADDRESS for a local one"
        ) from None


def _check_reachable(address: str) -> None:
    """Fail in seconds, not minutes, when nobody listens."""
    import socket

    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with contextlib.closing(socket.create_connection((host, int(port)), timeout=5)):
            pass
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no Ray cluster answers at '{address}': {error}; unset RAY_ADDRESS for a local one"
        ) from None


def is_remote() -> bool:
    """Whether RAY_ADDRESS names a running cluster (an http address is that of its job server)."""
    address = os.environ.get("RAY_ADDRESS", "")
    return address not in ("", "local") and not address.startswith("http")


def grows() -> bool:
    """Whether this runs on a cluster that says which nodes may still come."""
    return is_remote() and bool(announced())


def gpu_count() -> int:
    """GPUs of the cluster that RAY_ADDRESS names, with the nodes that may still come, else of this machine."""
    if is_remote():
        connect()
        return int(sum(kind.count * kind.resources.get("GPU", 0) for kind in node_kinds()))
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def ask(resources: dict[str, Any] | None) -> None:
    """Set what every worker and trial of this process asks for from now on; None for what each stage asks by itself.

    Raises:
        ConfigError: an amount that is none.
    """
    global _asked
    _asked = Request.parse(resources or {})


def request(use_gpu: bool = False) -> Request:
    """What a worker or trial asks for: as set, else a CPU, and a GPU where each must have one."""
    found = _asked.with_default("CPU", 1)
    return found.with_default("GPU", 1) if use_gpu else found


def node_kinds() -> list[Kind]:
    """The nodes there are and, beyond these, those that the environment says can come."""
    import ray

    nodes = [Kind(node["Resources"], 1) for node in ray.nodes() if node["Alive"]]
    coming = announced()
    return [*coming, *(node for node in nodes if not any(_is_one_of(node, kind) for kind in coming))]


def _is_one_of(node: Kind, kind: Kind) -> bool:
    names = ("CPU", "GPU")
    return all(node.resources.get(name, 0) == kind.resources.get(name, 0) for name in names)


def check_capacity(needed: dict[str, float], workers: int = 1) -> None:
    """Refuse what the cluster can never hold; a cluster that grows counts with all the nodes it may add.

    Raises:
        ClusterError: more is asked for than there can be.
    """
    check(needed, workers, node_kinds(), may_grow=is_remote())


def room(needed: dict[str, float]) -> int:
    """How often the cluster holds this at the same time, grown to its full size."""
    return sum(kind.holds(needed) for kind in node_kinds())
