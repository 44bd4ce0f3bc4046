"""Commands around the store and MLflow: gc, ui, sync."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass

from mad import terminal
from mad.config import describe, parse, require, split_flags
from mad.runtime.settings import settings
from mad.store import Store


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


@dataclass(frozen=True)
class Sync:
    """Options of ``mad sync``: none."""


def run(command: str, words: list[str]) -> int:
    """Run an upkeep command."""
    options = {"gc": Collect, "ui": Interface, "sync": Sync}[command]
    if {"-h", "--help"} & set(words):
        terminal.options_help(f"mad {command}", str(options.__doc__), [("Options", describe(options, {}))])
        return 0
    action = {"gc": collect, "ui": interface, "sync": sync}[command]
    return action(parse(options, split_flags(words)))


def collect(options: Collect) -> int:
    """Delete artifacts that are old and not an ancestor of a named or recent one."""
    store = Store(settings().store)
    limit = time.time() - options.keep_days * 86400
    keep: set[str] = set()
    for key in set(store.names().values()) | {k for k in store.keys() if store.meta(k)["created"] >= limit}:
        if store.has(key):
            keep |= {entry["key"] for entry in store.meta(key)["lineage"].values()}
    removed = store.collect(keep, limit, options.dry_run)
    terminal.table(
        "Would be deleted" if options.dry_run else "Deleted", ("artifact", "bytes"), removed, right=("bytes",)
    )
    terminal.out.print(
        f"{len(removed)} artifacts, {sum(size for _, size in removed):,} bytes; {len(store.keys())} left"
    )
    return 0


def interface(options: Interface) -> int:
    """Replace this process by the MLflow UI."""
    where = settings()
    words = [sys.executable, "-m", "mlflow", "ui", "--host", options.host, "--port", str(options.port)]
    if where.artifact_root is None:
        terminal.out.print(f"MLflow is served at {where.tracking_uri}: open it in a browser")
        return 0
    where.home.mkdir(parents=True, exist_ok=True)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    terminal.out.print(f"MLflow UI: http://{options.host}:{options.port} (Ctrl-C stops it)")
    os.execv(sys.executable, [*words, "--backend-store-uri", str(where.tracking_uri)])


def sync(options: Sync) -> int:
    """Send waiting runs."""
    from mad.runtime.mlflow_tracker import MlflowTracker

    sent, left = MlflowTracker(settings(), "mad").sync()
    terminal.out.print(f"{sent} runs sent, {left} still waiting")
    return 0 if not left else 2
