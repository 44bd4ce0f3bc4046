"""The loop of gradient steps: a plain twin, resuming to the bit, and groups that agree with one process."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor

from mad import config as configs
from mad import registry
from mad.detectors._base import Batch, Population
from mad.detectors._training import Alone, Epoch, Objective, Step, TrainedDetector
from mad.detectors.vae import Config
from mad.errors import FitError
from mad.stats.random import derive, generator
from tests.detectors.worlds import take, world

CASES = {
    "vae": ("vae", {"beta": 0.5}),
    "whiten": ("abstraction", {"loss": "cosine", "consistency": "global"}),
    "reconstruct": ("abstraction", {"safeguard": "reconstruct", "hidden": [8], "weight_decay": 0.01}),
    "none": ("abstraction", {"safeguard": "none", "loss": "cross_entropy", "logits": False}),
    "finetuning": ("finetuning", {}),
    "labels": ("finetuning", {"answer": "labels", "weight_decay": 0.1}),
}
ROWS = 101  # a prime: batches cannot be dealt out evenly
EPOCHS = 3


def new(case: str, epochs: int = EPOCHS, batch_size: int = 30) -> TrainedDetector:
    name, options = CASES[case]
    module = registry.load("detectors", name)
    options = {**options, "epochs": epochs, "batch_size": batch_size}
    detector = module.Detector(configs.parse(module.Config, options))
    detector.subject = world().subject
    return detector


def trusted(rows: int = ROWS) -> dict[str, Population]:
    return {"trusted": Population([take(world().trusted, slice(rows))])}


class Line(Objective):
    """Least squares in one variable; remembers the rows of every step."""

    def __init__(self, x: Tensor, y: Tensor):
        self.x, self.y, self.rows = x, y, len(x)
        self.constants, self.initial = {"offset": torch.zeros(1)}, {"slope": torch.zeros(1), "unused": torch.ones(2)}
        self.seen: list[Tensor] = []

    def losses(self, weights, step: Step) -> Tensor:
        self.seen.append(step.rows)
        return (step.here(self.y) - weights["slope"] * step.here(self.x)).square()


class LineDetector(TrainedDetector):
    def objectives(self, populations, seed):
        return {"a/": self.line}

    def score(self, batch):
        raise NotImplementedError


def line(n: int = 23, **options) -> LineDetector:
    x = torch.randn(n, generator=torch.Generator().manual_seed(1))
    detector = LineDetector(Config(**options))
    detector.line = Line(x, 3 * x)
    return detector


def test_the_loop_is_adam_on_the_mean_loss_of_each_batch():
    detector = line(epochs=2, batch_size=10, lr=0.1)
    losses = [epoch.loss for epoch in detector.train(trusted(), seed=5)]
    slope = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([slope], lr=0.1)
    for number, loss in enumerate(losses, start=1):
        order = torch.randperm(23, generator=generator(derive(5, "training", "a/"), "order", number))
        total = 0.0
        for batch in (order[:8], order[8:16], order[16:]):
            mean = (detector.line.y[batch] - slope * detector.line.x[batch]).square().mean()
            optimizer.zero_grad()
            mean.backward()
            optimizer.step()
            total += mean.item() * len(batch)
        assert loss == pytest.approx(total / 23, rel=1e-6)
    torch.testing.assert_close(detector.state["a/slope"], slope.detach(), rtol=1e-6, atol=1e-7)
    assert torch.equal(detector.state["a/unused"], torch.ones(2)) and torch.equal(
        detector.state["a/offset"], torch.zeros(1)
    )


@pytest.mark.parametrize(("rows", "batch_size", "sizes"), [(23, 10, [8, 8, 7]), (5, 128, [5]), (3, 1, [1, 1, 1])])
def test_an_epoch_is_every_row_once_in_batches_of_one_size(rows, batch_size, sizes):
    detector = line(rows, epochs=2, batch_size=batch_size)
    detector.fit(trusted(), seed=0)
    seen = detector.line.seen
    first, second = (torch.cat(part) for part in (seen[: len(sizes)], seen[len(sizes) :]))
    assert [len(rows) for rows in seen[: len(sizes)]] == sizes
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(rows))
    assert rows == 3 or not torch.equal(first, second)


@pytest.mark.parametrize("case", CASES)
def test_going_on_from_an_epoch_gives_the_bytes_of_one_go(case, tmp_path):
    whole = list(new(case).train(trusted(), seed=4))
    first = next(iter(new(case).train(trusted(), seed=4)))
    save_file(first.state, tmp_path / "state")
    save_file(first.optimizer, tmp_path / "optimizer")
    before = Epoch(1, first.loss, load_file(tmp_path / "state"), load_file(tmp_path / "optimizer"))
    rest = list(new(case).train(trusted(), seed=4, before=before))
    assert [epoch.number for epoch in rest] == [2, 3]
    assert [epoch.loss for epoch in rest] == [epoch.loss for epoch in whole[1:]]
    for name, tensor in whole[-1].state.items():
        assert torch.equal(rest[-1].state[name], tensor), name
    assert not list(new(case).train(trusted(), seed=4, before=rest[-1]))


@pytest.mark.parametrize("case", CASES)
def test_the_loss_falls_and_the_seed_decides(case):
    epochs = list(new(case, epochs=8).train(trusted(), seed=4))
    assert epochs[-1].loss < epochs[0].loss
    other = list(new(case).train(trusted(), seed=5))[-1]
    assert any(not torch.equal(epochs[2].state[name], tensor) for name, tensor in other.state.items())


def _rank(rank: int, world_size: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world_size)
    for case in CASES:
        *_, last = new(case).train(trusted(), 4, Alone("cpu", rank, world_size))
        save_file({**last.state, "loss": torch.tensor(last.loss)}, Path(folder) / f"{case}-{rank}")
        *_, last = new(case, epochs=1, batch_size=1).train(trusted(5), 4, Alone("cpu", rank, world_size))
        save_file(last.state, Path(folder) / f"{case}-idle-{rank}")
    torch.distributed.barrier()
    # The results are written; gloo's threads may abort a process that takes itself apart while the other lives.
    os._exit(0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """The states of every case, trained by two gloo processes."""
    folder = tmp_path_factory.mktemp("pair")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_rank, (2, port, str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_detector_of_one(case, pair):
    *_, alone = new(case).train(trusted(), seed=4)
    expected = {**alone.state, "loss": torch.tensor(alone.loss)}
    first, second = (load_file(pair / f"{case}-{rank}") for rank in (0, 1))
    assert first.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (first[name] - tensor).double().norm() <= 1e-4 * tensor.double().norm(), name
        assert torch.equal(second[name], first[name]), name


@pytest.mark.parametrize("case", CASES)
def test_a_process_without_rows_takes_its_part(case, pair):
    # One row a batch: the second process never has any.
    *_, alone = new(case, epochs=1, batch_size=1).train(trusted(5), seed=4)
    found = load_file(pair / f"{case}-idle-1")
    for name, tensor in alone.state.items():
        assert (found[name] - tensor).double().norm() <= 1e-4 * tensor.double().norm(), name


def test_a_diverging_loss_names_its_layer_and_epoch():
    with pytest.raises(FitError, match=r"layer 'a': the loss of epoch . is not finite: lower lr \(1e\+30\)"):
        line(lr=1e30).fit(trusted(), seed=0)


def test_what_is_not_fitted_cannot_score():
    with pytest.raises(FitError, match="vae is not fitted: call fit first"):
        new("vae").score(Batch({"first": torch.zeros(2, 12)}))
