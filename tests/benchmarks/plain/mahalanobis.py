"""Mahalanobis distance as one would first write it: statistics updated batch by batch, scores likewise."""

from __future__ import annotations

import torch


def fit(rows, shrinkage=0.0, rcond=1e-5, batch_size=32):
    """Mean and precision of (n, d) rows."""
    d = rows.shape[1]
    n, mean, scatter = 0, torch.zeros(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size].double()
        n_new = n + len(batch)
        mean_new = mean + (batch - mean).sum(dim=0) / n_new
        scatter = scatter + (batch - mean).T @ (batch - mean_new)
        n, mean = n_new, mean_new
    covariance = (scatter + scatter.T) / 2 / n
    covariance = (1 - shrinkage) * covariance + shrinkage * covariance.trace() / d * torch.eye(d).double()
    values, vectors = torch.linalg.eigh(covariance)
    values = torch.maximum(values, rcond * values.max())
    return mean, vectors @ torch.diag(1 / values) @ vectors.T


def score(fitted, rows, batch_size=32):
    """Squared distance per dimension of (n, d) rows."""
    mean, precision = fitted
    scores = []
    for start in range(0, len(rows), batch_size):
        centred = rows[start : start + batch_size].double() - mean
        scores.append(torch.einsum("bi,ij,bj->b", centred, precision, centred) / rows.shape[1])
    return torch.cat(scores)
