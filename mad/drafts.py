"""Artifacts that are being written: files appear whole, and what is finished is known after any kill."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mad.artifacts import META
from mad.files import answers_told, facts_of, fill_json

if TYPE_CHECKING:
    from mad.store import Store

DONE = ".done"


class Draft:
    """An artifact being written. ``write`` is atomic per file; ``commit`` makes the whole visible."""

    def __init__(self, store: Store, key: str):
        self.store = store
        self.key = key
        self.files: dict[str, dict[str, Any]] = {}
        self._records: dict[str, dict[str, Any]] = {}

    def write(self, name: str, writer: Callable[[Path], object], marker: bool = False) -> None:
        """Write one payload file whole.

        Args:
            name: file name inside the artifact.
            writer: fills the (temporary, local) path it is given; what it returns does not count.
            marker: also leave a ``.done`` record, so that another process can tell the file is finished.

        Raises:
            ArtifactError: the disk is full; nothing of the file is left.
        """
        with self.store.writing(self.store.path(self.key, name)) as path:
            writer(path)
            facts = facts_of(path)
        self.files[name] = facts
        if marker:
            self.store.put_json(self.store.path(self.key, name + DONE), facts)
            self._records[name] = facts

    def write_json(self, name: str, data: Any) -> None:
        """Write JSON."""
        self.write(name, lambda path: fill_json(path, data))

    def discard(self, name: str) -> None:
        """Remove one payload file, if it is there, with its record."""
        self.files.pop(name, None)
        self._records.pop(name, None)
        for path in (self.store.path(self.key, name + DONE), self.store.path(self.key, name)):
            if self.store.fs.exists(path):
                self.store.fs.rm_file(path)

    def finished(self) -> dict[str, dict[str, Any]]:
        """Files with a ``.done`` record whose size still agrees: what a restart need not do again.

        One listing tells every size, and a record is read again only where it disagrees: a hundred thousand chunks
        take seconds on a disk, and on an object store as many requests as there are new records.
        """
        sizes = self._sizes()
        marked = [name.removesuffix(DONE) for name in sizes if name.endswith(DONE)]
        agrees = {name for name in marked if self._records.get(name, {}).get("bytes") == sizes.get(name, -1)}
        self._read([name for name in marked if name not in agrees and name in sizes])
        found = {name: self._records[name] for name in marked if name in self._records}
        if self.store.has(self.key):  # another writer has committed meanwhile, and the records are gone
            found = self.store.meta(self.key)["files"] | found
        return {name: found[name] for name in sorted(found) if found[name]["bytes"] == sizes.get(name)}

    def _sizes(self) -> dict[str, int]:
        """Bytes of every file that the draft has by now."""
        if self.store.is_local:
            return dict(_files(self.store.path(self.key)))
        with answers_told(self.store.shown):
            try:
                found = self.store.fs.ls(self.store.path(self.key), detail=True)
            except FileNotFoundError:
                return {}
        return {entry["name"].split("/")[-1]: int(entry["size"] or 0) for entry in found}

    def _read(self, names: Iterable[str]) -> None:
        """Read the records of some files, all at once where the store can."""
        locations = {name: self.store.path(self.key, name + DONE) for name in names}
        if self.store.is_local:
            bodies: list[Any] = [_body(Path(location)) for location in locations.values()]
        else:
            with answers_told(self.store.shown):
                bodies = self.store.fs.cat_ranges(list(locations.values()), None, None, on_error="return")
        for name, body in zip(locations, bodies, strict=True):
            if isinstance(body, FileNotFoundError):  # another writer has committed meanwhile
                self._records.pop(name, None)
            elif isinstance(body, Exception):
                raise body
            else:
                self._records[name] = json.loads(body)

    def commit(self, meta: dict[str, Any]) -> None:
        """Write the marker last: from now on the artifact exists."""
        done = self.finished()
        files = dict(sorted((done | self.files).items()))
        self.store.put_json(self.store.path(self.key, META), {**meta, "key": self.key, "files": files})
        self._forget([self.store.path(self.key, name + DONE) for name in done])

    def _forget(self, records: list[str]) -> None:
        """Remove the records of a committed artifact."""
        if not self.store.is_local:
            if records:
                self.store.fs.rm(records)
            return
        for record in records:
            Path(record).unlink(missing_ok=True)


def _files(folder: str) -> Iterator[tuple[str, int]]:
    """Name and bytes of the files of a folder; those that go meanwhile are left out."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                yield entry.name, entry.stat().st_size


def _body(path: Path) -> bytes | FileNotFoundError:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        return error
