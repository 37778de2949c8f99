"""Contrastive losses on embeddings: pure functions of anchors, positives and negatives.

All take `anchor` (A, D), `positive` (P, D) and `negative` (N, D), normalise the rows themselves, and return a scalar.
Every anchor is compared with every positive and every negative of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from persrep_ray.config import TrainConfig

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def _cosines(anchor: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    anchor = F.normalize(anchor, dim=-1)
    return anchor @ F.normalize(positive, dim=-1).T, anchor @ F.normalize(negative, dim=-1).T  # (A, P), (A, N)


def info_nce(
    anchor: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, temperature: float = 0.07
) -> torch.Tensor:
    """Mean over all (anchor, positive) pairs of -log(e^pos / (e^pos + Σ e^neg)) (van den Oord et al., 1807.03748).

    Each positive has to beat the negatives by itself.
    """
    pos, neg = (cosine / temperature for cosine in _cosines(anchor, positive, negative))
    against = torch.logsumexp(neg, dim=1, keepdim=True)  # (A, 1)
    return (torch.logaddexp(pos, against) - pos).mean()


def info_nce_multi_positive(
    anchor: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, temperature: float = 0.07
) -> torch.Tensor:
    """Mean over anchors of -log(Σ e^pos / (Σ e^pos + Σ e^neg)).

    The positives of an anchor count together, so a positive that shows the object badly does less harm than in
    `info_nce`.
    """
    pos, neg = (cosine / temperature for cosine in _cosines(anchor, positive, negative))
    together = torch.logsumexp(pos, dim=1)  # (A,)
    return (torch.logsumexp(torch.cat([pos, neg], dim=1), dim=1) - together).mean()


def hinge(anchor: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, margin: float = 0.5) -> torch.Tensor:
    """Mean over all triplets of max(0, margin - cos(anchor, positive) + cos(anchor, negative))."""
    pos, neg = _cosines(anchor, positive, negative)
    return F.relu(margin - pos[:, :, None] + neg[:, None, :]).mean()  # (A, P, N)


def make_loss(config: TrainConfig) -> Loss:
    """The loss that the configuration names, with its temperature or margin."""
    if config.loss == "hinge":
        return partial(hinge, margin=config.margin)
    chosen = info_nce if config.loss == "info_nce" else info_nce_multi_positive
    return partial(chosen, temperature=config.temperature)
