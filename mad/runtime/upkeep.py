"""Commands around the store and MLflow: gc, ui, sync."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mad import terminal
from mad.config import describe, parse, require, split_flags
from mad.errors import ArtifactError
from mad.files import KEY
from mad.redaction import redactor
from mad.runtime.settings import settings
from mad.store import Store

log = logging.getLogger("mad")
SERVED = ("http:", "https:", "databricks")
"""Beginnings of the addresses of MLflow servers; any other is a database or folder that a server can be started on."""


@dataclass(frozen=True)
class Collect:
    """Options of ``mad gc``."""

    keep_days: float = 30.0
    """artifacts and drafts written within so many days stay"""
    dry_run: bool = False
    """list what would go; delete nothing"""

    def __post_init__(self) -> None:
        require(self.keep_days >= 0, f"keep_days must be 0 or more, got {self.keep_days}")


@dataclass(frozen=True)
class Interface:
    """Options of ``mad ui``."""

    port: int = 5000
    """TCP port"""
    host: str = "127.0.0.1"
    """address to bind to; the default is reachable from this machine only"""

    def __post_init__(self) -> None:
        require(1 <= self.port <= 65535, f"port must be from 1 to 65535, got {self.port}")


@dataclass(frozen=True)
class Sync:
    """Options of ``mad sync``: none."""


def run(command: str, words: list[str]) -> int:
    """Run an upkeep command."""
    options, action = COMMANDS[command]
    if {"-h", "--help"} & set(words):
        terminal.options_help(f"mad {command}", str(options.__doc__), [("Options", describe(options, {}))])
        return 0
    return action(parse(options, split_flags(words)))


def collect(options: Collect) -> int:
    """Delete artifacts that are old and not an ancestor of a named or recent one, and checkpoints of old runs."""
    where = settings()
    store = Store(where.store)
    limit = time.time() - options.keep_days * 86400
    removed = store.collect(_kept(store, limit), limit, options.dry_run)
    removed += _collect_scratch(where.home / "scratch", limit, options.dry_run)
    terminal.table(
        "Would be deleted" if options.dry_run else "Deleted", ("artifact", "bytes"), removed, right=("bytes",)
    )
    terminal.out.print(
        f"{len(removed)} artifacts, {sum(size for _, size in removed):,} bytes; {len(store.keys())} left"
    )
    return 0


def _kept(store: Store, limit: float) -> set[str]:
    """Keys of named and recent artifacts, and of everything these were made from."""
    metas = {}
    committed = store.keys()
    for key in committed:
        try:
            metas[key] = store.meta(key)
        except ArtifactError as error:
            log.warning("%s", error)
    waiting = [*store.names().values(), *(key for key, meta in metas.items() if meta["created"] >= limit)]
    keep: set[str] = set()
    while waiting:
        key = waiting.pop()
        if key not in keep and key in metas:
            waiting += metas[key]["inputs"].values()
        keep.add(key)
    return keep


def _collect_scratch(scratch: Path, limit: float, dry_run: bool) -> list[tuple[str, int]]:
    """Checkpoints of runs that nobody went on with; a finished run has removed its own."""
    removed = []
    for folder in sorted(f for f in scratch.glob("*") if KEY.match(f.name) and f.is_dir()):
        files = [file.stat() for file in folder.rglob("*") if file.is_file()]
        if max((facts.st_mtime for facts in files), default=folder.stat().st_mtime) < limit:
            removed.append((f"scratch/{folder.name}", sum(facts.st_size for facts in files)))
            if not dry_run:
                shutil.rmtree(folder, ignore_errors=True)
    return removed


def interface(options: Interface) -> int:
    """Replace this process by the MLflow UI."""
    where = settings()
    words = [sys.executable, "-m", "mlflow", "ui", "--host", options.host, "--port", str(options.port)]
    uri = str(where.tracking_uri)
    if uri.startswith(SERVED):
        terminal.out.print(f"MLflow is served at {redactor()(uri)}: open it in a browser", soft_wrap=True)
        return 0
    where.home.mkdir(parents=True, exist_ok=True)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    # Without the parameter the page opens on its view of language-model traces, which is empty.
    page = f"http://{options.host}:{options.port}/#/experiments?workflowType=machine_learning"
    terminal.out.print(f"MLflow UI: {page} (Ctrl-C stops it)", soft_wrap=True)
    os.execv(sys.executable, [*words, "--backend-store-uri", uri])


def sync(options: Sync) -> int:
    """Send waiting runs."""
    from mad.runtime.mlflow_tracker import MlflowTracker

    sent, left = MlflowTracker(settings(), "mad").sync()
    terminal.out.print(f"{sent} runs sent, {left} still waiting")
    return 0 if not left else 2


COMMANDS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "gc": (Collect, collect),
    "ui": (Interface, interface),
    "sync": (Sync, sync),
}
