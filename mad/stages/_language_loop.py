"""The training loop of a language model on one worker: seeded, resumable, the same model for any number of workers."""

from __future__ import annotations

import importlib
import json
import math
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mad.artifacts import Checkpoint, Split
from mad.config import parse, require, to_data
from mad.context import Worker, Workers
from mad.errors import FitError
from mad.models import sharded
from mad.models.language_checkpoint import DESCRIPTION, load_text_classifier, save_language_checkpoint
from mad.models.load import optimizer_to_tensors, tensors_to_optimizer
from mad.models.text_classifier import TextClassifier
from mad.stages._language_evaluation import TrainingLoss, evaluate, unigram_perplexity
from mad.stages._language_head import head_of, outputs_of
from mad.stages._language_models import is_key, localised
from mad.stages._text_examples import Examples, make_examples
from mad.stages._training import is_mixed, make_optimizer, read_history, schedule, sum_over_workers
from mad.stages._workers import worker_range
from mad.stats.random import derive, generator
from mad.store import Store


def language_loop(payload: dict[str, Any], worker: Worker) -> None:
    """Train for the configured epochs, with a checkpoint after each, or every so many steps.

    Every global batch is drawn from the seed alone and dealt out row by row, and each worker's loss is scaled so
    that the averaged gradient is that of the mean over the predicted tokens of the global batch: the worker count
    changes only rounding.

    Args:
        payload: ``config`` (data of the train stage's Config), ``store`` (URI), ``split`` (key).
        worker: this process.
    """
    from mad.stages.train import Config

    config = parse(Config, payload["config"])
    store = Store(payload["store"])
    split = store.open(payload["split"], Split, check=False)
    seed = config.seed if config.train.seed is None else config.train.seed
    folder = worker.resume_folder()
    model, description = open_model(config, split, seed, folder, store, worker)
    _check_workers(config.train.workers, model)
    run = _Run(config.train, model, worker, seed, folder)
    limit = config.train.language.max_tokens
    examples = {part: make_examples(model, split, split.part(part), limit) for part in ("train", "validation", "test")}
    plan = Plan(len(examples["train"]), config.train)
    history = read_history(folder) if folder else []
    for period in range(len(history), plan.periods):
        torch.manual_seed(derive(seed, "layers", period, worker.rank))
        loss = run.period(examples["train"], plan, period)
        with torch.inference_mode(), run.arithmetic():
            figures = evaluate(model, split, examples["validation"], worker)
            last = period + 1 == plan.periods
            test = evaluate(model, split, examples["test"], worker) if last else {}
        if last and not split.class_names:
            vocabulary = model.network.config.vocab_size
            test["unigram_perplexity"] = unigram_perplexity(examples["train"], examples["test"], vocabulary)
        measured = {f"val_{name}": value for name, value in figures.items()}
        history.append({"loss": loss, "lr": run.optimizer.param_groups[0]["lr"], **measured})
        worker.report(history[-1], partial(_save, model, description, run.state(), list(history), test))


def _check_workers(workers: Workers, model: TextClassifier) -> None:
    """Refuse a changing number of workers for a model with dropout, which each worker draws for its own rows.

    Raises:
        ConfigError: so it is.
    """
    options = model.network.config.to_dict()
    drops = [f"{name} {p:g}" for name, p in options.items() if "drop" in name and isinstance(p, float) and p > 0]
    why = f"the model has {', '.join(drops)}, so that it depends on the number of workers: give a number"
    require(worker_range(workers) is None or not drops, f"--train.workers: {why}")


def open_model(
    config: Any, split: Split, seed: int, folder: Path | None, store: Store, worker: Worker
) -> tuple[TextClassifier, dict[str, Any]]:
    """The model that training begins with, or that of the last checkpoint, and its description.

    Raises:
        ConfigError: the model's head does not fit the task.
    """
    architecture = importlib.import_module(type(config.model).__module__)
    fsdp = config.train.language.sharding == "fsdp" and worker.world_size > 1
    # A model that is split may be larger than a device, and than one machine's memory if each worker read it.
    device = ("meta" if worker.rank else "cpu") if fsdp else worker.device
    head, here = head_of(config.model, split), localised(config.model, store)
    if folder:
        model = load_text_classifier(folder, device, here, trainable=True)
    else:
        rows, weights = split.part("train"), derive(seed, "weights")
        texts = [text + target for text, target in zip(split.texts(rows), split.targets(rows), strict=True)]
        built, tokenizer = architecture.build_language(here, texts, len(split.class_names), head, weights, device)
        model = TextClassifier(built, tokenizer, head, split.answers)
    outputs = outputs_of(model, split)
    description = {
        "model": to_data(config.model, "models"),
        "head": head,
        "class_names": split.class_names,
        "answers": split.answers,
        "num_outputs": outputs,
    }
    if hasattr(model.adapted, "peft_config"):
        description["base"] = {**architecture.base_of(here), "model": _base_name(config.model.model, store)}
    if config.train.language.gradient_checkpointing:
        model.checkpoint_activations()
    return model, description


def _base_name(model: str, store: Store) -> str:
    """What an adapter calls its base model; of an artifact that is an adapter itself, what that one calls it."""
    if not is_key(model):
        return model
    return store.open(model, Checkpoint, check=False).json(DESCRIPTION).get("base", {}).get("model", model)


