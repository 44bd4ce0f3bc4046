"""Sharded map: numbered chunks dealt out over a Ray Train group; the same bytes from any number of workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray
import torch.distributed as dist

from mad.context import ChunkSetup, ChunkWatch, Progress
from mad.errors import ClusterError
from mad.runtime.cluster import connect
from mad.runtime.local import missing_chunks, one_thread, shown, write_chunk
from mad.runtime.ray_train import RayWorker, Size, driver_node, run_group
from mad.store import Draft, Store


class Dealer:
    """Hands out numbered chunks one at a time, so that a quick worker makes more of them; an actor."""

    def __init__(self) -> None:
        self._left: list[int] = []
        self._start = 0

    def begin(self, numbers: list[int]) -> int:
        """At a (re)start of the group: what is to be made. Returns the number of the start."""
        self._left, self._start = list(numbers), self._start + 1
        return self._start

    def take(self, start: int) -> int | None:
        """The next chunk; None if there is none, or for a worker of a start that is over."""
        return self._left.pop(0) if self._left and start == self._start else None


def chunk_loop(payload: dict[str, Any], worker: RayWorker) -> None:
    """Write a share of the chunks that are missing at the (re)start of the group."""
    draft, suffix, dealer = Store(payload["store"]).draft(payload["key"]), payload["suffix"], payload["dealer"]
    dealt: list[Any] = []
    if worker.rank == 0:
        missing = missing_chunks(draft, range(payload["chunks"]), suffix)
        dealt = [(ray.get(dealer.begin.remote(missing)), missing)]
    if worker.world_size > 1:
        # Workers start at different moments; all must deal from one list, or a chunk could fall between them.
        dealt = dealt or [None]
        dist.broadcast_object_list(dealt, src=0)
    start, missing = dealt[0]
    number = None if payload["watch"] else ray.get(dealer.take.remote(start))
    if payload["watch"] is None and number is None:
        return
    with one_thread():
        writer = payload["setup"](payload["payload"], worker.device)

        def write(number: int) -> None:
            worker.tell("chunks", None, payload["chunks"], write_chunk(draft, writer, number, suffix))

        if payload["watch"] is not None:
            _until_enough(payload, worker, draft, set(missing), write)
        while number is not None:
            write(number)
            number = ray.get(dealer.take.remote(start))


def _until_enough(
    payload: dict[str, Any], worker: RayWorker, draft: Draft, missing: set[int], write: Callable[[int], None]
) -> None:
    """One chunk per worker, then a look at them in order by rank 0, until it has enough."""
    seen = payload["watch"](payload["payload"])
    for start in range(0, payload["chunks"], worker.world_size):
        if start + worker.rank in missing:
            write(start + worker.rank)
        if worker.world_size > 1:
            dist.barrier()
        stop = min(start + worker.world_size, payload["chunks"])
        # Once one chunk is enough the rest are not shown: what is asked of them would have been answered already.
        look = worker.rank == 0
        enough = [look and any(shown(seen, draft, number, payload["suffix"]) for number in range(start, stop))]
        if worker.world_size > 1:
            dist.broadcast_object_list(enough, src=0)
        if enough[0]:
            return


def map_on_ray(
    setup: ChunkSetup,
    payload: dict[str, Any],
    chunks: Sequence[int],
    draft: Draft,
    workers: Size,
    use_gpu: bool,
    storage: str,
    progress: Progress,
    suffix: str = ".safetensors",
    watch: ChunkWatch | None = None,
) -> None:
    """Write every missing chunk over a group of workers, with ``watch`` as many as are needed.

    Raises:
        ClusterError: chunks are still missing after all retries.
    """
    if not missing_chunks(draft, chunks, suffix):
        return
    connect()
    dealer = ray.remote(Dealer).options(num_cpus=0, scheduling_strategy=driver_node()).remote()
    job: dict[str, Any] = {
        "store": draft.store.uri,
        "key": draft.key,
        "chunks": len(chunks),
        "setup": setup,
        "payload": payload,
    }
    job |= {"suffix": suffix, "watch": watch, "dealer": dealer}
    run_group(chunk_loop, job, workers, use_gpu, storage, f"map-{draft.key}", len(chunks), progress)
    left = missing_chunks(draft, chunks, suffix)
    if left and watch is None:
        raise ClusterError(f"{len(left)} of {len(chunks)} chunks of {draft.key} are missing; run it again to go on")
