"""judge: a behaviour of every generation as a number, chunk by chunk; what has no score stays without one."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mad import registry
from mad.artifacts import Generations, Prompts
from mad.config import parse, placement, plugin, require, to_data
from mad.context import Context
from mad.errors import DataError
from mad.stages._base import Stage
from mad.stages._judging import check_references, judge_chunk, judge_rows
from mad.stages._language_models import localised, model_of, referenced
from mad.stages._tables import SUFFIX, read_chunks, write_table
from mad.stages._workers import check_workers
from mad.store import Store

MODEL_WORK = 40
"""passes of a row that reading a generation with a model counts for, when it is decided whether workers pay"""


@dataclass(frozen=True)
class Options:
    """How the judging is dealt out."""

    chunk_rows: int = 1024
    """generations per file, the unit of sharding and of resuming"""
    workers: int | str = placement("auto")
    """processes: 0 runs in this one; a range such as 2-8 follows the cluster; auto: this one below 200,000 generations
    (5,000 if the judge is a model), else every GPU or CPU"""

    def __post_init__(self) -> None:
        require(self.chunk_rows >= 1, f"chunk_rows must be 1 or more, got {self.chunk_rows}")
        check_workers(self.workers)


@dataclass(frozen=True)
class Config:
    """Which behaviour."""

    behavior: Any = plugin("behaviors", "toxicity")
    """what is measured, and by which judge"""
    judge: Options = field(default_factory=Options)


def _identity(config: Config, workers: int) -> dict[str, Any]:
    """An audit is only as good as a judge that does not drift: what it is enters the key."""
    return {"judge": sys.modules[type(config.behavior).__module__].identity(config.behavior)}


def chunk_worker(payload: dict[str, Any], device: str) -> Callable[[int, Path], dict[str, float]]:
    """Open the judge once; return the function that writes one numbered chunk to a path."""
    config, store = parse(Config, payload["config"]), Store(payload["store"])
    prompts = store.open(payload["prompts"], Prompts, check=False)
    rows = judge_rows(prompts.rows, store.open(payload["generations"], Generations, check=False).rows)
    module, size = sys.modules[type(config.behavior).__module__], config.judge.chunk_rows
    bounds = module.score_range(config.behavior)
    judge = module.open_judge(localised(config.behavior, store), device)

    def write(number: int, path: Path) -> dict[str, float]:
        begun, before = time.monotonic(), Counter(judge.counts)
        made = judge_chunk(judge, rows.iloc[number * size : (number + 1) * size], bounds)
        write_table(made, path, dict(judge.counts - before))
        return {"generations": float(len(made)), "seconds": time.monotonic() - begun}

    return write


def run(config: Config, inputs: dict[str, Any], context: Context) -> None:
    """Write numbered chunks of scores."""
    prompts: Prompts = inputs["prompt_set"]
    generations: Generations = inputs["generations"]
    options, module = config.judge, sys.modules[type(config.behavior).__module__]
    check(config, inputs)
    payload = {"config": to_data(config), "store": context.draft.store.uri}
    payload |= {"prompts": prompts.key, "generations": generations.key}
    total = len(generations.rows)
    count = math.ceil(total / options.chunk_rows)
    work = total * (MODEL_WORK if model_of(config.behavior) else 1)
    context.launcher.map_chunks(chunk_worker, payload, range(count), context.draft, options.workers, work, SUFFIX)
    table, facts = read_chunks(context.draft, [f"chunk-{number:05d}{SUFFIX}" for number in range(count)])
    scores = table.drop(columns=["id", "sample"])
    bounds = module.score_range(config.behavior)
    context.summary |= {
        "behavior": registry.name_of("behaviors", module.__name__),
        "judge_model": model_of(config.behavior),
        "generations": total,
        "missing": int(scores.isna().any(axis=1).sum()),
        "dimensions": scores.shape[1],
        "range": None if bounds is None else list(bounds),
        "counts": dict(sum((Counter(told) for told in facts), Counter())),
    }
    if scores.shape[1] == 1:
        context.summary["mean"] = None if scores["score"].isna().all() else float(scores["score"].mean())
    figures = {k: context.summary.get(k) for k in ("generations", "missing", "mean")} | context.summary["counts"]
    context.metrics |= {k: float(v) for k, v in figures.items() if v is not None}


def check(config: Config, inputs: dict[str, Any]) -> None:
    """Refuse what cannot be judged.

    Raises:
        DataError: generations of other prompts, or no references where they are needed.
    """
    prompts: Prompts | None = inputs.get("prompt_set")
    if prompts is None:
        return
    check_references(config.behavior, prompts)
    generations: Generations | None = inputs.get("generations")
    if generations is not None and set(generations.rows["id"]) - set(prompts.rows["id"]):
        raise DataError(f"{generations.key} answers other prompts than {prompts.key}")


STAGE = Stage(
    "judge",
    Config,
    {"prompt_set": "prompts", "generations": "generate"},
    run,
    identity=_identity,
    refers_to=lambda config: referenced(config.behavior, "behavior."),
    check=check,
)
