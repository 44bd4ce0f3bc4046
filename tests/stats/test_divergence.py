"""Divergences of predicted distributions against torch.distributions, and their limits."""

from __future__ import annotations

import torch
from torch.distributions import Bernoulli, Categorical, Independent, kl_divergence

from mad.stats.divergence import bernoulli_kl, cross_entropy, kl, log_probabilities


def logits(seed: int, k: int = 5) -> torch.Tensor:
    return 3 * torch.randn(40, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kl_and_cross_entropy_of_classes():
    p, q = logits(0), logits(1)
    expected = kl_divergence(Categorical(logits=p), Categorical(logits=q))
    torch.testing.assert_close(kl(p, q), expected)
    torch.testing.assert_close(cross_entropy(p, q), expected + Categorical(logits=p).entropy())
    assert kl(p, p + 7).abs().max() < 1e-14  # a shift of all logits says nothing


def test_one_logit_is_two_classes():
    p, q = logits(2, 1), logits(3, 1)
    expected = kl_divergence(Bernoulli(logits=p[:, 0]), Bernoulli(logits=q[:, 0]))
    torch.testing.assert_close(kl(p, q), expected)
    torch.testing.assert_close(bernoulli_kl(p, q), expected)
    assert log_probabilities(p).shape == (40, 2)


def test_labels_are_summed():
    p, q = logits(4), logits(5)
    first, second = (Independent(Bernoulli(logits=z), 1) for z in (p, q))
    torch.testing.assert_close(bernoulli_kl(p, q), kl_divergence(first, second))


def test_sure_answers_stay_finite():
    sure = torch.tensor([[2000.0, 0.0]]).double()
    assert kl(sure, sure.flip(1)).item() == 2000.0 and kl(sure, sure).item() == 0.0
    assert bernoulli_kl(sure[:, :1], -sure[:, :1]).item() == 2000.0
