"""Fills the object store of every node and keeps it full: ``python -m tests.faults.fill_store ADDRESS BYTES``.

Prints ``full``, waits for a line, reads everything back and prints whether it is what was put.
"""

from __future__ import annotations

import hashlib
import os
import sys

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

OBJECT = 8 * 2**20


@ray.remote(num_cpus=0)
class Filler:
    """Owns objects of one node."""

    def fill(self, size: int) -> int:
        made = [os.urandom(OBJECT) for _ in range(-(-size // OBJECT))]
        self.digests = [hashlib.sha256(one).hexdigest() for one in made]
        self.references = [ray.put(one) for one in made]
        return len(made)

    def intact(self) -> bool:
        return all(
            hashlib.sha256(ray.get(reference)).hexdigest() == digest
            for reference, digest in zip(self.references, self.digests, strict=True)
        )


if __name__ == "__main__":
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    pinned = [NodeAffinitySchedulingStrategy(node, soft=False) for node in alive]
    fillers = [Filler.options(scheduling_strategy=one).remote() for one in pinned]
    ray.get([filler.fill.remote(int(sys.argv[2])) for filler in fillers])
    print("full", flush=True)
    sys.stdin.readline()
    print("intact" if all(ray.get([filler.intact.remote() for filler in fillers])) else "lost", flush=True)
