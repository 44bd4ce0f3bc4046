"""A hundred thousand chunks: made, resumed, committed and checked; and what of that grows with their number."""

from __future__ import annotations

import time

import pytest

from mad.context import Silent
from mad.runtime.launcher import AutoLauncher
from mad.runtime.local import chunk_name
from mad.runtime.settings import Settings
from mad.store import Store
from tests.benchmarks.figures import Figure, record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
COUNTS = (1_000, 10_000, 100_000)
LOST = 10
"""Chunks that a kill took."""


def write(payload, device):
    return lambda number, path: path.write_bytes(number.to_bytes(8, "little") * 8) and None


def timed(action):
    begun = time.perf_counter()
    result = action()
    return time.perf_counter() - begun, result


def lifetime(folder, count: int) -> dict[str, float]:
    """Seconds of every step in the life of an artifact with so many chunks."""
    launcher = AutoLauncher(Settings(folder, str(folder), None, None), "cpu", Silent())
    key = f"extract-{count:020d}"

    def run(made: int) -> None:
        def counted(payload, device):
            return lambda number, path: (seen.append(number), write(payload, device)(number, path))[1]

        seen: list[int] = []
        launcher.map_chunks(counted, {}, range(count), Store(str(folder)).draft(key), 0, 0)
        assert len(seen) == made

    found = {"make": timed(lambda: run(count))[0]}
    found["list"], done = timed(lambda: Store(str(folder)).draft(key).finished())
    assert len(done) == count
    for number in range(LOST):
        (folder / key / chunk_name(number * (count // LOST))).unlink()
    found["resume"] = timed(lambda: run(LOST))[0]
    draft = Store(str(folder)).draft(key)
    meta = {"stage": "unknown", "config": {}, "inputs": {}, "lineage": {}, "summary": {}}
    found["commit"] = timed(lambda: draft.commit(meta))[0]
    found["open"], artifact = timed(lambda: Store(str(folder)).open(key, check=False))
    found["check"] = timed(lambda: Store(str(folder)).open(key))[0]
    assert len(artifact.meta["files"]) == count and not list((folder / key).glob("*.done"))
    return found


def test_a_hundred_thousand_chunks(tmp_path):
    """Every step grows with the number of chunks and not faster; resuming costs seconds."""
    seconds = {count: lifetime(tmp_path, count) for count in COUNTS}
    for step in seconds[COUNTS[0]]:
        per = {count: 1e6 * seconds[count][step] / count for count in COUNTS}
        told = ", ".join(f"{value:.0f} µs each of {count:,}" for count, value in per.items())
        record(Figure(f"100,000 chunks: {step}", f"{seconds[COUNTS[-1]][step]:.1f} s", "", None, told))
        assert per[COUNTS[-1]] < 3 * max(per[COUNTS[0]], per[COUNTS[1]])
    assert seconds[COUNTS[-1]]["resume"] < 60
