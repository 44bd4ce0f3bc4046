"""The worker count changes only rounding: three gloo ranks against one process."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file

from mad.config import parse, to_data
from mad.context import Silent
from mad.runtime import local
from mad.runtime.engine import Engine
from mad.runtime.settings import Settings
from mad.stages import train
from mad.stages._base import load_stage
from mad.stages._classifier_loop import train_loop
from mad.store import Store


class GlooWorker:
    """One rank of a process group without Ray."""

    device = "cpu"

    def __init__(self, rank: int, world_size: int, folder: Path):
        self.rank, self.world_size, self.folder = rank, world_size, folder

    def resume_folder(self):
        return None

    def report(self, metrics, save):
        if self.rank == 0:
            self.folder.mkdir(exist_ok=True)
            save(self.folder)


def _rank(rank: int, world_size: int, port: int, payload: dict, folder: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world_size)
    train_loop(payload, GlooWorker(rank, world_size, Path(folder)))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("world_size", "batch_size"), [(3, 50)])
def test_an_epoch_on_several_ranks_gives_the_model_of_one(tmp_path, world_size, batch_size):
    engine = Engine(Settings(tmp_path, str(tmp_path / "store"), None, None), Store(str(tmp_path / "store")))
    stage = load_stage("prepare")
    # The last batch is smaller and cannot be dealt out evenly.
    split = engine.run(stage, parse(stage.Config, {"task": {"max_rows": 1781}}), {})
    assert len(split.part("train")) % batch_size % world_size != 0
    augmentation = {"crop_padding": 1, "rotation_degrees": 5.0}
    options = {"epochs": 1, "batch_size": batch_size, "augmentation": augmentation, "optimizer": "sgd", "lr": 0.05}
    config = parse(train.Config, {"train": options})
    payload = {"config": to_data(config), "store": engine.store.uri, "split": split.key}
    alone = local.train_here(train_loop, payload, tmp_path / "alone", "cpu", Silent(), 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    together = tmp_path / "together"
    mp.spawn(_rank, (world_size, port, payload, str(together)), nprocs=world_size)
    one, many = (load_file(folder / "weights.safetensors") for folder in (alone, together))
    for name, tensor in one.items():
        assert (many[name] - tensor).norm() <= 1e-4 * tensor.norm(), name
    first, second = (json.loads((folder / "history.json").read_text())[0] for folder in (alone, together))
    assert second == pytest.approx(first, rel=1e-4, nan_ok=True)
