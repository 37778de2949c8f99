"""Contrastive losses on embeddings: pure functions of anchors, positives and negatives.

All take `anchor` (A, D), `positive` (P, D) and `negative` (N, D), normalise the rows themselves, and return a scalar.
Every anchor is compared with every positive and every negative of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from persrep_ray.config import TrainConfig

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def _cosines(
    anchor: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    anchor = F.normalize(anchor, dim=-1)
    return anchor @ F.normalize(positive, dim=-1).T, anchor @ F.normalize(negative, dim=-1).T  # (A, P), (A, N)


def info_nce(
    anchor: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, temperature: float = 0.07
) -> torch.Tensor:
    """Mean over all (anchor, positive) pairs of -log(e^pos / (e^pos + Σ e^neg)) (van den Oord et al., 1807.03748).

    Every positive has to beat the negatives on its own.
    """
    pos, neg = (cosine / temperature for cosine in _cosines(anchor, positive, negative))
    against = torch.logsumexp(neg, dim=1, keepdim=True)  # (A, 1)
    return (torch.logaddexp(pos, against) - pos).mean()


def info_nce_multi_positive(
    anchor: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, temperature: float = 0.07
) -> torch.Tensor:
    """Mean over anchors of -log(Σ e^pos / (Σ e^pos + Σ e^neg)): the positives of an anchor count together.

    More forgiving than `info_nce` of a positive that does not show the object well.
    """
    pos, neg = (cosine / temperature for cosine in _cosines(anchor, positive, negative))
    together = torch.logsumexp(pos, dim=1)  # (A,)
    return (torch.logsumexp(torch.cat([pos, neg], dim=1), dim=1) - together).mean()


def hinge(
    anchor: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, margin: float = 0.5
) -> torch.Tensor:
    """Mean over all triplets of max(0, margin - cos(anchor, positive) + cos(anchor, negative))."""
    pos, neg = _cosines(anchor, positive, negative)
    return F.relu(margin - pos[:, :, None] + neg[:, None, :]).mean()  # (A, P, N)


def dense_info_nce(
    tokens: Sequence[torch.Tensor], shares: Sequence[torch.Tensor], temperature: float = 0.1
) -> torch.Tensor:
    """InfoNCE on patches: the object's mean patch in an anchor finds the object's patches, not the ones around them.

    Args:
        tokens: patches (B, N, D) of the anchors, the positives and the negatives.
        shares: of each patch the share that the object covers, (B, N), NaN where unknown; of the negatives' patches
            none is the object's, whatever their share says.

    Returns:
        A scalar; 0 where the batch shows no whole object patch.
    """
    anchor, positive, negative = (F.normalize(part, dim=-1) for part in tokens)
    inside = (shares[0] > 0.5).float()  # (A, N); NaN compares as False
    known = inside.sum(dim=1) > 0
    on_object, around = shares[1] > 0.5, shares[1] < 0.1
    if not known.any() or not on_object.any():
        return tokens[0].sum() * 0.0  # keeps every rank's graph whole
    target = torch.einsum("an,and->ad", inside[known], anchor[known])
    target = F.normalize(target, dim=-1)  # (A', D)
    pos = target @ positive[on_object].T / temperature  # (A', P')
    neg = target @ torch.cat([positive[around], negative.flatten(0, 1)]).T / temperature
    # The mean, not the sum, of the many negatives: else thousands of background patches drown the few that matter.
    against = torch.logsumexp(neg, dim=1, keepdim=True) - math.log(neg.shape[1])
    return (torch.logaddexp(pos, against) - pos).mean()


def make_loss(config: TrainConfig) -> Loss:
    """The loss that the configuration names, with its temperature or margin."""
    if config.loss == "hinge":
        return partial(hinge, margin=config.margin)
    chosen = info_nce if config.loss == "info_nce" else info_nce_multi_positive
    return partial(chosen, temperature=config.temperature)
