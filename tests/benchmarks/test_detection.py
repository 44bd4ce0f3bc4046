"""Fitting and scoring on stored activations, against running the model again whenever they are needed."""

from __future__ import annotations

import pytest
import torch

from mad.config import parse, to_data
from mad.detectors._base import Population
from mad.models.classifier import build_classifier
from mad.models.load import DESCRIPTION, WEIGHTS, save_classifier
from mad.runtime.local import one_thread
from mad.stages import fit, train
from mad.stages._base import load_stage
from mad.stages._populations import batches
from mad.stages.detect import layer_scores
from tests.benchmarks.figures import Figure, best_of, record, watched
from tests.benchmarks.plain import features as plain
from tests.benchmarks.plain import models
from tests.benchmarks.plain.training import TriggeredImages, loader
from tests.benchmarks.splits import commit, digits, new_engine, write_split

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROWS = 10_000
SIZE = 28
MEAN, STD = 0.3, 0.4
MODELS = {
    "cnn": {"name": "cnn", "channels": [128, 128, 128], "dense": []},
    "mlp": {"name": "mlp", "hidden": [128, 128, 128]},
}


class World:
    """An untrained model with three layers of width 128, its features in a store, and the plain twin."""

    def __init__(self, home, kind: str):
        engine = new_engine(home)
        inputs, labels = digits(ROWS, SIZE)
        clean = torch.zeros(ROWS, dtype=torch.bool)
        split = write_split(engine.store, inputs, labels, {"test": ROWS}, clean)
        config = parse(train.Config, {"model": MODELS[kind]}).model
        classifier = build_classifier(config, split.input_shape, 10, [MEAN], [STD], seed=0)
        checkpoint = write_checkpoint(home, engine.store, classifier, config, split)
        given = {"attacked": split, "checkpoint": checkpoint}
        stage = load_stage("extract")
        self.features = engine.run(stage, parse(stage.Config, {"extract": {"workers": 0}}), given)
        first = SIZE * SIZE if kind == "mlp" else 1
        self.model = {"mlp": models.MLP, "cnn": models.CNN}[kind](first, 10, MEAN, STD, (128, 128, 128))
        models.copy_weights(classifier.network, self.model)
        self.images = loader(TriggeredImages(inputs, labels, clean, scale=16.0), range(ROWS))
        self.scores: dict[str, list[torch.Tensor]] = {}

    def ours(self) -> None:
        """Fit and score; nothing is kept from an earlier round but the mapped files."""
        layers = self.features.layers
        given = {"trusted": Population(list(batches(self.features, "test", layers)))}
        config = parse(fit.Config, {"detector": "mahalanobis"})
        detector = fit.new_detector(config.detector)
        fit.fit(detector, config, given)
        self.scores["ours"] = list(layer_scores(detector, self.features, "test", layers).values())

    def plain(self) -> None:
        """Fit and score, each with a pass of the model over the images."""
        self.scores["plain"] = plain.score(self.model, self.images, plain.fit(self.model, self.images))


def write_checkpoint(home, store, classifier, config, split):
    """A checkpoint as the train stage leaves it."""
    normalisation = {"mean": [MEAN], "std": [STD]}
    description = {"model": to_data(config, "models"), "input_shape": [1, SIZE, SIZE], "num_outputs": 10}
    save_classifier(home / "classifier", classifier, {**description, **normalisation, "head": "multiclass"})
    draft = store.draft("train-untrained")
    for name in (WEIGHTS, DESCRIPTION):
        data = (home / "classifier" / name).read_bytes()
        draft.write(name, lambda path, data=data: path.write_bytes(data) and None)
    return commit(store, draft, "train", {}, {"split": split.key})


@pytest.mark.parametrize("kind", MODELS)
def test_detection(kind, tmp_path):
    """The heavier the model, the larger the ratio; the perceptron is about the lightest model there is."""
    world = World(tmp_path, kind)
    # The plain pass over the convolutional network takes a minute: once is enough.
    rounds = 1 if kind == "cnn" else 3
    with one_thread(), watched() as load:
        (plain_seconds,) = best_of(rounds, world.plain)
        (seconds,) = best_of(5, world.ours)
    for layer, (ours, theirs) in enumerate(zip(world.scores["ours"], world.scores["plain"], strict=True)):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=0), (layer, (ours / theirs - 1).abs().max())
    ratio = plain_seconds / seconds
    details = f"fit and score {ROWS:,} images: {seconds:.2f} against {plain_seconds:.1f} s"
    target = 30 if kind == "cnn" else None
    record(Figure(f"detection, {kind}", f"{ratio:.1f} x", f"{target} x" if target else "", load.others, details))
    assert target is None or ratio >= target
