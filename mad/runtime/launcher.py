"""Chooses where the heavy part of a stage runs: this process or a Ray Train group."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mad.context import ChunkSetup, ChunkWatch, Progress, TrainLoop, Workers
from mad.errors import ClusterError
from mad.runtime import cluster, local
from mad.runtime.claims import Claims
from mad.runtime.settings import Settings
from mad.stages._workers import worker_range
from mad.store import Draft, Store

log = logging.getLogger("mad")
SMALL_MAP = 200_000
"""Work (passes of a row, tokens) below which ``auto`` maps in this process: a Ray Train group takes 25 to 30 s to start
on a laptop. Chunks that are done already are no work."""


def _most_workers(use_gpu: bool) -> int:
    """Workers that the cluster, which this starts or connects to, holds when it has grown to its full size."""
    cluster.connect()
    return cluster.room(cluster.request(use_gpu).bundle())


def _most(workers: Workers) -> int:
    """A number of processes as given, the last of a range."""
    found = worker_range(workers)
    return found[1] if found else int(workers)


def _group(workers: Workers, count: int) -> int | tuple[int, int]:
    """A group of ``count``; where a range was given, one of as few as it begins with."""
    found = worker_range(workers)
    return count if found is None or found[0] >= count else (found[0], count)


class AutoLauncher:
    """The Launcher of the command line.

    Args:
        settings: locations.
        device: "cpu" or "cuda".
        progress: told of epochs and chunks.
    """

    def __init__(self, settings: Settings, device: str, progress: Progress):
        self.settings, self.device, self.progress = settings, device, progress
        self._claims = Claims(settings.home / "scratch")

    def train_workers(self, workers: Workers) -> int:
        """Processes a training stage gets, of a range the most; 0 is this process.

        ``auto`` is every GPU of a cluster whose nodes are there, and one of a cluster that grows: how many there are at
        this moment may not decide what a model is, and nobody asked for the nodes to come.
        """
        if workers != "auto":
            return max(_most(workers), self._least())
        gpus = cluster.gpu_count() if self.device == "cuda" and not cluster.grows() else 0
        return gpus if gpus > 1 else self._least()

    def _least(self) -> int:
        """1 where this process lacks the GPU that the stage is to run on, else 0."""
        return int(self.device == "cuda" and not torch.cuda.is_available())

    def train(
        self,
        loop: TrainLoop,
        payload: dict[str, Any],
        workers: Workers,
        epochs: int,
        name: str,
        what: str = "train",
    ) -> Path:
        """See :class:`mad.context.Launcher`."""
        count, own = self.train_workers(workers), self._claims.take(name)
        scratch = self._scratch(own)
        if own != name:
            log.warning("another process is making %s: it is made from the beginning here, as %s", name, own)
        try:
            if count == 0:
                return local.train_here(loop, payload, scratch, self.device, self.progress, epochs, what)
            from mad.runtime.ray_train import train_on_ray

            size, storage, use_gpu = _group(workers, count), self._shared(payload["store"]), self.device == "cuda"
            return train_on_ray(loop, payload, size, use_gpu, storage, own, epochs, self.progress, scratch, what)
        except BaseException:
            self._claims.drop(name, finished=False)
            raise

    def map_chunks(
        self,
        setup: ChunkSetup,
        payload: dict[str, Any],
        chunks: Sequence[int],
        draft: Draft,
        workers: Workers,
        work: int,
        suffix: str = ".safetensors",
        watch: ChunkWatch | None = None,
    ) -> dict[str, float]:
        """See :class:`mad.context.Launcher`."""
        missing = len(local.missing_chunks(draft, chunks, suffix))
        if not missing:
            return {}
        count = self._map_workers(workers, missing, work * missing // len(chunks))
        tally = local.Tally(self.progress, count)
        if count == 0:
            local.map_here(setup, payload, chunks, draft, self.device, tally, suffix, watch)
            return tally.figures()
        from mad.runtime.sharding import map_on_ray

        size, storage, use_gpu = _group(workers, count), self._shared(draft.store.uri), self.device == "cuda"
        map_on_ray(setup, payload, chunks, draft, size, use_gpu, storage, tally, suffix, watch)
        return tally.figures()

    def forget(self, name: str) -> None:
        """Remove the checkpoints of a finished (or to be repeated) run, but not those of another process."""
        own = self._claims.take(name)
        shutil.rmtree(self._scratch(own), ignore_errors=True)
        store = Store(self._ray_storage(Store(self.settings.store).uri))
        for run in (own, f"map-{name}"):
            if store.fs.exists(store.path(run)):
                store.fs.rm(store.path(run), recursive=True)
        self._claims.drop(name, finished=True)

    def _map_workers(self, workers: Workers, chunks: int, work: int) -> int:
        if workers != "auto":
            return max(min(_most(workers), chunks), self._least())
        if work < SMALL_MAP:
            return self._least()
        # Each is to have work that pays for its start.
        count = min(_most_workers(self.device == "cuda"), chunks, max(work // SMALL_MAP, 2))
        return count if count > 1 else self._least()  # a group of one pays for nothing

    def _scratch(self, name: str) -> Path:
        return self.settings.home / "scratch" / name

    def _ray_storage(self, store: str) -> str:
        return f"{store.rstrip('/')}/ray" if "://" in store else f"{self.settings.home}/ray"

    def _shared(self, store: str) -> str:
        """Storage that every worker reaches.

        Raises:
            ClusterError: the store lives in this process only.
        """
        if store.startswith("memory://"):
            raise ClusterError("a memory:// store cannot be reached by workers: set the stage's workers to 0")
        return self._ray_storage(store)
