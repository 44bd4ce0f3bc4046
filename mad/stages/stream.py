"""stream: audit two models while they answer: generate, judge and bet batch by batch, and stop at the verdict."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from mad.artifacts import Prompts
from mad.config import parse, placement, plugin, require, to_data
from mad.context import Context
from mad.errors import DataError
from mad.models import chat
from mad.models.engines._base import Engine
from mad.stages._base import Stage
from mad.stages._calibrated_tolerance import settle
from mad.stages._disjoint_prompts import check_disjoint
from mad.stages._disjoint_prompts import refers_to as calibration_of
from mad.stages._generating import Answers, cost_of, generate_chunk, kept_facts, sample_rows, spans_devices
from mad.stages._judging import check_references, judge_chunk, judge_rows
from mad.stages._language_models import localised, model_of, referenced
from mad.stages._sequential_audit import Options as AuditOptions
from mad.stages._streamed_test import SIDES, Shares, StreamedTest, deal
from mad.stages._tables import SUFFIX, read_chunks, write_table
from mad.stages._verdict import conclude
from mad.stages._workers import check_workers
from mad.store import Store

COUNTS = ("tokens", "prompt_tokens")


@dataclass(frozen=True)
class Options:
    """How the batches are made."""

    candidate_seed: int | None = None
    """seed of the candidate's generations, 0 or more (default: that of the baseline's plus 1)"""
    workers: int | str = placement("auto")
    """processes, each with both models and the judge, that make a batch each before the test looks; 0 runs in this
    one; a range such as 2-8 follows the cluster; auto: this one where fewer than 200,000 tokens are planned, else every
    GPU or CPU"""

    def __post_init__(self) -> None:
        seed = self.candidate_seed
        require(seed is None or seed >= 0, f"candidate_seed must be 0 or more, got {seed}")
        check_workers(self.workers)


@dataclass(frozen=True)
class Tested(AuditOptions):
    """What is tolerated, and how it is tested; the range may be left to the behaviour."""

    shuffle: bool = True
    """ask the prompts in an order drawn by the seed; false: in theirs, which must then be random, since prompts that
    are sorted by kind void the level"""

    def _check_range_is_known(self) -> None:
        """It is once the behaviour is, see :func:`_tested`."""


@dataclass(frozen=True)
class Config:
    """Which models, how they answer, what is measured, and how it is tested."""

    baseline: Any = plugin("engines", "transformers")
    """the model that is certified"""
    candidate: Any = plugin("engines", "transformers")
    """the model that may have shifted"""
    generate: Answers = field(default_factory=Answers)
    behavior: Any = plugin("behaviors", "toxicity")
    """what is measured, and by which judge"""
    audit: Tested = field(default_factory=Tested)
    stream: Options = field(default_factory=Options)
    seed: int = 0

    def __post_init__(self) -> None:
        told = "a candidate that answers with the baseline's own random numbers is no independent sample of it"
        require(self.seeds["baseline"] != self.seeds["candidate"] or self.baseline != self.candidate, told)
        _tested(self)

    @property
    def seeds(self) -> dict[str, int]:
        """Seed of the generations of each side."""
        first = self.seed if self.generate.seed is None else self.generate.seed
        given = self.stream.candidate_seed
        return {"baseline": first, "candidate": first + 1 if given is None else given}


def _tested(config: Config) -> AuditOptions:
    """How it is tested: the range of the scores is that which the behaviour declares, unless another one is given.

    Raises:
        ConfigError: a mean tolerance, and nobody declares a range.
    """
    behavior = _module(config.behavior)
    bounds = None if getattr(behavior, "VECTORS", False) else behavior.score_range(config.behavior)
    given = {f.name: getattr(config.audit, f.name) for f in fields(AuditOptions)}
    return AuditOptions(**given | ({"range": [*bounds]} if given["range"] is None and bounds is not None else {}))


def _identity(config: Config, workers: int) -> dict[str, Any]:
    for side in SIDES:
        named = getattr(getattr(config, side), "model", side)
        require(bool(named), f"--{side}_model is missing: name a hub id, a folder or a trained model for both sides")
    models = {side: _module(getattr(config, side)).identity(getattr(config, side)) for side in SIDES}
    judge = _module(config.behavior).identity(config.behavior)
    return {**models, "judge": judge, "chat": chat.identity(config.generate.chat)}


def _refers_to(config: Config) -> dict[str, str]:
    named = {**referenced(config.baseline, "baseline."), **referenced(config.candidate, "candidate.")}
    return {**named, **referenced(config.behavior, "behavior."), **calibration_of(config.audit.calibration)}


def _module(config: Any) -> Any:
    return sys.modules[type(config).__module__]


def batch_worker(payload: dict[str, Any], device: str) -> Callable[[int, Path], dict[str, float]]:
    """Load both models and the judge once; return the function that writes one numbered batch to a path."""
    config, store = parse(Config, payload["config"]), Store(payload["store"])
    prompts = store.open(payload["prompts"], Prompts, check=False).rows
    shares = deal(prompts, config.audit, config.seed)
    behavior = _module(config.behavior)
    # The judge first: what it lacks (a key, a model) is told before larger models are loaded.
    judge = behavior.open_judge(localised(config.behavior, store), device)
    engines = {side: _engine(getattr(config, side), store, device) for side in SIDES}
    bounds = behavior.score_range(config.behavior)

    def write(number: int, path: Path) -> dict[str, float]:
        begun = time.monotonic()
        asked = prompts.iloc[shares.batch(number)]
        rows = sample_rows(asked, config.generate.samples)
        clusters = rows["id"].map(asked.set_index("id")["cluster"])
        made, facts = rows[["id", "sample"]].assign(cluster=clusters), {}
        for side, engine in engines.items():
            answers = generate_chunk(engine, rows, config.generate, config.seeds[side])
            before = Counter(judge.counts)
            scores = judge_chunk(judge, judge_rows(asked, answers), bounds)
            made = made.join(_renamed(answers, scores, side))
            facts[side] = {**kept_facts(engine), "counts": dict(judge.counts - before)}
        write_table(made, path, facts)
        tokens = float(sum(made[f"tokens_{side}"].sum() for side in SIDES))
        return {"tokens": tokens, "seconds": time.monotonic() - begun}

    return write


def _engine(lm: Any, store: Store, device: str) -> Engine:
    return _module(lm).open_engine(localised(lm, store), device)


def _renamed(answers: pd.DataFrame, scores: pd.DataFrame, side: str) -> pd.DataFrame:
    """Columns of a side: its scores by the side's name, as pairs have them, and ``text_<side>``, ``tokens_<side>``."""
    told = answers.drop(columns=["id", "sample"]).add_suffix(f"_{side}")
    kept = scores.drop(columns=["id", "sample"])
    return told.join(kept.rename(columns=lambda name: side + name.removeprefix("score")))


