"""What a detector is: a config, a fitted state of tensors, and scores where larger is more anomalous.

A detector is a module with a frozen dataclass ``Config`` and a class ``Detector``. Most score each layer by
itself and derive from :class:`LayerwiseDetector`; its two methods are pure: ``fit_layer`` returns tensors,
``score_layer`` reads nothing but those tensors, the config and the features. What is not in the state cannot
be used, so saving the state saves the detector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from mad.errors import DataError, FitError
from mad.stats.gaussian import Moments, TiedMoments

State = dict[str, Tensor]
Report = Callable[[int, State], None]


@dataclass(frozen=True)
class Batch:
    """Features of n rows.

    Attributes:
        features: per layer (n, d), or (n, t, d) with positions; any float dtype.
        logits: (n, k) outputs of the model, or None if they were not extracted.
        mask: (n, t) bool, True where a position is real, for layers with positions.
    """

    features: dict[str, Tensor]
    logits: Tensor | None = None
    mask: Tensor | None = None


class Population:
    """The rows a detector is fitted on, read batch by batch as often as needed.

    Statistics that several detectors or configurations need are computed once and kept.
    """

    def __init__(self, batches: Sequence[Batch], name: str = "trusted"):
        self.batches = batches
        self.name = name
        self._moments: dict[str, Moments] = {}
        self._class_moments: dict[str, dict[int, Moments]] = {}
        self._tied_moments: dict[str, TiedMoments] = {}

    def __len__(self) -> int:
        return sum(len(next(iter(b.features.values()))) for b in self.batches)

    @cached_property
    def layers(self) -> list[str]:
        return list(self.batches[0].features) if len(self.batches) else []

    def points(self, layer: str) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield (m, d) points of a layer (real positions become points) and their (m,) predicted classes."""
        for batch in self.batches:
            h, owner = _flatten(batch.features[layer], batch.mask)
            classes = None if batch.logits is None else predicted_class(batch.logits)[owner]
            yield h, classes

    def rows(self, layer: str) -> Iterator[Tensor]:
        """The (m, d) points alone."""
        return (h for h, _ in self.points(layer))

    def labelled_points(self, layer: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The points and their predicted classes.

        Raises:
            FitError: the rows carry no logits.
        """
        for h, classes in self.points(layer):
            if classes is None:
                raise FitError(f"{self.name} rows carry no logits: extract with --extract.logits true")
            yield h, classes

    def matrix(self, layer: str) -> Tensor:
        """All points of a layer as one (m, d) float32 or float64 tensor; not copied if it is one batch."""
        chunks = list(self.rows(layer))
        h = chunks[0] if len(chunks) == 1 else torch.cat(chunks)
        return h if h.dtype in (torch.float32, torch.float64) else h.float()

    def moments(self, layer: str) -> Moments:
        """Count, mean and scatter of a layer, float64."""
        if layer not in self._moments:
            self._moments[layer] = Moments.of(self.rows(layer))
        return self._moments[layer]

    def class_moments(self, layer: str) -> dict[int, Moments]:
        """The same for each predicted class, in ascending order."""
        if layer not in self._class_moments:
            present = {c for _, classes in self.labelled_points(layer) for c in classes.unique().tolist()}
            self._class_moments[layer] = {
                c: Moments.of(h[classes == c] for h, classes in self.labelled_points(layer)) for c in sorted(present)
            }
        return self._class_moments[layer]

    def tied_moments(self, layer: str) -> TiedMoments:
        """Means of the predicted classes and the scatter about them."""
        if layer not in self._tied_moments:
            self._tied_moments[layer] = TiedMoments.of(lambda: self.labelled_points(layer))
        return self._tied_moments[layer]


class Detector(ABC):
    """A detector: ``fit`` fills ``state``; ``score`` reads only ``config``, ``state`` and the batch.

    Attributes say what a detector needs: ``fits_on`` names populations among ``trusted`` and ``untrusted``;
    ``needs`` is a subset of {"features", "logits", "head", "model"}, and an instance whose config asks for
    more than its class does says so in ``__init__``; ``trains_in_epochs`` is
    True if ``fit`` calls ``report(epoch, state)`` after every epoch; ``supervised`` marks a skyline that saw
    anomaly labels.
    """

    fits_on: ClassVar[tuple[str, ...]] = ("trusted",)
    needs: frozenset[str] = frozenset({"features"})
    trains_in_epochs: ClassVar[bool] = False
    supervised: ClassVar[bool] = False

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

    def train_layer(self, layer: str, populations: dict[str, Population], seed: int) -> Iterator[State]:
        """Yield the layer's tensors after each epoch; a detector in closed form has one."""
        yield self.fit_layer(layer, populations, seed)

    @abstractmethod
    def score_layer(self, state: State, h: Tensor, classes: Tensor | None) -> Tensor:
        """Score (m, d) points given the layer's tensors and (m,) predicted classes: (m,) float64."""

    def fit(self, populations: dict[str, Population], seed: int, report: Report | None = None) -> None:
        for name in self.fits_on:
            check_population(populations, name)
        widths = layer_widths([populations[name] for name in self.fits_on])
        training = [self._train(layer, width, populations, seed) for layer, width in widths.items()]
        for epoch, fitted in enumerate(zip(*training, strict=True), start=1):
            self.state = {name: tensor for layer in fitted for name, tensor in layer.items()}
            if report is not None and self.trains_in_epochs:
                report(epoch, self.state)

    def _train(self, layer: str, width: int, populations: dict[str, Population], seed: int) -> Iterator[State]:
        try:
            for tensors in self.train_layer(layer, populations, seed):
                named = tensors | {"width": torch.tensor(width)}
                yield {f"{layer}/{name}": t.contiguous() for name, t in named.items()}
        except (DataError, FitError) as error:
            raise FitError(f"layer '{layer}': {error}") from None

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
            h, owner = _flatten(features, batch.mask)
            check_finite(h, f"features of layer '{layer}'")
            state = self.layer_state(layer)
            width = int(state["width"])
            if h.shape[1] != width:
                raise FitError(f"layer '{layer}' has width {h.shape[1]}, fitted on width {width}")
            classes = None if batch.logits is None else predicted_class(batch.logits)[owner]
            points = self.score_layer(state, h, classes).double().contiguous()
            scores[layer] = _mean_per_row(points, owner, len(features)) if features.ndim == 3 else points
        return scores


def predicted_class(logits: Tensor) -> Tensor:
    """(n,) predicted classes of (n, k) logits; the sign of a single logit for k = 1."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)


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
            check_finite(_flatten(features, batch.mask)[0], f"{name} features of layer '{layer}'")


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


def _flatten(h: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """(n, d) or (n, t, d) to (m, d) points and the (m,) row each belongs to."""
    rows = torch.arange(len(h), device=h.device)
    if h.ndim == 2:
        return h, rows
    if h.ndim != 3:
        raise FitError(f"features must be (rows, d) or (rows, positions, d), got {tuple(h.shape)}: pool them")
    real = torch.ones(h.shape[:2], dtype=torch.bool, device=h.device) if mask is None else mask.bool()
    if real.shape != h.shape[:2]:
        raise FitError(f"mask {tuple(real.shape)} does not match features {tuple(h.shape)}")
    empty = int((~real.any(dim=1)).sum())
    if empty:
        raise FitError(f"{empty} rows have no real position: their mask is all False")
    return h[real], rows[:, None].expand(-1, h.shape[1])[real]


def _mean_per_row(points: Tensor, owner: Tensor, n: int) -> Tensor:
    total = torch.zeros(n, dtype=torch.float64, device=points.device).index_add_(0, owner, points)
    return total / torch.bincount(owner, minlength=n)
