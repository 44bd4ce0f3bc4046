"""Eight trials on one node read one artifact of a gigabyte: what each of them adds to the memory of the node."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from mad.runtime import cluster
from mad.runtime.settings import Settings
from mad.runtime.study import Study
from mad.runtime.trial import Job, Work
from mad.store import Store
from tests.benchmarks.figures import Figure, record
from tests.benchmarks.splits import commit

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]
TRIALS, WIDTH, CHUNK, LAYER = 8, 256, 8192, "layers.0.output"
LARGE, SMALL = 2**20, 2**14
"""Rows of 1 KiB: a gigabyte, and so few that what is left is the work itself."""
MIB = 2**20
SHARE = 0.1
"""Of the artifact, that a trial may add."""
DETECTORS = {
    "mahalanobis": {"detector": "mahalanobis"},
    "mahalanobis by class": {"detector": "mahalanobis", "detector.class_conditional": True},
    "que": {"detector": "que"},
    "spectral": {"detector": "spectral"},
}


def features(store: Store, rows: int) -> str:
    """Activations as the extract stage writes them: half of the rows trusted, the rest to be scored."""
    key, generator = f"extract-{rows:020d}", torch.Generator().manual_seed(0)
    sizes = {"trusted": rows // 2, "calibration": rows // 8, "untrusted": rows // 8, "validation": rows // 4}
    part = pd.Series([name for name, size in sizes.items() for _ in range(size)])
    anomalous = (part.isin(["untrusted", "validation"])) & (pd.Series(range(rows)) % 2 == 0)
    table = pd.DataFrame({"id": range(rows), "part": part, "is_anomalous": anomalous})
    table["label"] = table["clean_label"] = 0
    draft = store.draft(key)
    draft.write("rows.parquet", lambda path: table.to_parquet(path, index=False))
    for number, start in enumerate(range(0, rows, CHUNK)):
        h = torch.randn(CHUNK, WIDTH, generator=generator)
        h[torch.from_numpy(anomalous.to_numpy()[start : start + CHUNK]), :8] += 1
        tensors = {LAYER: h, "logits": h[:, :10].contiguous()}
        draft.write(f"chunk-{number:05d}.safetensors", lambda path, t=tensors: save_file(t, path))
    summary = {"layers": [LAYER], "widths": [WIDTH], "rows": rows}
    commit(store, draft, "extract", summary)
    return key


def trial_processes() -> Iterator[int]:
    """Actors that run trials, among the processes that this one has started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    for pid in parents:
        above = pid
        while above in parents and above != os.getpid():
            above = parents[above]
        if above != os.getpid():
            continue
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if command.startswith(b"ray::ImplicitFunc"):
            yield pid


def memory(pid: int) -> dict[str, int]:
    """Bytes that a process holds for itself, and its share of what several map."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in text.splitlines() if line.endswith("kB")}
    return {"private": found["Private_Dirty"], "pss": found["Pss"], "mapped": found["Rss"]}


class Watch:
    """Samples trial actors while a block runs: the most that each has held, and the most of all together."""

    def __enter__(self) -> Watch:
        self.most: dict[int, dict[str, int]] = {}
        self.at_once = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        pids, asked = [], 0.0
        while not self._stop.wait(0.1):
            if time.monotonic() - asked > 2:
                pids, asked = list(trial_processes()), time.monotonic()
            alive = 0
            for pid in pids:
                try:
                    found = memory(pid)
                except (OSError, KeyError):
                    continue
                alive += 1
                before = self.most.setdefault(pid, found)
                self.most[pid] = {name: max(value, before[name]) for name, value in found.items()}
            self.at_once = max(self.at_once, alive)

    def largest(self, name: str) -> int:
        """Of all actors."""
        return max(found[name] for found in self.most.values())


@pytest.fixture(scope="module")
def small_trials():
    cluster.prepare_environment()
    cluster.ask({"CPU": os.cpu_count() / TRIALS})
    cluster.connect()
    yield
    import ray

    ray.shutdown()
    cluster.ask(None)


def measured(home: Path, key: str, overrides: dict, folder: Path) -> Watch:
    """Eight trials of one detector at once, each in an actor of its own."""
    from mad.runtime.ray_tune import run_all

    job = Job(str(home), str(home / "artifacts"), "cpu", key, {"seed": 0})
    rates = [{**overrides, "detect.false_positive_rate": (1 + k) / 100} for k in range(TRIALS)]
    rows = []
    with Watch() as watch:
        study = Study(bundle=1, concurrency=TRIALS)
        run_all(study, [Work(job.to_json(), one, False, kept=False) for one in rates], folder, rows.append)
    assert [row["status"] for row in rows] == ["done"] * TRIALS, rows
    return watch


@pytest.mark.parametrize("name", DETECTORS)
def test_trials_share_what_they_read(small_trials, name, tmp_path_factory, tmp_path):
    """Beyond what the same trials hold on few rows, each adds less than a tenth of the artifact."""
    home = tmp_path_factory.getbasetemp() / "gigabyte"
    store = Store(Settings(home, str(home / "artifacts"), None, None).store)
    keys = {rows: f"extract-{rows:020d}" for rows in (SMALL, LARGE)}
    for rows, key in keys.items():
        if not store.has(key):
            features(store, rows)
    bytes_of = sum(facts["bytes"] for facts in store.meta(keys[LARGE])["files"].values())
    few, many = (measured(home, keys[rows], DETECTORS[name], tmp_path / str(rows)) for rows in (SMALL, LARGE))
    added = many.largest("private") - few.largest("private")
    told = (
        f"largest of {len(many.most)} actors, {many.at_once} at once: {many.largest('private') / MIB:.0f} MiB private"
    )
    told += f" against {few.largest('private') / MIB:.0f} on {SMALL:,} rows; PSS {many.largest('pss') / MIB:.0f} MiB"
    told += f", mapped {many.largest('mapped') / MIB:.0f} MiB"
    record(Figure(f"memory a trial adds, {name}", f"{added / bytes_of:.1%} of 1 GiB", f"{SHARE:.0%}", None, told))
    assert many.at_once >= TRIALS // 2 and added < SHARE * bytes_of
