"""attack: replace the rows a task marks for it by adversarial examples against the checkpoint.

Rows that the model gets wrong as they are, and rows on which the attack fails, are no adversarial examples: they are
counted and left out, and clean rows with them, so that the task's share of anomalous rows stays.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from mad.artifacts import Checkpoint, FittedDetector, Split
from mad.config import parse, placement, plugin, require, to_data
from mad.context import Context
from mad.detectors._base import predicted_class
from mad.errors import DataError
from mad.files import KEY
from mad.models.attacks import Attacked, Ball, Objective, fgsm, pgd
from mad.models.load import load_classifier
from mad.registry import name_of
from mad.stages import _heads as heads
from mad.stages._attack_rows import attack_facts, attacked_rows, changed_facts, read_facts, rows_to_attack
from mad.stages._base import Stage
from mad.stages._detector_score import DetectorScore, check_detector
from mad.stages._workers import check_workers
from mad.stages.prepare import seed_of
from mad.stats.random import derive
from mad.store import Store

OF_PGD = ("step_size", "steps", "restarts", "random_start")
"""Options that fgsm has no use for."""
Read = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""Inputs to logits and, in an adaptive attack, the detector's scores."""


@dataclass(frozen=True)
class Options:
    """How rows are attacked."""

    method: Literal["pgd", "fgsm"] = "pgd"
    """pgd: projected gradient steps; fgsm: one step of length epsilon"""
    norm: Literal["linf", "l2"] = "linf"
    """what epsilon bounds: the largest change of a pixel, or the Euclidean norm of all changes"""
    epsilon: float = 8 / 255
    """size of the perturbation, above 0; pixels go from 0 to 1"""
    step_size: float | None = None
    """norm of a step of pgd, above 0 (default: 2.5 epsilon / steps)"""
    steps: int = 40
    """gradient steps of pgd, 1 or more"""
    restarts: int = 1
    """starting points of pgd, 1 or more; the best result of all is kept"""
    random_start: bool = True
    """start pgd at a random point of the ball, not at the input"""
    target: Literal["untargeted", "next_class"] = "untargeted"
    """success is any wrong answer, or the class after the true one"""
    detector: str | None = None
    """adaptive attack: key (fit-...) of a fitted detector whose score is to be lowered as well"""
    detector_weight: float = 0.1
    """gain per standardised unit that the detector's score falls, against the loss in nats; 0 or more"""
    max_robust_accuracy: float = 0.1
    """an attack that leaves a larger share of the rows rightly answered is an error; 0 to 1, 1 allows all"""
    batch_size: int = 128
    """rows per gradient step"""
    chunk_rows: int = 1024
    """rows per file, the unit of sharding and of resuming"""
    seed: int | None = None
    """seed of random starts and of the clean rows that go (default: --seed)"""
    workers: int | str = placement("auto")
    """processes: 0 runs in this one; a range such as 2-8 follows the cluster; auto: this one for less than 200,000
    passes of a row, else every GPU or CPU"""

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "batch_size", "chunk_rows"):
            require(getattr(self, name) >= 1, f"{name} must be 1 or more, got {getattr(self, name)}")
        require(self.epsilon > 0, f"epsilon must be above 0, got {self.epsilon}")
        require(self.step_size is None or self.step_size > 0, f"step_size must be above 0, got {self.step_size}")
        again = self.restarts == 1 or self.random_start
        require(again, f"restarts {self.restarts} needs random_start true: without it they are all the same")
        rate = self.max_robust_accuracy
        require(0 <= rate <= 1, f"max_robust_accuracy must be in [0, 1], got {rate}")
        require(self.detector_weight >= 0, f"detector_weight must be 0 or more, got {self.detector_weight}")
        known = self.detector is None or (self.detector.startswith("fit-") and KEY.fullmatch(self.detector))
        require(bool(known), f"detector must be the key of a fitted one, fit- and 20 hex digits, got {self.detector}")
        check_workers(self.workers)


@dataclass(frozen=True)
class Config:
    """Which attack."""

    task: Any = plugin("tasks", "backdoor")
    """what is trusted, untrusted, clean and anomalous"""
    attack: Options = field(default_factory=Options)
    seed: int = 0


