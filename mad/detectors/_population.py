"""The rows a detector reads: batches of features, and populations of them with shared statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mad.errors import FitError
from mad.stats.gaussian import Moments, TiedMoments

NO_LOGITS = "{} rows carry no logits: extract with --extract.logits true"
NO_PENULTIMATE = (
    "{} rows carry no input of a last linear layer: the model must end in one, extracted with --extract.logits true"
)


@dataclass(frozen=True)
class Batch:
    """Features of n rows.

    Attributes:
        features: per layer (n, d), or (n, t, d) with positions; any float dtype.
        logits: (n, k) outputs of the model, or None if they were not extracted.
        mask: (n, t) bool, True where a position is real, for layers with positions.
        penultimate: (n, d) input of the model's last linear layer, or None if there is none.
        inputs: reads the model's inputs of these rows; called only by detectors that run the model.
    """

    features: dict[str, Tensor]
    logits: Tensor | None = None
    mask: Tensor | None = None
    penultimate: Tensor | None = None
    inputs: Callable[[], Tensor] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(next(iter(self.features.values())))


class Population:
    """The rows a detector is fitted on, read batch by batch as often as needed.

    Statistics that several detectors or configurations need are computed once and kept.

    Attributes:
        batches: the rows.
        name: trusted or untrusted.
        is_anomalous: (n,) bool labels, for supervised skylines only, or None.
    """

    def __init__(self, batches: Sequence[Batch], name: str = "trusted", is_anomalous: Tensor | None = None):
        self.batches = batches
        self.name = name
        self.is_anomalous = is_anomalous
        self._moments: dict[str, Moments] = {}
        self._tied_moments: dict[str, TiedMoments] = {}

    def __len__(self) -> int:
        return sum(map(len, self.batches))

    @cached_property
    def layers(self) -> list[str]:
        return list(self.batches[0].features) if len(self.batches) else []

    def points(self, layer: str) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield (m, d) points of a layer (real positions become points) and their (m,) predicted classes."""
        for batch in self.batches:
            h, owner = flatten_positions(batch.features[layer], batch.mask)
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
                raise FitError(NO_LOGITS.format(self.name))
            yield h, classes

    def logits(self) -> Tensor:
        """(n, k) outputs of the model.

        Raises:
            FitError: the rows carry no logits.
        """
        found = [batch.logits for batch in self.batches if batch.logits is not None]
        if len(found) < len(self.batches) or not found:
            raise FitError(NO_LOGITS.format(self.name))
        return torch.cat(found)

    def penultimate(self) -> Tensor:
        """(n, d) inputs of the last linear layer.

        Raises:
            FitError: the model has no such layer, or its input was not kept.
        """
        found = [batch.penultimate for batch in self.batches if batch.penultimate is not None]
        if len(found) < len(self.batches) or not found:
            raise FitError(NO_PENULTIMATE.format(self.name))
        return torch.cat(found)

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

    def class_moments(self, layer: str) -> Iterator[tuple[int, Moments]]:
        """Each predicted class, ascending, and its moments: not kept, as with many classes they fill the memory."""
        present = {c for _, classes in self.labelled_points(layer) for c in classes.unique().tolist()}
        for c in sorted(present):
            yield c, Moments.of(h[classes == c] for h, classes in self.labelled_points(layer))

    def tied_moments(self, layer: str) -> TiedMoments:
        """Means of the predicted classes and the scatter about them."""
        if layer not in self._tied_moments:
            self._tied_moments[layer] = TiedMoments.of(lambda: self.labelled_points(layer))
        return self._tied_moments[layer]


def predicted_class(logits: Tensor) -> Tensor:
    """(n,) predicted classes of (n, k) logits; the sign of a single logit for k = 1."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)


def flatten_positions(h: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
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


def mean_per_row(points: Tensor, owner: Tensor, n: int) -> Tensor:
    """(n,) means of the (m,) values of each row's points; ``owner`` (m,) tells the row of a point."""
    total = torch.zeros(n, dtype=torch.float64, device=points.device).index_add_(0, owner, points)
    return total / torch.bincount(owner, minlength=n)
