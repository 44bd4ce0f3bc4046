"""Beatrix as one would first write it: Gram features batch by batch, the medians of the batches averaged."""

from __future__ import annotations

import torch


def features(rows, power):
    """Signed roots of the Gram entries of (n, d) or (n, t, d) rows: (n, pairs), upper triangle with the diagonal."""
    h = rows.double() if rows.ndim == 3 else rows.double()[:, None]
    powered = h**power
    gram = torch.matmul(powered.transpose(1, 2), powered)
    gram = torch.sign(gram) * gram.abs() ** (1 / power)
    i, j = torch.triu_indices(h.shape[2], h.shape[2])
    return gram[:, i, j]


def fit(rows, classes, powers=(1, 2, 3, 4), mad_scale=10.0, floor=1e-3, batch_size=64):
    """Bounds and least divisor per predicted class and power; exact if one batch holds every class whole."""
    divisors = {}
    for power in powers:
        squares, entries = 0.0, 0
        for batch in rows.split(batch_size):
            found = features(batch, power)
            squares += float(found.square().sum())
            entries += found.numel()
        divisors[power] = floor * (squares / entries) ** 0.5
    fitted = {}
    for c in classes.unique().tolist():
        members = rows[classes == c]
        for power in powers:
            medians, deviations = [], []
            for batch in members.split(batch_size):
                found = features(batch, power)
                median = torch.median(found, dim=0).values
                medians.append(median)
                deviations.append(torch.median((found - median).abs(), dim=0).values)
            median, mad = torch.stack(medians).mean(dim=0), torch.stack(deviations).mean(dim=0)
            fitted[c, power] = (median - mad_scale * mad, median + mad_scale * mad, divisors[power])
    return fitted


def score(fitted, rows, classes, powers=(1, 2, 3, 4), batch_size=64):
    """Relative deviations outside the bounds, summed over features and averaged over powers."""
    scores = torch.zeros(len(rows), dtype=torch.float64)
    for c in classes.unique().tolist():
        members = (classes == c).nonzero()[:, 0]
        for batch in members.split(batch_size):
            for power in powers:
                lower, upper, divisor = fitted[c, power]
                found = features(rows[batch], power)
                under = (lower - found).clamp(min=0) / lower.abs().clamp(min=divisor)
                over = (found - upper).clamp(min=0) / upper.abs().clamp(min=divisor)
                scores[batch] += (under + over).sum(dim=1) / len(powers)
    return scores
