"""extract: run the model once over every row and keep chosen activations and the logits."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from mad import registry
from mad.artifacts import Checkpoint, Split
from mad.config import placement, require, to_data
from mad.context import ChunkWriter, Context, Metrics
from mad.models.capture import resolve
from mad.models.classifier import Classifier
from mad.models.pooling import check_how
from mad.models.text_classifier import TextClassifier
from mad.stages._activations import GRADIENT, Differentiated, Reading, read_activations, read_gradients
from mad.stages._base import Stage
from mad.stages._subject import name_head, open_model
from mad.stages._text_features import read_texts
from mad.stages._workers import check_workers
from mad.store import Store
from mad.tasks._base import PARTS

CHARACTERS = 4
"""Of a token, about: what there is to do is counted in tokens before there is a tokenizer."""
MOST_CHUNKS = 30_000
"""Linux maps at most 65,530 files into a process; a trial reads those of one artifact, and libraries."""


@dataclass(frozen=True)
class Options:
    """What to read, and how to store it."""

    layers: list[str] = field(default_factory=list)
    """globs over module names, with .output or .input (default: what the architecture recommends)"""
    pool: str = "auto"
    """positions of convolution maps and texts: mean, max, last, all, flatten or a slice such as 0:4; auto: the last
    token of texts, the mean of maps; padding is never read"""
    channel_axis: int = 1
    """axis of the channels in convolution maps, counting the batch as axis 0"""
    logits: bool = True
    """keep the logits, and what goes into the linear layer that gives them (for detectors that need the head);
    without them the forward pass stops after the last hook"""
    gradients: Differentiated = "none"
    """also keep the gradient of an output of the model with respect to each activation, pooled alike, as a layer
    NAME.gradient: of the largest logit (max_logit), of the cross entropy of the model's own answer (loss), or of the
    log of the summed exponentials of the logits (energy)"""
    parts: list[str] = field(default_factory=lambda: [p for p in PARTS if p != "train"])
    """parts of the split"""
    dtype: Literal["keep", "float32", "float16", "bfloat16"] = "keep"
    """type the activations are stored in"""
    batch_size: int = 1024
    """rows per forward pass"""
    batch_tokens: int = 16384
    """tokens of texts per forward pass, padding included, beside batch_size"""
    chunk_rows: int = 8192
    """rows per file, the unit of sharding and of resuming"""
    workers: int | str = placement("auto")
    """processes: 0 runs in this one; a range such as 2-8 follows the cluster; auto: this one below 200,000 rows, else
    every GPU or CPU"""

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, f"batch_size must be 1 or more, got {self.batch_size}")
        require(self.batch_tokens >= 1, f"batch_tokens must be 1 or more, got {self.batch_tokens}")
        require(self.chunk_rows >= 1, f"chunk_rows must be 1 or more, got {self.chunk_rows}")
        if self.pool != "auto":
            check_how(self.pool)
        require(self.logits or self.gradients == "none", f"gradients {self.gradients} needs logits true")
        require(bool(self.parts), "parts must name at least one part of the split")
        unknown = sorted(set(self.parts) - set(PARTS))
        require(not unknown, f"parts must be among {', '.join(PARTS)}, got {', '.join(unknown)}")
        check_workers(self.workers)


@dataclass(frozen=True)
class Config:
    """What to read."""

    extract: Options = field(default_factory=Options)


def rows_of_parts(split: Split, parts: list[str]) -> Tensor:
    """(n,) row numbers of the parts that the split has, part after part."""
    present = set(split.rows["part"])
    return torch.cat([split.part(part) for part in PARTS if part in parts and part in present])


def chunk_worker(payload: dict[str, Any], device: str) -> ChunkWriter:
    """Load the model once; return the function that writes one numbered chunk to a path.

    A chunk depends on its number and the config only, never on which worker makes it or what came before.
    """
    from mad.config import parse

    options = parse(Options, payload["extract"])
    store = Store(payload["store"])
    split = store.open(payload["split"], Split, check=False)
    model = open_model(store.open(payload["checkpoint"], Checkpoint, check=False), store, device)
    names = resolve(model.network, options.layers or _recommended(payload["model"]))
    head = name_head(model, split) if options.logits else None
    reading = Reading(names, head, options.pool, options.channel_axis)
    rows = rows_of_parts(split, options.parts)
    layers = names if options.gradients == "none" else [*names, *(name + GRADIENT for name in names)]

    def extract(number: int, path: Path) -> Metrics:
        mine, begin = rows[number * options.chunk_rows : (number + 1) * options.chunk_rows], time.perf_counter()
        if isinstance(model, TextClassifier):
            limits = options.batch_size, options.batch_tokens, options.pool == "all"
            chunk = read_texts(model, split.texts(mine), partial(_features, model, reading, options), *limits)
            tensors, amounts = chunk.tensors, {"tokens": chunk.tokens}
        else:
            batches = [_features(model, reading, options, split.images(b)) for b in mine.split(options.batch_size)]
            tensors, amounts = {name: torch.cat([b[name] for b in batches]) for name in batches[0]}, {}
        _save(tensors, layers, path)
        return {**amounts, "seconds": time.perf_counter() - begin}

    return extract


def _features(model: Classifier | TextClassifier, reading: Reading, options: Options, x: Tensor) -> dict[str, Tensor]:
    """What is kept of one batch."""
    dtype = None if options.dtype == "keep" else getattr(torch, options.dtype)

    def store(h: Tensor) -> Tensor:
        return (h if dtype is None else h.to(dtype)).cpu().contiguous()

    x = x.to(model.device if isinstance(model, TextClassifier) else model.mean.device)
    if options.gradients == "none":
        read = read_activations(model, reading, x, store, stop_early=not options.logits)
    else:
        read = read_gradients(model, reading, x, store, options.gradients)
    features = dict(read.features)
    if read.penultimate is not None:
        features["penultimate"] = read.penultimate.contiguous()
    return features if read.logits is None else {**features, "logits": read.logits.float().cpu()}


def _save(tensors: dict[str, Tensor], names: list[str], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(tensors, path, metadata={"layers": json.dumps(names)})


def _recommended(model: dict[str, Any]) -> list[str]:
    return list(registry.load("models", model["name"]).LAYERS)


def run(config: Config, inputs: dict[str, Any], context: Context) -> None:
    """Write numbered chunks and ``rows.parquet``."""
    split: Split = inputs["attacked"]
    checkpoint: Checkpoint = inputs["checkpoint"]
    options = config.extract
    description = checkpoint.json("model.json")
    _check_inputs(split, description)
    _check_unseen(split, checkpoint, context.draft.store)
    rows = rows_of_parts(split, options.parts)
    payload = {
        "extract": to_data(options),
        "store": context.draft.store.uri,
        "split": split.key,
        "checkpoint": checkpoint.key,
        "model": description["model"],
    }
    count = math.ceil(len(rows) / options.chunk_rows)
    cut = f"extract.chunk_rows {options.chunk_rows} cuts {len(rows)} rows into {count} chunks"
    require(count <= MOST_CHUNKS, f"{cut}, more than can be mapped into memory at once ({MOST_CHUNKS}): raise it")
    table = split.rows.iloc[rows.numpy()].reset_index(drop=True)
    work = len(rows) if split.kind == "images" else int(table["text"].str.len().sum()) // CHARACTERS
    told = context.launcher.map_chunks(chunk_worker, payload, range(count), context.draft, options.workers, work)
    context.draft.write("rows.parquet", lambda path: table.to_parquet(path, index=False))
    first = _shapes(context, "chunk-00000.safetensors")
    context.summary |= {"layers": first["layers"], "widths": first["widths"], "rows": len(rows)}
    context.metrics |= {"rows": len(rows), "chunks": count}
    context.metrics |= {name: told[name] for name in ("tokens", "tokens_per_second") if name in told}


def _check_inputs(split: Split, description: dict[str, Any]) -> None:
    """Refuse rows that the model cannot read.

    Raises:
        ConfigError: images for a language model, texts for a classifier of images, or images of another size.
    """
    reads = "text" if description.get("kind") == "language" else "images"
    require(reads == split.kind, f"the checkpoint reads {reads}, the task gives {split.kind}")
    if reads == "images":
        taken, given = description["input_shape"], list(split.input_shape)
        require(taken == given, f"the checkpoint takes inputs of shape {taken}, those of the task have {given}")


def _check_unseen(split: Split, checkpoint: Checkpoint, store: Store) -> None:
    """Refuse a split of the model's own data whose held-out rows the model was trained on.

    Drawn with another seed or other fractions, the same data set is cut elsewhere; figures on such rows would be
    those of training rows.

    Raises:
        ConfigError: they overlap, it cannot be told, or the classes are others.
    """
    made_from, prepared = checkpoint.meta["inputs"]["split"], split.meta["lineage"]["prepare"]["key"]
    if made_from == prepared:
        return
    if not store.has(made_from):
        require(
            False, f"the checkpoint's own rows ({made_from}) are not in the store: run mad prepare with its settings"
        )
    own = store.open(made_from, Split, check=False)
    names = (own.class_names, split.class_names)
    require(
        names[0] == names[1], f"the checkpoint's classes are {', '.join(names[0])}; the task's {', '.join(names[1])}"
    )
    if own.meta["identity"]["more"]["data"] != store.meta(prepared)["identity"]["more"]["data"]:
        return  # another data set
    trained, fitted = own.numbers("train"), own.numbers("untrusted")
    for part in ("calibration", "untrusted", "validation", "test"):
        seen = trained if part == "untrusted" else trained | fitted
        again = len(seen & split.numbers(part))
        require(
            not again,
            f"{again} {part} rows of these settings are among those the checkpoint or detector was made from: "
            "keep --seed and the settings that cut the data as they were",
        )


def _shapes(context: Context, name: str) -> dict[str, Any]:
    """Layer names in model order and their widths, from the header of a chunk."""
    store = context.draft.store
    with store.local_copy(context.draft.key, name) as path, safe_open(path, framework="pt") as file:
        layers = json.loads(file.metadata()["layers"])
        return {"layers": layers, "widths": [file.get_slice(layer).get_shape()[-1] for layer in layers]}


STAGE = Stage("extract", Config, {"attacked": "attack", "checkpoint": "train"}, run)
