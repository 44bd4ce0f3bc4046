"""prepare: build a task's rows once and store them by value and index."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from safetensors.torch import save_file

from mad.config import plugin, require
from mad.context import Context
from mad.stages._base import Stage
from mad.tasks._base import COLUMNS, Rows
from mad.tasks._text import TEXT_COLUMNS, TextRows


@dataclass(frozen=True)
class Config:
    """Which rows."""

    task: Any = plugin("tasks", "backdoor")
    """what is trusted, untrusted, clean and anomalous"""
    seed: int = 0
    """root of all seeds: rows, model, detector and bootstrap draw their own from it"""

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"--seed must be 0 or more, got {self.seed}")


def seed_of(section: Any, root: int) -> int:
    """A section's own seed, or the root seed where it has none."""
    own = getattr(section, "seed", None)
    return root if own is None else own


def _identity(config: Config, workers: int) -> dict[str, Any]:
    module = sys.modules[type(config.task).__module__]
    controls = {"controls": module.control_digest(config.task)} if hasattr(module, "control_digest") else {}
    return {"data": module.digest(config.task), **controls}


def run(config: Config, inputs: dict[str, Any], context: Context) -> None:
    """Write ``rows.parquet``; for images also ``inputs.safetensors`` and the trigger's tensors."""
    module = sys.modules[type(config.task).__module__]
    rows = module.build(config.task, seed_of(config.task, config.seed))
    is_text = isinstance(rows, TextRows)
    table = rows.table if "control" in rows.table else rows.table.assign(control="")  # a task may have none
    columns = list(TEXT_COLUMNS if is_text else COLUMNS)
    context.draft.write("rows.parquet", lambda path: table[columns].to_parquet(path, index=False))
    if is_text:
        context.summary |= {"kind": "text", "answers": list(rows.answers)}
    else:
        _write_images(rows, context)
        context.summary |= {"kind": "images", "scale": rows.scale}
    counts = rows.table.groupby("part")["is_anomalous"].agg(["size", "sum"])
    context.summary |= {
        "class_names": list(rows.class_names),
        "facts": rows.facts,
        "rows": {part: {"rows": int(n), "anomalous": int(k)} for part, (n, k) in counts.iterrows()},
    }
    for part, (n, k) in counts.iterrows():
        context.metrics[f"rows_{part}"] = int(n)
        context.metrics[f"anomalous_{part}"] = int(k)


def _write_images(rows: Rows, context: Context) -> None:
    tensors = {"inputs": rows.inputs.contiguous(), "variants": rows.variants.contiguous()}
    context.draft.write("inputs.safetensors", lambda path: save_file(tensors, path))
    state = {name: tensor.contiguous() for name, tensor in rows.state.items()}
    context.draft.write("trigger.safetensors", lambda path: save_file(state, path))


STAGE = Stage("prepare", Config, {}, run, identity=_identity)
