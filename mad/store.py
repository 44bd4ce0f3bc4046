"""Where artifacts live: a local folder or any fsspec URI, one folder per content-hash key.

Payload files are written first, each whole (rename on a file system, one upload elsewhere); ``meta.json``
comes last and is the commit marker: without it nothing is there. A key names its content, so two writers of
one key write the same and need no lock.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, overload

import fsspec
from fsspec.implementations.local import LocalFileSystem

from mad.artifacts import META, Artifact
from mad.drafts import DONE, Draft
from mad.errors import ArtifactError, nearest
from mad.files import (
    KEY,
    answers_told,
    check_files,
    fill_json,
    is_copy,
    modified,
    replacing,
    temporary_path,
    without_login,
    write_errors_told,
)

__all__ = ["DONE", "Draft", "Store"]
A = TypeVar("A", bound=Artifact)


class Store:
    """Get and put artifacts by key.

    Args:
        uri: a folder or an fsspec URI (``s3://bucket/mad``, ``file:///data/mad``, ``memory://mad``).
        cache: local folder for artifacts fetched from a remote store; one copy per node.
    """

    def __init__(self, uri: str, cache: Path | None = None):
        try:
            # Workers write while the driver looks: a listing kept from before would hide what they did.
            self.fs, root = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise ArtifactError(without_login(f"cannot open the artifact store '{uri}': {error}")) from None
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self.root = str(Path(root).absolute()) if self.is_local else root.rstrip("/")
        # Workers get the URI and have another working directory: a relative folder would be another one there.
        self.uri = self.root if self.is_local else uri
        self.shown = without_login(self.uri)
        cache = cache or Path(tempfile.gettempdir()) / f"mad-cache-{os.getuid()}"
        self.cache = cache / hashlib.sha256(uri.encode()).hexdigest()[:12]
        self._checked: set[str] = set()

    def path(self, *parts: str) -> str:
        """The location of a file or folder inside the store."""
        return "/".join([self.root, *parts])

    def has(self, key: str) -> bool:
        """True once the artifact is committed."""
        with answers_told(self.shown):
            return self.fs.exists(self.path(key, META))

    def meta(self, key: str) -> dict[str, Any]:
        """The committed meta data of a key.

        Raises:
            ArtifactError: no such artifact, or unreadable meta data.
        """
        try:
            with answers_told(self.shown):
                body = self.fs.cat_file(self.path(key, META))
            return json.loads(body)
        except FileNotFoundError:
            raise ArtifactError(f"no artifact '{key}' in {self.shown}{nearest(key, self.keys())}") from None
        except ValueError:
            raise ArtifactError(f"artifact '{key}' is damaged: {META} is not JSON; recompute it with --force") from None

    def keys(self) -> list[str]:
        """Every committed key."""
        return sorted(marker.split("/")[-2] for marker in self.find("*", META))

    def find(self, *pattern: str) -> list[str]:
        """Locations below the root that match a glob."""
        with answers_told(self.shown):
            return self.fs.glob("/".join([glob.escape(self.root), *pattern]))

    @overload
    def open(self, key: str, *, check: bool = True) -> Artifact: ...

    @overload
    def open(self, key: str, kind: type[A], *, check: bool = True) -> A: ...

    def open(self, key: str, kind: type[Artifact] = Artifact, *, check: bool = True) -> Artifact:
        """An artifact in a local folder, fetched first if the store is remote.

        Args:
            key: its name.
            kind: the record type that is expected.
            check: compare every file with its checksum, once per process. Workers skip it: the driver has
                checked, and what is fetched is checked on arrival.

        Raises:
            ArtifactError: absent, of another kind, or a payload file is missing, truncated or altered.
        """
        meta = self.meta(key)
        check = check and key not in self._checked
        folder = Path(self.path(key)) if self.is_local else self._fetch(key, meta, check)
        if check:
            check_files(key, folder, meta)
            self._checked.add(key)
        artifact = Artifact.read(folder)
        if not isinstance(artifact, kind):
            raise ArtifactError(f"'{key}' was made by stage '{artifact.meta['stage']}', '{kind.stage}' is needed")
        return artifact

    def _fetch(self, key: str, meta: dict[str, Any], check: bool) -> Path:
        """The node's copy: fetched if it is absent, of an earlier making, or found damaged."""
        folder = self.cache / key
        if is_copy(key, folder, meta, check):
            return folder
        partial = temporary_path(self.cache)
        try:
            with write_errors_told(folder):
                partial.mkdir(parents=True)
                names = list(meta["files"])
                with contextlib.suppress(FileNotFoundError):  # the check below tells it
                    # Together: a store behind a network sends many small files at once.
                    self.fs.get([self.path(key, name) for name in names], [str(partial / name) for name in names])
                (partial / META).write_text(json.dumps(meta))
            check_files(key, partial, meta)
            shutil.rmtree(folder, ignore_errors=True)
            try:
                partial.rename(folder)
            except OSError:  # another process was first; its copy is the same
                if not is_copy(key, folder, meta, check):
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return folder

    @contextmanager
    def local_copy(self, key: str, name: str) -> Iterator[Path]:
        """A payload file of a draft or artifact as a local path, for as long as the block runs."""
        if self.is_local:
            yield Path(self.path(key, name))
            return
        temporary = temporary_path()
        try:
            self.fs.get_file(self.path(key, name), str(temporary))
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def draft(self, key: str) -> Draft:
        """Begin (or go on with) writing an artifact."""
        return Draft(self, key)

    def delete(self, key: str) -> None:
        """Remove an artifact and this node's copy, marker first."""
        self._checked.discard(key)
        if not self.is_local:
            shutil.rmtree(self.cache / key, ignore_errors=True)
        for location in (self.path(key, META), self.path(key)):
            if self.fs.exists(location):
                self.fs.rm(location, recursive=True)

    def set_name(self, name: str, key: str) -> None:
        """Let ``name`` stand for ``key``."""
        self.put_json(self.path("names", f"{name}.json"), {"key": key})

    def names(self) -> dict[str, str]:
        """Every given name and its key."""
        found = {}
        for file in self.find("names", "*.json"):
            found[file.split("/")[-1].removesuffix(".json")] = json.loads(self.fs.cat_file(file))["key"]
        return found

    def collect(self, keep: set[str], older_than: float, dry_run: bool) -> list[tuple[str, int]]:
        """Delete artifacts and drafts that are not in ``keep`` and were last written before ``older_than``.

        What is not named like an artifact is somebody else's and stays.

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
            if entry["type"] != "directory" or key in keep or not KEY.fullmatch(key):
                continue
            files = self.fs.find(entry["name"], detail=True).values()
            if max((modified(f) for f in files), default=modified(entry)) < older_than:
                removed.append((key, sum(f["size"] for f in files)))
                if not dry_run:
                    self.delete(key)
        return removed

    @contextmanager
    def writing(self, location: str) -> Iterator[Path]:
        """A temporary local path that appears at ``location`` whole when the block ends well.

        Raises:
            ArtifactError: the disk is full or not writable; what was at the location before is still there.
        """
        with write_errors_told(without_login(location)):
            if self.is_local:
                with replacing(Path(location)) as temporary:
                    yield temporary
                return
            temporary = temporary_path()
            try:
                yield temporary
                self.fs.put_file(str(temporary), location)
            finally:
                temporary.unlink(missing_ok=True)

    def put_json(self, location: str, data: Any) -> None:
        """Write a small JSON file whole."""
        with self.writing(location) as path:
            fill_json(path, data)
