"""Mahalanobis distance without stored features: the model runs again over the images whenever they are needed."""

from __future__ import annotations

import torch


@torch.no_grad()
def fit(model, batches, rcond=1e-5):
    """Mean and precision of every hidden layer, updated batch by batch."""
    model.eval()
    n, means, scatters = 0, None, None
    for images, _ in batches:
        layers = [h.double() for h in model.hidden(images)]
        if means is None:
            means = [h.new_zeros(h.shape[1]) for h in layers]
            scatters = [h.new_zeros(h.shape[1], h.shape[1]) for h in layers]
        n += len(images)
        for i, h in enumerate(layers):
            mean = means[i] + (h - means[i]).sum(dim=0) / n
            scatters[i] += (h - means[i]).T @ (h - mean)
            means[i] = mean
    return [(mean, precision(scatter / n, rcond)) for mean, scatter in zip(means, scatters, strict=True)]


def precision(covariance, rcond):
    """Inverse covariance; eigenvalues below ``rcond`` times the largest are raised to it."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    return vectors @ torch.diag(1 / torch.maximum(values, rcond * values.max())) @ vectors.T


@torch.no_grad()
def score(model, batches, fitted):
    """Squared distance per dimension of every image: a tensor per hidden layer."""
    model.eval()
    scores = [[] for _ in fitted]
    for images, _ in batches:
        for i, h in enumerate(model.hidden(images)):
            mean, inverse = fitted[i]
            centred = h.double() - mean
            scores[i].append(torch.einsum("bi,ij,bj->b", centred, inverse, centred) / h.shape[1])
    return [torch.cat(s) for s in scores]
