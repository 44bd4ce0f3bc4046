"""Simulated scores of a baseline and candidates, and files of them."""

from __future__ import annotations

import numpy as np
import pandas as pd


def simulated(rows: int = 600, seed: int = 0) -> pd.DataFrame:
    """Toxicity-like scores: of a baseline, of a candidate with the same distribution, and of a shifted one."""
    draw = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "prompt_id": [f"p{i:04d}" for i in range(rows)],
            "base": draw.beta(2, 8, rows),
            "same": draw.beta(2, 8, rows),
            "shifted": draw.beta(2.5, 7, rows),
        }
    )


def write(table: pd.DataFrame, path) -> str:
    """A CSV, JSONL or parquet file, by its suffix; returns its path."""
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True, double_precision=15)
    else:
        table.to_parquet(path, index=False)
    return str(path)
