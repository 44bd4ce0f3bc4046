"""Every detector at its defaults on one model: how long the whole comparison takes, one after another."""

from __future__ import annotations

import time

import pytest
import torch

from mad import registry
from mad.config import parse
from mad.detectors._base import Batch, Population
from mad.models.capture import capture
from mad.models.classifier import build_classifier
from mad.models.head import head_name, head_weights
from mad.runtime.local import one_thread
from mad.stages import train
from tests.benchmarks.figures import Figure, record, watched
from tests.benchmarks.splits import digits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TRUSTED, UNTRUSTED, TEST = 8_000, 8_000, 2_000
SIZE, STEPS = 28, 300
SECONDS = 60


class Subject:
    """A perceptron with two hidden layers of 128 on digits of MNIST's size, trained for a few hundred steps."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor):
        config = parse(train.Config, {"model": {"name": "mlp", "hidden": [128, 128]}}).model
        shape = (1, SIZE, SIZE)
        self.model = build_classifier(config, shape, 10, [0.3], [0.4], seed=0)
        optimizer, draws = torch.optim.Adam(self.model.parameters()), torch.Generator().manual_seed(0)
        for _ in range(STEPS):
            chosen = torch.randint(len(images), (128,), generator=draws)
            loss = torch.nn.functional.cross_entropy(self.model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.model.eval()
        name = head_name(self.model, shape)
        self.head = head_weights(self.model, name)
        hidden = [f"{n}.output" for n, m in self.model.network.named_modules() if isinstance(m, torch.nn.ReLU)]
        names = [*hidden, f"{name}.output", f"{name}.input"]
        found, self.logits = capture(self.model.network, names, lambda: self.model(images))
        self.penultimate = found.pop(f"{name}.input")
        self.features, self.images = found, images

    def batch(self, start: int, stop: int) -> Batch:
        features = {layer: h[start:stop] for layer, h in self.features.items()}
        rest = self.logits[start:stop], None, self.penultimate[start:stop]
        return Batch(features, *rest, inputs=lambda: self.images[start:stop])


def test_the_whole_comparison():
    images, labels = digits(TRUSTED + UNTRUSTED + TEST, SIZE)
    subject = Subject(images.float() / 16, labels)
    assert [h.shape[1] for h in subject.features.values()] == [128, 128, 10]
    bounds = {"trusted": (0, TRUSTED), "untrusted": (TRUSTED, TRUSTED + UNTRUSTED)}
    anomalous = torch.arange(UNTRUSTED) < UNTRUSTED // 10
    test = subject.batch(TRUSTED + UNTRUSTED, TRUSTED + UNTRUSTED + TEST)
    seconds = {}
    with one_thread(), watched() as load:
        for name in registry.names("detectors"):
            module = registry.load("detectors", name)
            detector = module.Detector(module.Config())
            detector.subject = subject
            given = {part: Population([subject.batch(*bounds[part])], part, anomalous) for part in detector.fits_on}
            begun = time.perf_counter()
            detector.fit(given, seed=0)
            scores = detector.score(test)
            seconds[name] = time.perf_counter() - begun
            assert all(len(values) == TEST for values in scores.values())
    slowest = sorted(seconds, key=seconds.__getitem__)[:-4:-1]
    details = ", ".join(f"{name} {seconds[name]:.1f}" for name in slowest)
    figure = f"{sum(seconds.values()):.0f} s"
    record(Figure(f"{len(seconds)} detectors, whole comparison", figure, f"{SECONDS} s", load.others, details))
    assert sum(seconds.values()) < SECONDS
