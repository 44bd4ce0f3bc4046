"""Rank trajectories as one would first write them: one point at a time, a full sort for every rank."""

from __future__ import annotations

import torch


def class_trajectory(point, references, own_class, classes):
    """Rank of the nearest reference row of a class, in every layer."""
    ranks = []
    for h, reference in zip(point, references, strict=True):
        order = torch.argsort((reference - h).square().sum(dim=1))
        ranks.append(int((classes[order] == own_class).nonzero()[0]))
    return ranks


def neighbour_trajectory(point, references, k):
    """Ranks in every other layer of the k nearest rows in the first; one sort for each."""
    nearest = torch.argsort((references[0] - point[0]).square().sum(dim=1))[:k]
    ranks = []
    for h, reference in zip(point[1:], references[1:], strict=True):
        for neighbour in nearest.tolist():
            order = torch.argsort((reference - h).square().sum(dim=1))
            ranks.append(int((order == neighbour).nonzero()[0]))
    return ranks


def trajectories(layers, references, trusted, k=None, classes=None, reference_classes=None):
    """log(1 + rank) of every row of ``layers``; trusted rows are the references, and leave themselves out."""
    references = [r.double() for r in references]
    found = []
    for row in range(len(layers[0])):
        point = [h[row].double() for h in layers]
        others = torch.arange(len(references[0])) != row if trusted else slice(None)
        kept = [r[others] for r in references]
        if k is None:
            found.append(class_trajectory(point, kept, classes[row], reference_classes[others]))
        else:
            found.append(neighbour_trajectory(point, kept, k))
    return torch.tensor(found, dtype=torch.float64).log1p()


def fit(references, k=None, classes=None):
    """Mean and precision of the trusted trajectories."""
    x = trajectories(references, references, True, k, classes, classes)
    mean = x.mean(dim=0)
    values, vectors = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    values = values.clamp(min=torch.log(torch.tensor(2.0)).double() ** 2 / len(x))
    return mean, vectors @ torch.diag(1 / values) @ vectors.T


def score(fitted, layers, references, k=None, classes=None, reference_classes=None):
    """Squared Mahalanobis distance per coordinate."""
    mean, precision = fitted
    centred = trajectories(layers, references, False, k, classes, reference_classes) - mean
    return torch.einsum("ni,ij,nj->n", centred, precision, centred) / len(mean)
