"""A variational autoencoder of the trusted rows, one for each layer (1312.6114).

Coordinates are standardised by trusted means and deviations. With unit-variance Gaussian outputs and a
standard normal prior, both terms are sums, over coordinates and over latent dimensions::

    loss(h) = ||x - decode(z)||^2 / 2 + beta KL(q(z|x) || N(0, I)),    z ~ q(z|x)
    score(h) = loss(h) at z = the posterior MEAN, divided by d

so that a score is deterministic and layers of different widths compare.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from mad.config import require
from mad.detectors._base import LayerwiseDetector, Population, State
from mad.errors import FitError
from mad.stats.gaussian import blocks
from mad.stats.random import generator

FLAT = 1e-3  # a coordinate's deviation counts as at least this part of the largest


@dataclass(frozen=True)
class Config:
    """Variational autoencoder."""

    latent_dim: int = 8
    """Latent dimensions, at least 1."""

    hidden_dim: int = 128
    """Units of the hidden layer in encoder and decoder, at least 1."""

    beta: float = 1.0
    """Weight of the KL term against the reconstruction, not negative."""

    epochs: int = 50
    """Passes over the trusted rows, at least 1."""

    batch_size: int = 128
    """Rows per gradient step, at least 1."""

    lr: float = 1e-3
    """Learning rate of Adam, above 0."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("latent_dim", "hidden_dim", "epochs", "batch_size"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(self.beta >= 0, f"beta must not be negative, got {self.beta}")
        require(self.lr > 0, f"lr must be above 0, got {self.lr}")


class Detector(LayerwiseDetector):
    """Negative evidence bound at the posterior mean, per coordinate.

    State per layer: ``mean`` and ``scale`` (d,) float64, and the weights and biases of the networks, float32.
    The same seed and rows in the same order give the same weights, however the rows are cut into batches.

    Raises:
        FitError: trusted rows that are all equal, or a loss that is no longer finite.
    """

    trains_in_epochs = True
    config: Config

    def fit_layer(self, layer: str, populations: dict[str, Population], seed: int) -> State:
        """The tensors after the last epoch."""
        *_, last = self.train_layer(layer, populations, seed)
        return last

    def train_layer(self, layer: str, populations: dict[str, Population], seed: int) -> Iterator[State]:
        """Train on the trusted rows of a layer; yield a copy of the tensors after each epoch."""
        moments = populations["trusted"].moments(layer)
        deviation = moments.variance().sqrt()
        if not deviation.max() > 0:
            raise FitError("all trusted rows are equal: nothing to learn")
        inputs = {"mean": moments.mean, "scale": deviation.clamp(min=float(FLAT * deviation.max()))}
        points = blocks(populations["trusted"].rows(layer))
        rows = torch.cat([_standardise(inputs, x).float() for x in points])
        weights = _initial(rows.shape[1], self.config, generator(seed, "vae", layer, "weights"))
        optimiser = torch.optim.Adam(weights.values(), lr=self.config.lr)
        draws = generator(seed, "vae", layer, "draws")
        for epoch in range(1, self.config.epochs + 1):
            for index in torch.randperm(len(rows), generator=draws).split(self.config.batch_size):
                noise = torch.randn(len(index), self.config.latent_dim, generator=draws)
                loss = _loss(weights, rows[index], self.config.beta, noise).mean()
                if not torch.isfinite(loss):
                    raise FitError(f"the loss of epoch {epoch} is not finite: lower lr ({self.config.lr})")
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            yield inputs | {name: w.detach().clone() for name, w in weights.items()}

    def score_layer(self, state: State, h: Tensor, classes: Tensor | None) -> Tensor:
        """(m,) scores of (m, d) points, computed in float64."""
        weights = {name: t.double() for name, t in state.items()}
        parts = [_loss(weights, _standardise(state, x), self.config.beta, None) for x in blocks([h])]
        return torch.cat(parts) / h.shape[1] if parts else h.new_zeros(0, dtype=torch.float64)


def _standardise(state: State, x: Tensor) -> Tensor:
    return (x - state["mean"]) / state["scale"]


def _initial(width: int, config: Config, draws: torch.Generator) -> State:
    """Weights and biases, uniform within 1 / sqrt(inputs) of zero."""
    shapes = {
        "encoder": (config.hidden_dim, width),
        "posterior": (2 * config.latent_dim, config.hidden_dim),
        "decoder": (config.hidden_dim, config.latent_dim),
        "output": (width, config.hidden_dim),
    }
    weights = {}
    for name, (outputs, inputs) in shapes.items():
        for part, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
            drawn = (2 * torch.rand(shape, generator=draws) - 1) / inputs**0.5
            weights[f"{name}.{part}"] = drawn.requires_grad_()
    return weights


def _loss(weights: State, x: Tensor, beta: float, noise: Tensor | None) -> Tensor:
    """(m,) reconstruction + beta KL of (m, d) rows, at the posterior mean if ``noise`` is None."""
    hidden = silu(linear(x, weights["encoder.weight"], weights["encoder.bias"]))
    posterior = linear(hidden, weights["posterior.weight"], weights["posterior.bias"])
    mean, log_variance = posterior.chunk(2, dim=1)
    log_variance = log_variance.clamp(-20, 20)  # a row far from the trusted ones must not overflow exp
    z = mean if noise is None else mean + noise * (log_variance / 2).exp()
    hidden = silu(linear(z, weights["decoder.weight"], weights["decoder.bias"]))
    decoded = linear(hidden, weights["output.weight"], weights["output.bias"])
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
    return (x - decoded).square().sum(dim=1) / 2 + beta * divergence
