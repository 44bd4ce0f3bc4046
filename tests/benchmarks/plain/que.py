"""Quantum entropy as one would first write it: whitened batches, a matrix exponential, a quadratic form."""

from __future__ import annotations

import torch


def fit(trusted, untrusted, alpha=4.0, rcond=1e-5, batch_size=32):
    """Trusted mean, whitening matrix and Q of (n, d) rows; assumes that there is a signal."""
    d = trusted.shape[1]
    n, mean, scatter = 0, torch.zeros(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
    for start in range(0, len(trusted), batch_size):
        batch = trusted[start : start + batch_size].double()
        n_new = n + len(batch)
        mean_new = mean + (batch - mean).sum(dim=0) / n_new
        scatter = scatter + (batch - mean).T @ (batch - mean_new)
        n, mean = n_new, mean_new
    values, vectors = torch.linalg.eigh((scatter + scatter.T) / 2 / n)
    whitener = vectors @ torch.diag(torch.maximum(values, rcond * values.max()) ** -0.5)

    second = torch.zeros(d, d, dtype=torch.float64)
    for start in range(0, len(untrusted), batch_size):
        x = (untrusted[start : start + batch_size].double() - mean) @ whitener
        second += x.T @ x
    second /= len(untrusted)
    norm = torch.linalg.matrix_norm(second, ord=2)
    return mean, whitener, torch.linalg.matrix_exp(alpha * (second - torch.eye(d).double()) / (norm - 1))


def score(fitted, rows, batch_size=32):
    """x'Qx / tr Q of (n, d) rows."""
    mean, whitener, q = fitted
    scores = []
    for start in range(0, len(rows), batch_size):
        x = (rows[start : start + batch_size].double() - mean) @ whitener
        scores.append(torch.einsum("bi,ij,bj->b", x, q, x) / q.trace())
    return torch.cat(scores)
