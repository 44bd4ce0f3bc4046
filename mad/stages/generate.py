"""generate: what a language model answers to every prompt, chunk by chunk, the same on any number of workers."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mad.artifacts import Prompts
from mad.config import parse, placement, plugin, require, to_data
from mad.context import Context
from mad.models import chat
from mad.stages._base import Stage
from mad.stages._generating import Answers, cost_of, generate_chunk, kept_facts, sample_rows, spans_devices
from mad.stages._language_models import localised, model_of, referenced
from mad.stages._tables import SUFFIX, read_chunks, write_table
from mad.stages._workers import check_workers
from mad.store import Store


@dataclass(frozen=True)
class Options(Answers):
    """What is generated, and how it is dealt out."""

    chunk_rows: int = 512
    """generations per file, the unit of sharding and of resuming"""
    workers: int | str = placement("auto")
    """processes: 0 runs in this one; a range such as 2-8 follows the cluster; auto: this one where fewer than 200,000
    tokens (generations left times max_new_tokens) are to be made or where one process uses every device (device_map,
    tensor_parallel), else every GPU or CPU"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.chunk_rows >= 1, f"chunk_rows must be 1 or more, got {self.chunk_rows}")
        check_workers(self.workers)


@dataclass(frozen=True)
class Config:
    """Which model, and how it answers."""

    lm: Any = plugin("engines", "transformers")
    """what runs the language model"""
    generate: Options = field(default_factory=Options)
    seed: int = 0


def _identity(config: Config, workers: int) -> dict[str, Any]:
    module = sys.modules[type(config.lm).__module__]
    return {"model": module.identity(config.lm), "chat": chat.identity(config.generate.chat)}


def seed_of(config: Config) -> int:
    """The seed of all generations."""
    return config.seed if config.generate.seed is None else config.generate.seed


def chunk_worker(payload: dict[str, Any], device: str) -> Callable[[int, Path], dict[str, float]]:
    """Load the model once; return the function that writes one numbered chunk to a path.

    A chunk depends on its number and the config only, never on which worker makes it or what came before.
    """
    config, store = parse(Config, payload["config"]), Store(payload["store"])
    options, seed = config.generate, seed_of(config)
    rows = sample_rows(store.open(payload["prompts"], Prompts, check=False).rows, options.samples)
    module = sys.modules[type(config.lm).__module__]
    engine = module.open_engine(localised(config.lm, store), device)

    def write(number: int, path: Path) -> dict[str, float]:
        begun = time.monotonic()
        mine = rows.iloc[number * options.chunk_rows : (number + 1) * options.chunk_rows]
        made = generate_chunk(engine, mine, options, seed)
        facts = kept_facts(engine)
        write_table(made, path, facts)
        told = {"tokens": float(made["tokens"].sum()), "seconds": time.monotonic() - begun}
        cost = cost_of(made, facts)
        return told if cost is None else {**told, "cost": cost}

    return write


def run(config: Config, inputs: dict[str, Any], context: Context) -> None:
    """Write numbered chunks of generations."""
    prompts: Prompts = inputs["prompt_set"]
    options, store = config.generate, context.draft.store
    total = len(prompts.rows) * options.samples
    payload = {"config": to_data(config), "store": store.uri, "prompts": prompts.key}
    count = math.ceil(total / options.chunk_rows)
    workers = 0 if options.workers == "auto" and spans_devices(config.lm) else options.workers
    work = total * options.max_new_tokens
    rates = context.launcher.map_chunks(chunk_worker, payload, range(count), context.draft, workers, work, SUFFIX)
    table, facts = read_chunks(context.draft, [f"chunk-{number:05d}{SUFFIX}" for number in range(count)])
    seen = sorted({str(one) for told in facts for one in told.get("system_fingerprints", ())})
    context.summary |= {"system_fingerprints": seen} if seen else {}
    _tell(table, cost_of(table, facts[0]), rates.get("tokens_per_second"), config, context)


def _tell(table: pd.DataFrame, cost: float | None, rate: float | None, config: Config, context: Context) -> None:
    """Facts of the generations; the rate is of those made now, counted from the loaded model."""
    context.summary |= {
        "model": model_of(config.lm),
        "generations": len(table),
        "samples": config.generate.samples,
        "tokens": int(table["tokens"].sum()),
        "prompt_tokens": int(table["prompt_tokens"].sum()),
        "mean_tokens": float(table["tokens"].mean()),
        "stopped": float((table["finish"] == "stop").mean()),
        "empty": int((table["text"].str.strip() == "").sum()),
        "cost": cost,
        "tokens_per_second": rate,
    }
    figures = {k: v for k, v in context.summary.items() if k != "samples" and isinstance(v, (int, float))}
    context.metrics |= {name: float(value) for name, value in figures.items()}


STAGE = Stage(
    "generate",
    Config,
    {"prompt_set": "prompts"},
    run,
    identity=_identity,
    refers_to=lambda config: referenced(config.lm, "lm."),
)
