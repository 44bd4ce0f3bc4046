"""Options of a command that are not part of any result, and the engine they make."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from mad.config import require
from mad.errors import ClusterError
from mad.runtime.cluster import ask, gpu_count, is_remote
from mad.runtime.engine import Engine
from mad.runtime.settings import settings
from mad.runtime.tracking import NoTracker, Tracker
from mad.store import Store
from mad.terminal import TerminalProgress


@dataclass(frozen=True)
class RunOptions:
    """How a command runs."""

    config: str | None = None
    """YAML file with sections; flags override it"""
    force: str = "false"
    """recompute: true for the last stage, all for every stage, or a stage's name"""
    dry_run: bool = False
    """print what would run and what is already done; start nothing"""
    no_tracking: bool = False
    """run without MLflow"""
    experiment: str = "mad"
    """MLflow experiment"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where models run; auto: a GPU if this machine or the running cluster has one, or may get one (MAD_NODE_TYPES)"""
    resources: dict[str, float | str] | None = None
    """what each worker and each trial asks of Ray, as JSON: {"CPU": 2, "GPU": 0.5, "memory": 8e9, "accelerator_type":
    "A100"}; memory in bytes; null is one CPU, and one GPU for each worker on GPUs"""
    json: str | None = None
    """also write the result to this JSON file"""
    name: str | None = None
    """name under which the result can be given to other commands"""
    register: str | None = None
    """register the result in MLflow as MODEL or MODEL@ALIAS (alias: latest), to be taken back as models:/MODEL@ALIAS"""

    def __post_init__(self) -> None:
        for given in (self.name, self.register):
            require(
                given is None or (bool(given) and "/" not in given), f"a name may not be empty or hold '/': {given}"
            )
        alias = (self.register or "").partition("@")[2]
        require(not re.fullmatch(r"v\d+", alias), f"--register: MLflow reserves the alias {alias}")
        require(not (self.register and self.no_tracking), "--register needs MLflow: leave --no_tracking out")


def device_of(wanted: str) -> str:
    """Resolve ``auto``.

    Raises:
        ClusterError: cuda asked for where there is none.
    """
    if wanted == "cpu":
        return "cpu"
    # A cluster may have none yet and add one when it is asked for.
    if wanted == "cuda" and (torch.cuda.is_available() or is_remote()):
        return "cuda"
    if wanted == "cuda":
        raise ClusterError("--device cuda: no CUDA GPU is visible to this process; use --device cpu")
    return "cuda" if gpu_count() > 0 else "cpu"


@contextmanager
def new_engine(options: RunOptions, force: frozenset[str], tracked: bool = True) -> Iterator[Engine]:
    """An engine with its progress shown, for as long as the block runs."""
    where = settings(tracking=not options.no_tracking)
    ask(options.resources)
    tracker: Tracker = NoTracker()
    if where.tracking_uri is not None and tracked and not options.dry_run:
        from mad.runtime.mlflow_tracker import MlflowTracker

        tracker = MlflowTracker(where, options.experiment)
    with TerminalProgress() as progress:
        device, gpus = device_of(options.device), (options.resources or {}).get("GPU")
        require(device == "cuda" or not gpus, f"--resources: GPU {gpus} is asked for, and models run on CPUs here")
        require(device != "cuda" or gpus != 0, "--resources: GPU 0 is asked for, and models run on GPUs: --device cpu")
        yield Engine(where, Store(where.store), tracker, progress, device, force)
