"""Which tokens of a text a detector finds anomalous, where it scores every position and takes the mean of a row."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from mad.artifacts import AnomalyScores, Checkpoint, Features, FittedDetector
from mad.detectors._base import Batch, Detector
from mad.errors import FitError
from mad.models.language_checkpoint import load_tokenizer
from mad.models.pooling import kept_positions
from mad.stages._subject import Subject
from mad.stages.fit import load_detector
from mad.stats.conformal import location_and_spread
from mad.store import Store

COLUMNS = ["end", "rank", "id", "position", "token", "score"]
LAYER = "score/"


def token_table(scores: AnomalyScores, features: Features, shown: pd.DataFrame, store: Store) -> pd.DataFrame | None:
    """The tokens of some texts with the score of each.

    A token's score in a layer is the detector's at that position, standardised as that of the row is by held-out
    trusted rows; the score is the mean over layers. With the default aggregation the mean over the tokens of a row is
    the row's score.

    Args:
        scores: what ``detect`` gave.
        features: the activations that were scored.
        shown: rows with columns ``end``, ``rank``, ``id`` and ``text``.
        store: where detector and tokenizer lie.

    Returns:
        Columns ``COLUMNS``; ``position`` counts all tokens of the text from 0, and the tokens of a text, joined, are
        the text and special tokens. None where the features have no positions, or the detector joins them otherwise.
    """
    table, fitted = scores.table("scores.parquet"), scores.meta["inputs"].get("fitted", "")
    layers = [name.removeprefix(LAYER) for name in map(str, table) if name.startswith(LAYER)]
    first = features.chunks[0]
    if not len(shown) or not store.has(fitted) or any(n not in first or first[n].ndim != 3 for n in layers):
        return None
    points = _read(features, shown["id"], layers)
    detector = load_detector(store.open(fitted, FittedDetector, check=False), Subject(features, store))
    found = _standardised(detector, points, table, shown["id"])
    if found is None:
        return None
    checkpoint = store.open(features.meta["inputs"]["checkpoint"], Checkpoint, check=False)
    tokenizer = load_tokenizer(checkpoint.folder)
    pool = features.meta["lineage"]["extract"]["config"]["extract"]["pool"]
    tables = []
    for row, values in zip(shown.itertuples(), found.split(points.lengths), strict=True):
        tokens = pieces(tokenizer, str(row.text))
        kept = kept_positions(pool, len(tokens))
        facts = {"end": row.end, "rank": row.rank, "id": row.id, "position": kept}
        tables.append(pd.DataFrame({**facts, "token": [tokens[i] for i in kept], "score": values.numpy()}))
    return pd.concat(tables, ignore_index=True)[COLUMNS]


class _Points:
    """Real positions of rows as rows of their own: activations by layer, logits, and positions of each row."""

    def __init__(self, features: dict[str, list[Tensor]], logits: list[Tensor]):
        self.lengths = [len(h) for h in next(iter(features.values()))]
        repeats = torch.tensor(self.lengths)
        joined = torch.stack(logits).repeat_interleave(repeats, dim=0) if logits else None
        self.batch = Batch({name: torch.cat(parts) for name, parts in features.items()}, logits=joined)


def _read(features: Features, ids: pd.Series[str], layers: list[str]) -> _Points:
    numbers = pd.Index(features.rows["id"]).get_indexer(pd.Index(ids))
    sizes = [len(chunk[layers[0]]) for chunk in features.chunks]
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    logits = []
    for number in numbers.tolist():
        place = 0
        while number >= sizes[place]:
            number, place = number - sizes[place], place + 1
        chunk = features.chunks[place]
        real = chunk["mask"][number].bool() if "mask" in chunk else slice(None)
        for name in layers:
            found[name].append(chunk[name][number][real])
        if "logits" in chunk:
            logits.append(chunk["logits"][number])
    return _Points(found, logits)


def _standardised(detector: Detector, points: _Points, table: pd.DataFrame, ids: pd.Series[str]) -> Tensor | None:
    """(m,) scores of all points; None unless the mean over the points of each row is the row's score."""
    try:
        by_layer = detector.score(points.batch)
    except FitError:
        return None  # it looks at a row's positions together
    calibration, rows = table[table["part"] == "calibration"], table.set_index("id").loc[list(ids)]
    parts = []
    for name, values in by_layer.items():
        means = torch.stack([part.mean() for part in values.split(points.lengths)])
        expected = torch.from_numpy(rows[LAYER + name].to_numpy("float64", copy=True))
        if not torch.allclose(means, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max())):
            return None
        location, spread = location_and_spread(torch.from_numpy(calibration[LAYER + name].to_numpy(copy=True)))
        parts.append((values - location) / spread)
    return torch.stack(parts).mean(dim=0)


def pieces(tokenizer: Any, text: str) -> list[str]:
    """What each token stands for: joined, the text itself and special tokens by name."""
    if not tokenizer.is_fast:
        return [tokenizer.decode([number]) for number in tokenizer(text, verbose=False)["input_ids"]]
    read = tokenizer(text, verbose=False, return_offsets_mapping=True)
    special, found, done = set(tokenizer.all_special_ids), [], 0
    for number, (_, end) in zip(read["input_ids"], read["offset_mapping"], strict=True):
        if number in special and end <= done:
            found.append(tokenizer.convert_ids_to_tokens(number))
        else:  # with the space before it; of several tokens of one character the first shows it
            found.append(text[done:end])
            done = max(done, end)
    return found
