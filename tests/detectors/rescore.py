"""Score saved detectors in a process that never saw them fitted: ``python rescore.py FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

from mad import config, registry
from mad.detectors._base import Batch
from tests.detectors.worlds import MadeUpSubject, Stored


def main(folder: Path) -> None:
    stored = load_file(folder / "batch.safetensors")
    batch = Batch(
        {k.removeprefix("h/"): v for k, v in stored.items() if k.startswith("h/")},
        logits=stored["logits"],
        penultimate=stored["penultimate"],
        inputs=Stored(stored["inputs"]),
    )
    subject = MadeUpSubject(load_file(folder / "model.safetensors"))
    for case, (name, data) in json.loads((folder / "cases.json").read_text()).items():
        module = registry.load("detectors", name)
        state = load_file(folder / f"{case}.state")
        detector = module.Detector(config.parse(module.Config, data), state)
        if "model" in detector.needs:  # a head that is needed is part of the state
            detector.subject = subject
        save_file(detector.score(batch), folder / f"{case}.scores")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