def _passes(config: Config) -> str:
    """Most tasks mark no rows for an attack."""
    module = type(config.task).__module__
    marks = getattr(sys.modules[module], "ATTACKED", False)
    return "" if marks else f"task {name_of('tasks', module)} has no rows to attack (adversarial has)"


def _refers_to(config: Config) -> dict[str, str]:
    detector = config.attack.detector
    return {} if detector is None or _passes(config) else {"detector": detector}


def _unused(config: Config) -> dict[str, str]:
    found = {}
    if config.attack.method == "fgsm":
        found = {f"attack.{name}": "fgsm takes one step, of length epsilon, from the input" for name in OF_PGD}
    if config.attack.detector is None:
        found["attack.detector_weight"] = "no --attack.detector is given"
    return found


def make_objective(read: Read, head: str, labels: Tensor, options: Options, classes: int) -> Objective:
    """Gain and success of inputs: the loss at the true labels, or minus that at the targets, less the score.

    Args:
        read: gives logits, and the detector's scores in an adaptive attack.
        head: kind of head.
        labels: (n,) int64 true classes.
        options: target and weight.
        classes: number of classes.
    """
    targeted = options.target == "next_class"
    aims = (labels + 1) % classes if targeted else labels

    def objective(x: Tensor) -> tuple[Tensor, Tensor]:
        logits, scores = read(x)
        # In float32 the loss of an answer the model is sure of, and its gradient, round to 0.
        losses = heads.row_losses(head, logits.double(), aims)
        gain = -losses if targeted else losses
        if scores is not None:
            gain = gain - options.detector_weight * scores
        return gain, (predicted_class(logits) == aims) == targeted

    return objective


def chunk_worker(payload: dict[str, Any], device: str) -> Callable[[int, Path], None]:
    """Load the model once; return the function that writes one numbered chunk to a path.

    A chunk depends on its number and the config only, never on which worker makes it or what came before.
    """
    options, seed = parse(Options, payload["attack"]), payload["seed"]
    store = Store(payload["store"])
    split = store.open(payload["split"], Split, check=False)
    checkpoint = store.open(payload["checkpoint"], Checkpoint, check=False)
    model = load_classifier(checkpoint.folder, device).requires_grad_(False)
    head, ball = checkpoint.json("model.json")["head"], Ball(options.norm, options.epsilon)
    rows = rows_to_attack(split.rows)
    read: Read = lambda x: (model(x), None)  # noqa: E731
    if options.detector is not None:
        fitted = store.open(options.detector, FittedDetector, check=False)
        read = DetectorScore(fitted, model, split.input_shape, store, device)

    def attack(batch: Tensor) -> dict[str, Tensor]:
        x, labels = split.images(batch).to(device), split.column("clean_label", batch).to(device)
        with torch.no_grad():
            before = predicted_class(model(x))
        objective = make_objective(read, head, labels, options, len(split.class_names))
        found = _attack(objective, x, ball, options, batch, seed)
        with torch.no_grad():
            answer = predicted_class(model(found.inputs))
        success = found.success & (before == labels) & (answer != labels)
        made = {"variants": found.inputs, "success": success, "size": ball.sizes(found.inputs - x)}
        return {name: t.cpu() for name, t in {**made, "answer": answer, "answer_before": before}.items()}

    def write(number: int, path: Path) -> None:
        mine = rows[number * options.chunk_rows : (number + 1) * options.chunk_rows]
        made = [attack(batch) for batch in mine.split(options.batch_size)]
        save_file({name: torch.cat([m[name] for m in made]).contiguous() for name in made[0]}, path)

    return write


def _attack(objective: Objective, x: Tensor, ball: Ball, options: Options, rows: Tensor, seed: int) -> Attacked:
    if options.method == "fgsm":
        return fgsm(objective, x, ball)
    o = options
    return pgd(objective, x, ball, rows, seed, o.steps, o.step_size, o.restarts, o.random_start)