def verdict_watch(payload: dict[str, Any]) -> Callable[[int, Path], bool]:
    """The function that is shown every batch in order and says whether no more are needed."""
    config = parse(Config, payload["config"])
    test = StreamedTest(_tested(config), config.seed)

    def seen(number: int, path: Path) -> bool:
        test.take(pd.read_parquet(path))
        return test.decided

    return seen


def check(config: Config, inputs: dict[str, Any]) -> None:
    """Refuse what cannot be audited before anything is generated.

    Raises:
        DataError: fewer prompts than a batch, or prompts without the references that the behaviour needs.
    """
    prompts: Prompts | None = inputs.get("prompt_set")
    if prompts is not None:
        deal(prompts.rows, config.audit, config.seed)
        check_references(config.behavior, prompts)


def run(config: Config, inputs: dict[str, Any], context: Context) -> None:
    """Write numbered batches up to the verdict, then what an audit writes."""
    prompts: Prompts = inputs["prompt_set"]
    draft, options = context.draft, _tested(config)
    check(config, inputs)
    check_disjoint(prompts.rows, options.calibration, draft.store)
    shares = deal(prompts.rows, options, config.seed)
    payload = {"config": to_data(config), "store": draft.store.uri, "prompts": prompts.key}
    chunks, workers = range(len(shares.ends)), config.stream.workers
    if workers == "auto" and any(spans_devices(getattr(config, side)) for side in SIDES):
        workers = 0
    planned = len(SIDES) * len(prompts.rows) * config.generate.samples
    work = planned * config.generate.max_new_tokens
    rates = context.launcher.map_chunks(
        batch_worker, payload, chunks, draft, workers, work, SUFFIX, verdict_watch if options.stop else None
    )
    trace, test, used = _replay(config, draft, shares)
    conclude(trace, test.missing, options, config.seed, context)
    table, facts = read_chunks(draft, [f"chunk-{number:05d}{SUFFIX}" for number in range(used)])
    _tell(table, facts, planned, rates.get("tokens_per_second"), config, context)


def _replay(config: Config, draft: Any, shares: Shares) -> tuple[pd.DataFrame, StreamedTest, int]:
    """The test once more over the batches, in order; those that were made beyond the verdict are dropped.

    Raises:
        DataError: a batch of the wrong prompts.
    """
    test = StreamedTest(_tested(config), config.seed)
    for number in range(len(shares.ends)):
        if test.decided:
            draft.discard(f"chunk-{number:05d}{SUFFIX}")
            continue
        rows, _ = read_chunks(draft, [f"chunk-{number:05d}{SUFFIX}"])
        if len(rows) != len(shares.batch(number)) * config.generate.samples:
            raise DataError(f"batch {number} of {draft.key} holds {len(rows)} rows: --force stream makes it again")
        test.take(rows)
        used = number + 1
    return test.finish(), test, used


def _tell(
    table: pd.DataFrame, facts: list[dict[str, Any]], planned: int, rate: float | None, config: Config, context: Context
) -> None:
    """What was generated, what share of the plan was not, and what befell the judge."""
    made = len(SIDES) * len(table)
    costs = [
        cost_of(table[[f"{name}_{side}" for name in COUNTS]].set_axis([*COUNTS], axis=1), facts[0][side])
        for side in SIDES
    ]
    context.summary |= {
        **{side: model_of(getattr(config, side)) for side in SIDES},
        "generations": made,
        "planned": planned,
        "saved": 1 - made / planned,
        "tokens": int(sum(table[f"tokens_{side}"].sum() for side in SIDES)),
        "empty": int(sum((table[f"text_{side}"].str.strip() == "").sum() for side in SIDES)),
        "cost": None if None in costs else sum(cost for cost in costs if cost is not None),
        "counts": {side: dict(sum((Counter(told[side]["counts"]) for told in facts), Counter())) for side in SIDES},
    }
    names = ("generations", "saved", "tokens", "empty", "cost")
    context.metrics |= {name: float(context.summary[name]) for name in names if context.summary[name] is not None}
    context.metrics |= {} if rate is None else {"tokens_per_second": rate}


STAGE = Stage(
    "stream",
    Config,
    {"prompt_set": "prompts"},
    run,
    identity=_identity,
    refers_to=_refers_to,
    settles=lambda config, store: settle(config.audit, store),
    check=check,
)
