"""Labelled texts: made up, from a CSV or JSONL file, or from a data set of the Hugging Face hub."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from mad.config import placement, require
from mad.errors import DataError, nearest
from mad.stats.random import derive
from mad.tasks._sentences import CLASSES, reviews
from mad.tasks._splits import cut, require_within, stratified_order
from mad.tasks.prompts._hub import without_chatter


@dataclasses.dataclass(frozen=True)
class Texts:
    """A labelled data set of texts.

    Attributes:
        texts: N texts.
        labels: (N,) int64, indices into ``class_names``.
        numbers: (N,) int64, the place in the whole data set.
        is_test: (N,) bool, the official test part; None without one.
        class_names: one name per class.
    """

    texts: list[str]
    labels: Tensor
    numbers: Tensor
    is_test: Tensor | None
    class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class TextSource:
    """Which texts a task takes."""

    dataset: Literal["generated", "file", "hub"] = "generated"
    """generated: made-up reviews, negative or positive; file: CSV or JSONL; hub: a Hugging Face data set"""
    path: str | None = placement(None)
    """The file; or the hub id (stanfordnlp/imdb) or local folder of the data set."""
    subset: str | None = None
    """Configuration of a hub data set that has several."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set; null is its main branch."""
    train_split: str = "train"
    """Split of a hub data set that gives the training part."""
    test_split: str | None = "test"
    """Split of a hub data set that gives validation and test; null cuts test_fraction off the other."""
    text_key: str = "text"
    """Column of the text."""
    label_key: str = "label"
    """Column of the class: numbers from 0, or names."""
    generated_rows: int = 2400
    """Reviews that are made up, 40 or more."""
    max_rows: int | None = None
    """Keep a seeded subset of at most this many rows; null keeps all."""
    max_words: int | None = None
    """Cut texts after this many words, before any trigger is put in; null leaves them whole."""
    test_fraction: float = 0.3
    """Share of all rows in the test part, for a data set without an official one."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value is out of range, or there is no path.
        """
        for name, least in (("generated_rows", 40), ("max_rows", 1), ("max_words", 1)):
            value = getattr(self, name)
            require(value is None or value >= least, f"{name} must be {least} or more, got {value}")
        require_within(self, "(0, 1)", "test_fraction")
        needs = self.dataset != "generated"
        require(not needs or self.path is not None, f"dataset {self.dataset} needs --task.path")
        require(needs or self.path is None, "path is for --task.dataset file or hub, generated reads nothing")


def digest(source: TextSource) -> str:
    """Content digest of the data set: SHA-256 over texts and labels, wherever they are kept.

    Raises:
        DataError: it is missing or cannot be read.
    """
    if source.dataset == "generated":
        return "generated"  # by code, which is in the key
    found = _read(source)
    sha = hashlib.sha256()
    for text, label in zip(found.texts, found.labels.tolist(), strict=True):
        sha.update(f"{len(text.encode())} {label} {text}".encode())
    return f"{sha.hexdigest()} {' '.join(found.class_names)}"


def load(source: TextSource, seed: int) -> Texts:
    """Read the texts; the seed makes generated ones, and chooses them where only some are kept.

    Raises:
        DataError: the data set is missing or cannot be read.
    """
    if source.dataset == "generated":
        texts, labels = reviews(source.generated_rows, derive(seed, "reviews"))
        found = Texts(texts, labels, torch.arange(len(texts)), None, CLASSES)
    else:
        found = _read(source)
    if source.max_rows is not None and source.max_rows < len(found.texts):
        order = stratified_order(derive(seed, "subset"), found.numbers, found.labels)
        found = _chosen(found, order[: source.max_rows].sort().values)
    if source.max_words is not None:
        found = dataclasses.replace(found, texts=[" ".join(t.split()[: source.max_words]) for t in found.texts])
    return found


def train_and_test(texts: Texts, test_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the official parts, or of a seeded split where the data set has none."""
    everything = torch.arange(len(texts.labels))
    if texts.is_test is not None:
        return everything[~texts.is_test], everything[texts.is_test]
    order = stratified_order(seed, texts.numbers, texts.labels)
    test, train = cut(order, test_fraction)
    return train, test


def _chosen(texts: Texts, kept: Tensor) -> Texts:
    return Texts(
        [texts.texts[i] for i in kept.tolist()],
        texts.labels[kept],
        texts.numbers[kept],
        None if texts.is_test is None else texts.is_test[kept],
        texts.class_names,
    )


def _read(source: TextSource) -> Texts:
    assert source.path is not None
    tables = [read_table(Path(source.path))] if source.dataset == "file" else _hub_tables(source)
    for table in tables:
        for key in (source.text_key, source.label_key):
            if key not in table:
                raise DataError(f"{source.path} has no column '{key}'{nearest(key, map(str, table.columns))}")
    joined = pd.concat(tables, ignore_index=True)
    labels, names = _classes(joined[source.label_key], source)
    is_test = None
    if len(tables) == 2:
        is_test = torch.arange(len(joined)) >= len(tables[0])
    return Texts(joined[source.text_key].astype(str).tolist(), labels, torch.arange(len(joined)), is_test, names)


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file, or JSON with one object per line.

    Raises:
        DataError: it is missing, of another kind or damaged.
    """
    readers: dict[str, Any] = {".csv": pd.read_csv, ".jsonl": lambda p: pd.read_json(p, lines=True)}
    if path.suffix not in readers:
        raise DataError(f"{path}: expected a file that ends in {' or '.join(readers)}")
    try:
        return readers[path.suffix](path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def _hub_tables(source: TextSource) -> list[pd.DataFrame]:
    import datasets

    tables = []
    for split in (source.train_split, source.test_split):
        if split is None:
            continue
        try:
            with without_chatter():
                found = datasets.load_dataset(source.path, source.subset, split=split, revision=source.revision)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"the data set {source.path} (split {split}) cannot be loaded: {reason}") from None
        table = found.to_pandas()
        feature = found.features.get(source.label_key)
        if isinstance(feature, datasets.ClassLabel):
            table[source.label_key] = [feature.names[i] if i >= 0 else None for i in table[source.label_key]]
        tables.append(table)
    return tables


def _classes(column: pd.Series, source: TextSource) -> tuple[Tensor, tuple[str, ...]]:
    if column.isna().any():
        raise DataError(f"{source.path}: row {int(column.isna().to_numpy().argmax())} has no '{source.label_key}'")
    if pd.api.types.is_integer_dtype(column):
        low, high = int(column.min()), int(column.max())
        if low < 0:
            raise DataError(f"{source.path}: the classes in '{source.label_key}' must count from 0, got {low}")
        return torch.tensor(column.to_numpy("int64", copy=True)), tuple(str(c) for c in range(high + 1))
    names = sorted(set(column.astype(str)))
    place = {name: number for number, name in enumerate(names)}
    return torch.tensor([place[name] for name in column.astype(str)]), tuple(names)
