"""The worker count changes only rounding, with whole models on each worker and with split ones: gloo ranks."""

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
from mad.stages._language_loop import language_loop
from mad.store import Store


class GlooWorker:
    """One rank of a process group without Ray."""

    device = "cpu"

    def __init__(self, rank: int, world_size: int, folder: Path, resume: Path | None):
        self.rank, self.world_size, self.folder, self.resume = rank, world_size, folder, resume

    def resume_folder(self):
        return self.resume

    def report(self, metrics, save):
        if self.rank == 0:
            self.folder.mkdir(exist_ok=True)
            save(self.folder)
        torch.distributed.barrier()  # the next job begins with what rank 0 writes


def _rank(rank: int, world_size: int, port: int, jobs: list) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world_size)
    for payload, folder, resume in jobs:
        language_loop(payload, GlooWorker(rank, world_size, folder, resume))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders of the same training: alone, replicated on two ranks, and split over two and then resumed."""
    tmp = tmp_path_factory.mktemp("ranks")
    engine = Engine(Settings(tmp, str(tmp / "store"), None, None), Store(str(tmp / "store")))
    stage = load_stage("prepare")
    task = {"name": "text_backdoor", "generated_rows": 80, "answers": ["bad", "good"]}
    split = engine.run(stage, parse(stage.Config, {"task": task}), {})
    model = {"name": "llama", "vocabulary": 300, "hidden": 16, "layers": 2, "heads": 2}

    def payload(epochs: int, **language):
        # The last batch is smaller, and a batch of one leaves a rank without a row.
        options = {"epochs": epochs, "batch_size": len(split.part("train")) - 1, "lr": 1e-2, "language": language}
        config = parse(train.Config, {"model": model, "train": options})
        return {"config": to_data(config), "store": engine.store.uri, "split": split.key}

    alone = local.train_here(language_loop, payload(2), tmp / "alone", "cpu", Silent(), 2)
    jobs = [
        (payload(2, micro_batch=5), tmp / "replicate", None),
        (payload(1, sharding="fsdp"), tmp / "half", None),
        (payload(2, sharding="fsdp", micro_batch=8), tmp / "fsdp", tmp / "half"),
    ]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_rank, (2, port, jobs), nprocs=2)
    return {"alone": alone, "replicate": tmp / "replicate", "fsdp": tmp / "fsdp"}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["replicate", "fsdp"])
def test_two_ranks_give_the_model_of_one(made, how):
    one, two = (load_file(made[name] / "model.safetensors") for name in ("alone", how))
    assert set(one) == set(two)
    for name, tensor in one.items():
        assert (two[name] - tensor).norm() <= 1e-4 * tensor.norm(), name
    first, second = (json.loads((made[name] / "history.json").read_text()) for name in ("alone", how))
    assert len(second) == 2
    for ours, theirs in zip(first, second, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-3, nan_ok=True)
