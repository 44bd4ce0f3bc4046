"""One configuration of a sweep over a stage: run the stage on inputs that are in the store already.

Runs in a Tune actor. It receives strings and numbers only, and answers with the state; figures are in the artifact.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from mad.config import parse, to_data
from mad.errors import ArtifactError, MadError
from mad.redaction import redactor
from mad.runtime.bundles import OnRow, Trial, bundled, reason_lost, run_bundles, slots, tell
from mad.runtime.engine import Engine
from mad.runtime.settings import Settings
from mad.runtime.stage_study import Point, StagePlan
from mad.runtime.trial import Row
from mad.stages._base import load_stage
from mad.store import Store


@dataclass(frozen=True)
class StageWork:
    """One configuration to run.

    Attributes:
        home: MAD_HOME.
        store: URI of the artifact store.
        device: device class that enters keys.
        stage: name of the target.
        config: its settings as plain data.
        inputs: input name to key.
        key: of what it is to make.
    """

    home: str
    store: str
    device: str
    stage: str
    config: dict[str, Any]
    inputs: dict[str, str]
    key: str

    @staticmethod
    def of(point: Point, engine: Engine) -> StageWork:
        """The work on a point of a plan."""
        inputs = dict(zip(point.stage.inputs, point.parents, strict=True))
        home, store, device = str(engine.settings.home), engine.store.uri, engine.device
        return StageWork(home, store, device, point.stage.name, to_data(point.config), inputs, point.key)


@lru_cache(maxsize=8)
def _engine(home: str, store: str, device: str) -> Engine:
    """Looks up and commits artifacts; tracks nothing (the driver does), and starts no group inside a trial."""
    settings, opened = Settings(Path(home), store, None, None), Store(store)
    return Engine(settings, opened, device=device, on_epoch=lambda epoch, state: None)


def run_work(work: StageWork) -> Row:
    """Run the stage; ``status`` is "done", or "failed" with an ``error``."""
    begun = time.monotonic()
    row: Row = {"artifact": work.key}
    try:
        torch.set_num_threads(1)
        engine, stage = _engine(work.home, work.store, work.device), load_stage(work.stage)
        inputs = {name: engine.store.open(key, check=False) for name, key in work.inputs.items()}
        made = engine.run(stage, parse(stage.Config, work.config), inputs)
        if made.key != work.key:
            raise ArtifactError(f"made {made.key} in place of {work.key}: this machine runs other code or libraries")
    except MadError as error:
        reason = " ".join(str(error).split())
    except Exception:  # a bug in one configuration must not cost the others of its bundle; the sweep reports it
        reason = traceback.format_exc()
    else:
        return {**row, "status": "done", "seconds": time.monotonic() - begun}
    return {**row, "status": "failed", "error": redactor()(reason), "seconds": time.monotonic() - begun}


def _trial(params: dict[str, Any]) -> None:
    """Trainable: the configurations of one bundle, a row each."""
    tell(map(run_work, _work(params)))


def _work(params: dict[str, Any]) -> list[StageWork]:
    return [StageWork(**one) for one in json.loads(params["work"])]


def _lost(work: StageWork, trial: Trial) -> Row:
    """The row of a configuration whose process died."""
    return {"artifact": work.key, "status": "failed", "error": reason_lost(trial)}


def run_all(plan: StagePlan, work: Sequence[StageWork], folder: Path, on_row: OnRow) -> None:
    """Run configurations on Ray Tune, several to a trial."""
    at_once = slots(plan.study)
    run_bundles(_trial, bundled(work, plan.study, at_once), _work, {}, folder, on_row, _lost, at_once)
