"""First, do no harm: held-out photos decide how strongly an adapter acts.

Each fold trains without one of the object's photos and without the photos that it is ranked against. It then measures,
at every candidate strength, how well the held-out photo is told from the held-out photos of other objects and from
photos that no training sees (of the user's negatives, and of the bank where the run has few objects). The final
adapter acts at the strength that does best on average; a strength of 0 keeps the pretrained features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from persrep_ray.backbones.backbone import Backbone
from persrep_ray.config import CrossValidationConfig
from persrep_ray.tasks.classification import pr_auc
from persrep_ray.tasks.retrieval import scores as retrieval_scores
from persrep_ray.train.batches import Pool

_BATCH = 32
_NEARLY = 0.85


@dataclass(frozen=True)
class FoldScore:
    """The two global tasks on the held-out photos of one fold at one strength, and by which margin they are won."""

    pr_auc: float
    ndcg: float
    margin: float  # (mean score of the object - best distractor's score) / spread of the distractors' scores

    @property
    def rank_quality(self) -> float:
        return (self.pr_auc + self.ndcg) / 2


def plan_folds(pool: Pool, config: CrossValidationConfig) -> list[int]:
    """Which of the object's photos to hold out in turn; none if no anchor or nothing to rank against would remain."""
    if len(pool.photos) < 2 or not (pool.distractors or pool.checks):
        return []
    return list(range(len(pool.photos)))[: config.folds]


def score_fold(backbone: Backbone, pool: Pool, held_out: int) -> FoldScore:
    """Scores the adapter in the slot on the photos that the fold's training did not see."""
    fold = pool.without(held_out)
    own = [views for index, views in enumerate(pool.photos) if index != held_out]
    queries = normalized_cls(backbone, pool.photos[held_out])  # (V, D): every view is a query, for finer ranks
    gallery_own = normalized_cls(backbone, torch.stack([views[0] for views in own]))
    held = fold.is_held_out(fold.distractor_photo)
    unseen = [views[0] for views, is_held in zip(pool.distractors, held, strict=True) if is_held] + list(pool.checks)
    distractors = normalized_cls(backbone, torch.stack(unseen or [views[0] for views in pool.distractors]))
    mine, theirs = (queries @ gallery_own.T).max(axis=1), (distractors @ gallery_own.T).max(axis=1)
    tests = np.concatenate([queries, distractors])
    is_object = np.arange(len(tests)) < len(queries)
    gallery = np.concatenate([gallery_own, distractors])
    retrieved = retrieval_scores(queries, gallery, np.arange(len(gallery)) < len(gallery_own))
    return FoldScore(
        pr_auc=pr_auc(gallery_own, tests, is_object),
        ndcg=retrieved["ndcg"],
        margin=float((mine.mean() - theirs.max()) / max(float(theirs.std()), 1e-6)),
    )


def choose_strength(
    folds: Sequence[Sequence[FoldScore]], config: CrossValidationConfig
) -> tuple[float, dict[str, Any]]:
    """The candidate with the best mean rank quality; among equals, the weakest that wins by nearly the largest margin.

    The margin decides because most objects are ranked perfectly at several strengths. Nearly the largest is enough
    because the photos of an object are much alike: the last bit of strength gains on them and loses on new photos.

    Args:
        folds: per held-out photo, a score per candidate of `config.strengths`.

    Returns:
        The strength and a report of all candidates. Without folds the strength is 1.
    """
    if not folds:
        return 1.0, {"folds": 0}
    candidates = [
        {
            "strength": strength,
            "pr_auc": float(np.mean([fold[i].pr_auc for fold in folds])),
            "ndcg": float(np.mean([fold[i].ndcg for fold in folds])),
            "margin": float(np.mean([fold[i].margin for fold in folds])),
        }
        for i, strength in enumerate(config.strengths)
    ]
    quality = [round((one["pr_auc"] + one["ndcg"]) / 2, 3) for one in candidates]
    equals = [one for one, value in zip(candidates, quality, strict=True) if value == max(quality)]
    largest = max(one["margin"] for one in equals)
    enough = largest - (1 - _NEARLY) * abs(largest)
    chosen = min(one["strength"] for one in equals if one["margin"] >= enough)
    return chosen, {"folds": len(folds), "candidates": candidates}


@torch.no_grad()
def normalized_cls(backbone: Backbone, hidden: torch.Tensor) -> np.ndarray:
    """Normalised CLS (B, D) float32 of prefix outputs (B, T, D), with the adapter in the slot."""
    cls = [backbone.suffix(part.to(backbone.device)).cls for part in hidden.split(_BATCH)]
    return F.normalize(torch.cat(cls), dim=-1).cpu().numpy()
