"""How far one predicted distribution is from another, from their logits; float64 for float64 logits.

Everything is taken from log-probabilities, so that it stays finite where probabilities round to 0 or 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid


def log_probabilities(logits: Tensor) -> Tensor:
    """(n, k) log-probabilities of (n, k) logits; a single logit z stands for the two classes (0, z)."""
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    return log_softmax(logits, dim=1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """(n,) KL(P || Q) in nats of the softmax distributions of (n, k) logits."""
    log_p, log_q = log_probabilities(p), log_probabilities(q)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def cross_entropy(p: Tensor, q: Tensor) -> Tensor:
    """(n,) cross-entropy in nats of Q under P, of the softmax distributions of (n, k) logits."""
    return -(log_probabilities(p).exp() * log_probabilities(q)).sum(dim=1)


def bernoulli_kl(p: Tensor, q: Tensor) -> Tensor:
    """(n,) KL(P || Q) in nats of k independent yes-or-no answers, summed, from (n, k) logits."""
    yes = p.sigmoid() * (logsigmoid(p) - logsigmoid(q))
    no = (-p).sigmoid() * (logsigmoid(-p) - logsigmoid(-q))
    return (yes + no).sum(dim=1)
