"""Running a stage's heavy part in this process: the same functions as on a cluster, the same artifact."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mad.context import ChunkSetup, Metrics, Progress, TrainLoop
from mad.files import write_errors_told
from mad.store import Draft


class LocalWorker:
    """A group of one, in this process. Checkpoints go to a scratch folder, so that a restart resumes."""

    rank = 0
    world_size = 1

    def __init__(self, scratch: Path, device: str, progress: Progress, epochs: int, what: str = "train"):
        self.scratch, self.device, self.progress, self.epochs, self.what = scratch, device, progress, epochs, what

    def resume_folder(self) -> Path | None:
        """The last complete checkpoint."""
        found = sorted(self.scratch.glob("epoch-*"))
        return found[-1] if found else None

    def report(self, metrics: Metrics, save: Callable[[Path], None]) -> None:
        """Write the checkpoint whole, then drop the one before."""
        before = sorted(self.scratch.glob("epoch-*"))
        number = 1 + (int(before[-1].name.removeprefix("epoch-")) if before else 0)
        unfinished = self.scratch / "partial"
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            with write_errors_told(self.scratch):
                unfinished.mkdir(parents=True)
                save(unfinished)
                unfinished.rename(self.scratch / f"epoch-{number:06d}")
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        for folder in before:
            shutil.rmtree(folder)
        self.progress.update(self.what, number, self.epochs, metrics)


def train_here(
    loop: TrainLoop,
    payload: dict[str, Any],
    scratch: Path,
    device: str,
    progress: Progress,
    epochs: int,
    what: str = "train",
) -> Path:
    """Run a training loop in this process; returns the folder of the last checkpoint."""
    worker = LocalWorker(scratch, device, progress, epochs, what)
    loop(payload, worker)
    folder = worker.resume_folder()
    if folder is None:
        raise RuntimeError("the training loop reported no checkpoint")
    return folder


def chunk_name(number: int) -> str:
    """File name of a numbered chunk."""
    return f"chunk-{number:05d}.safetensors"


def missing_chunks(draft: Draft, chunks: Sequence[int]) -> list[int]:
    """Numbers whose chunk is not finished yet."""
    done = draft.finished()
    return [number for number in chunks if chunk_name(number) not in done]


def write_chunk(draft: Draft, writer: Callable[[int, Path], None], number: int) -> None:
    """Write one chunk whole, its ``.done`` record last."""
    draft.write(chunk_name(number), partial(writer, number), marker=True)


def map_here(
    setup: ChunkSetup, payload: dict[str, Any], chunks: Sequence[int], draft: Draft, device: str, progress: Progress
) -> None:
    """Write the missing chunks in this process, with one thread as every worker has: bits agree."""
    missing = missing_chunks(draft, chunks)
    if not missing:
        return
    with one_thread():
        writer = setup(payload, device)
        for count, number in enumerate(missing, start=len(chunks) - len(missing) + 1):
            write_chunk(draft, writer, number)
            progress.update("chunks", count, len(chunks))


@contextmanager
def one_thread() -> Iterator[None]:
    """Matrix products split over threads may round differently; a chunk must not depend on where it is made."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
