"""Which rows an attack is made on, which rows are left once it is made, and what became of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from torch import Tensor

from mad.errors import DataError
from mad.stats.random import derive
from mad.store import Draft
from mad.tasks._splits import MIXED, stratified_order

FACTS = {"answer": torch.int64, "answer_before": torch.int64, "success": torch.bool, "size": torch.float32}
"""Tensors of a chunk that say what became of its rows, beside their ``variants``, and their types."""


def rows_to_attack(table: pd.DataFrame) -> Tensor:
    """(m,) int64 numbers of the rows that an attack is to change: the anomalous ones of the mixed parts."""
    return torch.from_numpy((table["part"].isin(MIXED) & table["is_anomalous"]).to_numpy().nonzero()[0])


def read_facts(draft: Draft, chunks: int) -> dict[str, Tensor]:
    """``FACTS`` of all chunks, (m,) each; the adversarial examples themselves stay on disk."""
    parts: dict[str, list[Tensor]] = {name: [torch.empty(0, dtype=kind)] for name, kind in FACTS.items()}
    for number in range(chunks):
        chunk = draft.store.local_copy(draft.key, f"chunk-{number:05d}.safetensors")
        with chunk as path, safe_open(path, framework="pt") as file:
            for name in FACTS:
                parts[name].append(file.get_tensor(name).clone())
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


def attacked_rows(table: pd.DataFrame, found: dict[str, Tensor], first: int, seed: int) -> pd.DataFrame:
    """The rows of the task with adversarial examples in place of those that were to be attacked.

    Rows on which the attack failed go, and as many clean rows as keep each part's anomalous share; the clean rows
    that stay are drawn with the classes in proportion.

    Args:
        table: rows of the task.
        found: ``FACTS``, (m,) each, of the :func:`rows_to_attack` in their order.
        first: variant of the first of these; the others follow.
        seed: of the clean rows that go.

    Returns:
        The rows that are left, in their order; an attacked row's label is the model's answer.

    Raises:
        DataError: a mixed part would lack one of its kinds.
    """
    numbers = rows_to_attack(table).numpy()
    label, variant = (table[name].to_numpy("int64", copy=True) for name in ("label", "variant"))
    label[numbers], variant[numbers] = found["answer"].numpy(), first + np.arange(len(numbers))
    table = table.assign(label=label, variant=variant)
    keep = np.ones(len(table), dtype=bool)
    keep[numbers] = found["success"].numpy()
    for part in table["part"].iloc[numbers].unique():
        mine = (table["part"] == part).to_numpy()
        anomalous = table["is_anomalous"].to_numpy(bool) & mine
        clean = (mine & ~anomalous).nonzero()[0]
        keep[clean] = _kept_clean(table.iloc[clean], int((anomalous & keep).sum()), int(anomalous.sum()), part, seed)
    return table[keep].reset_index(drop=True)


def _kept_clean(clean: pd.DataFrame, succeeded: int, attempted: int, part: str, seed: int) -> np.ndarray:
    """(n,) bool: which clean rows of a part stay."""
    if not succeeded:
        raise DataError(f"none of the {attempted} attacks on {part} rows succeeded: raise --attack.epsilon or steps")
    count = min(len(clean), max(1, round(len(clean) * succeeded / attempted)))
    labels = torch.from_numpy(clean["clean_label"].to_numpy("int64", copy=True))
    sources = torch.from_numpy(clean["source"].to_numpy("int64", copy=True))
    order = stratified_order(derive(seed, "clean", part), sources, labels) if len(clean) else sources
    kept = np.zeros(len(clean), dtype=bool)
    kept[order[:count].numpy()] = True
    return kept


def attack_facts(before: pd.DataFrame, after: pd.DataFrame, found: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """What became of the attack, by part and over ``all`` of them.

    Args:
        before: rows of the task.
        after: rows that are left.
        found: ``FACTS`` of the :func:`rows_to_attack` in their order.

    Returns:
        ``attempted``, ``already_misclassified``, ``failed``, ``succeeded`` and ``clean_rows_dropped`` rows;
        ``accuracy_before`` and ``robust_accuracy``, the shares of attempted rows that the model answers right
        without the attack, and both without and with it; ``mean_perturbation`` and ``max_perturbation``, norms of
        those that succeeded.
    """
    rows = before.iloc[rows_to_attack(before).numpy()]
    parts = rows["part"].to_numpy()
    labels = torch.from_numpy(rows["clean_label"].to_numpy("int64", copy=True))
    dropped = (
        before.loc[~before["is_anomalous"], "part"]
        .value_counts()
        .sub(after.loc[~after["is_anomalous"], "part"].value_counts(), fill_value=0)
    )
    facts = {}
    for part in [*rows["part"].unique(), "all"]:
        mine = torch.from_numpy(parts == part) if part != "all" else torch.ones(len(rows), dtype=torch.bool)
        right, success = found["answer_before"] == labels, found["success"]
        sizes = found["size"][mine & success]
        facts[str(part)] = {
            "attempted": int(mine.sum()),
            "already_misclassified": int((mine & ~right).sum()),
            "failed": int((mine & right & ~success).sum()),
            "succeeded": int((mine & success).sum()),
            "clean_rows_dropped": int(dropped.sum() if part == "all" else dropped.get(part, 0)),
            "accuracy_before": _share(right[mine]),
            "robust_accuracy": _share((right & (found["answer"] == labels))[mine]),
            "mean_perturbation": float(sizes.mean()) if len(sizes) else None,
            "max_perturbation": float(sizes.max()) if len(sizes) else None,
        }
    return facts


def changed_facts(rows: dict[str, dict[str, int]]) -> dict[str, Any]:
    """Facts of a task that an attack changes, for ``rows`` and ``anomalous`` ones by part."""
    return {
        "rows": {part: n["rows"] for part, n in rows.items()},
        "anomalous_rows": {part: n["anomalous"] for part, n in rows.items()},
        "anomalous_fraction": {part: n["anomalous"] / n["rows"] for part, n in rows.items() if part in MIXED},
    }


def _share(values: Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None
