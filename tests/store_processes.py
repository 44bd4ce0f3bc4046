"""What the tests of the store run in another process; ``python -m tests.store_processes FOLDER`` fills a disk."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file

from mad.artifacts import Artifact
from mad.context import Silent
from mad.errors import ArtifactError
from mad.runtime.local import LocalWorker
from mad.store import Store

KEY = "train-00000000000000000000"
META = {"stage": "train", "config": {}, "inputs": {}, "summary": {}, "lineage": {}, "created": 0.0}


def tensors(path: Path, value: float = 1.0) -> None:
    """A small payload file."""
    save_file({"x": torch.full((100,), value)}, path)


def put(store: Store, key: str = KEY, value: float = 1.0) -> Artifact:
    """Write a small artifact."""
    draft = store.draft(key)
    draft.write("weights.safetensors", lambda path: tensors(path, value))
    draft.write_json("history.json", [1, 2])
    draft.commit(META)
    return store.open(key)


def put_often(folder: str) -> None:
    """Write the same key again and again."""
    for _ in range(40):
        put(Store(folder))


def die_writing(folder: str) -> None:
    """Finish one chunk and be killed while the second is there but not yet marked."""
    draft = Store(folder).draft(KEY)
    draft.write("chunk-0", lambda path: tensors(path, 0.0), marker=True)
    draft.write("chunk-1", lambda path: (tensors(path), os.kill(os.getpid(), signal.SIGKILL)), marker=True)


def fill(folder: str) -> str:
    """Write more than there is room for, in every format and as a checkpoint; tell what was said and is left."""
    store = Store(f"{folder}/store")
    put(store, value=1.0)
    big = torch.rand(1_000_000)
    worker = LocalWorker(Path(folder) / "scratch", "cpu", Silent(), 2)
    worker.report({}, lambda path: tensors(path / "w"))
    draft = store.draft(KEY)
    said = [
        _said(draft.write, "weights.safetensors", lambda path: save_file({"x": big}, path)),
        _said(draft.write, "rows.parquet", lambda path: pd.DataFrame({"x": big.numpy()}).to_parquet(path)),
        _said(draft.write, "history.json", lambda path: path.write_text("x" * 3_000_000)),
        _said(worker.report, {}, lambda path: save_file({"x": big}, path / "w")),
    ]
    found = {
        "said": said,
        "files": sorted(file.name for file in Path(store.path(KEY)).iterdir()),
        "kept": bool(Store(store.uri).open(KEY).tensors("weights.safetensors")["x"].eq(1).all()),
        "epochs": sorted(file.name for file in worker.scratch.iterdir()),
    }
    return json.dumps(found)


def fill_limited(folder: str) -> None:
    """The same where no file may grow beyond 100 kB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    (Path(folder) / "found.json").write_text(fill(folder))


def _said(action: Callable[..., None], *arguments: object) -> str:
    try:
        action(*arguments)
    except ArtifactError as error:
        return str(error)
    return "nothing"


if __name__ == "__main__":
    print(fill(sys.argv[1]))
