"""Where artifacts live: a local folder or any fsspec URI, one folder per content-hash key.

Payload files are written first, each whole (rename on a file system, one upload elsewhere); ``meta.json``
comes last and is the commit marker: without it nothing is there. A key names its content, so two writers of
one key write the same and need no lock.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from safetensors import SafetensorError

from mad.artifacts import META, Artifact
from mad.errors import ArtifactError, nearest

DONE = ".done"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Store:
    """Get and put artifacts by key.

    Args:
        uri: a folder or an fsspec URI (``s3://bucket/mad``, ``file:///data/mad``, ``memory://mad``).
        cache: local folder for artifacts fetched from a remote store; one copy per node.
    """

    def __init__(self, uri: str, cache: Path | None = None):
        self.uri = uri
        try:
            self.fs, root = fsspec.core.url_to_fs(uri)
        except (ImportError, ValueError) as error:
            raise ArtifactError(f"cannot open the artifact store '{uri}': {error}") from None
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self.root = str(Path(root).absolute()) if self.is_local else root.rstrip("/")
        self.cache = cache or Path(tempfile.gettempdir()) / f"mad-cache-{os.getuid()}"
        self._checked: set[str] = set()

    def path(self, *parts: str) -> str:
        """The location of a file or folder inside the store."""
        return "/".join([self.root, *parts])

    def has(self, key: str) -> bool:
        """True once the artifact is committed."""
        return self.fs.exists(self.path(key, META))

    def meta(self, key: str) -> dict[str, Any]:
        """The committed meta data of a key.

        Raises:
            ArtifactError: no such artifact, or unreadable meta data.
        """
        try:
            return json.loads(self.fs.cat_file(self.path(key, META)))
        except FileNotFoundError:
            raise ArtifactError(f"no artifact '{key}' in {self.uri}{nearest(key, self.keys())}") from None
        except ValueError:
            raise ArtifactError(f"artifact '{key}' is damaged: {META} is not JSON; recompute it with --force") from None

    def keys(self) -> list[str]:
        """Every committed key."""
        markers = self.fs.glob(self.path("*", META))
        return sorted(marker.split("/")[-2] for marker in markers)

    def open(self, key: str, check: bool = True) -> Artifact:
        """An artifact in a local folder, fetched first if the store is remote.

        ``check`` compares every file with its checksum, once per process. Workers skip it: the driver has
        checked, and what is fetched is checked on arrival.

        Raises:
            ArtifactError: absent, or a payload file is missing, truncated or altered.
        """
        meta = self.meta(key)
        folder = Path(self.path(key)) if self.is_local else self._fetch(key, meta)
        if check and key not in self._checked:
            self._check(key, folder, meta)
        return Artifact.read(folder)

    def _check(self, key: str, folder: Path, meta: dict[str, Any]) -> None:
        for name, facts in meta["files"].items():
            _check_file(key, folder / name, facts)
        self._checked.add(key)

    def _fetch(self, key: str, meta: dict[str, Any]) -> Path:
        folder = self.cache / hashlib.sha256(self.uri.encode()).hexdigest()[:12] / key
        if (folder / META).exists():
            return folder
        partial = folder.with_name(f"{key}.{uuid.uuid4().hex}")
        partial.mkdir(parents=True)
        with _full_disk_told(folder):
            for name in meta["files"]:
                self.fs.get_file(self.path(key, name), str(partial / name))
            (partial / META).write_text(json.dumps(meta))
        self._check(key, partial, meta)
        try:
            partial.rename(folder)
        except OSError:
            shutil.rmtree(partial)
        return folder

    @contextmanager
    def local_copy(self, key: str, name: str) -> Iterator[Path]:
        """A payload file of a draft or artifact as a local path, for as long as the block runs."""
        if self.is_local:
            yield Path(self.path(key, name))
            return
        temporary = _temporary(None)
        try:
            self.fs.get_file(self.path(key, name), str(temporary))
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def draft(self, key: str) -> Draft:
        """Begin (or go on with) writing an artifact."""
        return Draft(self, key)

    def delete(self, key: str) -> None:
        """Remove an artifact, marker first."""
        self._checked.discard(key)
        for location in (self.path(key, META), self.path(key)):
            if self.fs.exists(location):
                self.fs.rm(location, recursive=True)

    def set_name(self, name: str, key: str) -> None:
        """Let ``name`` stand for ``key``."""
        self.fs.makedirs(self.path("names"), exist_ok=True)
        self.fs.pipe_file(self.path("names", f"{name}.json"), json.dumps({"key": key}).encode())

    def names(self) -> dict[str, str]:
        """Every given name and its key."""
        found = {}
        for file in self.fs.glob(self.path("names", "*.json")):
            found[file.split("/")[-1].removesuffix(".json")] = json.loads(self.fs.cat_file(file))["key"]
        return found

    def collect(self, keep: set[str], older_than: float, dry_run: bool) -> list[tuple[str, int]]:
        """Delete artifacts and drafts that are not in ``keep`` and were last written before ``older_than``.

        Args:
            keep: keys to spare.
            older_than: seconds since the epoch.
            dry_run: only list.

        Returns:
            (key, bytes) of what was (or would be) removed.
        """
        removed = []
        for entry in self.fs.ls(self.path(), detail=True) if self.fs.exists(self.path()) else []:
            key = entry["name"].rstrip("/").split("/")[-1]
            if entry["type"] != "directory" or key in keep or key == "names":
                continue
            files = self.fs.find(entry["name"], detail=True).values()
            if max((_modified(f) for f in files), default=0.0) < older_than:
                removed.append((key, sum(f["size"] for f in files)))
                if not dry_run:
                    self.delete(key)
        return removed


class Draft:
    """An artifact being written. ``write`` is atomic per file; ``commit`` makes the whole visible."""

    def __init__(self, store: Store, key: str):
        self.store = store
        self.key = key
        self.files: dict[str, dict[str, Any]] = {}

    def write(self, name: str, writer: Callable[[Path], None], marker: bool = False) -> None:
        """Write one payload file whole.

        Args:
            name: file name inside the artifact.
            writer: fills the (temporary, local) path it is given.
            marker: also leave a ``.done`` record, so that another process can tell the file is finished.

        Raises:
            ArtifactError: the disk is full; nothing of the file is left.
        """
        target = self.store.path(self.key, name)
        with _full_disk_told(target):
            if self.store.is_local:
                Path(target).parent.mkdir(parents=True, exist_ok=True)
            near = Path(target).parent if self.store.is_local else None
            temporary = _temporary(near)
            try:
                writer(temporary)
                facts = {"bytes": temporary.stat().st_size, "sha256": _sha256(temporary)}
                if self.store.is_local:
                    os.replace(temporary, target)
                else:
                    self.store.fs.put_file(str(temporary), target)
            finally:
                temporary.unlink(missing_ok=True)
        self.files[name] = facts
        if marker:
            self._pipe(name + DONE, facts)

    def write_json(self, name: str, data: Any) -> None:
        """Write JSON."""
        self.write(name, lambda path: path.write_text(json.dumps(data, indent=1, sort_keys=True)))  # type: ignore[arg-type]

    def finished(self) -> dict[str, dict[str, Any]]:
        """Files with a ``.done`` record whose size still agrees: what a restart need not do again."""
        found = {}
        for marker in self.store.fs.glob(self.store.path(self.key, f"*{DONE}")):
            name = marker.split("/")[-1].removesuffix(DONE)
            facts = json.loads(self.store.fs.cat_file(marker))
            target = self.store.path(self.key, name)
            if self.store.fs.exists(target) and self.store.fs.size(target) == facts["bytes"]:
                found[name] = facts
        return found

    def commit(self, meta: dict[str, Any]) -> None:
        """Write the marker last: from now on the artifact exists."""
        done = self.finished()
        self._pipe(META, {**meta, "key": self.key, "files": dict(sorted((done | self.files).items()))})
        for name in done:
            self.store.fs.rm_file(self.store.path(self.key, name + DONE))

    def _pipe(self, name: str, data: Any) -> None:
        location = self.store.path(self.key, name)
        body = json.dumps(data, indent=1, sort_keys=True).encode()
        with _full_disk_told(location):
            if not self.store.is_local:
                self.store.fs.pipe_file(location, body)
                return
            Path(location).parent.mkdir(parents=True, exist_ok=True)
            temporary = _temporary(Path(location).parent)
            try:
                temporary.write_bytes(body)
                os.replace(temporary, location)
            finally:
                temporary.unlink(missing_ok=True)


def _temporary(folder: Path | None) -> Path:
    return (folder or Path(tempfile.gettempdir())) / f".tmp-{uuid.uuid4().hex}"


def _modified(entry: dict[str, Any]) -> float:
    stamp = entry.get("mtime") or entry.get("LastModified") or entry.get("updated") or entry.get("created")
    return stamp.timestamp() if hasattr(stamp, "timestamp") else float(stamp or time.time())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_file(key: str, path: Path, facts: dict[str, Any]) -> None:
    if not path.exists():
        raise ArtifactError(f"artifact '{key}' is damaged: {path.name} is missing; recompute it with --force")
    size = path.stat().st_size
    if size != facts["bytes"]:
        raise ArtifactError(
            f"artifact '{key}' is damaged: {path.name} has {size} bytes of {facts['bytes']}; recompute with --force"
        )
    if _sha256(path) != facts["sha256"]:
        raise ArtifactError(
            f"artifact '{key}' is damaged: {path.name} fails its sha256 checksum; recompute with --force"
        )


@contextmanager
def _full_disk_told(target: object) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise ArtifactError(f"no space left while writing {target}: free space or set MAD_HOME elsewhere") from None
    except SafetensorError as error:
        if not any(f"os error {code}" in str(error) for code in _FULL):
            raise
        raise ArtifactError(f"no space left while writing {target}: free space or set MAD_HOME elsewhere") from None