class Plan:
    """Batches of an epoch, dealt over periods: each ends in a checkpoint."""

    def __init__(self, rows: int, options: Any):
        self.steps = math.ceil(rows / options.batch_size)
        self.length = min(options.language.checkpoint_steps or self.steps, self.steps)
        self.per_epoch = math.ceil(self.steps / self.length)
        self.periods = self.per_epoch * options.epochs
        self.total_steps = self.steps * options.epochs

    def part_of_epoch(self, period: int) -> tuple[int, int]:
        """The epoch of a period, and the first batch of it."""
        epoch, place = divmod(period, self.per_epoch)
        return epoch, place * self.length


class _Run:
    """A model in training: its optimiser, and the arithmetic of a step."""

    def __init__(self, options: Any, model: TextClassifier, worker: Worker, seed: int, folder: Path | None):
        self.options, self.model, self.worker, self.seed = options, model, worker, seed
        self.loss: nn.Module = TrainingLoss(model)
        several = worker.world_size > 1
        self.fsdp = several and options.language.sharding == "fsdp"
        if self.fsdp:
            sharded.shard(model.network, worker.device)
            model.answers = model.answers.to(worker.device)
        elif several:
            devices = [torch.device(worker.device).index or 0] if worker.device.startswith("cuda") else None
            self.loss = nn.parallel.DistributedDataParallel(self.loss, device_ids=devices, broadcast_buffers=False)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(options, self.parameters)
        if folder:
            tensors = load_file(folder / "optimizer.safetensors")
            split = {k: sharded.like(t, self.parameters[int(k.partition("/")[0])]) for k, t in tensors.items()}
            tensors_to_optimizer(self.optimizer, split, json.loads((folder / "optimizer.json").read_text()))

    def arithmetic(self) -> AbstractContextManager[Any]:
        """The number format of forward passes."""
        mixed = is_mixed(self.options.precision, self.worker.device)
        return torch.autocast(self.worker.device.split(":")[0], torch.bfloat16) if mixed else nullcontext()

    def period(self, examples: Examples, plan: Plan, number: int) -> float:
        """Train until the next checkpoint; returns the mean loss per predicted token (or row) over all workers."""
        epoch, first = plan.part_of_epoch(number)
        order = torch.randperm(len(examples), generator=generator(self.seed, "order", epoch))
        batches = order.split(self.options.batch_size)[first : first + plan.length]
        terms = examples.terms
        total = torch.zeros((), dtype=torch.float64)
        self.model.train()
        for place, batch in enumerate(batches, start=epoch * plan.steps + first):
            rate = self.options.lr * self._warm(place, plan) * schedule(self.options.schedule, place / plan.total_steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            total += self._step(examples, batch, int(terms[batch].sum()))
        total = sum_over_workers(total[None], self.worker)[0]
        if not torch.isfinite(total):
            told = f"training loss became {float(total)} in epoch {epoch + 1}"
            raise FitError(f"{told}: lower --train.lr ({self.options.lr}), or raise --train.language.warmup")
        return float(total) / int(terms[torch.cat(batches)].sum())

    def _warm(self, step: int, plan: Plan) -> float:
        steps = math.ceil(self.options.language.warmup * plan.total_steps)
        return min(1.0, (step + 1) / steps) if steps else 1.0

    def _step(self, examples: Examples, batch: Tensor, terms: int) -> Tensor:
        """One update; returns this worker's summed loss."""
        worker, total = self.worker, torch.zeros((), dtype=torch.float64)
        mine = batch[worker.rank :: worker.world_size]
        most = math.ceil(len(batch) / worker.world_size)
        size = self.options.language.micro_batch or most
        self.optimizer.zero_grad(set_to_none=True)
        for start in range(0, most, size):  # as many passes on every worker: they meet in each
            rows = mine[start : start + size]
            share = 1.0 if len(rows) else 0.0
            rows = rows if len(rows) else batch[:1]
            tokens, predicted = examples.batch(rows, side=self.model.padding_side)
            given = (t.to(worker.device) for t in (tokens, predicted, examples.label[rows]))
            with self._synchronised(start + size >= most):
                with self.arithmetic():
                    loss = self.loss(*given) * share
                (loss * (worker.world_size / terms)).backward()
            total += loss.detach().cpu()
        if self.options.language.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.options.language.max_grad_norm)
        self.optimizer.step()
        return total

    def _synchronised(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients are averaged over the workers in the last pass of a step only."""
        if isinstance(self.loss, nn.parallel.DistributedDataParallel) and not last:
            return self.loss.no_sync()
        if self.fsdp:
            self.model.network.set_requires_gradient_sync(last)  # type: ignore[operator]
        return nullcontext()

    def state(self) -> tuple[dict[str, Tensor] | None, dict[str, Tensor], dict[str, Any]]:
        """Weights where they are split, the optimiser's tensors and its JSON data; all workers gather them together."""
        tensors, data = optimizer_to_tensors(self.optimizer)
        adapted: Any = self.model.adapted
        return (sharded.whole_state(adapted) if self.fsdp else None), sharded.whole(tensors), data


def _save(
    model: TextClassifier,
    description: dict[str, Any],
    state: tuple[dict[str, Tensor] | None, dict[str, Tensor], dict[str, Any]],
    history: list[dict[str, float]],
    test: dict[str, float],
    folder: Path,
) -> None:
    weights, tensors, data = state
    save_language_checkpoint(folder, model, description, weights)
    save_file(tensors, folder / "optimizer.safetensors")
    (folder / "optimizer.json").write_text(json.dumps(data))
    (folder / "history.json").write_text(json.dumps(history))
    (folder / "test.json").write_text(json.dumps(test))


RESUMING = ("optimizer.safetensors", "optimizer.json", "test.json", "history.json", "step")
"""Files of a training checkpoint that are no part of the trained model."""
