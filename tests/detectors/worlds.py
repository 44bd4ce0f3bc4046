"""Small made-up populations with planted anomalies, for every detector alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mad.detectors._base import Batch, Population

WIDTHS = {"first": 12, "block.second": 8}
CLASSES = 3


@dataclass(frozen=True)
class World:
    """Batches of rows; ``test`` is ``normal`` followed by ``anomalous``."""

    trusted: Batch
    untrusted: Batch
    test: Batch
    is_anomalous: torch.Tensor

    def populations(self, size: int | None = None) -> dict[str, Population]:
        return {name: Population(cut(getattr(self, name), size), name) for name in ("trusted", "untrusted")}


def world(positions: int = 0, dtype: torch.dtype = torch.float32) -> World:
    """Three Gaussian classes; anomalies are moved 8 standard deviations and get unsure logits."""
    draws = torch.Generator().manual_seed(11)
    geometry = {
        layer: (
            3 + 0.7 * torch.randn(CLASSES, d, generator=draws),
            0.5 + torch.rand(d, generator=draws),
            torch.nn.functional.normalize(torch.randn(d, generator=draws), dim=0),
        )
        for layer, d in WIDTHS.items()
    }

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
        mask = None
        if positions:
            lengths = torch.randint(1, positions + 1, (n,), generator=draws)
            mask = torch.arange(positions) < lengths[:, None]
        return Batch(features, logits, mask)

    test = rows(150, 50)
    return World(rows(300, 0), rows(240, 48), test, torch.arange(150) >= 100)


def take(batch: Batch, index: torch.Tensor | slice) -> Batch:
    return Batch(
        {layer: h[index] for layer, h in batch.features.items()},
        None if batch.logits is None else batch.logits[index],
        None if batch.mask is None else batch.mask[index],
    )


def cut(batch: Batch, size: int | None) -> list[Batch]:
    n = len(next(iter(batch.features.values())))
    return [take(batch, slice(i, i + size)) for i in range(0, n, size)] if size else [batch]


def with_features(batch: Batch, change) -> Batch:
    return replace(batch, features={layer: change(h.clone()) for layer, h in batch.features.items()})
