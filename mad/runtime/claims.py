"""Runs in progress, each held by one process of a home folder: two that train the same share no checkpoint."""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path
from typing import IO


class Claims:
    """Names of runs that this process is at.

    A lock file beside a run's folder is held for as long as the run lasts, and falls with the process.

    Args:
        folder: of the folders of runs.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._held: dict[str, tuple[str, IO[str] | None]] = {}

    def take(self, name: str) -> str:
        """Claim a run: its name, or another one for this process alone while somebody else is at it."""
        if name not in self._held:
            try:
                self._held[name] = name, _lock(self._path(name))
            except BlockingIOError:
                self._held[name] = f"{name}-{uuid.uuid4().hex[:8]}", None
        return self._held[name][0]

    def drop(self, name: str, finished: bool) -> None:
        """Let a run go; one that is not finished can be gone on with, by whoever takes it next."""
        own, file = self._held.pop(name, (name, None))
        if file is not None:
            if finished:
                self._path(own).unlink(missing_ok=True)
            file.close()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.lock"


def _lock(path: Path) -> IO[str] | None:
    """A locked file; None where the file system has no locks.

    Raises:
        BlockingIOError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if isinstance(error, BlockingIOError):
                raise
            return None
        if _is_at(path, file):
            return file
        file.close()  # whoever held it has finished, and removed it, in between


def _is_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
