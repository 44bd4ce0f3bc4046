"""Images per second of the training loop, against a Dataset, a DataLoader and an ordinary loop."""

from __future__ import annotations

import time

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from torchvision.transforms import InterpolationMode, v2

from mad.config import parse, to_data
from mad.models.classifier import build_classifier
from mad.runtime.local import one_thread, train_here
from mad.stages import train
from mad.stages._classifier_loop import train_loop
from mad.stats.random import derive, generator
from mad.tasks._augment import channel_statistics
from tests.benchmarks.figures import Figure, best_of, record, watched
from tests.benchmarks.plain import models, training
from tests.benchmarks.splits import digits, new_engine, write_split
from tests.tasks.layouts import write_idx

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROWS = 12_800
PARTS = {"train": ROWS, "validation": 1000, "test": 100}
EPOCHS = 5
TURNS = 3
SEED = 0
TARGET = 5.0
AUGMENTATION = {"crop_padding": 2, "rotation_degrees": 10.0, "flip_probability": 0.5}


class World:
    """The same rows, poisoned and changed alike, and the same model for both loops."""

    def __init__(self, home, size: int, augmented: bool = False, stored: bool = False):
        inputs, labels = digits(sum(PARTS.values()), size)
        poisoned = torch.arange(len(inputs)) % 10 == 3
        self.home, self.engine = home, new_engine(home)
        self.split = write_split(self.engine.store, inputs, labels, PARTS, poisoned)
        self.augmentation = AUGMENTATION if augmented else {}
        transform = _transform(size) if augmented else None
        rows = self.split.part("train")
        self.dataset = training.TriggeredImages(
            inputs[rows], labels[rows], poisoned[rows], scale=16.0, transform=transform
        )
        mean, std = channel_statistics(inputs[rows], 16.0)
        if stored:
            _write_mnist(home / "data" / "MNIST" / "raw", inputs[rows, 0], labels[rows])
            self.dataset = training.TriggeredMNIST(home / "data", poisoned[rows], mean, std)
            mean, std = torch.zeros(1), torch.ones(1)
        begin = build_classifier(
            self.config(1).model, self.split.input_shape, 10, [0.0], [1.0], derive(SEED, "weights")
        )
        self.model = models.MLP(size * size, 10, mean.view(1, 1, 1), std.view(1, 1, 1))
        models.copy_weights(begin.network, self.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-3)

    def config(self, epochs: int):
        options = {"epochs": epochs, "batch_size": training.BATCH_SIZE, "workers": 0}
        return parse(train.Config, {"train": {**options, "augmentation": self.augmentation}, "seed": SEED})

    def train(self, epochs: int, name: str) -> tuple[list[float], dict[str, torch.Tensor]]:
        """Seconds of every epoch but the first, validation and checkpoint included, and the weights."""
        payload = {"config": to_data(self.config(epochs)), "store": self.engine.store.uri, "split": self.split.key}
        stamps = Stamps()
        folder = train_here(train_loop, payload, self.home / name, "cpu", stamps, epochs)
        taken = [b - a for a, b in zip(stamps.times, stamps.times[1:], strict=False)]
        return taken, load_file(folder / "weights.safetensors")

    def plain(self) -> None:
        """One epoch of the plain loop."""
        training.train_epoch(self.model, self.optimizer, training.loader(self.dataset))

    def steps(self) -> None:
        """What no loop can leave out: as many steps as an epoch has, on one batch that lies in memory."""
        images, labels = (
            torch.rand(training.BATCH_SIZE, *self.split.input_shape),
            torch.arange(training.BATCH_SIZE) % 10,
        )
        for _ in range(ROWS // training.BATCH_SIZE):
            loss = functional.cross_entropy(self.model(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def race(self) -> tuple[float, float, float]:
        """Least seconds of an epoch: mad's loop, the plain one, the steps alone; they take turns."""
        best = [float("inf")] * 3
        with one_thread():
            for turn in range(TURNS):
                timed = [min(self.train(EPOCHS, f"turn-{turn}")[0]), *best_of(2, self.plain, self.steps)]
                best = [min(pair) for pair in zip(best, timed, strict=True)]
        return best[0], best[1], best[2]


class Stamps:
    """A Progress that notes when it is told of an epoch."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def update(self, what, done, total, figures=None):
        self.times.append(time.perf_counter())


def _write_mnist(folder, images, labels) -> None:
    """As MNIST's files; torchvision also wants those of the test part."""
    for part, count in (("train", len(labels)), ("t10k", 10)):
        pixels = (images[:count].float() * 255 / 16).byte().numpy()
        write_idx(folder / f"{part}-images-idx3-ubyte", pixels)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels[:count].byte().numpy())


def _transform(size: int) -> v2.Transform:
    return v2.Compose(
        [
            v2.RandomCrop(size, padding=AUGMENTATION["crop_padding"]),
            v2.RandomRotation(AUGMENTATION["rotation_degrees"], interpolation=InterpolationMode.BILINEAR),
            v2.RandomHorizontalFlip(AUGMENTATION["flip_probability"]),
        ]
    )


def _in_model_order(name: str) -> tuple[bool, str, bool]:
    return ("head" in name, name.rpartition(".")[0], name.endswith("bias"))


@pytest.mark.parametrize("size", [8, 28])
def test_the_same_order_and_weights_give_the_same_model(size, tmp_path):
    world = World(tmp_path, size)
    order = torch.randperm(ROWS, generator=generator(SEED, "order", 0)).tolist()
    training.train_epoch(world.model, world.optimizer, training.loader(world.dataset, order))
    _, ours = world.train(1, "oracle")
    names = sorted((n for n in ours if n.endswith(("weight", "bias"))), key=_in_model_order)
    for name, plain in zip(names, world.model.parameters(), strict=True):
        assert (ours[name] - plain).norm() <= 1e-4 * plain.norm(), name


@pytest.mark.parametrize("size", [8, 28])
def test_plain_images(size, tmp_path):
    """Images that lie in memory as tensors: the steps, which both loops share, bound the ratio below 5."""
    world = World(tmp_path, size)
    with watched() as load:
        ours, plain, steps = world.race()
    details = f"{ROWS / ours:,.0f} against {ROWS / plain:,.0f} images/s; steps alone {ROWS / steps:,.0f}"
    record(Figure(f"training, tensors, {size} x {size}", f"{plain / ours:.1f} x", "-", load.others, details))
    assert ours < 2 * steps


def test_images_as_torchvision_serves_them(tmp_path):
    """MNIST's files through torchvision, a DataLoader of batches of 64 and a loop: how most would write it."""
    world = World(tmp_path, 28, stored=True)
    with watched() as load:
        ours, plain, _ = world.race()
    details = f"{ROWS / ours:,.0f} against {ROWS / plain:,.0f} images/s"
    record(Figure("training, torchvision's MNIST", f"{plain / ours:.1f} x", f"{TARGET:g} x", load.others, details))
    assert plain / ours >= TARGET


@pytest.mark.parametrize("size", [8, 28])
def test_augmented_images(size, tmp_path):
    """With random crops, rotations and flips, one image at a time against a batch at a time."""
    world = World(tmp_path, size, augmented=True)
    with watched() as load:
        ours, plain, _ = world.race()
    details = f"{ROWS / ours:,.0f} against {ROWS / plain:,.0f} images/s"
    name = f"training with augmentation, {size} x {size}"
    record(Figure(name, f"{plain / ours:.1f} x", f"{TARGET:g} x", load.others, details))
    assert plain / ours >= TARGET
