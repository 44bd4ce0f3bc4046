"""What keeps learnt maps from saying the same of every row: their values held at mean 0 and variance 1.

The statistics are those of the whole batch of a gradient step, wherever its rows lie.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mad.detectors._training import Step


def whitening(abstract: list[Tensor], step: Step, full: bool) -> Tensor:
    """(m,) terms whose mean over the whole batch is sum_l (|m_l|^2 + |E_l|^2) / dim_l, in value and gradient.

    m_l is the mean of the states of layer l over the whole batch, on all workers, and E_l what their covariance C_l
    is off: C_l - I if ``full``, else only (tr C_l / dim_l - 1) I. The gradient in one row depends on the other rows
    through m_l and C_l alone, which are taken as constants.

    Args:
        abstract: (m, dim_l) states of each layer, of this worker's rows.
        step: sums over the workers.
        full: hold every direction at variance 1, not only their mean.
    """
    sums = [torch.cat([z.sum(dim=0), (z.T @ z).flatten()]) for z in abstract]
    totals = step.total(torch.cat(sums)).split([len(s) for s in sums])
    terms = abstract[0].new_zeros(len(abstract[0]))
    for z, total in zip(abstract, totals, strict=True):
        dim = z.shape[1]
        identity = torch.eye(dim, dtype=z.dtype, device=z.device)
        mean = total[:dim] / step.size
        excess = total[dim:].view(dim, dim) / step.size - mean.outer(mean) - identity
        if not full:
            excess = excess.trace() / dim * identity
        centred = z - mean
        pull = 2 * z @ mean + 2 * ((centred @ excess) * centred).sum(dim=1)
        terms = terms + (mean.square().sum() + excess.square().sum() + pull - pull.detach()) / dim
    return terms
