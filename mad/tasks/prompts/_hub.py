"""Records of data sets in Hugging Face's formats, from the hub or a folder; no code of a data set is ever run."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mad.errors import DataError, nearest

Record = dict[str, Any]
COMMIT = re.compile(r"[0-9a-f]{40}")
_SAVED = ("dataset_dict.json", "state.json")


@dataclass(frozen=True)
class Source:
    """A data set: a folder where there is one, the hub otherwise.

    Attributes:
        dataset: id on the hub.
        revision: commit, tag or branch; None: the newest.
        subset: configuration of the data set; None: its default.
        split: of the data set.
        folder: with a copy, or "".
        instead: what to set where the hub does not answer.
    """

    dataset: str
    revision: str | None
    subset: str | None
    split: str
    folder: str
    instead: str = ""


def source_digest(source: Source) -> str:
    """What pins the content: the commit on the hub, or a digest of the folder's files.

    A revision that is a full commit is its own answer, and asks nobody.

    Raises:
        DataError: neither reachable nor there.
    """
    if source.folder:
        return _folder_digest(Path(source.folder))
    if source.revision and COMMIT.fullmatch(source.revision):
        return source.revision
    return _commit(source)


def read_source(source: Source) -> list[Record]:
    """All records of the split, in order.

    Raises:
        DataError: neither reachable nor there, not readable, or no such split.
    """
    import datasets

    with _told(source):
        if source.folder and any((Path(source.folder) / name).is_file() for name in _SAVED):
            loaded = datasets.load_from_disk(source.folder)
            splits = loaded if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
            return _split(splits, source).to_list()
        if source.folder:
            _folder_files(Path(source.folder))
            # Streamed, so that no copy of the folder is left in a cache.
            streamed = datasets.load_dataset(str(Path(source.folder).resolve()), source.subset, streaming=True)
            return [dict(record) for record in _split(streamed, source)]
        loaded = datasets.load_dataset(source.dataset, source.subset, revision=_commit(source))
        return _split(loaded, source).to_list()


def _split(splits: Any, source: Source) -> Any:
    if source.split not in splits:
        raise DataError(f"{called(source)} has no split '{source.split}'{nearest(source.split, [*splits])}")
    return splits[source.split]


def called(source: Source) -> str:
    """The data set in messages."""
    return source.folder or f"data set {source.dataset}"


def _commit(source: Source) -> str:
    """The commit that the hub, or else the cache, has for the revision."""
    import datasets

    with _told(source):
        found = str(datasets.load_dataset_builder(source.dataset, source.subset, revision=source.revision).hash)
    if source.revision and COMMIT.fullmatch(source.revision) and found != source.revision:
        # Without a network, `datasets` takes whatever version its cache holds.
        raise DataError(f"{called(source)} is cached at commit {found}, not at {source.revision}: {_remedy(source)}")
    return found


def _folder_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"no such folder of a data set: {folder} (--prompts.folder)")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not files:
        raise DataError(f"{folder} (--prompts.folder) is empty: it should hold {_LAYOUT}")
    return files


def _folder_digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in _folder_files(folder):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()}\n{content}\n".encode())
    return total.hexdigest()


_LAYOUT = "files such as train.jsonl, train.csv or data/train-00000-of-00001.parquet, or what save_to_disk made"


def _remedy(source: Source) -> str:
    instead = source.instead or f"--prompts.folder to a folder with a copy ({_LAYOUT})"
    return f"connect (and set HF_TOKEN if it is gated), or set {instead}"


@contextmanager
def without_chatter() -> Iterator[None]:
    """Leave out the hub client's lines about each attempt."""
    chatter = logging.getLogger("huggingface_hub.utils._http")
    before = chatter.level
    chatter.setLevel(logging.ERROR)
    try:
        yield
    finally:
        chatter.setLevel(before)


@contextmanager
def _told(source: Source) -> Iterator[None]:
    """Tell in one line what keeps a data set from being read."""
    try:
        with without_chatter():
            yield
    except DataError:
        raise
    except Exception as error:  # each format and each transport has errors of its own; Python's own are bugs
        if not isinstance(error, (OSError, ValueError, RuntimeError)) and type(error).__module__ == "builtins":
            raise
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        hint = f": {_remedy(source)}" if isinstance(error, OSError) and not source.folder else ""
        raise DataError(f"cannot read {called(source)} ({reason.rstrip('.')}){hint}") from None
