"""Measured figures: printed, kept as JSON lines for the report, with how busy the machine was meanwhile."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = Path(os.environ.get("MAD_HOME", "runs")).absolute() / "benchmarks.jsonl"
COLUMNS = ("figure", "measured", "target", "others used", "details")


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes:
        name: what was measured.
        measured: value and unit.
        target: what it is held against.
        others: CPU cores that other processes kept busy meanwhile; None where it was not measured.
        details: what the value was made from.
    """

    name: str
    measured: str
    target: str
    others: float | None = None
    details: str = ""

    def row(self) -> tuple[str, ...]:
        """Its line of the table."""
        others = "" if self.others is None else f"{self.others:.1f} cores"
        return (self.name, self.measured, self.target, others, self.details)


recorded: list[Figure] = []
"""Of this process, in the order measured; conftest.py shows them when all tests are done."""


def record(figure: Figure) -> None:
    """Print a figure and append it to ``benchmarks.jsonl`` in ``MAD_HOME``."""
    recorded.append(figure)
    print("\n" + "  |  ".join(figure.row()))
    FILE.parent.mkdir(parents=True, exist_ok=True)
    with FILE.open("a") as file:
        file.write(json.dumps({**asdict(figure), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}) + "\n")


class Load:
    """CPU cores that other processes kept busy while a block ran; None where /proc does not tell."""

    others: float | None = None


@contextmanager
def watched() -> Iterator[Load]:
    """Tell how busy the others were during the block. Children count as ours once they have ended."""
    load, began, before = Load(), time.perf_counter(), _busy()
    yield load
    after, elapsed = _busy(), time.perf_counter() - began
    if before is not None and after is not None:
        load.others = max(0.0, (after - before) / elapsed)


def _busy() -> float | None:
    """CPU seconds of everybody but this process and its ended children."""
    try:
        fields = [int(v) for v in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except OSError:
        return None
    own = os.times()
    idle_and_waiting = fields[3] + fields[4]
    # Fields after the eighth (guest time) are contained in the first two already.
    return (sum(fields[:8]) - idle_and_waiting) / os.sysconf("SC_CLK_TCK") - sum(own[:4])


def best_of(rounds: int, *functions: Callable[[], object]) -> list[float]:
    """Least wall time of each function, in seconds; they take turns, so that a busy minute hits all alike."""
    best = [float("inf")] * len(functions)
    for _ in range(rounds):
        for i, function in enumerate(functions):
            begun = time.perf_counter()
            function()
            best[i] = min(best[i], time.perf_counter() - begun)
    return best


def markdown(figures: list[Figure]) -> str:
    """The table of the report."""
    rows = [COLUMNS, tuple("---" for _ in COLUMNS), *(f.row() for f in figures)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def machine() -> str:
    """Hardware and versions, as the report states them."""
    model, memory = _field("/proc/cpuinfo", "model name"), _field("/proc/meminfo", "MemTotal")
    gib = f"{int(memory.split()[0]) / 2**20:.0f} GiB" if memory else "unknown memory"
    names = ("torch", "numpy", "ray", "mlflow", "safetensors")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    load = ", ".join(f"{v:.1f}" for v in os.getloadavg())
    day = time.strftime("%Y-%m-%d")
    computer = f"{os.cpu_count()} cores ({model}), {gib}"
    return f"{day}: {computer}; Python {platform.python_version()}, {versions}; load {load}"


def _field(file: str, name: str) -> str:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
