"""What every test gets: a home folder of its own, no outside servers, one thread; and one small trained model."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read when torch, Ray and MLflow are imported.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["GIT_PYTHON_REFRESH"] = "quiet"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
os.environ.pop("RAY_ADDRESS", None)
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("MAD_STORE", None)

import pytest
from xdist.scheduler import LoadFileScheduling

from mad.artifacts import Artifact, Checkpoint, Features, Split
from mad.runtime import chain as chains
from mad.runtime.engine import Engine
from mad.runtime.settings import Settings
from mad.store import Store

ROOT = Path(__file__).parents[1]
OUTSIDE = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "MAD_STORE")
for name in ("mlflow", "alembic"):
    logging.getLogger(name).setLevel(logging.ERROR)

SMALL = {
    "task": {"max_rows": 600},
    "train": {"epochs": 3, "workers": 0},
    "extract": {"workers": 0},
    "detect": {"bootstrap": 50},
}
"""Settings of the shared model: digits, a corner trigger, an MLP, no launcher."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with a real Ray cluster come first: they take longest."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Of the two test processes one runs the real Ray clusters, one after another; files stay whole."""
    return _OneForRay(config, log)


class _OneForRay(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        whole = "pytestmark = pytest.mark.ray" in (ROOT / file).read_text(encoding="utf-8")
        return "ray" if whole else file


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAD_HOME", str(tmp_path / "home"))
    for name in OUTSIDE:
        monkeypatch.delenv(name, raising=False)


def make_engine(home: Path, uri: str | None = None) -> Engine:
    """An engine that tracks nothing, with its store and node cache below ``home``."""
    uri = uri or str(home / "artifacts")
    return Engine(Settings(home, uri, None, None), Store(uri, cache=home / "cache"))


@dataclass(frozen=True)
class World:
    """Artifacts of the shared chain; tests read them and may add to the store, but change nothing in it."""

    engine: Engine
    artifacts: dict[str, Artifact]

    @property
    def split(self) -> Split:
        return self.artifacts["prepare"]

    @property
    def checkpoint(self) -> Checkpoint:
        return self.artifacts["train"]

    @property
    def features(self) -> Features:
        return self.artifacts["extract"]

    def run(self, target: str, flags: dict | None = None, **given: Artifact) -> dict[str, Artifact]:
        """Run a chain on this store; ``given`` by stage."""
        return run_chain(self.engine, target, flags or {}, given)


def run_chain(
    engine: Engine, target: str, flags: dict, given: dict[str, Artifact] | None = None
) -> dict[str, Artifact]:
    """Resolve and run a chain, by default with the settings of the shared model."""
    return chains.run(engine, chains.resolve(target, SMALL, flags, given or {}, engine.store))


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return make_engine(tmp_path / "engine")


@pytest.fixture
def new_engine() -> Callable[..., Engine]:
    return make_engine


@pytest.fixture
def run() -> Callable[..., dict[str, Artifact]]:
    return run_chain


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    engine = make_engine(tmp_path_factory.mktemp("world"))
    return World(engine, run_chain(engine, "report", {}))
