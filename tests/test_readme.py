"""Python of the README, run as a reader would: plug-ins pasted into files outside the package, and the API."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

import mad
from mad.__main__ import main

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
QUICK = ["--no_tracking", "--device", "cpu", "--train.epochs", "5", "--detect.bootstrap", "50"]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder of the reader's, on the path, and a home of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MAD_HOME", str(tmp_path / "home"))
    yield
    for name in ("pasted_detector", "pasted_task"):
        sys.modules.pop(name, None)


def paste(marker: str, name: str, folder: Path) -> None:
    (block,) = (block for block in BLOCKS if marker in block)
    (folder / f"{name}.py").write_text(block)


def test_the_detector(tmp_path):
    paste("class Detector", "pasted_detector", tmp_path)
    words = ["detect", *QUICK, "--detector", "pasted_detector", "--detector.power", "1", "--name", "pasted"]
    assert main(words) == 0
    scores = mad.open_artifact("pasted").table("scores.parquet")
    assert scores["score"].notna().all() and mad.open_artifact("pasted").summary["detector"]["power"] == 1.0
    assert main(["detect", *QUICK, "--detector", "pasted_detector", "--detector.power", "0"]) == 2


@pytest.mark.skipif(not any("def build" in block for block in BLOCKS), reason="the README shows no task")
def test_the_task(tmp_path):
    digits = load_digits()
    images, labels = (digits.images * 15).astype(np.uint8)[:, None], digits.target
    archive = {"images": images[:1400], "labels": labels[:1400]}
    archive |= {"strange": images[1400:, :, ::-1], "strange_labels": labels[1400:]}
    np.savez(tmp_path / "my.npz", **archive)
    paste("def build", "pasted_task", tmp_path)
    words = ["detect", *QUICK, "--task", "pasted_task", "--task.file", "my.npz", "--detector", "mahalanobis"]
    assert main([*words, "--name", "turned"]) == 0
    assert mad.open_artifact("turned").summary["auroc"] > 0.6  # digits that stand on their heads


def test_the_api():
    (block,) = (block for block in BLOCKS if "run_stage" in block)
    lines = [line for line in block.splitlines() if "run_sweep" not in line]
    found: dict = {}
    exec("\n".join(lines), found)
    assert found["scores"].summary["auroc"] > 0.5 and found["checkpoint"].summary["clean_accuracy"] > 0.5
