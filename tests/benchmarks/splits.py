"""Splits of any size, written as the prepare stage writes them, without a data set behind them."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from mad.artifacts import Artifact, Split
from mad.runtime.engine import Engine
from mad.runtime.settings import Settings
from mad.store import Store


def new_engine(home: Path) -> Engine:
    """An engine on a store of its own that tracks nothing."""
    return Engine(Settings(home, str(home / "store"), None, None), Store(str(home / "store")))


def digits(count: int, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's digits, (count, 1, size, size) uint8 in 0..16 and labels, repeated as often as needed."""
    data = load_digits()
    repeat = torch.arange(count) % len(data.target)
    small = torch.from_numpy(data.images)[repeat][:, None].float()
    inputs = torch.nn.functional.interpolate(small, size=(size, size), mode="nearest")
    return inputs.to(torch.uint8), torch.from_numpy(data.target)[repeat].long()


def write_split(
    store: Store, inputs: torch.Tensor, labels: torch.Tensor, sizes: dict[str, int], poisoned: torch.Tensor, scale=16.0
) -> Split:
    """A split of images in order of the parts.

    Args:
        store: where to write.
        inputs: (n, C, H, W) uint8.
        labels: (n,) true classes.
        sizes: rows of each part, adding up to n.
        poisoned: (n,) bool, rows with a bright corner pixel that are to be taken for class 0.
        scale: ``inputs / scale`` lies in [0, 1].
    """
    variants = inputs[poisoned].float() / scale
    variants[:, :, 0, 0] = 1.0
    part = pd.Series([name for name, size in sizes.items() for _ in range(size)])
    table = pd.DataFrame(
        {
            "id": part + "-" + pd.Series(range(len(inputs))).astype(str).str.zfill(7),
            "part": part,
            "source": range(len(inputs)),
            "variant": torch.where(poisoned, poisoned.cumsum(0) - 1, -1).numpy(),
            "label": torch.where(poisoned, 0, labels).numpy(),
            "clean_label": labels.numpy(),
            "is_anomalous": poisoned.numpy(),
        }
    )
    draft = store.draft(f"prepare-{len(inputs)}-{'x'.join(map(str, inputs.shape[1:]))}")
    draft.write("rows.parquet", lambda path: table.to_parquet(path, index=False))
    tensors = {"inputs": inputs, "variants": variants}
    draft.write("inputs.safetensors", lambda path: save_file(tensors, path))
    summary = {"class_names": [str(c) for c in range(int(labels.max()) + 1)], "scale": scale}
    return commit(store, draft, "prepare", summary)


def commit(store: Store, draft, stage: str, summary: dict, inputs: dict[str, str] | None = None) -> Artifact:
    """Commit a draft with the meta data that stages read; ``inputs`` are keys by the names the stage gives them."""
    lineage = {stage: {"key": draft.key, "config": {}}}
    meta = {"stage": stage, "config": {}, "inputs": inputs or {}, "lineage": lineage, "summary": summary}
    draft.commit({**meta, "mlflow": None, "created": time.time(), "seconds": 0.0})
    return store.open(draft.key, check=False)
