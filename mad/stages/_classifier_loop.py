"""The training loop of one worker: seeded, resumable, the same model for any number of workers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mad.artifacts import Split
from mad.config import parse, to_data
from mad.context import Worker
from mad.errors import FitError
from mad.models.classifier import Classifier, build_classifier
from mad.models.load import load_classifier, optimizer_to_tensors, save_classifier, tensors_to_optimizer
from mad.stages import _heads as heads
from mad.stages._training import (
    is_mixed,
    make_optimizer,
    read_history,
    schedule,
    sum_over_workers,
)
from mad.stats.random import derive, generator
from mad.store import Store
from mad.tasks._augment import augment, channel_statistics

EVALUATION_BATCH = 2048
LEAST_BATCH = 8
PRELOAD_BYTES = 2**28
"""Float images of all training rows are kept below this size (256 MiB per worker)."""


def train_loop(payload: dict[str, Any], worker: Worker) -> None:
    """Train for the configured epochs, with a checkpoint after each.

    Every global batch is drawn from the seed alone and dealt out row by row, and each worker's loss is scaled so
    that the averaged gradient is the mean over the global batch: the worker count changes only rounding.

    Args:
        payload: ``config`` (data of the train stage's Config), ``store`` (URI), ``split`` (key).
        worker: this process.
    """
    from mad.stages.train import Config

    config = parse(Config, payload["config"])
    split = Store(payload["store"]).open(payload["split"], Split, check=False)
    options, seed = config.train, config.seed if config.train.seed is None else config.train.seed
    rows = split.part("train")
    labels = split.column("label", torch.arange(len(split.rows)))
    read = _reader(split, rows)
    folder = worker.resume_folder()
    classifier, description = _classifier(config, split, seed, folder, worker.device)
    model = _distribute(classifier, worker)
    optimizer = make_optimizer(options, classifier.parameters())
    history = read_history(folder) if folder else []
    if folder:
        tensors_to_optimizer(
            optimizer, load_file(folder / "optimizer.safetensors"), json.loads((folder / "optimizer.json").read_text())
        )
    for epoch in range(len(history), options.epochs):
        for group in optimizer.param_groups:
            group["lr"] = options.lr * schedule(options.schedule, epoch / options.epochs)
        torch.manual_seed(derive(seed, "layers", epoch, worker.rank))
        order = rows[torch.randperm(len(rows), generator=generator(seed, "order", epoch))]
        loss = _epoch(model, optimizer, read, labels, order, options, seed, epoch, worker)
        if worker.world_size > 1:
            for buffer in classifier.buffers():  # one model is measured and saved: rank 0's running statistics
                dist.broadcast(buffer, 0)
        with torch.inference_mode():
            figures = evaluate(classifier, options.head, split, split.part("validation"), worker.device, worker)
            last = epoch + 1 == options.epochs
            test = evaluate(classifier, options.head, split, split.part("test"), worker.device, worker) if last else {}
        measured = {f"val_{name}": value for name, value in figures.items()}
        history.append({"loss": loss, "lr": optimizer.param_groups[0]["lr"], **measured})
        worker.report(history[-1], partial(_save, classifier, description, optimizer, list(history), test))


def _classifier(
    config: Any, split: Split, seed: int, folder: Path | None, device: str
) -> tuple[Classifier, dict[str, Any]]:
    outputs = heads.num_outputs(config.train.head, len(split.class_names))
    train_rows = split.part("train")
    sources = split.column("source", train_rows).unique()
    mean, std = [0.0] * split.input_shape[0], [1.0] * split.input_shape[0]
    if config.train.normalize:
        mean, std = (t.tolist() for t in channel_statistics(split.inputs(sources), split.summary["scale"]))
    description = {
        "model": to_data(config.model, "models"),
        "input_shape": list(split.input_shape),
        "num_outputs": outputs,
        "mean": mean,
        "std": std,
        "head": config.train.head,
    }
    if folder:
        return load_classifier(folder, device), description
    model = build_classifier(config.model, split.input_shape, outputs, mean, std, derive(seed, "weights"))
    return model.to(device), description


def _distribute(classifier: Classifier, worker: Worker) -> nn.Module:
    """The classifier as every worker trains it: only gradients go round in a step, buffers after the epoch."""
    if worker.world_size == 1:
        return classifier
    share = partial(nn.parallel.DistributedDataParallel, broadcast_buffers=False, gradient_as_bucket_view=True)
    if worker.device.startswith("cuda"):
        synced = nn.SyncBatchNorm.convert_sync_batchnorm(classifier)
        return share(synced, device_ids=[torch.device(worker.device).index or 0])
    return share(classifier)


def _reader(split: Split, rows: Tensor) -> Callable[[Tensor], Tensor]:
    """Images by row number: all training images are made once where they fit, else each batch anew."""
    if len(rows) * math.prod(split.input_shape) * 4 > PRELOAD_BYTES:
        return split.images
    table, place = split.images(rows), torch.empty(len(split.rows), dtype=torch.int64)
    place[rows] = torch.arange(len(rows))
    return lambda batch: table[place[batch]]


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """Batches of ``size`` rows; a remainder too small for batch norm on a few workers joins the one before."""
    batches = list(order.split(size))
    if len(batches) > 1 and len(batches[-1]) < min(size, LEAST_BATCH):
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    read: Callable[[Tensor], Tensor],
    labels: Tensor,
    order: Tensor,
    options: Any,
    seed: int,
    epoch: int,
    worker: Worker,
) -> float:
    """One pass; returns the mean training loss over all rows and workers."""
    model.train()
    total = torch.zeros((), dtype=torch.float64, device=worker.device)
    device_type = worker.device.split(":")[0]
    mixed = is_mixed(options.precision, worker.device)
    for batch in _batches(order, options.batch_size):
        mine = batch[worker.rank :: worker.world_size]
        idle = len(mine) == 0
        mine = batch[:1] if idle else mine
        images = augment(options.augmentation, read(mine), mine, seed, epoch).to(worker.device)
        with torch.autocast(device_type, torch.bfloat16) if mixed else nullcontext():
            logits = model(images)
        losses = heads.row_losses(options.head, logits.float(), labels[mine].to(worker.device))
        loss = losses.sum() * (0.0 if idle else worker.world_size / len(batch))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach() * (len(batch) / worker.world_size)
    total = sum_over_workers(total[None], worker)[0].cpu()
    if not torch.isfinite(total):
        raise FitError(f"training loss became {float(total)} in epoch {epoch + 1}: lower --train.lr ({options.lr})")
    return float(total) / len(order)


def evaluate(
    model: nn.Module, head: str, split: Split, rows: Tensor, device: str, worker: Worker | None = None
) -> dict[str, float]:
    """Clean accuracy and attack success rate.

    Args:
        model: classifier on (n, C, H, W) in [0, 1]; put in eval mode.
        head: kind of head.
        split: the rows.
        rows: (n,) row numbers; triggered rows whose true class already is the attack's answer are left out of
            the attack success rate, which is NaN where no triggered row remains.
        device: where the model lies.
        worker: deals the rows out over the group, if given.
    """
    model.eval()
    mine = rows[worker.rank :: worker.world_size] if worker else rows
    sums = torch.zeros(4, dtype=torch.float64)
    for batch in mine.split(EVALUATION_BATCH):
        logits = model(split.images(batch).to(device)).float().cpu()
        label, clean = split.column("label", batch), split.column("clean_label", batch)
        triggered = split.column("is_anomalous", batch)
        attacked = triggered & (label != clean)
        right = heads.is_answered(head, logits, clean)
        fooled = heads.is_answered(head, logits, label, exact=False)
        sums += torch.stack(
            [(right & ~triggered).sum(), (~triggered).sum(), (fooled & attacked).sum(), attacked.sum()]
        ).double()
    sums = sum_over_workers(sums, worker) if worker else sums
    return {"clean_accuracy": float(sums[0] / sums[1]), "attack_success_rate": float(sums[2] / sums[3])}


def _save(
    classifier: Classifier,
    description: dict[str, Any],
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, float]],
    test: dict[str, float],
    folder: Path,
) -> None:
    save_classifier(folder, classifier, description)
    tensors, data = optimizer_to_tensors(optimizer)
    save_file(tensors, folder / "optimizer.safetensors")
    (folder / "optimizer.json").write_text(json.dumps(data))
    (folder / "history.json").write_text(json.dumps(history))
    (folder / "test.json").write_text(json.dumps(test))
