"""Files of scores that a person has: CSV, JSON lines or parquet, read strictly, missing values kept as NaN."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
from pyarrow import parquet

from mad.errors import DataError, nearest
from mad.files import facts_of

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}
TRUTHS = {"True": "1", "true": "1", "False": "0", "false": "0"}
"""judgements such as "refused" are scores of 0 and 1"""
_UNREADABLE = (OSError, ValueError, pd.errors.ParserWarning, pyarrow.ArrowException)


def describe_file(path: str) -> dict[str, str]:
    """What a file holds, wherever it lies: its format and the SHA-256 of its bytes.

    Raises:
        DataError: absent, not a file, not readable, or of an unknown format.
    """
    found = Path(path)
    if not found.is_file():
        raise DataError(f"no such file of scores: {path}")
    if found.suffix.lower() not in FORMATS:
        raise DataError(f"cannot tell the format of {path}: its name must end in {', '.join(FORMATS)}")
    try:
        return {"format": FORMATS[found.suffix.lower()], "sha256": facts_of(found)["sha256"]}
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


class ScoreFile:
    """One file; a column is looked up by name, and only asked-for columns are read.

    Args:
        path: of the file.

    Raises:
        DataError: the file is absent, empty, damaged or of an unknown format.
    """

    def __init__(self, path: str):
        self.path = path
        columns, self._read = _told(path, _OPENERS[describe_file(path)["format"]])
        self.columns: list[str] = columns

    def table(self, columns: dict[str, str]) -> pd.DataFrame:
        """The rows, in order, with the columns asked for.

        Args:
            columns: column to the flag that names it.

        Raises:
            DataError: no such column, no rows, or rows that cannot be read.
        """
        for column, flag in columns.items():
            if not column:
                raise DataError(f"{flag} must name a column of {self.path}{nearest('', self.columns)}")
            if column not in self.columns:
                raise DataError(f"{self.path} has no column '{column}' ({flag}){nearest(column, self.columns)}")
        table: pd.DataFrame = _told(self.path, lambda _: self._read([*columns]))
        if table.empty:
            raise DataError(f"{self.path} holds no rows")
        return table

    def numbers(self, column: pd.Series) -> np.ndarray:
        """(n,) float64 scores of a column of :meth:`table`, NaN where missing.

        Raises:
            DataError: values that are no finite numbers.
        """
        if pd.api.types.is_numeric_dtype(column.dtype):
            values, present = column.to_numpy(np.float64, na_value=np.nan), column.notna().to_numpy()
            shown = column
        else:
            shown = _text(column).replace(TRUTHS)
            present = shown.notna().to_numpy(bool)
            readable = pd.to_numeric(shown, errors="coerce").notna().to_numpy(bool)
            # Python's own reading of the text is exact to the last bit.
            values = shown.where(readable).to_numpy(np.float64, na_value=np.nan)
        bad = np.flatnonzero(present & ~np.isfinite(values))
        if len(bad):
            where = f"column '{column.name}' of {self.path}"
            value = str(shown.iloc[bad[0]])[:40]
            told = f"{len(bad)} values of {where} are no numbers (row {bad[0] + 1}: '{value}')"
            raise DataError(f"{told}: give numbers, and leave missing scores empty")
        return values

    def names(self, column: pd.Series) -> pd.Series:
        """Ids or clusters as text, (n,).

        Raises:
            DataError: some are missing.
        """
        names = _text(column)
        if names.isna().any():
            row = int(names.isna().to_numpy().argmax()) + 1
            raise DataError(f"column '{column.name}' of {self.path} is empty in row {row}: every row needs its value")
        return names.astype(object)


def _text(column: pd.Series) -> pd.Series:
    text = column.astype("string").str.strip()
    return text.mask(text == "")


Reader = Callable[[Sequence[str]], pd.DataFrame]


def _told(path: str, action: Callable[[Path], Any]) -> Any:
    """Do something with a file; what the readers raise about its content is told in one line."""
    try:
        return action(Path(path))
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} is empty") from None
    except _UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"cannot read {path}: {reason}") from None


def _csv(path: Path) -> tuple[list[str], Reader]:
    header = [str(name) for name in pd.read_csv(path, nrows=0, encoding="utf-8-sig").columns]

    def read(columns: Sequence[str]) -> pd.DataFrame:
        with warnings.catch_warnings():
            # All columns are parsed, so that a row longer than the header is an error and no score is taken from
            # the wrong place; as text, so that numbers are read exactly and ids keep their leading zeros.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(path, dtype=str, index_col=False, encoding="utf-8-sig")[[*columns]]

    return header, read


def _jsonl(path: Path) -> tuple[list[str], Reader]:
    records = []
    with path.open(encoding="utf-8-sig") as file:
        # Line by line: a mistake is told with its line, and numbers are read exactly.
        for number, line in enumerate(file, start=1):
            if line.strip():
                records.append(_record(line, number))
    if not records:
        raise pd.errors.EmptyDataError
    header = [*dict.fromkeys(name for record in records for name in record)]
    return header, lambda columns: pd.DataFrame(
        {c: pd.Series([r.get(c) for r in records], dtype=object) for c in columns}
    )


def _record(line: str, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number} is not JSON ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"line {number} is not a JSON object with named values")
    return record


def _parquet(path: Path) -> tuple[list[str], Reader]:
    return parquet.read_schema(path).names, lambda columns: pd.read_parquet(path, columns=[*columns])


_OPENERS: dict[str, Callable[[Path], tuple[list[str], Reader]]] = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}
