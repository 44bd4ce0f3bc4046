"""Small made-up populations with planted anomalies, for every detector alike."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from mad.detectors._base import Batch, Population

WIDTHS = {"first": 12, "block.second": 8}
CLASSES = 3
PENULTIMATE = 10
PARTS = ("trusted", "untrusted", "test")


class MadeUpSubject:
    """A model of one turned hidden layer and a linear head, from inputs through penultimate features to logits."""

    def __init__(self, weights: dict[str, Tensor]):
        self.weights = weights

    @property
    def head(self) -> tuple[Tensor, Tensor]:
        return self.weights["1.weight"], self.weights["1.bias"]

    @cached_property
    def model(self) -> nn.Module:
        layers = nn.Linear(PENULTIMATE, PENULTIMATE, bias=False), nn.Linear(PENULTIMATE, CLASSES)
        model = nn.Sequential(*layers).eval()
        model.load_state_dict(self.weights)
        return model


def _basis(seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(PENULTIMATE, PENULTIMATE, generator=torch.Generator().manual_seed(seed)))[0]


OFFSET = 2.0  # of every penultimate unit
AXES = _basis(1)  # columns: the logits, one direction of harmless spread, six in which trusted rows are tight
TURN = _basis(2)  # from inputs to penultimate features


def made_up_subject() -> MadeUpSubject:
    weight = AXES[:, :CLASSES].T.contiguous()
    return MadeUpSubject({"0.weight": TURN, "1.weight": weight, "1.bias": -OFFSET * weight.sum(dim=1)})


@dataclass(frozen=True)
class World:
    """Batches of rows; ``test`` is normal rows followed by anomalous ones, ``is_anomalous`` says which."""

    trusted: Batch
    untrusted: Batch
    test: Batch
    is_anomalous: Tensor
    untrusted_is_anomalous: Tensor | None = None
    subject: MadeUpSubject = field(default_factory=made_up_subject)

    def populations(self, size: int | None = None) -> dict[str, Population]:
        """Trusted and untrusted rows, cut into batches of ``size``."""
        return {
            "trusted": Population(cut(self.trusted, size), "trusted"),
            "untrusted": Population(cut(self.untrusted, size), "untrusted", self.untrusted_is_anomalous),
        }

    def change(self, how) -> World:
        """The same with each of the three batches changed."""
        return replace(self, **{part: how(getattr(self, part)) for part in PARTS})


def world(positions: int = 0, dtype: torch.dtype = torch.float32) -> World:
    """Three Gaussian classes; anomalies are moved 8 standard deviations and get unsure logits.

    Their penultimate features also leave the subspace of the trusted ones, in a direction the head does not
    read. Inputs stay float32, whatever ``dtype``.
    """
    draws, outputs = torch.Generator().manual_seed(11), torch.Generator().manual_seed(12)
    geometry = {
        layer: (
            3 + 0.7 * torch.randn(CLASSES, d, generator=draws),
            0.5 + torch.rand(d, generator=draws),
            torch.nn.functional.normalize(torch.randn(d, generator=draws), dim=0),
        )
        for layer, d in WIDTHS.items()
    }
    subject = made_up_subject()

    def rows(n: int, anomalies: int) -> Batch:
        moved = torch.arange(n) >= n - anomalies
        classes = torch.randint(CLASSES, (n,), generator=draws)
        features = {}
        for layer, (means, scales, shift) in geometry.items():
            shape = (n, positions, len(scales)) if positions else (n, len(scales))
            noise = torch.randn(shape, generator=draws) * scales
            centre = means[classes] + 8 * moved[:, None] * shift * scales
            features[layer] = (noise + (centre[:, None] if positions else centre)).to(dtype)
        sure = torch.where(moved, 0.2, 5.0)[:, None]
        logits = sure * torch.nn.functional.one_hot(classes, CLASSES) + 0.3 * torch.randn(n, CLASSES, generator=draws)
        rest = torch.randn(n, PENULTIMATE - CLASSES, generator=outputs) * torch.tensor([1.5] + 6 * [0.1])
        rest[:, 1] += 1.5 * moved
        penultimate = OFFSET + torch.cat([logits, rest], dim=1) @ AXES.T
        weight, bias = subject.head
        mask = None
        if positions:
            lengths = torch.randint(1, positions + 1, (n,), generator=draws)
            mask = torch.arange(positions) < lengths[:, None]
        read = (penultimate @ weight.T + bias).to(dtype)
        return Batch(features, read, mask, penultimate.to(dtype), Stored(penultimate @ TURN))

    test = rows(150, 50)
    trusted, untrusted = rows(300, 0), rows(240, 48)
    return World(trusted, untrusted, test, torch.arange(150) >= 100, torch.arange(240) >= 192, subject)


@dataclass(frozen=True, eq=False)
class Stored:
    """Inputs at hand, read by a call."""

    rows: Tensor

    def __call__(self) -> Tensor:
        return self.rows


def take(batch: Batch, index: Tensor | slice) -> Batch:
    """Some of the rows."""
    inputs = batch.inputs
    return Batch(
        {layer: h[index] for layer, h in batch.features.items()},
        None if batch.logits is None else batch.logits[index],
        None if batch.mask is None else batch.mask[index],
        None if batch.penultimate is None else batch.penultimate[index],
        None if inputs is None else (lambda: inputs()[index]),
    )


def cut(batch: Batch, size: int | None) -> list[Batch]:
    """Batches of ``size`` rows, or the one that was given."""
    return [take(batch, slice(i, i + size)) for i in range(0, len(batch), size)] if size else [batch]


def with_features(batch: Batch, change) -> Batch:
    """Features changed, on a copy."""
    return replace(batch, features={layer: change(h.clone()) for layer, h in batch.features.items()})


def with_values(batch: Batch, change) -> Batch:
    """Features, logits and penultimate features changed, on a copy."""
    outputs = {name: change(getattr(batch, name).clone()) for name in ("logits", "penultimate")}
    return replace(with_features(batch, change), **outputs)
