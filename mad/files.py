"""Files written whole: under a temporary name, then renamed; their checksums; a full disk told in one line."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mad.errors import ArtifactError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def temporary_path(folder: Path | None = None) -> Path:
    """A new name in ``folder``, or in the system's temporary folder; nothing is created."""
    return (folder or Path(tempfile.gettempdir())) / f".tmp-{uuid.uuid4().hex}"


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target`` that takes its place when the block ends well, and goes if it fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(target.parent)
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def facts_of(path: Path) -> dict[str, Any]:
    """``bytes`` and ``sha256`` of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def check_file(path: Path, facts: dict[str, Any], what: str) -> None:
    """Compare a file with its recorded facts.

    Raises:
        ArtifactError: missing, of another size or of another content; the message begins with ``what``.
    """
    if not path.is_file():
        raise ArtifactError(f"{what}: {path.name} is missing")
    size = path.stat().st_size
    if size != facts["bytes"]:
        raise ArtifactError(f"{what}: {path.name} has {size} bytes of {facts['bytes']}")
    if facts_of(path) != facts:
        raise ArtifactError(f"{what}: {path.name} fails its sha256 checksum")


@contextmanager
def write_errors_told(target: object) -> Iterator[None]:
    """Tell in one line that a disk is full or a folder not writable.

    Raises:
        ArtifactError: in place of those errors.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _REFUSED:
            raise ArtifactError(f"cannot write {target}: {error.strerror}; set MAD_HOME elsewhere") from None
        if error.errno not in _FULL:
            raise
        raise _full(target) from None
    except SafetensorError as error:
        if not any(f"os error {code})" in str(error) for code in _FULL):
            raise
        raise _full(target) from None


def _full(target: object) -> ArtifactError:
    return ArtifactError(f"no space left while writing {target}: free space or set MAD_HOME elsewhere")
