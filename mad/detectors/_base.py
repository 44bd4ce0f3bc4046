"""What a detector is: a config, a fitted state of tensors, and scores where larger is more anomalous.

A detector is a module with a frozen dataclass ``Config`` and a class ``Detector``. Most score each layer by
itself and derive from :class:`LayerwiseDetector`; its two methods are pure: ``fit_layer`` returns tensors,
``score_layer`` reads nothing but those tensors, the config and the features. What is not in the state cannot
be used, so saving the state saves the detector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from mad.detectors._population import Batch, Population, flatten_positions, mean_per_row, predicted_class
from mad.errors import DataError, FitError

__all__ = [
    "Batch",
    "Detector",
    "LayerwiseDetector",
    "Population",
    "Report",
    "State",
    "Subject",
    "check_finite",
    "check_population",
    "checked_points",
    "flatten_positions",
    "layer_widths",
    "mean_per_row",
    "predicted_class",
]

State = dict[str, Tensor]
Report = Callable[[int, State], None]


class Subject(Protocol):
    """The model whose activations are judged; opened only when a detector asks."""

    @property
    def model(self) -> nn.Module:
        """The model in eval mode, inputs to (n, k) logits. Copy it before changing a weight."""

    @property
    def head(self) -> tuple[Tensor, Tensor]:
        """(k, d) weight and (k,) bias of the last linear layer, from ``Batch.penultimate`` to the logits.

        Raises:
            FitError: the model does not end in a linear layer.
        """


class Detector(ABC):
    """A detector: ``fit`` fills ``state``; ``score`` reads only ``config``, ``state`` and the batch.

    Attributes say what a detector needs: ``fits_on`` names populations among ``trusted`` and ``untrusted``;
    ``needs`` is a subset of {"features", "logits", "head", "model"}, and an instance whose config asks for
    more than its class does says so in ``__init__``; ``trains_in_epochs`` is
    True if ``fit`` calls ``report(epoch, state)`` after every epoch; ``supervised`` marks a skyline that sees
    the anomaly labels of ``Population.is_anomalous``. ``subject`` is set by whoever runs a detector that says
    it needs the head or the model, and None for all others; it is no part of the state.
    """

    fits_on: ClassVar[tuple[str, ...]] = ("trusted",)
    needs: frozenset[str] = frozenset({"features"})
    trains_in_epochs: ClassVar[bool] = False
    supervised: ClassVar[bool] = False
    subject: Subject | None = None

    def __init__(self, config: Any, state: State | None = None):
        self.config = config
        self.state: State = dict(state or {})

    @abstractmethod
    def fit(self, populations: dict[str, Population], seed: int, report: Report | None = None) -> None:
        """Fill ``state`` from the populations named in ``fits_on``."""

    @abstractmethod
    def score(self, batch: Batch) -> dict[str, Tensor]:
        """Score n rows: (n,) float64 per layer, larger is more anomalous."""


class LayerwiseDetector(Detector):
    """A detector that treats each layer by itself; points of a row's positions are averaged over the row."""

    @abstractmethod
    def fit_layer(self, layer: str, populations: dict[str, Population], seed: int) -> State:
        """Fit one layer and return its tensors."""

    @abstractmethod
    def score_layer(self, state: State, h: Tensor, classes: Tensor | None) -> Tensor:
        """Score (m, d) points given the layer's tensors and (m,) predicted classes: (m,) float64."""

    def fit(self, populations: dict[str, Population], seed: int, report: Report | None = None) -> None:
        for name in self.fits_on:
            check_population(populations, name)
        widths = layer_widths([populations[name] for name in self.fits_on])
        self.state = {}
        for layer, width in widths.items():
            try:
                tensors = self.fit_layer(layer, populations, seed) | {"width": torch.tensor(width)}
            except (DataError, FitError) as error:
                raise FitError(f"layer '{layer}': {error}") from None
            self.state |= {f"{layer}/{name}": t.contiguous() for name, t in tensors.items()}

    def layer_state(self, layer: str) -> State:
        """The tensors of one layer.

        Raises:
            FitError: the detector is not fitted, or not on this layer.
        """
        if not self.state:
            raise FitError(f"{type(self).__module__.rsplit('.', 1)[-1]} is not fitted: call fit first")
        prefix = f"{layer}/"
        found = {k.removeprefix(prefix): v for k, v in self.state.items() if k.startswith(prefix)}
        if not found:
            layers = sorted({k.rsplit("/", 1)[0] for k in self.state})
            raise FitError(f"layer '{layer}' was not fitted (fitted: {', '.join(layers)})")
        return found

    def score(self, batch: Batch) -> dict[str, Tensor]:
        scores = {}
        for layer, features in batch.features.items():
            state = self.layer_state(layer)
            h, owner = checked_points(batch, layer, int(state["width"]))
            classes = None if batch.logits is None else predicted_class(batch.logits)[owner]
            points = self.score_layer(state, h, classes).double().contiguous()
            scores[layer] = mean_per_row(points, owner, len(features)) if features.ndim == 3 else points
        return scores


def checked_points(batch: Batch, layer: str, width: int) -> tuple[Tensor, Tensor]:
    """(m, d) points of a layer and the (m,) row each belongs to.

    Raises:
        FitError: they are not finite, or their width is not ``width``, on which the detector was fitted.
    """
    h, owner = flatten_positions(batch.features[layer], batch.mask)
    check_finite(h, f"features of layer '{layer}'")
    if h.shape[1] != width:
        raise FitError(f"layer '{layer}' has width {h.shape[1]}, fitted on width {width}")
    return h, owner


def check_finite(h: Tensor, what: str) -> None:
    """Raise FitError if any value is NaN or infinite."""
    # One pass for the usual case: a float64 sum of finite float32 values is finite, and keeps NaN and infinity.
    if torch.isfinite(h.sum(dtype=torch.float64)):
        return
    bad = int((~torch.isfinite(h)).sum())
    if bad:
        raise FitError(f"{what} hold {bad} NaN or infinite values: check the model's outputs and dtype")


def check_population(populations: dict[str, Population], name: str, at_least: int = 2) -> None:
    """Raise FitError if a population is absent, too small or not finite."""
    if name not in populations or len(populations[name]) < at_least:
        rows = len(populations[name]) if name in populations else 0
        raise FitError(f"{name} rows: {rows} given, at least {at_least} needed")
    for batch in populations[name].batches:
        for layer, features in batch.features.items():
            check_finite(flatten_positions(features, batch.mask)[0], f"{name} features of layer '{layer}'")


def layer_widths(populations: Sequence[Population]) -> dict[str, int]:
    """Width of every layer.

    Raises:
        FitError: batches that do not all hold the same layers and widths.
    """
    found = [{k: h.shape[-1] for k, h in b.features.items()} for p in populations for b in p.batches]
    for widths in found:
        if widths != found[0]:
            raise FitError(f"batches differ in their layers or widths: {found[0]} and {widths}")
    return found[0]
