"""An adapter of a language model in MLflow's registry: what is put there is what is taken back, on another store."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

import mad
from mad.__main__ import main
from tests.tiny_llama import shared_llama

LLAMA = {"task": "text_backdoor", "model": "pretrained", "model.lora.rank": "2"}
SMALL = {"task.generated_rows": "60", "task.max_rows": "60", "task.answers": '[" bad", " good"]'}
TRAIN = {"train.epochs": "1", "train.batch_size": "16", "train.workers": "0"}


@pytest.mark.slow
def test_an_adapter_is_registered_and_taken_back(tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MAD_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MAD_HOME", str(tmp_path / "home"))
    options = {**LLAMA, **SMALL, **TRAIN, "model.model": str(shared_llama()), "device": "cpu"}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    assert main(["train", *words, "--name", "film", "--register", "film@best"]) == 0
    made = mad.open_artifact("film")
    client = MlflowClient(f"sqlite:///{tmp_path}/home/mlflow.db")
    assert int(client.get_model_version_by_alias("film", "best").version) == 1

    monkeypatch.setenv("MAD_STORE", str(tmp_path / "another"))
    extract = ["extract", "--checkpoint", "models:/film@best", "--extract.workers", "0", "--device", "cpu"]
    assert main([*extract, "--name", "features"]) == 0
    (folder,) = (tmp_path / "another").glob("train-*")
    for name in ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "model.json"):
        assert (folder / name).read_bytes() == (made.folder / name).read_bytes()
    assert not (folder / "model.safetensors").exists()
    assert mad.open_artifact("features").meta["inputs"]["checkpoint"] == folder.name