def run(config: Config, inputs: dict[str, Any], context: Context) -> None:
    """Write numbered chunks of adversarial examples, the inputs of the task and the rows that are left."""
    split: Split = inputs["split"]
    checkpoint: Checkpoint = inputs["checkpoint"]
    options, store = config.attack, context.draft.store
    _check(options, split, checkpoint, store)
    rows = rows_to_attack(split.rows)
    seed = derive(seed_of(options, config.seed), "attack")
    payload = {
        "attack": to_data(options),
        "store": store.uri,
        "split": split.key,
        "checkpoint": checkpoint.key,
        "seed": seed,
    }
    count = math.ceil(len(rows) / options.chunk_rows)
    passes = 1 if options.method == "fgsm" else options.steps * options.restarts
    work = 3 * passes * len(rows)  # a gradient costs about two passes
    context.launcher.map_chunks(chunk_worker, payload, range(count), context.draft, options.workers, work)
    found = read_facts(context.draft, count)
    _check_success(found, split, options)
    own = len(split.tensors("inputs.safetensors")["variants"])
    table = attacked_rows(split.rows, found, own, seed)
    context.draft.write("rows.parquet", lambda path: table.to_parquet(path, index=False))
    context.draft.write("inputs.safetensors", partial(shutil.copyfile, split.folder / "inputs.safetensors"))
    _tell(split, table, found, context)


def _check(options: Options, split: Split, checkpoint: Checkpoint, store: Store) -> None:
    """Refuse a model of other inputs or classes, and a detector that cannot be used, before any work.

    Raises:
        ConfigError: they do not fit, or the detector's score has no gradient.
        ArtifactError: no such detector.
    """
    described = checkpoint.json("model.json")
    taken, given = described["input_shape"], list(split.input_shape)
    require(taken == given, f"the checkpoint takes inputs of shape {taken}, those of the task have {given}")
    outputs, classes = described["num_outputs"], len(split.class_names)
    wanted = heads.num_outputs(described["head"], classes)
    require(outputs == wanted, f"the checkpoint has {outputs} outputs, the task has {classes} classes")
    if options.detector is None:
        return
    fitted = store.open(options.detector, FittedDetector)
    check_detector(fitted, checkpoint)
    model = load_classifier(checkpoint.folder).requires_grad_(False)
    DetectorScore(fitted, model, split.input_shape, store, "cpu")(split.images(torch.arange(2)).requires_grad_())


def _check_success(found: dict[str, Tensor], split: Split, options: Options) -> None:
    labels = split.column("clean_label", rows_to_attack(split.rows))
    right = (found["answer"] == labels) & (found["answer_before"] == labels)
    left, most = float(right.double().mean()) if len(right) else 0.0, options.max_robust_accuracy
    if left > most:
        raise DataError(
            f"the attack failed: the model still answers {left:.3g} of the attacked rows right, more than "
            f"--attack.max_robust_accuracy {most:g}: {_advice(options)}"
        )


def _advice(options: Options) -> str:
    weight = f", or lower --attack.detector_weight ({options.detector_weight:g})" if options.detector else ""
    steps = f" or --attack.steps ({options.steps})" if options.method == "pgd" else ""
    return f"raise --attack.epsilon ({options.epsilon:.4g}){steps}{weight}"


def _tell(split: Split, table: pd.DataFrame, found: dict[str, Tensor], context: Context) -> None:
    facts = attack_facts(split.rows, table, found)
    counts = table.groupby("part", sort=False)["is_anomalous"].agg(["size", "sum"])
    rows = {str(part): {"rows": int(n), "anomalous": int(k)} for part, (n, k) in counts.iterrows()}
    context.summary |= {
        "class_names": split.class_names,
        "scale": split.summary["scale"],
        "facts": {**split.summary["facts"], **changed_facts(rows), "attack": facts},
        "rows": rows,
        **facts["all"],
    }
    for part, values in facts.items():
        prefix = "" if part == "all" else f"{part}_"
        context.metrics |= {f"{prefix}{name}": value for name, value in values.items() if value is not None}


STAGE = Stage(
    "attack",
    Config,
    {"split": "prepare", "checkpoint": "train"},
    run,
    refers_to=_refers_to,
    passes=_passes,
    hands_on="split",
    unused=_unused,
)
