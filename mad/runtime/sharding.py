"""Sharded map: numbered chunks dealt out over a Ray Train group; the same bytes from any number of workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from mad.context import ChunkSetup, Progress
from mad.errors import ClusterError
from mad.runtime.local import missing_chunks, one_thread, write_chunk
from mad.runtime.ray_train import RayWorker, run_group
from mad.store import Draft, Store


def chunk_loop(payload: dict[str, Any], worker: RayWorker) -> None:
    """Write this worker's share of the chunks that are missing at the (re)start of the group."""
    draft = Store(payload["store"]).draft(payload["key"])
    missing = [missing_chunks(draft, range(payload["chunks"])) if worker.rank == 0 else []]
    if worker.world_size > 1:
        # Workers start at different moments; all must deal from one list, or a chunk could fall between them.
        dist.broadcast_object_list(missing, src=0)
    mine = missing[0][worker.rank :: worker.world_size]
    if not mine:
        return
    with one_thread():
        writer = payload["setup"](payload["payload"], worker.device)
        for number in mine:
            write_chunk(draft, writer, number)
            worker.tell("chunks", None, payload["chunks"])


def map_on_ray(
    setup: ChunkSetup,
    payload: dict[str, Any],
    chunks: Sequence[int],
    draft: Draft,
    workers: int,
    use_gpu: bool,
    storage: str,
    progress: Progress,
) -> None:
    """Write every missing chunk over a group of workers.

    Raises:
        ClusterError: chunks are still missing after all retries.
    """
    if not missing_chunks(draft, chunks):
        return
    job = {"store": draft.store.uri, "key": draft.key, "chunks": len(chunks), "setup": setup, "payload": payload}
    run_group(chunk_loop, job, workers, use_gpu, storage, f"map-{draft.key}", len(chunks), progress)
    left = missing_chunks(draft, chunks)
    if left:
        raise ClusterError(f"{len(left)} of {len(chunks)} chunks of {draft.key} are missing; run it again to go on")
