"""Anonymous memory of a process that extracts a million rows, and of those that read them back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.figures import Figure, record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
GIB = 2**30
BOUND = 1.5
SHARED_BOUND = 0.5
"""GiB that a second reader may hold for itself; the features are 1.9 GiB."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    folder = tmp_path_factory.mktemp("million")
    _wait(_start("make", folder))
    yield folder
    # pytest would keep two gigabytes for the next three runs.
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def extracted(home):
    return _wait(_start("extract", home))


def _start(step: str, home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.benchmarks.million", step, str(home)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)


def _wait(process: subprocess.Popen[str]) -> dict[str, float]:
    out, _ = process.communicate()
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


def _record(what: str, result: dict[str, float], bound: float) -> None:
    measured, details = result["most"] / GIB, f"{result['before'] / GIB:.2f} before, {result['seconds']:.0f} s"
    record(Figure(what, f"{measured:.2f} GiB", f"{bound} GiB", None, details))


def test_extracting_a_million_rows(home, extracted):
    """A million rows of 512 floats, in one process, from the images to the committed artifact."""
    stored = sum(file.stat().st_size for file in home.glob("store/extract-*/chunk-*.safetensors"))
    assert stored > 4 * 512 * 1_000_000
    _record("memory, extracting 1,000,000 x 512", extracted, BOUND)
    assert extracted["most"] < BOUND * GIB


def test_reading_them_back(home, extracted):
    result = _wait(_start("read", home))
    _record("memory, moments of 1,000,000 x 512", result, BOUND)
    assert result["most"] < BOUND * GIB


def test_two_readers_share_the_pages(home, extracted):
    """Each maps the same files: beside the libraries, neither holds the features for itself."""
    results = [_wait(p) for p in [_start("read", home), _start("read", home)]]
    worst = max(results, key=lambda r: r["most"] - r["before"])
    added = (worst["most"] - worst["before"]) / GIB
    details = f"each of two at once; {worst['most'] / GIB:.2f} GiB with the libraries"
    record(Figure("memory added by a reader", f"{added:.2f} GiB", f"{SHARED_BOUND} GiB", None, details))
    assert added < SHARED_BOUND
