"""The auditing test as one would first write it: one fold, one tolerance, a network trained again at each batch."""

from __future__ import annotations

import math

import torch
from torch import nn


class Network(nn.Module):
    """Two hidden layers of 32 with layer norm; the output lies in (-1/2, 1/2)."""

    def __init__(self, dimensions=1, hidden=32):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dimensions, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, x, y):
        difference = torch.tanh(self.layers(x)) - torch.tanh(self.layers(y))
        return 1 + difference[:, 0] / 2 * (1 - 1e-6)


def train(network, optimizer, past, latest, epochs=100, patience=10, minibatch=100):
    """Maximise the log payoff on the past; stop when the latest batch has not improved for ``patience`` epochs."""
    best, waited = math.inf, 0
    for _ in range(epochs):
        for rows in torch.randperm(len(past[0])).split(minibatch):
            optimizer.zero_grad()
            (-network(past[0][rows], past[1][rows]).log().mean()).backward()
            optimizer.step()
        with torch.no_grad():
            loss = float(-network(*latest).log().mean())
        waited = 0 if loss < best else waited + 1
        best = min(best, loss)
        if waited >= patience:
            break


def audit(x, y, tolerance=0.0, alpha=0.05, batch_size=100, seed=0):
    """Log wealth after each batch, and the pair at which the null was rejected (0 = never).

    The first two batches are not bet on: one to train, one to validate.
    """
    torch.manual_seed(seed)
    network = Network()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    log_wealth, path, rejected_at = 0.0, [], 0
    x, y = x.float()[:, None], y.float()[:, None]
    for start in range(0, len(x), batch_size):
        batch = x[start : start + batch_size], y[start : start + batch_size]
        if start >= 2 * batch_size:
            with torch.no_grad():
                factors = network(*batch).double().log() - tolerance
            reached = (log_wealth + factors.cumsum(0) >= math.log(1 / alpha)).nonzero()
            if not rejected_at and len(reached):
                rejected_at = start + 1 + int(reached[0])
            log_wealth += float(factors.sum())
        path.append(log_wealth)
        if start:
            train(network, optimizer, (x[:start], y[:start]), batch)
    return path, rejected_at
